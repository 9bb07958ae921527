"""A small convolutional network for 8x8 images of handwritten digits: 242,000 parameters, 4.9 million MACs."""

import torch
from torch import nn


class DigitsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 32),
            convolution(32, 64),
            nn.MaxPool2d(2),
            convolution(64, 128),
            convolution(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [N, 10] of images [N, 1, 8, 8] with values from 0 to 1."""
        return self.classifier(self.features(image))


def convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def build() -> DigitsNet:
    """The factory that the job names as `model:build`."""
    return DigitsNet()
