"""ModelMonitor: a served model is watched, and when an alert comes back it is optimized again.

The monitor owns no metric. It generates the Prometheus rule over what the server exports, an Alertmanager webhook
brings the alert back, and each alert leads to at most one OptimizationJob. The guards (cooldown, single flight) are
decided from the status, so they survive a restart and a webhook delivered twice.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from trimtab.api.base import Pattern, Record, Rule, Spec, exactly_one, exactly_one_cel
from trimtab.api.job import ObjectMeta, OptimizationJobSpec
from trimtab.api.model import FolderUri
from trimtab.api.quantities import Duration
from trimtab.api.status import Condition

MODEL_NAME = Pattern(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", "a label value such as digits-v2")
ModelName = Annotated[str, Field(max_length=63), MODEL_NAME]


class DriftTrigger(Spec):
    """The server's drift score stays above its threshold, which was calibrated when the model was published."""

    sustained: Duration = Field("5m", description="How long the score must stay above the threshold.")


class LatencyPercentile(StrEnum):
    """The share of requests that the promise is made for."""

    P50 = "P50"
    P95 = "P95"
    P99 = "P99"


class LatencyTrigger(Spec):
    """Requests take longer than promised."""

    percentile: LatencyPercentile = LatencyPercentile.P95
    max: Duration = Field(description="The promise. The server's histogram must have a bucket near it.")
    window: Duration = Field("5m", description="The time over which the percentile is taken.")
    sustained: Duration = Field("5m", description="How long it must stay above the promise.")


class Trigger(Spec):
    """What makes the monitor act."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel("drift", "latency"),
            "a trigger names exactly one of drift and latency",
            exactly_one("drift", "latency"),
        ),
    )
    drift: DriftTrigger | None = None
    latency: LatencyTrigger | None = None

    @property
    def kind(self) -> str:
        return "drift" if self.drift else "latency"


class Action(StrEnum):
    """What a trigger leads to. Quantizing an unchanged model on unchanged data rarely repairs drift.

    Recalibrate runs the job template with the server's captured traffic as its calibration split; Reoptimize runs it
    as it is written.
    """

    RECALIBRATE = "Recalibrate"
    REOPTIMIZE = "Reoptimize"


class MonitorTarget(Spec):
    """The served model, by the labels its metrics carry."""

    model: ModelName = Field(description="The model_name label, which is the name the server serves it under.")


class JobTemplate(Spec):
    """The OptimizationJob that a trigger creates."""

    spec: OptimizationJobSpec


class ModelMonitorSpec(Spec):
    """What is watched, and what is done about it."""

    rules: ClassVar = (
        Rule(
            "self.action != 'Recalibrate' || has(self.capture)",
            "Recalibrate needs capture, the folder the server writes recent traffic to",
            lambda s: s.action != Action.RECALIBRATE or s.capture is not None,
        ),
    )
    target: MonitorTarget
    triggers: list[Trigger] = Field(min_length=1, max_length=8, description="What makes the monitor act.")
    action: Action = Action.REOPTIMIZE
    capture: FolderUri | None = Field(
        None, description="The folder of the server's captured traffic; capture is off unless the server is told to."
    )
    cooldown: Duration = Field("1h", description="No second job is started before this has passed since the last.")
    job_template: JobTemplate
    suspend: bool = Field(False, description="Alerts are recorded, and nothing is started, while true.")


class TriggerState(StrEnum):
    FIRING = "Firing"
    RESOLVED = "Resolved"


class TriggerStatus(Record):
    """One alert, from firing to resolved. `key` is its fingerprint and start: a repeated webhook has the same."""

    key: str
    alert: str
    starts_at: str
    received_at: str
    state: TriggerState = TriggerState.FIRING
    job: str = Field("", description="The OptimizationJob it led to.")
    message: str = ""


TRIGGERS_KEPT = 16


class ModelMonitorStatus(Record):
    observed_generation: int = 0
    conditions: list[Condition] = []
    triggers: list[TriggerStatus] = Field([], description="The newest last, 16 at most.")
    last_job: str = ""
    last_job_time: str | None = None
    rule: str = Field("", description="The ConfigMap that holds the generated Prometheus rule.")
    state: str = ""


class ModelMonitor(Spec):
    """Watches a served model and optimizes it again when an alert says so."""

    api_version: str = "trimtab.dev/v1alpha1"
    kind: str = "ModelMonitor"
    metadata: ObjectMeta
    spec: ModelMonitorSpec
    status: ModelMonitorStatus = ModelMonitorStatus()
