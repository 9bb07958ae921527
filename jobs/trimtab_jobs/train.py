"""The training loop: Adam, a one-cycle learning rate, mini-batches.

One loop for every technique that trains, and for the examples. What is learned is the caller's: `loss` gets a batch's
scores and the indices of its samples, and finds there whatever it compares with: labels, or a teacher's answers.
The same seed on the same number of threads gives the same weights, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from trimtab_jobs.data import Split
from trimtab_jobs.torch_model import outputs, to_tensors

BATCH = 64
"""Small enough that a thousand samples still make sixteen steps an epoch, large enough for batch normalization."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a batch's scores [B, classes] and its samples' indices [B] to the batch's mean loss."""


def train(module: torch.nn.Module, split: Split, loss: Loss, *, epochs: int, learning_rate: float) -> list[float]:
    """Train `module` in place and leave it in evaluation mode. Returns the mean loss of every epoch.

    `learning_rate` is the peak. The cycle rises to it from 1/25 over the first 30% of the steps, so that pruned
    weights are not shaken before Adam has its averages, and falls to almost nothing (Smith and Topin,
    arXiv:1708.07120).
    """
    inputs = list(to_tensors(module, split.inputs).values())
    steps = math.ceil(len(split) / BATCH)
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    module.train()
    trajectory = []
    for _ in range(epochs):
        total = 0.0
        # Split evenly: a last batch of one sample is an error in batch normalization.
        for batch in torch.tensor_split(torch.randperm(len(split)), steps):
            batch_loss = loss(outputs(module, (array[batch] for array in inputs))[0], batch)
            optimizer.zero_grad()
            batch_loss.backward()
            optimizer.step()
            schedule.step()
            total += batch_loss.item() * len(batch)
        trajectory.append(total / len(split))
    module.eval()
    return trajectory


def predict(module: torch.nn.Module, split: Split) -> torch.Tensor:
    """The scores for a whole split, [N, classes]."""
    inputs = to_tensors(module, split.inputs).values()
    with torch.no_grad():
        batches = zip(*(array.split(BATCH) for array in inputs), strict=True)
        return torch.cat([outputs(module, batch)[0] for batch in batches])


def accuracy(module: torch.nn.Module, split: Split) -> float:
    """The fraction of the split's labels that the highest score names."""
    return float((predict(module, split).argmax(1) == labels(split)).float().mean())


def labels(split: Split) -> torch.Tensor:
    """The class of every sample. Raises InvalidInput if the split has none."""
    if split.labels is None:
        raise split.refuse("it has no labels, and training needs them: save an integer array named 'labels'")
    return torch.from_numpy(split.labels).long()


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[None]:
    """Within, torch starts from `seed` on so many threads; outside, it is as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
