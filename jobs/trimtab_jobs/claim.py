"""The claim: what the holdout split says about the promises on quality. Pure.

Both models answer the same samples, so what counts is the difference of pairs.

Where an answer is right or wrong (accuracy, topK), the drop is a difference of *matched* proportions: only the samples
on which exactly one of the two is right carry information. With b of n lost and c won, the drop is (b - c) / n. Its 95%
interval is the score interval of Tango, "Equivalence test and confidence interval for the difference in proportions for
the paired-sample design", Statistics in Medicine 17 (1998) 891-908. A good winner loses next to nothing, so it is small
b and c that count: of models that lose just over 1 point, and win nothing, it lets at most 2.1% pass as keeping 1%, at
any of 195 to 1,000 samples. Adding 1/2 to each cell (Agresti and Min, 2005) let 14% pass, and Wald's interval has no
width at all. A bound on the proportion itself is held against Wilson's score interval (JASA 22 (1927) 209-212).

Every other metric gets a bootstrap: samples are drawn again, the same ones for both models, and the metric is computed
of each draw. So means, ratios of means, f1, auroc and a user's own function are one case. Losses are skewed: most
samples lose a little and a few a lot. Then plain percentiles reach too near, and of lognormal losses the truth lay
above the 95% interval in 11% of cases at 50 samples, where 2.5% are promised. So the percentiles are BCa's (Efron, JASA
82 (1987) 171-185), as far out as Student's t has them, and each end is moved by what one more of the samples that speak
most for it would do to the estimate: about 5% remain at 30 samples. Fewer than FEWEST samples confirm nothing.

A promise holds when the whole interval keeps it, is violated when the whole interval breaks it, and is otherwise
inconclusive: then the message says about how many samples would tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from trimtab.api.metrics import Metrics
from trimtab.api.model import FRACTIONS, Metric, parse_metric, show_metric
from trimtab.api.promises import Constraint
from trimtab.api.quantities import decimal, parse_percent, show_percent
from trimtab.api.status import Claim, Interval, Verdict
from trimtab_jobs.data import Array
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.metrics import Rows

Z = 1.959964
"""The normal quantile of a two-sided 95% interval."""
DRAWS, FEW_DRAWS = 1000, 200
GROUPS = 200
"""Into how many parts the samples are put at the most, to leave one out at a time."""
FEWEST = 30
"""Samples that a bootstrap needs: of fewer it shows too little of the tail."""
NORMAL = NormalDist()
TINY = 1e-15
"""What is left of a sum that should be nothing."""
MANY_NUMBERS = 1e6
"""Fewer draws where the rows hold more than this, or a user's function, of unknown cost, sees them all."""

MOST_TIMES = 1e6
"""Nobody labels a million times as many samples."""

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


Scaled = Callable[[float], Interval]
"""The interval if there were that many times the samples, and all went as with these."""


@dataclass(frozen=True)
class _Finding:
    """What was found under one metric, with its intervals."""

    metric: Metric
    falls: bool
    """Whether losing quality makes the metric smaller."""
    samples: int
    before: float
    after: float
    drop_of: Scaled
    value_of: Scaled
    """Of the winner."""
    fewest: int = 0
    """Samples that it takes to say that a promise holds."""
    itself: bool = False
    """Whether the winner is the input model."""

    @property
    def drop(self) -> Interval:
        return self.drop_of(1)


def claim(
    compared: Mapping[Metric, Compared], constraints: Sequence[Constraint], seed: int, itself: bool = False
) -> Claim:
    """The claim from both models' answers to the holdout split. The first metric is the one that counts.

    `seed` is the bootstrap's. `itself` where the winner is the input model, which loses nothing on any sample: only
    bounds on a metric's own value are a matter of how many were seen then.
    """
    found = {metric: _find(pair, seed, itself) for metric, pair in compared.items()}
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


def matched(baseline: Array, winner: Array) -> tuple[int, int, int]:
    """Of the right answers (bools): how many were lost, how many won, of how many samples."""
    return int(np.sum(baseline & ~winner)), int(np.sum(~baseline & winner)), len(winner)


def paired_drop(lost: float, won: float, samples: float) -> Interval:
    """The drop in the proportion of right answers with its 95% interval (Tango, 1998).

    Its ends are the drops at which the score statistic is the normal quantile; each lies on its side of the estimate.
    """
    estimate = (lost - won) / samples

    def end(outer: float) -> float:
        inner = estimate
        for _ in range(50):  # halves the distance to below any digit that is kept
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if abs(_score(lost, won, samples, middle)) < Z else (inner, middle)
        return outer

    return _interval(estimate, end(-1.0), end(1.0))


def _score(lost: float, won: float, samples: float, drop: float) -> float:
    """How many standard errors the counts are from a true drop, the nuisance at its likeliest given that drop."""
    b = -(lost + won) + (2 * samples - lost + won) * drop
    c = -won * drop * (1 - drop)
    won_at = (math.sqrt(b * b - 8 * samples * c) - b) / (4 * samples)
    variance = samples * (2 * won_at + drop * (1 - drop))
    distance = lost - won - samples * drop
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def wilson(correct: Array) -> Interval:
    """A proportion with its 95% score interval (Wilson, 1927)."""
    n, p = len(correct), float(correct.mean())
    center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return _interval(p, center - width, center + width)


def bootstrap(pair: Compared, seed: int) -> tuple[Interval, Interval]:
    """The drop, and the winner's value, each with its 95% interval, wide enough to hold the estimate."""
    rng, n = np.random.default_rng(seed), len(pair)
    estimates = _found(pair, np.arange(n))
    if n == 1:
        return _interval(*[estimates[0]] * 3), _interval(*[estimates[1]] * 3)
    drawn = np.array([estimates, *(_found(pair, rng.integers(n, size=n)) for _ in range(_draws(pair)))])
    parts = np.array_split(rng.permutation(n), min(n, GROUPS))
    without = np.array([_found(pair, np.delete(np.arange(n), part)) for part in parts])
    drop, value = (
        _interval(one, *_ends(pair, at, drawn[:, at], without[:, at], parts)) for at, one in enumerate(estimates)
    )
    return drop, value


def _found(pair: Compared, samples: Array) -> tuple[float, float]:
    """The drop and the winner's value on some of the samples.

    NaN where they leave nothing to measure, such as one class for auroc; it is left out then.
    """
    try:
        before, after = pair.values(samples)
    except InvalidInput:  # a user's function
        return math.nan, math.nan
    return pair.drop(before, after), after


def _ends(pair: Compared, at: int, drawn: Array, without: Array, parts: Sequence[Array]) -> tuple[float, float]:
    """The interval of the drop (0) or the value (1), from what was drawn and from what is left without each part."""
    drawn, estimate = drawn[np.isfinite(drawn)], float(drawn[0])
    influence: Array = np.nan_to_num(estimate - without)
    ends = [estimate, estimate]
    for side, z, part in ((0, -Z, int(influence.argmin())), (1, Z, int(influence.argmax()))):
        reached = float(np.percentile(drawn, 100 * _level(z, drawn, influence, len(pair))))
        more = _found(pair, np.concatenate([np.arange(len(pair)), parts[part]]))[at] - estimate
        ends[side] = reached + (more if more * z > 0 else 0.0)
    spare = _unseen(pair) if np.ptp(drawn) == 0 and pair.metric in FRACTIONS else 0.0
    return min(ends[0], estimate) - spare, max(ends[1], estimate) + spare


def _level(z: float, drawn: Array, influence: Array, samples: int) -> float:
    """Of the draws, the part below the end that BCa puts at a normal quantile, stretched to that of Student's t.

    The estimate is the first of those drawn.
    """
    below = float(np.mean(drawn < drawn[0]) + np.mean(drawn <= drawn[0])) / 2
    bias = NORMAL.inv_cdf(min(max(below, 0.001), 0.999))
    centred = influence - influence.mean()
    spread = float(np.square(centred).sum()) ** 1.5
    bend = float((centred**3).sum()) / (6 * spread) if spread > 0 else 0.0
    df = samples - 1
    stretched = bias + z * (1 + (z * z + 1) / (4 * df)) * math.sqrt(samples / df)
    return NORMAL.cdf(bias + stretched / max(1 - bend * stretched, 0.1))


def _unseen(pair: Compared) -> float:
    """What may be lost or gained in samples that were not seen, where all that were agree: as for right answers."""
    return float(paired_drop(0, 0, len(pair)).high)


def verdict(interval: Interval, at_least: float = -math.inf, at_most: float = math.inf) -> Verdict:
    """Where an interval lies against a bound. Read from its decimals, so that a stored claim gives the same again."""
    low, high = float(interval.low), float(interval.high)
    if low >= at_least and high <= at_most:
        return Verdict.HOLDS
    return Verdict.VIOLATED if high < at_least or low > at_most else Verdict.INCONCLUSIVE


def _find(pair: Compared, seed: int, itself: bool) -> _Finding:
    before, after = pair.values()
    falls = pair.settings.higher_is_better(pair.metric)
    fewest = 0
    if pair.winner[0].dtype == bool:
        drop_of, value_of = _matched_drop(pair), _narrowed(wilson(pair.winner[0]))
    else:
        fewest = FEWEST
        drop_of, value_of = map(_narrowed, bootstrap(pair, seed))
    if itself:
        drop_of = _narrowed(_interval(0.0, 0.0, 0.0))
    return _Finding(pair.metric, falls, len(pair), before, after, drop_of, value_of, fewest, itself)


def _matched_drop(pair: Compared) -> Scaled:
    counts = matched(pair.baseline[0], pair.winner[0])
    return lambda times: paired_drop(*(times * count for count in counts))


def _narrowed(interval: Interval) -> Scaled:
    """As a mean's interval narrows: with the root of the number of samples."""
    estimate, low, high = (float(number) for number in (interval.estimate, interval.low, interval.high))
    return lambda times: _interval(
        estimate, estimate + (low - estimate) / math.sqrt(times), estimate + (high - estimate) / math.sqrt(times)
    )


def _draws(pair: Compared) -> int:
    custom = pair.settings.custom
    costly = pair.metric == Metric.CUSTOM and custom is not None and not custom.per_sample
    return FEW_DRAWS if costly or sum(column.size for column in pair.winner) > MANY_NUMBERS else DRAWS


def _judge(found: _Finding, constraint: Constraint) -> tuple[Verdict, str]:
    """Whether a promise holds, and the sentence that says so."""
    if constraint.max_drop is not None and found.itself:
        return Verdict.HOLDS, f"{found.metric} stays as it is, for this is the input model"
    if constraint.max_drop is not None:
        bound = parse_percent(constraint.max_drop)
        scaled, within = found.drop_of, {"at_most": bound}
        told = f"{_tell_drop(found)}, at most {constraint.max_drop} was promised"
    else:
        bound = parse_metric(found.metric, constraint.min or constraint.max or "")
        scaled, within = found.value_of, {"at_least" if constraint.min else "at_most": bound}
        promise = f"at least {constraint.min}" if constraint.min else f"at most {constraint.max}"
        shown = _show(found.value_of(1), lambda value: show_metric(found.metric, value))
        told = f"{found.metric} is {shown}, {promise} was promised"
    judged = verdict(scaled(1), **within)
    if found.samples < found.fewest and judged == Verdict.HOLDS:
        return Verdict.INCONCLUSIVE, f"{told}: fewer than {found.fewest} samples confirm nothing"
    return judged, told + _samples_needed(scaled, within, found.samples) if judged == Verdict.INCONCLUSIVE else told


def _samples_needed(scaled: Scaled, within: Mapping[str, float], samples: int) -> str:
    """About how many samples would tell, did all go on as with these."""
    few, many = 1.0, MOST_TIMES
    if verdict(scaled(many), **within) == Verdict.INCONCLUSIVE:
        return ": too close to the bound for any number of samples to tell"
    while many / few > 1.01:
        middle = math.sqrt(few * many)
        few, many = (middle, many) if verdict(scaled(middle), **within) == Verdict.INCONCLUSIVE else (few, middle)
    return f": about {float(f'{samples * many:.2g}'):,.0f} samples would tell"


def _interval(estimate: float, low: float, high: float) -> Interval:
    estimate, low, high = (0.0 if abs(number) < TINY else float(number) for number in (estimate, low, high))
    return Interval(estimate=decimal(estimate), low=decimal(low), high=decimal(high))


def _tell_drop(found: _Finding) -> str:
    """Quality that was gained is told as a gain: nobody reads a drop of -0.1% at once."""
    drop, gained = found.drop, float(found.drop.estimate) < 0
    if gained:
        drop = _interval(-float(drop.estimate), -float(drop.high), -float(drop.low))
    return f"{found.metric} {'drops' if found.falls != gained else 'rises'} by {_show(drop, show_percent)}"


def _show(interval: Interval, show: Callable[[float], str]) -> str:
    numbers = (show(float(n)) for n in (interval.estimate, interval.low, interval.high))
    return "{} (95% interval {} to {})".format(*numbers)
