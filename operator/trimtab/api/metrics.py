"""How metrics are measured where there is a choice, and what "worse" means for each.

A metric has a natural direction, a unit and a notion of loss: what is a fraction loses points (95.3% to 94.3% is one
point), what is an error or a user's own number loses relative to the input model (an error of 0.20 that becomes 0.21
lost 5%). Both sides of the contract ask here, so that a guard in a pod, the selection and the claim mean the same.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from trimtab.api.base import Rule, Spec
from trimtab.api.model import FACTORY, FRACTIONS, HIGHER_IS_BETTER, Metric, Uri
from trimtab.api.quantities import Decimal

NOTHING = 1e-12
"""What stands in for an error of exactly 0, which leaves no scale to divide by."""
ROUNDING = 1e-9
"""What a drop may exceed its bound by: 0.95 less 0.94 is 0.010000000000000009."""
MILLION_PER_HOUR = 1e6 / 3600


class Goal(StrEnum):
    """Which way is better."""

    MINIMIZE = "Minimize"
    MAXIMIZE = "Maximize"


class CustomMetric(Spec):
    """A quality metric of the user's own."""

    function: Annotated[str, Field(max_length=256), FACTORY] = Field(
        description="module:function, called with the model's outputs (a list of arrays, in the graph's order) and the "
        "labels (None without any), both of all samples. It returns one number."
    )
    code: Uri | None = Field(None, description="The .py file that holds the function's module.")
    goal: Goal = Field(Goal.MAXIMIZE, description="Which way is better.")
    per_sample: bool = Field(
        False,
        description="The function returns one number per sample, and their mean is the metric. It is called batch by "
        "batch, so the outputs of all samples need not fit into memory.",
    )


class Metrics(Spec):
    """How metrics are measured where there is a choice."""

    rules: ClassVar = (
        Rule(
            "!has(self.pricePerHour) || double(self.pricePerHour) > 0.0",
            "pricePerHour must be above 0",
            lambda m: m.price_per_hour is None or float(m.price_per_hour) > 0,
        ),
    )
    top_k: int = Field(5, ge=1, le=1000, description="topK: a sample is right if its label is among so many classes.")
    throughput_batch: int = Field(16, ge=1, le=1024, description="throughput: how many samples are run at once.")
    price_per_hour: Decimal | None = Field(
        None,
        description="costPerMillion: what an hour of the machine costs, in any currency; the cost is in the same. A "
        "machine answers one request after the other, each in latencyP50.",
    )
    custom: CustomMetric | None = Field(None, description="What the metric `custom` is.")

    def higher_is_better(self, metric: Metric) -> bool:
        """The natural direction of a metric."""
        if metric == Metric.CUSTOM and self.custom:
            return self.custom.goal == Goal.MAXIMIZE
        return metric in HIGHER_IS_BETTER

    def drop(self, metric: Metric, before: float, after: float) -> float:
        """How much worse `after` is: in points of a fraction, else relative to `before`. Below 0 where it is better."""
        lost = before - after if self.higher_is_better(metric) else after - before
        return lost if metric in FRACTIONS else lost / max(abs(before), NOTHING)

    def cost_per_million(self, latency_p50: float) -> float | None:
        """What a million requests cost, one after the other; None without a price."""
        return None if self.price_per_hour is None else float(self.price_per_hour) * latency_p50 * MILLION_PER_HOUR


def keeps(drop: float, bound: float) -> bool:
    """Whether a drop is within its bound; a drop of exactly the bound is."""
    return drop <= bound + ROUNDING
