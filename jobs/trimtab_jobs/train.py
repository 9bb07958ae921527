"""The training loop: Adam, a one-cycle learning rate, mini-batches.

One loop for every technique that trains, and for the examples. What is learned is the caller's: `loss` gets a batch's
scores and the indices of its samples, and finds there whatever it compares with: labels, or a teacher's answers.
The same seed on the same number of threads and processes gives the same weights, bit for bit.

Processes that train together (`trimtab_jobs.ranks`) share each batch, so that epochs and learning rate mean the same on
any number of them: the order of the samples, the number of steps and, but for rounding and for batch normalization,
which sees a share alone, the gradients are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from trimtab_jobs import progress, ranks
from trimtab_jobs.data import Split
from trimtab_jobs.torch_model import outputs, to_tensors

BATCH = 64
"""Small enough that a thousand samples still make sixteen steps an epoch, large enough for batch normalization."""
SHARE = 8
"""What a process has of a batch at the least, for batch normalization: batches grow with more than eight processes."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a batch's scores [B, classes] and its samples' indices [B] to the batch's mean loss."""


def train(module: torch.nn.Module, split: Split, loss: Loss, *, epochs: int, learning_rate: float) -> list[float]:
    """Train `module` in place and leave it in evaluation mode. Returns the mean loss of every epoch.

    `learning_rate` is the peak. The cycle rises to it from 1/25 over the first 30% of the steps, so that pruned
    weights are not shaken before Adam has its averages, and falls to almost nothing (Smith and Topin,
    arXiv:1708.07120).
    """
    team, place = ranks.team(), ranks.device()
    inputs = [array.to(place) for array in to_tensors(module, split.inputs).values()]
    steps = math.ceil(len(split) / max(BATCH, SHARE * team.size))
    if team.size > 1 and len(split) < 2 * steps * team.size:
        raise split.refuse(f"{len(split)} samples are too few for {team.size} processes: use a runtime with fewer")
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    scorer = team.replicated(Scorer(module))
    order = torch.Generator()  # the same for all: what dropout draws depends on the size of a share
    order.set_state(torch.get_rng_state())
    if team.rank:
        torch.manual_seed(torch.initial_seed() + team.rank)  # and should not be the same for all
    module.train()
    trajectory: list[float] = []
    for epoch in range(epochs):
        total = 0.0
        # Split evenly: a last batch of one sample is an error in batch normalization.
        for batch in torch.tensor_split(torch.randperm(len(split), generator=order), steps):
            share = team.share(batch).to(place)
            share_loss = loss(scorer(*(array[share] for array in inputs)), share) * (len(share) / len(batch))
            optimizer.zero_grad()
            (share_loss * team.size).backward()  # gradients are averaged: with this, to those of the batch's mean
            optimizer.step()
            schedule.step()
            total += share_loss.item() * len(batch)
        trajectory.append(team.sum(total) / len(split))
        if team.rank == 0:
            progress.part(f"epoch {epoch + 1} of {epochs}, loss {trajectory[-1]:.3g}")
    team.agree(module)
    module.eval()
    return trajectory


class Scorer(torch.nn.Module):  # type: ignore[misc]
    """A module whose only output is the scores: what else it answers has no part in the loss."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return outputs(self.module, inputs)[0]


def predict(module: torch.nn.Module, split: Split) -> torch.Tensor:
    """The scores for a whole split, [N, classes], where the module is."""
    place = ranks.device()
    inputs = [array.to(place) for array in to_tensors(module, split.inputs).values()]
    with torch.no_grad():
        batches = zip(*(array.split(BATCH) for array in inputs), strict=True)
        return torch.cat([outputs(module, batch)[0] for batch in batches])


def accuracy(module: torch.nn.Module, split: Split) -> float:
    """The fraction of the split's labels that the highest score names."""
    return float((predict(module, split).argmax(1).cpu() == labels(split)).float().mean())


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
