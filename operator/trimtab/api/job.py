"""OptimizationJob: what a person asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from trimtab.api.base import Record, Rule, Spec
from trimtab.api.metrics import Goal, Metrics
from trimtab.api.model import (
    Data,
    EngineName,
    Metric,
    ModelSource,
    SourceFormat,
    Target,
    WritableUri,
)
from trimtab.api.promises import LEAVE_ROOM, SAY_ONCE, Constraint, Objective, leave_room, say_once
from trimtab.api.quantities import PositiveDuration, Quantity
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.techniques import Quantize, QuantizeMethod, Step


class Algorithm(StrEnum):
    """Random and Bayesian begin with those of the recipe's candidates that lie in the space; Recipe ends with them."""

    GRID = "Grid"
    RANDOM = "Random"
    BAYESIAN = "Bayesian"
    RECIPE = "Recipe"


class EarlyStopping(Spec):
    """When a search has found what it will find."""

    patience: int = Field(
        ge=1,
        le=128,
        description="Trials in a row that bring nothing better, after which no further one is started. Better is a "
        "promise missed by less, or the first objective improved by more than 1 %.",
    )


class Search(Spec):
    """How the space of the techniques is explored."""

    algorithm: Algorithm | None = Field(
        None,
        description="Bayesian is Optuna's TPE, Recipe tries what is known to be good for such a model on such a CPU. "
        "Left out: Grid, or Recipe where techniques is left out too.",
    )
    max_trials: int = Field(16, ge=1, le=128, description="Trials at most, the input model not counted.")
    timeout: PositiveDuration | None = Field(
        None,
        description="From the first pod; when it passes, no further trial is started and the best so far wins. Trials "
        "that run are waited for half as long again, or, while none has succeeded, as long as they take.",
    )
    early_stopping: EarlyStopping | None = Field(None, description="Left out: the search goes on to its limits.")
    parallelism: int = Field(2, ge=1, le=64, description="Trials prepared at the same time.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="With the trial's index it seeds every proposal.")


class Budget(Spec):
    """What a job may spend."""

    rules: ClassVar = (
        Rule(
            "!has(self.memory) || self.memory.matches('[1-9]')",
            "memory must be above 0",
            lambda b: b.memory is None or re.search("[1-9]", b.memory) is not None,
        ),
    )
    deadline: PositiveDuration = Field("2h", description="From the first pod; when it passes, the job fails.")
    memory: Quantity | None = Field(
        None,
        description="What a trial may hold in memory on this machine; one that holds more fails. In a cluster the "
        "memory limit of the OptimizationRuntime does this.",
    )
    gpu_seconds: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="GPUs times the seconds that pods held them; once that much is spent, no further trial is started "
        "and the best so far wins. Those under way end, as do the playoff and publishing. GPUs are what limits name, "
        "and a resource claim counts as one.",
    )


class Publish(Spec):
    """Where the winner goes."""

    uri: WritableUri = Field(
        description="A folder: each winner under its digest, and current.json naming the newest. Or a repository of "
        "an OCI registry: each winner an image that pods can mount, under its digest's first digits and the given tag."
    )


IMMUTABLE = (
    *("model", "data", "target", "constraints", "objectives", "metrics", "techniques", "publish"),
    *("search.algorithm", "search.seed"),
)
"""What trials are compared by. How many there are, what they may cost, and when to stop may change on the way."""


def immutable(path: str) -> Rule:
    """A field that is given at creation and stays."""
    return Rule(
        f"has(self.spec.{path}) == has(oldSelf.spec.{path}) && "
        f"(!has(self.spec.{path}) || self.spec.{path} == oldSelf.spec.{path})",
        f"spec.{path} is immutable: create a new OptimizationJob",
    )


def _has_step(spec: OptimizationJobSpec, name: str) -> bool:
    return any(step.technique == name for step in spec.techniques or [])


def _needs_calibration(spec: OptimizationJobSpec) -> bool:
    configs = [step.config for step in spec.techniques or []]
    return any(isinstance(config, Quantize) and QuantizeMethod.STATIC in config.method for config in configs)


def _goals_of_custom(spec: OptimizationJobSpec) -> set[Goal]:
    return {objective.goal for objective in spec.objectives if objective.metric == Metric.CUSTOM}


def _asked_cel(metric: Metric) -> str:
    named = " || ".join(f"self.{field}.exists(x, x.metric == '{metric}')" for field in ("constraints", "objectives"))
    return f"({named})"


class OptimizationJobSpec(Spec):
    """What a person asks for."""

    rules: ClassVar = (
        Rule(
            "!has(self.techniques) || self.techniques.all(t, !has(t.distill)) || has(self.data.train)",
            "distill trains: give data.train",
            lambda s: not _has_step(s, "distill") or s.data.train is not None,
        ),
        Rule(
            "has(self.data.calibration) || !has(self.techniques) || "
            "!self.techniques.exists(t, has(t.quantize) && 'Static' in t.quantize.method)",
            "static quantization needs data.calibration",
            lambda s: not _needs_calibration(s) or s.data.calibration is not None,
        ),
        Rule(
            "has(self.data.calibration) || !has(self.techniques) || self.techniques.all(t, !has(t.nncf))",
            "nncf needs data.calibration",
            lambda s: not _has_step(s, "nncf") or s.data.calibration is not None,
        ),
        Rule(
            "!has(self.techniques) || self.techniques.all(t, !has(t.nncf)) || 'OpenVINO' in self.target.engines",
            "only OpenVINO runs what nncf makes: add it to target.engines",
            lambda s: not _has_step(s, "nncf") or EngineName.OPENVINO in s.target.engines,
        ),
        Rule(
            "!has(self.techniques) || self.techniques.all(t, !has(t.nncf)) || "
            "has(self.techniques[size(self.techniques) - 1].nncf) && self.techniques.exists_one(t, has(t.nncf))",
            "no technique takes what nncf makes: make it the last step, and name it once",
            lambda s: all(step.technique != "nncf" for step in (s.techniques or [])[:-1]),
        ),
        Rule(
            "self.model.format == 'PyTorch' || !has(self.techniques) || "
            "self.techniques.all(t, !has(t.prune) && !has(t.distill))",
            "prune and distill need a PyTorch model",
            lambda s: s.model.format == SourceFormat.PYTORCH or not (_has_step(s, "prune") or _has_step(s, "distill")),
        ),
        Rule(
            f"!{_asked_cel(Metric.COST_PER_MILLION)} || has(self.metrics.pricePerHour)",
            "costPerMillion needs metrics.pricePerHour, what an hour of the machine costs",
            lambda s: Metric.COST_PER_MILLION not in s.asked() or s.metrics.price_per_hour is not None,
        ),
        Rule(
            f"!{_asked_cel(Metric.CUSTOM)} || has(self.metrics.custom)",
            "the metric custom needs metrics.custom, the function that computes it",
            lambda s: Metric.CUSTOM not in s.asked() or s.metrics.custom is not None,
        ),
        Rule(
            "!has(self.metrics.custom) || "
            "self.objectives.all(o, o.metric != 'custom' || o.goal == self.metrics.custom.goal)",
            "the goal of an objective on custom is not that of metrics.custom: make them the same",
            lambda s: not s.metrics.custom or _goals_of_custom(s) <= {s.metrics.custom.goal},
        ),
        Rule(
            SAY_ONCE,
            "constraints has two bounds of one kind (maxDrop, max or min) for a metric: keep the stricter one",
            lambda s: say_once(s.constraints),
        ),
        Rule(
            LEAVE_ROOM,
            "constraints asks for more of a metric (min) than it allows (max): no model can keep both",
            lambda s: leave_room(s.constraints),
        ),
    )
    model: ModelSource
    data: Data
    target: Target = Field(Target(), description="Where the model will serve.")
    constraints: list[Constraint] = Field([], max_length=16, description="Promises the published model keeps.")
    objectives: list[Objective] = Field(
        [Objective(metric=Metric.LATENCY_P50, goal=Goal.MINIMIZE)],
        min_length=1,
        max_length=4,
        description="What to prefer among the candidates that keep every promise.",
    )
    metrics: Metrics = Field(Metrics(), description="How metrics are measured where there is a choice.")
    techniques: list[Step] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="An ordered pipeline. Left out: a recipe is derived from the model and the target.",
    )
    search: Search = Field(Search(), description="How the space of the techniques is explored.")
    budget: Budget = Field(Budget(), description="What the job may spend.")
    publish: Publish | None = Field(None, description="Left out: the winner stays in the store and is only named.")
    suspend: bool = Field(False, description="No new pod is started, and running ones are deleted, while true.")
    ttl_seconds_after_finished: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="A job that has ended, well or badly, is deleted this much later, with its status and all that it "
        "owns; what was published stays. Left out: it is kept.",
    )

    def asked(self) -> list[Metric]:
        """The metrics that promises and objectives name, promises first."""
        named: Iterable[Constraint | Objective] = [*self.constraints, *self.objectives]
        return list(dict.fromkeys(one.metric for one in named))

    def addresses(self) -> dict[str, str]:
        """Every address the spec names, by field."""
        sources = {"spec.model.uri": self.model.uri, "spec.model.code": self.model.code}
        custom = {"spec.metrics.custom.code": self.metrics.custom.code if self.metrics.custom else None}
        splits = {f"spec.data.{name}.uri": split.uri for name, split in self.data.named().items()}
        given = sources | splits | custom | {"spec.publish.uri": self.publish.uri if self.publish else None}
        return {field: uri for field, uri in given.items() if uri}


class ObjectMeta(Record):
    """The part of metav1.ObjectMeta that decisions read."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    deletion_timestamp: str | None = None
    creation_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


NAME_LIMIT = 40
"""A label holds 63 characters, and NAME-UID8-STAGE-TRIAL-ATTEMPT is the value of one: 40 + 9 + 8 + 2 + 4, say."""


class OptimizationJob(Spec):
    """Optimizes one trained model."""

    rules: ClassVar = (
        Rule(
            f"self.metadata.name.size() <= {NAME_LIMIT}",
            f"metadata.name has more than {NAME_LIMIT} characters: the names of pods are made from it",
            lambda job: len(job.metadata.name) <= NAME_LIMIT,
        ),
        *(immutable(name) for name in IMMUTABLE),
    )

    api_version: str = "trimtab.dev/v1alpha1"
    kind: str = "OptimizationJob"
    metadata: ObjectMeta
    spec: OptimizationJobSpec
    status: OptimizationJobStatus = OptimizationJobStatus()
