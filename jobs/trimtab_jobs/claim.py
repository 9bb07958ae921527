"""The claim: what the holdout split says about the promises on quality. Pure.

Both models answer the same samples, so what counts is the difference of pairs.

Where an answer is right or wrong (accuracy, topK), the drop is a difference of *matched* proportions: only the samples
on which exactly one of the two is right carry information. With b of n lost and c won, the drop is (b - c) / n. Its 95%
interval is that of Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
Statistics in Medicine 24 (2005) 729-740: Wald's after adding 1/2 to each cell of the 2x2 table, which keeps its
coverage where b and c are small (Wald's has no width at all when both are 0). A bound on the proportion itself is held
against Wilson's score interval (JASA 22 (1927) 209-212).

Every other metric gets the percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13):
samples are drawn again, the same ones for both models, and the metric is computed of each draw. So means, ratios of
means, f1, auroc and a user's own function are one case.

A promise holds when the whole interval keeps it, is violated when the whole interval breaks it, and is otherwise
inconclusive: then the message says about how many samples would tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.api.job import Constraint
from trimtab.api.metrics import Metrics
from trimtab.api.model import Metric, parse_metric, show_metric
from trimtab.api.quantities import decimal, parse_percent, show_percent
from trimtab.api.status import Claim, Interval, Verdict
from trimtab_jobs.data import Array
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.metrics import Rows

Z = 1.959964
"""The normal quantile of a two-sided 95% interval."""
DRAWS, FEW_DRAWS = 1000, 200
MANY_NUMBERS = 1e6
"""Fewer draws where the rows hold more than this, or a user's function, of unknown cost, sees them all."""

_WORST_FIRST = (Verdict.VIOLATED, Verdict.INCONCLUSIVE, Verdict.HOLDS)


@dataclass(frozen=True)
class Compared:
    """Two models' answers to the same samples, as one metric keeps them."""

    metric: Metric
    value: Callable[[Rows, Array | None], float]
    settings: Metrics
    labels: Array | None
    baseline: Rows
    winner: Rows

    def __len__(self) -> int:
        return len(self.winner[0])

    def values(self, samples: Array | slice = slice(None)) -> tuple[float, float]:
        """The metric of baseline and winner on some of the samples."""
        labels = None if self.labels is None else self.labels[samples]
        before, after = (
            self.value(tuple(column[samples] for column in rows), labels) for rows in (self.baseline, self.winner)
        )
        return before, after

    def drop(self, before: float, after: float) -> float:
        return self.settings.drop(self.metric, before, after)


@dataclass(frozen=True)
class _Finding:
    """What was found under one metric, with its intervals."""

    metric: Metric
    falls: bool
    """Whether losing quality makes the metric smaller."""
    samples: int
    before: float
    after: float
    drop: Interval
    value: Interval
    """Of the winner."""


def claim(compared: Mapping[Metric, Compared], constraints: Sequence[Constraint], seed: int) -> Claim:
    """The claim from both models' answers to the holdout split. The first metric is the one that counts.

    `seed` is the bootstrap's.
    """
    found = {metric: _find(pair, seed) for metric, pair in compared.items()}
    first = next(iter(found.values()))
    told = [_judge(found[constraint.metric], constraint) for constraint in constraints if constraint.metric in found]
    return Claim(
        metric=first.metric,
        samples=first.samples,
        baseline=decimal(first.before),
        winner=decimal(first.after),
        drop=first.drop,
        verdict=min((verdict for verdict, _ in told), key=_WORST_FIRST.index, default=Verdict.HOLDS),
        message="; ".join(message for _, message in told) or f"{_tell_drop(first)}; no bound on quality was asked",
    )


def paired_drop(baseline: Array, winner: Array) -> Interval:
    """The drop in the proportion of right answers (bools) with its 95% interval (Agresti and Min, 2005)."""
    lost, won, n = int(np.sum(baseline & ~winner)), int(np.sum(~baseline & winner)), len(winner)
    center = (lost - won) / (n + 2)
    variance = (lost + won + 1) / (n + 2) - center**2
    width = Z * math.sqrt(variance / (n + 2))
    return _interval((lost - won) / n, center - width, center + width)


def wilson(correct: Array) -> Interval:
    """A proportion with its 95% score interval (Wilson, 1927)."""
    n, p = len(correct), float(correct.mean())
    center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return _interval(p, center - width, center + width)


def bootstrap(pair: Compared, seed: int) -> tuple[Interval, Interval]:
    """The drop, and the winner's value, each with its 95% percentile interval, wide enough to hold the estimate."""
    rng, n = np.random.default_rng(seed), len(pair)
    draws = [_drawn(pair, rng.integers(n, size=n)) for _ in range(_draws(pair))]
    before, after = pair.values()
    estimates = np.array([pair.drop(before, after), after])
    drawn = np.array([estimates, *((pair.drop(*draw), draw[1]) for draw in draws)])
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    low, high = np.minimum(low, estimates), np.maximum(high, estimates)
    drop, value = (_interval(*numbers) for numbers in zip(estimates, low, high, strict=True))
    return drop, value


def verdict(interval: Interval, at_least: float = -math.inf, at_most: float = math.inf) -> Verdict:
    """Where an interval lies against a bound. Read from its decimals, so that a stored claim gives the same again."""
    low, high = float(interval.low), float(interval.high)
    if low >= at_least and high <= at_most:
        return Verdict.HOLDS
    return Verdict.VIOLATED if high < at_least or low > at_most else Verdict.INCONCLUSIVE


def _find(pair: Compared, seed: int) -> _Finding:
    if pair.winner[0].dtype == bool:
        drop, value = paired_drop(pair.baseline[0], pair.winner[0]), wilson(pair.winner[0])
    else:
        drop, value = bootstrap(pair, seed)
    before, after = pair.values()
    falls = pair.settings.higher_is_better(pair.metric)
    return _Finding(pair.metric, falls, len(pair), before, after, drop, value)


def _draws(pair: Compared) -> int:
    custom = pair.settings.custom
    costly = pair.metric == Metric.CUSTOM and custom is not None and not custom.per_sample
    return FEW_DRAWS if costly or sum(column.size for column in pair.winner) > MANY_NUMBERS else DRAWS


def _drawn(pair: Compared, samples: Array) -> tuple[float, float]:
    """NaN where a draw leaves nothing to measure, such as one class for auroc; it is left out then."""
    try:
        return pair.values(samples)
    except InvalidInput:  # a user's function
        return math.nan, math.nan


def _judge(found: _Finding, constraint: Constraint) -> tuple[Verdict, str]:
    """Whether a promise holds, and the sentence that says so."""
    if constraint.max_drop is not None:
        interval, bound = found.drop, parse_percent(constraint.max_drop)
        judged = verdict(interval, at_most=bound)
        told = f"{_tell_drop(found)}, at most {constraint.max_drop} was promised"
    else:
        interval, bound = found.value, parse_metric(found.metric, constraint.min or constraint.max or "")
        judged = verdict(interval, at_least=bound) if constraint.min else verdict(interval, at_most=bound)
        promise = f"at least {constraint.min}" if constraint.min else f"at most {constraint.max}"
        shown = _show(interval, lambda value: show_metric(found.metric, value))
        told = f"{found.metric} is {shown}, {promise} was promised"
    return judged, told + _samples_needed(interval, bound, found.samples) if judged == Verdict.INCONCLUSIVE else told


def _samples_needed(interval: Interval, bound: float, samples: int) -> str:
    """About how many samples make the interval as narrow as the estimate's distance from the bound."""
    distance = abs(float(interval.estimate) - bound)
    half = (float(interval.high) - float(interval.low)) / 2
    if distance < 1e-3 * half:  # a million times as many would not tell
        return ": too close to the bound for any number of samples to tell"
    needed = float(f"{samples * (half / distance) ** 2:.2g}")
    return f": about {needed:,.0f} samples would tell"


def _interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate=decimal(float(estimate)), low=decimal(float(low)), high=decimal(float(high)))


def _tell_drop(found: _Finding) -> str:
    return f"{found.metric} {'drops' if found.falls else 'rises'} by {_show(found.drop, show_percent)}"


def _show(interval: Interval, show: Callable[[float], str]) -> str:
    numbers = (show(float(n)) for n in (interval.estimate, interval.low, interval.high))
    return "{} (95% interval {} to {})".format(*numbers)
