"""The playoff: which model is faster, on a machine that is never quiet.

Two latencies measured one after the other differ by whatever the machine did meanwhile. So all finalists are loaded
in one process and take turns in rounds, A-B-...-B-A: a drift that is linear over a round adds the same to each. A turn
lasts long enough that what the one before left in the caches does not matter. Each round gives one ratio to the
baseline, and the ratio claimed is their median, with a 95% percentile bootstrap interval over rounds (Efron, Annals of
Statistics 7 (1979) 1-26). The baseline runs a second time as its own rival: how far
that ratio is from 1 is what this machine calls equal. A contestant whose interval lies wholly above that of the fastest
cannot win any more and takes no further turns; what is known of it is kept, from the rounds it took part in.

Statistics are separate from the loop, and the loop's clock is a parameter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.api.quantities import decimal
from trimtab.api.status import Interval
from trimtab_jobs import progress
from trimtab_jobs.data import Array

Clock = Callable[[], float]
Call = Callable[[int], object]
"""Runs a model once on the sample of that index."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Bounds:
    """How long to measure. A turn is a few calls of one model; `rounds` rounds have two turns of each."""

    rounds: int = 40
    min_rounds: int = 10
    """Fewer ratios say nothing about their own spread; these are run even when `seconds` have passed."""
    calls_per_turn: int = 10
    least_turn_seconds: float = 0.01
    """The fastest model's turn has more calls if it would be over sooner: ten calls of 15 µs tell who came before, not
    who is fast. `hack/bench_control.py` prints how far that put a model from itself."""
    turn_seconds: float = 0.1
    """A slow model ends its turn after this, with at least one call made."""
    seconds: float = 120.0
    warm_up_calls: int = 20
    warm_up_seconds: float = 1.0


TAIL = Bounds(min_rounds=40, calls_per_turn=13, turn_seconds=math.inf)
"""For the 99th percentile: 1,040 calls of each model however slow it is, so that 10 lie above."""


@dataclass(frozen=True)
class Race:
    """Seconds per call: `times[contestant][round]` is an array of that round's calls.

    A contestant that was dropped has the first rounds only.
    """

    times: list[list[Array]]

    def percentile(self, contestant: int, percent: float) -> float:
        return float(np.percentile(np.concatenate(self.times[contestant]), percent))

    def medians(self, contestant: int) -> Array:
        """One median per round."""
        return np.array([np.median(calls) for calls in self.times[contestant]])


def race(
    contestants: Sequence[Call],
    bounds: Bounds | None = None,
    clock: Clock = time.perf_counter,
    droppable: Collection[int] = (),
) -> Race:
    """Warm every contestant up, then let them take turns until the bounds are reached.

    After `min_rounds` those of the `droppable` that are clearly slower than the fastest leave. The first contestant is
    what times are relative to.
    """
    bounds = bounds or Bounds()
    warm_ups = [_turn(call, 0, bounds.warm_up_calls, bounds.warm_up_seconds, clock) for call in contestants]
    calls = _calls_per_turn(bounds, min(float(np.median(seconds)) for seconds in warm_ups))
    raced = Race([[] for _ in contestants])
    left = list(range(len(contestants)))
    started = clock()
    for number in range(bounds.rounds):
        if number >= bounds.min_rounds:
            left = _without_losers(raced, left, droppable) if droppable else left
            decided = droppable and not {*left} & {*droppable}
            if decided or clock() - started >= bounds.seconds:
                break
        if number:
            progress.part(f"round {number + 1} of {bounds.rounds}")
        turns: dict[int, list[float]] = {contestant: [] for contestant in left}
        for contestant in (*left, *reversed(left)):
            first = number * calls  # all see the same samples, for time may depend on them
            turns[contestant] += _turn(contestants[contestant], first, calls, bounds.turn_seconds, clock)
        for contestant, taken in turns.items():
            raced.times[contestant].append(np.array(taken))
    return raced


def _calls_per_turn(bounds: Bounds, fastest: float) -> int:
    """The same for all, given the seconds of the fastest model's call."""
    return max(bounds.calls_per_turn, math.ceil(bounds.least_turn_seconds / max(fastest, 1e-6)))


def _without_losers(raced: Race, left: list[int], droppable: Collection[int]) -> list[int]:
    """Who stays. The seed makes no decision: it only lets the same times always give the same intervals."""
    baseline = raced.medians(0)
    found = {contestant: ratio(raced.medians(contestant), baseline, seed=0) for contestant in left}
    fastest = min(found.values(), key=lambda interval: float(interval.estimate))
    return [c for c in left if c not in droppable or float(found[c].low) <= float(fastest.high)]


def ratio(contestant: Array, baseline: Array, seed: int) -> Interval:
    """The median over rounds of the ratio of two contestants' times, with its 95% bootstrap interval.

    Both arrays have one time per round, of which a contestant that was dropped has fewer. The pairing by round is kept
    in resampling.
    """
    ratios = contestant / baseline[: len(contestant)]
    rng = np.random.default_rng(seed)
    resampled = np.median(rng.choice(ratios, size=(RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(estimate=decimal(float(np.median(ratios))), low=decimal(float(low)), high=decimal(float(high)))


def _turn(call: Call, first: int, calls: int, seconds: float, clock: Clock) -> list[float]:
    """The seconds of each call. The first is not counted: the turn before left the caches to another model."""
    call(first)
    taken: list[float] = []
    total = 0.0
    while len(taken) < calls and (not taken or total < seconds):
        started = clock()
        call(first + len(taken))
        taken.append(clock() - started)
        total += taken[-1]
    return taken
