"""What a person asks of a model: promises that it keeps, and what to prefer among those that do.

A bound has the unit of its metric, and bounds that nothing can keep, or that say nothing, are refused when they are
written: a search would spend its whole budget to find that out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from trimtab.api.base import Rule, Spec, exactly_one, exactly_one_cel
from trimtab.api.metrics import Goal
from trimtab.api.model import (
    FRACTIONS,
    HIGHER_IS_BETTER,
    PLAIN,
    QUALITY,
    UNITS,
    Metric,
    Unit,
    one_of,
    parse_metric,
)
from trimtab.api.quantities import Percent


def _bound_has_unit(constraint: Constraint) -> bool:
    bound = constraint.max or constraint.min
    if bound is None:
        return True
    try:
        parse_metric(constraint.metric, bound)
    except ValueError:
        return False
    return True


def _by_unit(metric: str, say: Callable[[Unit], str]) -> str:
    """CEL: what is said of the unit of a metric."""
    return " : ".join([*(f"{metric} in {one_of(ms)} ? {say(unit)}" for ms, unit in UNITS.items()), say(PLAIN)])


BOUND_FITS = _by_unit("self.metric", lambda unit: f"bound.matches(r'{unit.pattern.regex}')")
"""CEL: `bound` has the form of its metric's unit."""
ABOVE_ALL = r"^(10[1-9]|1[1-9][0-9]|[2-9][0-9][0-9]|100\.[0-9]*[1-9])"
"""Matches a percent above 100."""


def _at_most_all(constraint: Constraint) -> bool:
    shares = (constraint.max_drop, constraint.min) if constraint.metric in FRACTIONS else ()
    return not any(share and re.match(ABOVE_ALL, share) for share in shares)


class Constraint(Spec):
    """A promise that the published model keeps."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel("max_drop", "max", "min"),
            "give exactly one of maxDrop, max and min",
            exactly_one("max_drop", "max", "min"),
        ),
        Rule(
            f"!has(self.maxDrop) || self.metric in {one_of(QUALITY)}",
            "maxDrop is for quality: bound latency, size and other costs with max",
            lambda c: c.max_drop is None or c.metric in QUALITY,
        ),
        Rule(
            f"(has(self.max) ? [self.max] : has(self.min) ? [self.min] : []).all(bound, {BOUND_FITS})",
            "the bound has the wrong unit: accuracy takes a percent (98%), as do topK, f1, auroc and cosine, latency a "
            "duration (5ms), size and peakMemory a quantity (20Mi), other metrics a number (0.5)",
            _bound_has_unit,
        ),
        Rule(
            "!has(self.max) || self.metric == 'custom' || self.max.matches('[1-9]') && !self.max.startsWith('-')",
            "max must be above 0",
            lambda c: c.max is None or c.metric == Metric.CUSTOM or re.match("[^-]*[1-9]", c.max) is not None,
        ),
        Rule(
            f"!(self.metric in {one_of(FRACTIONS)}) || "
            "(has(self.maxDrop) ? [self.maxDrop] : has(self.min) ? [self.min] : [])"
            f".all(share, !share.matches(r'{ABOVE_ALL}'))",
            "accuracy, topK, f1, auroc and cosine are at most 100%: give min or maxDrop as a part of that",
            _at_most_all,
        ),
    )
    metric: Metric
    max_drop: Percent | None = Field(
        None,
        description="The most that may be lost against the input model: in points of a fraction (with 1%, an accuracy "
        "of 95.3% may become 94.3%), relative for mse, mae and custom (with 5%, an error of 0.20 may become 0.21).",
    )
    max: Annotated[str, Field(max_length=32)] | None = Field(None, description="The largest value allowed.")
    min: Annotated[str, Field(max_length=32)] | None = Field(None, description="The smallest value allowed.")


class Objective(Spec):
    """What to prefer among the candidates that keep every promise. The first objective decides; the rest break ties."""

    rules: ClassVar = (
        Rule(
            f"self.metric == 'custom' || (self.metric in {one_of(HIGHER_IS_BETTER)}) == (self.goal == 'Maximize')",
            "the goal is the wrong way round: Maximize accuracy, topK, f1, auroc, cosine and throughput, Minimize the "
            "others",
            lambda o: o.metric == Metric.CUSTOM or (o.metric in HIGHER_IS_BETTER) == (o.goal == Goal.MAXIMIZE),
        ),
    )
    metric: Metric
    goal: Goal


def say_once(constraints: Sequence[Constraint]) -> bool:
    """No metric is bounded twice in the same way."""
    said = [(c.metric, c.max is None, c.min is None) for c in constraints]
    return len({*said}) == len(said)


def leave_room(constraints: Sequence[Constraint]) -> bool:
    """No metric must be above what it may be at most."""
    lowest = [(c.metric, parse_metric(c.metric, c.min)) for c in constraints if c.min]
    highest = [(c.metric, parse_metric(c.metric, c.max)) for c in constraints if c.max]
    return all(low <= high for metric, low in lowest for other, high in highest if metric == other)


SAY_ONCE = (
    "self.constraints.all(c, self.constraints.exists_one(x, "
    "x.metric == c.metric && has(x.max) == has(c.max) && has(x.min) == has(c.min)))"
)
_ORDERED = _by_unit("low.metric", lambda unit: f"{unit.cel.format('low.min')} <= {unit.cel.format('high.max')}")
LEAVE_ROOM = (
    "self.constraints.all(low, !has(low.min) || self.constraints.all(high, !has(high.max) || "
    f"high.metric != low.metric || ({_ORDERED})))"
)
