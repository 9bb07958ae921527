"""The next point to try: grid, random, or Optuna's TPE.

Proposing is stateless: the whole history is given each time, so a restart loses nothing. Every proposal is seeded by
the spec's seed *and* the trial's index, because a study rebuilt with one fixed seed proposes the same point for ever
(measured with Optuna 5).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from trimtab.api.job import Algorithm, Search
from trimtab.api.techniques import Step
from trimtab.space import Dimension, Point, Tried, canonical, space, without_idle

DRAWS = 64
"""Repeats of a random draw before a finite space counts as exhausted."""


def propose(steps: Sequence[Step], search: Search, index: int, history: Sequence[Tried]) -> Point | None:
    """The point for trial `index` (from 1), or None when the space holds no new one.

    `history` is sorted by trial index and holds every earlier trial, running ones included.
    """
    tried = {canonical(t.point) for t in history}
    candidates = (without_idle(point) for point in _PROPOSERS[search.algorithm](space(steps), search, index, history))
    return next((point for point in candidates if canonical(point) not in tried), None)


def _grid(dimensions: Sequence[Dimension], *_: Any) -> Iterator[Point]:
    """All combinations, the last setting turning fastest."""
    for values in product(*(d.grid() for d in dimensions)):
        yield dict(zip((d.name for d in dimensions), values, strict=True))


def _random(dimensions: Sequence[Dimension], search: Search, index: int, *_: Any) -> Iterator[Point]:
    """Uniform draws (log-uniform on a Log scale), then the grid, so that a small space is always covered."""
    generator = random.Random(f"{search.seed}/{index}")  # noqa: S311 (reproducible, not secret)
    for _draw in range(DRAWS):
        yield {d.name: generator.choice(d.choices) if d.choices else d.at(generator.random()) for d in dimensions}
    yield from _grid(dimensions)


def _bayesian(dimensions: Sequence[Dimension], search: Search, index: int, history: Sequence[Tried]) -> Iterator[Point]:
    """Optuna's TPE over the rebuilt study; a point it repeats is followed by random ones."""
    from trimtab.study import suggest

    if dimensions:
        yield suggest(dimensions, random.Random(f"{search.seed}/{index}").getrandbits(31), history)  # noqa: S311
    yield from _random(dimensions, search, index)


_PROPOSERS: dict[Algorithm, Callable[..., Iterator[Point]]] = {
    Algorithm.GRID: _grid,
    Algorithm.RANDOM: _random,
    Algorithm.BAYESIAN: _bayesian,
}
