"""Ways to make ModelMonitors, their alerts, and a world in which they are reconciled."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from builders import NOW, job_dict
from trimtab.alerts import Alert
from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.status import Condition, OptimizationJobStatus
from trimtab.conditions import timestamp
from trimtab.decisions import Event, MonitorDecision, Refusal
from trimtab.monitoring import reconcile_monitor, record

RUNBOOKS = "https://wiki.example/trimtab"


def make_monitor(**spec: Any) -> ModelMonitor:
    """A monitor `magika` in namespace `ml` that recalibrates on drift. Keyword arguments replace spec fields."""
    given: dict[str, Any] = {
        "target": {"model": "magika"},
        "triggers": [{"drift": {"sustained": "1m"}}, {"latency": {"max": "5ms", "window": "1m", "sustained": "1m"}}],
        "action": "Recalibrate",
        "capture": "pvc://captured/magika",
        "cooldown": "1h",
        "jobTemplate": {"spec": job_dict()["spec"]},
    }
    metadata = {"name": "magika", "namespace": "ml", "uid": "3f1c-77", "generation": 1}
    return ModelMonitor.model_validate({"metadata": metadata, "spec": given | spec})


def make_alert(
    fingerprint: str = "d1",
    name: str = "ModelDriftDetected",
    starts_at: datetime = NOW,
    ends_at: datetime | None = None,
) -> Alert:
    return Alert(name, fingerprint, starts_at, ends_at)


@dataclass
class MonitorWorld:
    """Carries a monitor's decisions out as the cluster does: create, then write the status, then tell."""

    monitor: ModelMonitor = field(default_factory=make_monitor)
    jobs: dict[str, OptimizationJob] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    now: datetime = NOW
    forbidden: Refusal | None = None
    """Why no job can be created."""

    def receive(self, *alerts: Alert) -> None:
        self._store(status=record(self.monitor.status, alerts, self.now))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def finish(self, kind: str = "Complete", reason: str = "", message: str = "") -> None:
        """End every job that runs."""
        for name, job in self.jobs.items():
            ended = OptimizationJobStatus(
                conditions=[Condition(type=kind, status="True", reason=reason or kind, message=message)],
                completion_time=timestamp(self.now),
            )
            self.jobs[name] = job if job.status.conditions else job.model_copy(update={"status": ended})

    def delete_jobs(self) -> None:
        self.jobs.clear()

    def respecify(self, **spec: Any) -> None:
        metadata = self.monitor.metadata
        generation = metadata.model_copy(update={"generation": metadata.generation + 1})
        self._store(spec=make_monitor(**spec).spec, metadata=generation)

    def reconcile(self, killed: bool = False) -> MonitorDecision:
        """One turn; with `killed` the operator dies between creating a job and writing the status."""
        decide = partial(reconcile_monitor, self.monitor, tuple(self.jobs.values()), self.now, RUNBOOKS)
        decision = decide()
        if decision.create and self.forbidden:
            decision = decide(self.forbidden)
        if decision.create:
            self.jobs.setdefault(decision.create.metadata.name, decision.create)
        if not killed:
            self._store(status=decision.status)
            self.events.extend(decision.events)
        return decision

    def _store(self, **parts: Any) -> None:
        """As the API server would give it back."""
        wire = self.monitor.model_copy(update=parts).model_dump(mode="json", by_alias=True, exclude_none=True)
        self.monitor = ModelMonitor.model_validate(wire)
