"""Small networks as their users have them: a .py file with a factory, weights, and data in .npz files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model

from trimtab.api.model import ModelFormat, ModelSource
from trimtab_jobs import torch_model
from trimtab_jobs.data import Splits
from trimtab_jobs.engines import Session
from trimtab_jobs.model import Model
from trimtab_jobs.techniques import Bench

HEAD = """
import torch
from torch import nn

def convolution(inputs, outputs, **options):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())
"""
PLAIN = (
    HEAD
    + """
def build():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(convolution(1, 16), convolution(16, 32), pool, nn.Linear(128, 4))
"""
)
RESIDUAL = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = convolution(1, 32), convolution(32, 32)
        self.depthwise = convolution(32, 32, groups=32)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, image):
        x = self.stem(image)
        return self.head(self.depthwise(x + self.inner(x))).mean((2, 3))

def build():
    return Net()
"""
)


def write_user_files(folder: Path, code: str = PLAIN, seed: int = 0) -> tuple[Path, Path]:
    """`weights.safetensors`, random, and `net.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(code, namespace)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_model(namespace["build"](), str(folder / "weights.safetensors"))
    (folder / "net.py").write_text(code)
    return folder / "weights.safetensors", folder / "net.py"


def drop_nothing(_session: Session) -> float:
    """For techniques that guard no quality."""
    raise AssertionError("this technique looks at no evaluation split")


def source(factory: str = "net:build") -> ModelSource:
    return ModelSource(uri="pvc://models/weights.safetensors", format=ModelFormat.PYTORCH, factory=factory)


def import_network(folder: Path, code: str = PLAIN, seed: int = 0) -> Model:
    weights, file = write_user_files(folder / "user", code, seed)
    return torch_model.import_source(source(), weights, file, empty(folder / "model"))


def empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def make_splits(folder: Path, **arrays: dict[str, Any]) -> Splits:
    """Splits of the given arrays by name, such as `evaluation={"image": ..., "labels": ...}`."""
    for name, content in arrays.items():
        np.savez(folder / f"{name}.npz", **content)
    return Splits({name: folder / f"{name}.npz" for name in arrays})


def stripes(samples: int, seed: int) -> dict[str, Any]:
    """Noisy 8x8 images of stripes, of any phase in four directions: classes that a small network learns in a second."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((8, 8))
    directions = np.stack([rows, columns, rows + columns, rows - columns])
    labels = rng.integers(0, 4, samples)
    pattern = (directions[labels] + rng.integers(0, 4, (samples, 1, 1))) // 2 % 2
    image = pattern + 0.5 * rng.standard_normal((samples, 8, 8))
    return {"image": image[:, None].astype(np.float32), "labels": labels}


class Notes(list[str]):
    """A Bench, and what was noted on it."""

    def bench(self, out: Path, original: Model, splits: Splits, seed: int = 0) -> Bench:
        return Bench(empty(out), original, splits, seed, 1, self.append, drop_nothing)
