"""What to do next for one ModelMonitor: its spec, its status and its jobs go in, a MonitorDecision comes out.

An alert becomes a trigger in the status (`record`) and leads to at most one OptimizationJob, whose name is made of the
monitor's UID and the trigger's key: creating it twice is creating it once. Between an alert and its job stand three
guards, asked in this order: the monitor is suspended, a job of it is still running, the cooldown has not passed. A
trigger that waits is kept with the reason; one that resolves while it waits is never started. One whose job
failed says so, and starts another once somebody has deleted that job. A monitor whose rule may not be written watches
nothing, and says that before all else.

The cooldown begins anew when a job ends: only then can the alert see the new model, and its end takes minutes to get
here, for Alertmanager gathers notifications.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trimtab.alerts import Alert
from trimtab.api.job import NAME_LIMIT, ObjectMeta, OptimizationJob, OptimizationJobSpec
from trimtab.api.model import Split
from trimtab.api.monitor import (
    TRIGGERS_KEPT,
    Action,
    ModelMonitor,
    ModelMonitorStatus,
    TriggerState,
    TriggerStatus,
)
from trimtab.api.names import (
    CAPTURE_FILE,
    MONITOR_LABEL,
    MONITOR_UID_LABEL,
    QUEUE_LABEL,
    QUEUE_PRIORITY_LABEL,
    TRIGGER_ANNOTATION,
    ConditionType,
    EventReason,
    MonitorConditionType,
    Reason,
    label_value,
)
from trimtab.api.quantities import parse_duration
from trimtab.api.status import Condition
from trimtab.conditions import find, is_finished, is_true, parse_timestamp, timestamp, with_condition
from trimtab.decisions import Event, MonitorDecision, Refusal, Unwatched
from trimtab.rules import action_for, rule_file


@dataclass(frozen=True)
class Hold:
    """Why no job may start now. `until` is when time alone ends it."""

    reason: Reason
    message: str
    until: datetime | None = None

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.message}"


def reconcile_monitor(
    monitor: ModelMonitor,
    jobs: Sequence[OptimizationJob],
    now: datetime,
    runbooks: str,
    forbidden: Refusal | None = None,
) -> MonitorDecision:
    """Decide. Pure; `jobs` are those that carry the monitor's UID as a label. Deciding again changes nothing.

    `forbidden` is why the job of the decision before could not be created (a quota, a role, a template that is
    invalid), or its rule not be written.
    """
    known = monitor.model_copy(update={"status": _released(_adopt(monitor.status, jobs, now), jobs)})
    denied = Hold(forbidden.reason, forbidden.message) if forbidden else None
    blind = denied if isinstance(forbidden, Unwatched) else None
    hold = blind or _hold(known, jobs, now) or denied
    waiting = _waiting(known.status)
    create = _job(known, waiting[0]) if waiting and not hold else None
    if create:
        known = monitor.model_copy(update={"status": _started(known.status, waiting[0], create, now)})
        hold = _running(create)
    status = _told(known, jobs, hold, blind, now)
    return MonitorDecision(
        status,
        rule=rule_file(monitor, runbooks),
        create=create,
        events=tuple(_events(monitor.status, status, create)),
        requeue_after=(hold.until - now).total_seconds() if hold and hold.until and _waiting(status) else None,
    )


def record(status: ModelMonitorStatus, alerts: Iterable[Alert], now: datetime) -> ModelMonitorStatus:
    """Fold alerts that a webhook brought into the status, the newest last. What is known already changes nothing."""
    triggers = list(status.triggers)
    for alert in sorted(alerts, key=lambda alert: alert.starts_at):
        triggers = _resolve(triggers, alert) if alert.ends_at else _fire(triggers, alert, now)
    return status.model_copy(update={"triggers": _kept(triggers)})


def _fire(triggers: list[TriggerStatus], alert: Alert, now: datetime) -> list[TriggerStatus]:
    """A firing alert is news if it began after all we know of its fingerprint: deliveries may come late or again.

    An earlier incident that still fires here has ended, then, and the notification of its end was lost.
    """
    starts_at = _precise(alert.starts_at)
    if any(_same(trigger, alert) and trigger.starts_at >= starts_at for trigger in triggers):
        return triggers
    new = TriggerStatus(
        key=f"{alert.fingerprint}@{starts_at}", alert=alert.name, starts_at=starts_at, received_at=timestamp(now)
    )
    return [_resolved(trigger) if _same(trigger, alert) else trigger for trigger in triggers] + [new]


def _resolve(triggers: list[TriggerStatus], alert: Alert) -> list[TriggerStatus]:
    """By its end and not by its start, which Alertmanager may move when two Prometheus servers report one alert."""
    assert alert.ends_at
    ends_at = _precise(alert.ends_at)
    over = [_same(trigger, alert) and trigger.starts_at <= ends_at for trigger in triggers]
    return [_resolved(trigger) if ended else trigger for trigger, ended in zip(triggers, over, strict=True)]


def _kept(triggers: list[TriggerStatus]) -> list[TriggerStatus]:
    """The newest 16; one that still fires is forgotten last, or its repetition would be taken for news."""
    by_worth = sorted(range(len(triggers)), key=lambda i: (triggers[i].state == TriggerState.FIRING, i))
    return [triggers[i] for i in sorted(by_worth[-TRIGGERS_KEPT:])]


def _same(trigger: TriggerStatus, alert: Alert) -> bool:
    return trigger.key.startswith(f"{alert.fingerprint}@")


def _resolved(trigger: TriggerStatus) -> TriggerStatus:
    return trigger.model_copy(update={"state": TriggerState.RESOLVED})


def _precise(moment: datetime) -> str:
    """Fixed width, so that moments sort as text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _adopt(status: ModelMonitorStatus, jobs: Sequence[OptimizationJob], now: datetime) -> ModelMonitorStatus:
    """Recognize jobs that were created before the status could be written.

    As if they began now: when they were created, the API server's clock tells, and a cooldown is measured on ours.
    """
    by_key = {job.metadata.annotations.get(TRIGGER_ANNOTATION): job for job in jobs}
    for trigger in status.triggers:
        job = by_key.get(trigger.key)
        if job and not trigger.job:
            status = _started(status, trigger, job, now)
    return status


def _released(status: ModelMonitorStatus, jobs: Sequence[OptimizationJob]) -> ModelMonitorStatus:
    """Deleting a failed job gives its trigger back. One that completed may go, and the incident has had its job.

    Of a deleted job only the trigger's message tells how it ended.
    """
    names = {job.metadata.name for job in jobs}
    again = {t.key for t in _firing(status) if t.job not in names and t.message.startswith(_failed(t))}
    triggers = [t.model_copy(update={"job": ""}) if t.key in again else t for t in status.triggers]
    return status.model_copy(update={"triggers": triggers})


def _started(
    status: ModelMonitorStatus, trigger: TriggerStatus, job: OptimizationJob, now: datetime
) -> ModelMonitorStatus:
    name = job.metadata.name
    triggers = [t.model_copy(update={"job": name}) if t.key == trigger.key else t for t in status.triggers]
    return status.model_copy(update={"triggers": triggers, "last_job": name, "last_job_time": timestamp(now)})


def _hold(monitor: ModelMonitor, jobs: Sequence[OptimizationJob], now: datetime) -> Hold | None:
    """The guards, in the order they are asked."""
    if monitor.spec.suspend:
        return Hold(Reason.SUSPENDED, "spec.suspend is true: alerts are recorded, and nothing is started")
    running = next((job for job in jobs if not is_finished(job.status.conditions)), None)
    if running:
        return _running(running)
    since = [monitor.status.last_job_time, *(job.status.completion_time for job in jobs)]
    known = [parse_timestamp(moment) for moment in since if moment]
    if not known:
        return None
    until = max(known) + timedelta(seconds=parse_duration(monitor.spec.cooldown))
    if now >= until:
        return None
    return Hold(Reason.COOLING_DOWN, f"the next job may start at {timestamp(until)}", until)


def _running(job: OptimizationJob) -> Hold:
    return Hold(Reason.REOPTIMIZING, f"job {job.metadata.name} is running, and there is one at a time")


def _job(monitor: ModelMonitor, trigger: TriggerStatus) -> OptimizationJob:
    owner = monitor.metadata
    digest = "-" + hashlib.sha256(f"{owner.uid}/{trigger.key}".encode()).hexdigest()[:8]
    metadata = ObjectMeta(
        name=owner.name[: NAME_LIMIT - len(digest)].rstrip("-.") + digest,
        namespace=owner.namespace,
        labels=_queue(owner) | {MONITOR_LABEL: label_value(owner.name), MONITOR_UID_LABEL: owner.uid},
        annotations={TRIGGER_ANNOTATION: trigger.key},
    )
    return OptimizationJob(metadata=metadata, spec=_job_spec(monitor, trigger))


def _queue(owner: ObjectMeta) -> dict[str, str]:
    """The queue that its jobs are to wait in, if it has Kueue's labels."""
    return {name: owner.labels[name] for name in (QUEUE_LABEL, QUEUE_PRIORITY_LABEL) if name in owner.labels}


def _job_spec(monitor: ModelMonitor, trigger: TriggerStatus) -> OptimizationJobSpec:
    spec = monitor.spec.job_template.spec
    if action_for(monitor, trigger.alert) != Action.RECALIBRATE:
        return spec
    assert monitor.spec.capture
    captured = Split(uri=f"{monitor.spec.capture.rstrip('/')}/{CAPTURE_FILE}")
    return spec.model_copy(update={"data": spec.data.model_copy(update={"calibration": captured})})


def _told(
    monitor: ModelMonitor, jobs: Sequence[OptimizationJob], hold: Hold | None, blind: Hold | None, now: datetime
) -> ModelMonitorStatus:
    """The status with everything that people read in it."""
    status, generation = monitor.status, monitor.metadata.generation
    failures = _failures(status, jobs)
    summary = _summary(status, hold)
    conditions = status.conditions
    for condition in (_ready(monitor, failures, blind), _triggered(status, summary)):
        conditions = with_condition(conditions, condition.model_copy(update={"observed_generation": generation}), now)
    return status.model_copy(
        update={
            "observed_generation": generation,
            "conditions": conditions,
            "triggers": [t.model_copy(update={"message": _message(t, failures, hold)}) for t in status.triggers],
            "rule": f"trimtab-{monitor.metadata.name[:200].rstrip('-.')}-rules",
            "state": summary.value,
        }
    )


def _summary(status: ModelMonitorStatus, hold: Hold | None) -> Reason:
    """A cooldown is told only when something waits for its end."""
    if hold and (hold.reason != Reason.COOLING_DOWN or _waiting(status)):
        return hold.reason
    return Reason.TRIGGERED if _firing(status) else Reason.WATCHING


def _failures(status: ModelMonitorStatus, jobs: Sequence[OptimizationJob]) -> dict[str, str]:
    """What went wrong with the job of each trigger that still fires, by the trigger's key: it will not go away."""
    failed = {job.metadata.name: find(job.status.conditions, ConditionType.FAILED) for job in jobs}
    return {
        trigger.key: f"{_failed(trigger)} {why.reason}: {why.message}; fix it and delete the job to try again"
        for trigger in _firing(status)
        if (why := failed.get(trigger.job)) and why.status == "True"
    }


def _failed(trigger: TriggerStatus) -> str:
    return f"job {trigger.job} failed:"


def _ready(monitor: ModelMonitor, failures: Mapping[str, str], blind: Hold | None) -> Condition:
    if blind:
        kind = MonitorConditionType.READY
        return Condition(type=kind, status="False", reason=blind.reason.value, message=blind.message)
    watched = " and ".join(sorted({trigger.kind for trigger in monitor.spec.triggers}))
    suspended = monitor.spec.suspend
    failed = Reason.JOB_FAILED if failures else Reason.WATCHING
    return Condition(
        type=MonitorConditionType.READY,
        status=str(not suspended and not failures),
        reason=Reason.SUSPENDED if suspended else failed,
        message="; ".join(failures.values()) or f"the {watched} of model {monitor.spec.target.model} is watched",
    )


def _triggered(status: ModelMonitorStatus, summary: Reason) -> Condition:
    firing = [f"{trigger.alert} fires since {trigger.starts_at}" for trigger in _firing(status)]
    resolved = Reason.RESOLVED if status.triggers else Reason.WATCHING
    return Condition(
        type=MonitorConditionType.TRIGGERED,
        status=str(bool(firing)),
        reason=summary if firing else resolved,
        message=", ".join(firing) or "no alert fires",
    )


def _message(trigger: TriggerStatus, failures: Mapping[str, str], hold: Hold | None) -> str:
    if trigger.job:
        return failures.get(trigger.key, "")
    if trigger.state == TriggerState.RESOLVED:
        return f"{Reason.RESOLVED.value}: it was over before a job could start"
    return str(hold) if hold else ""


def _events(before: ModelMonitorStatus, after: ModelMonitorStatus, create: OptimizationJob | None) -> Iterator[Event]:
    """Transitions only: a job starts, a trigger begins to wait for another reason, the last alert is over.

    A job that was created before the status could be written is told of when it is recognized.
    """
    begun = {trigger.key for trigger in before.triggers if trigger.job}
    created = create.metadata.annotations[TRIGGER_ANNOTATION] if create else ""
    for trigger in after.triggers:
        if trigger.key == created or (trigger.job and trigger.key not in begun):
            yield Event(EventReason.TRIGGERED, f"{trigger.alert}: starting job {trigger.job}")
    waited = {trigger.key: _reason(trigger) for trigger in before.triggers}
    for trigger in _waiting(after):
        if _reason(trigger) != waited.get(trigger.key):
            yield Event(EventReason.SUPPRESSED, f"{trigger.alert}: {trigger.message}")
    kind = MonitorConditionType.TRIGGERED
    if is_true(before.conditions, kind) and not is_true(after.conditions, kind):
        yield Event(EventReason.RESOLVED, "no alert fires")


def _reason(trigger: TriggerStatus) -> str:
    return trigger.message.partition(":")[0]


def _firing(status: ModelMonitorStatus) -> list[TriggerStatus]:
    return [trigger for trigger in status.triggers if trigger.state == TriggerState.FIRING]


def _waiting(status: ModelMonitorStatus) -> list[TriggerStatus]:
    return [trigger for trigger in _firing(status) if not trigger.job]
