"""The next point to try: grid, random, Optuna's TPE, or a recipe's alone.

Random and Bayesian begin with the recipe's points (a warm start); Grid keeps its own order, for it visits all.
Proposing is stateless: the whole history is given each time, so a restart loses nothing. Every proposal is seeded by
the spec's seed *and* the trial's index, because a study rebuilt with one fixed seed proposes the same point for ever
(measured with Optuna 5).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from trimtab.api.job import Algorithm
from trimtab.api.techniques import Step
from trimtab.space import Point, Tried, canonical, space, without_idle

DRAWS = 64
"""Repeats of a random draw before a finite space counts as exhausted."""


@dataclass(frozen=True)
class Exploration:
    """The space a job explores, and how."""

    steps: Sequence[Step]
    algorithm: Algorithm
    first: Sequence[Point] = ()
    """The recipe's points, the most promising first."""


def propose(exploration: Exploration, seed: int, index: int, history: Sequence[Tried]) -> Point | None:
    """The point for trial `index` (from 1), or None when there is no new one.

    `history` is sorted by trial index and holds every earlier trial, running ones included.
    """
    tried = {canonical(t.point) for t in history}
    points = _PROPOSERS[exploration.algorithm](exploration, random.Random(f"{seed}/{index}"), history)  # noqa: S311
    return next((point for point in map(without_idle, points) if canonical(point) not in tried), None)


def _grid(exploration: Exploration, *_: Any) -> Iterator[Point]:
    """All combinations, the last setting turning fastest."""
    dimensions = space(exploration.steps)
    for values in product(*(d.grid() for d in dimensions)):
        yield dict(zip((d.name for d in dimensions), values, strict=True))


def _random(exploration: Exploration, generator: random.Random, *_: Any) -> Iterator[Point]:
    """Uniform draws (log-uniform on a Log scale), then the grid, so that a small space is always covered."""
    yield from exploration.first
    dimensions = space(exploration.steps)
    for _draw in range(DRAWS):
        yield {d.name: generator.choice(d.choices) if d.choices else d.at(generator.random()) for d in dimensions}
    yield from _grid(exploration)


def _bayesian(exploration: Exploration, generator: random.Random, history: Sequence[Tried]) -> Iterator[Point]:
    """Optuna's TPE over the rebuilt study; a point it repeats is followed by random ones."""
    yield from exploration.first
    from trimtab.study import suggest

    if dimensions := space(exploration.steps):
        yield suggest(dimensions, generator.getrandbits(31), history)
    yield from _random(exploration, generator)


def _recipe(exploration: Exploration, *_: Any) -> Iterator[Point]:
    yield from exploration.first


_PROPOSERS: dict[Algorithm, Callable[..., Iterator[Point]]] = {
    Algorithm.GRID: _grid,
    Algorithm.RANDOM: _random,
    Algorithm.BAYESIAN: _bayesian,
    Algorithm.RECIPE: _recipe,
}
