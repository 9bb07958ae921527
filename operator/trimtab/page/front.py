"""What the plot of the front shows, in the units of its axes: marks, bounds, and the part of the plane worth seeing.

Both axes are relative to the input model, which therefore stands at (1, 0): time as a ratio, as the playoff measured
it, and quality as a change in points, which is what promises and the claim on the holdout speak of. A ruined
candidate, 80 points down, would squeeze all others into a line; the view ends a little below what was promised, and
what lies outside is drawn on its edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.api.model import FRACTIONS, Metric
from trimtab.api.report import Candidate, JobReport
from trimtab.api.status import Interval, Outcome

SLOWEST = 2.0
"""The ratio the view reaches to; slower candidates are drawn on its edge, unless one of them can win."""
FARTHEST = 10.0
"""Points from the input model up to which a bound is in view; beyond, it would squeeze everything else."""
REACH = 1.5
"""How far below what must be seen the view goes on for candidates that break a promise, relative to its depth."""
SHALLOWEST = 0.5
"""Points of change that the view spans at least, or noise would look like a difference."""

ABLE = ("winner", "input", "feasible")
KEPT = (*ABLE, "dominated", "inconclusive")
"""Kinds of marks: those that may win, and those that keep every promise. The input model is shown in any case."""


@dataclass(frozen=True)
class Span:
    """A value with its interval, which is the value alone where none was measured."""

    low: float
    value: float
    high: float

    @property
    def known(self) -> bool:
        return self.low < self.high


@dataclass(frozen=True)
class Mark:
    """A measured candidate."""

    candidate: Candidate
    kind: str
    """`winner`, `input`, or its outcome in lower case."""
    time: Span
    change: Span
    size: float
    """Relative to the input model's."""


@dataclass(frozen=True)
class Bound:
    """A promise that is a line on one of the axes."""

    text: str
    value: float
    on_time: bool


@dataclass(frozen=True)
class Front:
    """Everything to draw. `time` and `change` are the view; `holdout` is the winner's change as claimed."""

    marks: tuple[Mark, ...]
    bounds: tuple[Bound, ...]
    holdout: Span | None
    unit: str
    """Of changes: points of a fraction, else percent of the input model's value."""
    time: tuple[float, float]
    change: tuple[float, float]

    batches: bool = False
    """Whether time is that of a batch."""

    def off_scale(self, mark: Mark) -> bool:
        return mark.time.value > self.time[1] or not self.change[0] <= mark.change.value <= self.change[1]

    @property
    def winner(self) -> Mark | None:
        return next((mark for mark in self.marks if mark.kind == "winner"), None)

    def staircase(self) -> list[Mark]:
        """The feasible marks that none is better than in both time and quality, the fastest first."""
        best: list[Mark] = []
        feasible = (mark for mark in self.marks if mark.candidate.outcome == Outcome.FEASIBLE)
        for mark in sorted(feasible, key=lambda m: (m.time.value, -m.change.value)):
            if not best or mark.change.value > best[-1].change.value:
                best.append(mark)
        return best


def front(report: JobReport) -> Front | None:
    """What there is to draw; None while the input model has not been measured."""
    # What was measured and skipped all the same is another candidate's model.
    unlike = (c for c in report.candidates if c.outcome != Outcome.SKIPPED)
    measured = [c for c in unlike if c.drop and _timed(report) in c.metrics]
    if not measured or measured[0].trial != 0:
        return None
    marks = tuple(_mark(report, candidate, measured[0]) for candidate in measured)
    bounds = tuple(_bounds(report, measured[0]))
    drop = report.claim.drop if report.claim and report.winner and report.winner.trial != 0 else None
    holdout = Span(*map(_change, (drop.high, drop.estimate, drop.low))) if drop else None
    unit = " points" if report.quality in FRACTIONS else "%"
    return Front(marks, bounds, holdout, unit, _times(marks, bounds), _changes(marks, bounds, holdout), report.batches)


def _mark(report: JobReport, candidate: Candidate, reference: Candidate) -> Mark:
    change = _change(candidate.drop or "0")
    return Mark(
        candidate=candidate,
        kind=_kind(report, candidate, reference),
        time=_time(report, candidate, reference),
        change=Span(change, change, change),
        size=float(candidate.metrics[Metric.SIZE]) / max(float(reference.metrics[Metric.SIZE]), 1),
    )


def _kind(report: JobReport, candidate: Candidate, reference: Candidate) -> str:
    if report.winner and (report.winner.trial, report.winner.engine) == (candidate.trial, candidate.engine):
        return "winner"
    if candidate is reference:
        return "input"
    return candidate.outcome.lower() if candidate.outcome else "unjudged"


def _time(report: JobReport, candidate: Candidate, reference: Candidate) -> Span:
    """From the playoff; else a hint, from timings made minutes apart."""
    if ratio := report.ratio(candidate):
        return _span(ratio)
    metric = _timed(report)
    hint = _times_as_long(float(candidate.metrics[metric]), metric, reference)
    return Span(hint, hint, hint)


def _timed(report: JobReport) -> Metric:
    """What the ratios of time are of."""
    return Metric.THROUGHPUT if report.batches else Metric.LATENCY_P50


def _times_as_long(value: float, metric: Metric, reference: Candidate) -> float:
    ratio = value / float(reference.metrics[metric])
    return 1 / ratio if metric == Metric.THROUGHPUT else ratio


def _span(interval: Interval) -> Span:
    return Span(float(interval.low), float(interval.estimate), float(interval.high))


def _change(drop: str) -> float:
    """A fraction that is lost as what is gained, in points or in percent; a loss of nothing is no negative zero."""
    return -100 * float(drop) + 0.0


def _bounds(report: JobReport, reference: Candidate) -> Iterator[Bound]:
    for promise in report.asked.promises:
        if promise.metric == report.quality and promise.drop:
            yield Bound(promise.text, _change(promise.drop), on_time=False)
        if promise.metric == _timed(report) and promise.limit:
            ratio = _times_as_long(float(promise.limit), promise.metric, reference)
            yield Bound(promise.text, ratio, on_time=True)


def _times(marks: tuple[Mark, ...], bounds: tuple[Bound, ...]) -> tuple[float, float]:
    """The view of the time axis. It holds whatever may win; others, and bounds, only if they are not too slow."""
    able = [end for mark in marks if mark.kind in ABLE for end in (mark.time.low, mark.time.high)]
    others = [mark.time.value for mark in marks] + [bound.value for bound in bounds if bound.on_time]
    seen = [*able, *(ratio for ratio in others if ratio <= SLOWEST), 1.0]
    return _padded(min(seen), max(seen), 0.1)


def _changes(marks: tuple[Mark, ...], bounds: tuple[Bound, ...], holdout: Span | None) -> tuple[float, float]:
    """The view of the quality axis. Where nothing keeps the promises, it holds the nearest candidate."""
    kept = [mark.change.value for mark in marks if mark.kind in KEPT]
    broken = [mark.change.value for mark in marks if mark.kind not in KEPT]
    nearest = [max(broken)] if broken and len(kept) == 1 else []
    lines = [bound.value for bound in bounds if not bound.on_time and abs(bound.value) <= FARTHEST]
    needed = [*kept, *nearest, *lines, *([holdout.low, holdout.high] if holdout else []), 0.0]
    depth = max(max(needed) - min(needed), SHALLOWEST)
    near = (change for change in broken if change >= min(needed) - REACH * depth)
    return _padded(min(*needed, *near, -SHALLOWEST), max(needed), 0.5)


def _padded(low: float, high: float, least: float) -> tuple[float, float]:
    margin = 0.08 * max(high - low, least)
    return low - margin, high + margin
