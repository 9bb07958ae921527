"""The claim: what the holdout split says about a promise on accuracy. Pure.

Both models answer the same samples, so the drop is a difference of *matched* proportions: only the samples on which
exactly one of the two is right carry information. With b of n lost and c won, the drop is (b - c) / n. Its 95%
interval is that of Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
Statistics in Medicine 24 (2005) 729-740: Wald's after adding 1/2 to each cell of the 2x2 table, which keeps its
coverage where b and c are small (Wald's has no width at all when both are 0). A bound on the accuracy itself is held
against Wilson's score interval (JASA 22 (1927) 209-212).

A promise holds when the whole interval keeps it, is violated when the whole interval breaks it, and is otherwise
inconclusive: then the message says about how many samples would tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.api.job import Constraint
from trimtab.api.model import Metric
from trimtab.api.quantities import decimal, parse_percent, show_percent
from trimtab.api.status import Claim, Interval, Verdict
from trimtab_jobs.data import Array

Z = 1.959964
"""The normal quantile of a two-sided 95% interval."""

_WORST_FIRST = (Verdict.VIOLATED, Verdict.INCONCLUSIVE, Verdict.HOLDS)


@dataclass(frozen=True)
class _Finding:
    verdict: Verdict
    message: str


def claim(baseline: Array, winner: Array, constraints: Sequence[Constraint]) -> Claim:
    """The claim from both models' correctness (bool, one per sample of holdout, in the same order)."""
    drop, accuracy = paired_drop(baseline, winner), wilson(winner)
    findings = [
        _finding(constraint, drop, accuracy, baseline, winner)
        for constraint in constraints
        if constraint.metric == Metric.ACCURACY
    ]
    return Claim(
        samples=len(winner),
        baseline=decimal(baseline.mean()),
        winner=decimal(winner.mean()),
        drop=drop,
        verdict=min((f.verdict for f in findings), key=_WORST_FIRST.index, default=Verdict.HOLDS),
        message="; ".join(f.message for f in findings) or f"the drop is {_show(drop)}; no bound on accuracy was asked",
    )


def paired_drop(baseline: Array, winner: Array) -> Interval:
    """The drop in accuracy from `baseline` to `winner`, with its 95% interval (Agresti and Min, 2005)."""
    lost, won = _discordant(baseline, winner)
    n = len(winner)
    center = (lost - won) / (n + 2)
    width = Z * math.sqrt(_variance(lost, won, n) / (n + 2))
    return _interval((lost - won) / n, center - width, center + width)


def wilson(correct: Array) -> Interval:
    """Accuracy with its 95% score interval (Wilson, 1927)."""
    n, p = len(correct), float(correct.mean())
    center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return _interval(p, center - width, center + width)


def verdict(interval: Interval, at_least: float = -math.inf, at_most: float = math.inf) -> Verdict:
    """Where an interval lies against a bound. Read from its decimals, so that a stored claim gives the same again."""
    low, high = float(interval.low), float(interval.high)
    if low >= at_least and high <= at_most:
        return Verdict.HOLDS
    return Verdict.VIOLATED if high < at_least or low > at_most else Verdict.INCONCLUSIVE


def _finding(constraint: Constraint, drop: Interval, accuracy: Interval, baseline: Array, winner: Array) -> _Finding:
    lost, won = _discordant(baseline, winner)
    if constraint.max_drop is not None:
        bound = parse_percent(constraint.max_drop)
        found = verdict(drop, at_most=bound)
        told = f"the drop is {_show(drop)}, at most {constraint.max_drop} was promised"
        need = _samples_needed(_variance(lost, won, len(winner)), float(drop.estimate) - bound)
    else:
        bound = parse_percent(constraint.min or constraint.max or "")
        found = verdict(accuracy, at_least=bound) if constraint.min else verdict(accuracy, at_most=bound)
        promise = f"at least {constraint.min}" if constraint.min else f"at most {constraint.max}"
        told = f"the accuracy is {_show(accuracy)}, {promise} was promised"
        p = float(accuracy.estimate)
        need = _samples_needed(p * (1 - p), p - bound)
    return _Finding(found, told + need if found == Verdict.INCONCLUSIVE else told)


def _discordant(baseline: Array, winner: Array) -> tuple[int, int]:
    """How many samples only the baseline, and how many only the winner, gets right."""
    return int(np.sum(baseline & ~winner)), int(np.sum(~baseline & winner))


def _variance(lost: int, won: int, n: int) -> float:
    """Of one sample's difference, with 1/2 added to each cell."""
    return (lost + won + 1) / (n + 2) - ((lost - won) / (n + 2)) ** 2


def _samples_needed(variance: float, distance: float) -> str:
    """About how many samples make the interval as narrow as the estimate's distance from the bound."""
    if abs(distance) < 1e-4:  # a hundred million samples would not tell
        return ": too close to the bound for any number of samples to tell"
    return f": about {Z**2 * variance / distance**2:.2g} samples would tell".replace("e+0", "e")


def _interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate=decimal(estimate), low=decimal(low), high=decimal(high))


def _show(interval: Interval) -> str:
    numbers = (show_percent(float(n)) for n in (interval.estimate, interval.low, interval.high))
    return "{} (95% interval {} to {})".format(*numbers)
