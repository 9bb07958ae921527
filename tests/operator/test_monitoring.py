"""From alerts to jobs: the guards, told as scenarios, and what people read afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest

from builders import NOW
from monitors import RUNBOOKS, MonitorWorld, make_alert, make_monitor
from trimtab.alerts import Alert
from trimtab.api.monitor import TRIGGERS_KEPT, ModelMonitorStatus
from trimtab.api.names import EventReason, Reason
from trimtab.conditions import find
from trimtab.decisions import Refusal, Unwatched
from trimtab.monitoring import reconcile_monitor, record

LATENCY = "ModelLatencyHigh"
Happening = Callable[[MonitorWorld], None]


def fires(fingerprint: str = "d1", name: str = "ModelDriftDetected", after: float = 0) -> Happening:
    return lambda world: world.receive(make_alert(fingerprint, name, NOW + timedelta(seconds=after)))


def resolves(fingerprint: str = "d1", name: str = "ModelDriftDetected", after: float = 0) -> Happening:
    start = NOW + timedelta(seconds=after)
    return lambda world: world.receive(make_alert(fingerprint, name, start, ends_at=max(world.now, start)))


def seconds(count: float) -> Happening:
    return lambda world: world.wait(count)


def job_ends(kind: str = "Complete") -> Happening:
    return lambda world: world.finish(kind)


def jobs_deleted(world: MonitorWorld) -> None:
    world.delete_jobs()


def spec(**fields: Any) -> Happening:
    return lambda world: world.respecify(**fields)


def forbids(reason: Reason | None) -> Happening:
    """From now on the API server lets the operator create no job, or does again."""

    def happens(world: MonitorWorld) -> None:
        world.forbidden = Refusal(reason, "POST optimizationjobs: 403") if reason else None

    return happens


def nothing(world: MonitorWorld) -> None: ...


class Then(NamedTuple):
    """What is so after something happened and the monitor was reconciled."""

    state: str
    jobs: int
    requeue: float | None = None


SCENARIOS: dict[str, list[tuple[Happening, Then]]] = {
    "no alert, no job": [(nothing, Then("Watching", 0)), (seconds(86400), Then("Watching", 0))],
    "an alert starts one job and resolves": [
        (fires(), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (resolves(), Then("Watching", 1)),
    ],
    "a repeated webhook changes nothing": [
        (fires(), Then("Reoptimizing", 1)),
        (fires(), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (seconds(7200), Then("Triggered", 1)),
        (fires(), Then("Triggered", 1)),
    ],
    "an alert that resolves while its job runs leaves the job alone": [
        (fires(), Then("Reoptimizing", 1)),
        (resolves(), Then("Reoptimizing", 1)),
        (job_ends(), Then("Watching", 1)),
    ],
    "one job at a time": [
        (fires("d1"), Then("Reoptimizing", 1)),
        (fires("l1", LATENCY), Then("Reoptimizing", 1)),
        (seconds(7200), Then("Reoptimizing", 1)),
        (job_ends(), Then("CoolingDown", 1, 3600)),
        (seconds(3600), Then("Reoptimizing", 2)),
    ],
    "a failed job frees the way like a complete one": [
        (fires("d1"), Then("Reoptimizing", 1)),
        (fires("l1", LATENCY), Then("Reoptimizing", 1)),
        (seconds(7200), Then("Reoptimizing", 1)),
        (job_ends("Failed"), Then("CoolingDown", 1, 3600)),
        (seconds(3600), Then("Reoptimizing", 2)),
    ],
    "deleting a failed job gives its alert another, after the cooldown": [
        (fires(), Then("Reoptimizing", 1)),
        (job_ends("Failed"), Then("Triggered", 1)),
        (seconds(600), Then("Triggered", 1)),
        (jobs_deleted, Then("CoolingDown", 0, 3000)),
        (seconds(3000), Then("Reoptimizing", 1)),
    ],
    "deleting a failed job after its alert resolved starts nothing": [
        (fires(), Then("Reoptimizing", 1)),
        (job_ends("Failed"), Then("Triggered", 1)),
        (resolves(), Then("Watching", 1)),
        (jobs_deleted, Then("Watching", 0)),
        (seconds(7200), Then("Watching", 0)),
    ],
    "deleting a complete job starts nothing": [
        (fires(), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (jobs_deleted, Then("Triggered", 0)),
        (seconds(7200), Then("Triggered", 0)),
    ],
    "within the cooldown an alert waits, and starts its job afterwards": [
        (fires("d1"), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (resolves("d1"), Then("Watching", 1)),
        (seconds(600), Then("Watching", 1)),
        (fires("d1", after=600), Then("CoolingDown", 1, 3000)),
        (seconds(2999), Then("CoolingDown", 1, 1)),
        (seconds(1), Then("Reoptimizing", 2)),
    ],
    "an alert that resolves while it waits is never started": [
        (fires("d1"), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (fires("l1", LATENCY, after=600), Then("CoolingDown", 1, 3600)),
        (resolves("l1", LATENCY, after=600), Then("Triggered", 1)),
        (seconds(7200), Then("Triggered", 1)),
        (resolves("d1"), Then("Watching", 1)),
    ],
    "a longer cooldown counts at once": [
        (fires("d1"), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (fires("l1", LATENCY), Then("CoolingDown", 1, 3600)),
        (spec(cooldown="2h"), Then("CoolingDown", 1, 7200)),
        (spec(cooldown="0s"), Then("Reoptimizing", 2)),
    ],
    "two alerts at once: the older first": [
        (
            lambda world: world.receive(make_alert("l1", LATENCY, NOW + timedelta(seconds=1)), make_alert("d1")),
            Then("Reoptimizing", 1),
        ),
        (job_ends(), Then("CoolingDown", 1, 3600)),
    ],
    "suspended: recorded, not started": [
        (spec(suspend=True), Then("Suspended", 0)),
        (fires(), Then("Suspended", 0)),
        (seconds(7200), Then("Suspended", 0)),
        (spec(suspend=False), Then("Reoptimizing", 1)),
    ],
    "resolved during suspension: nothing is started after it": [
        (spec(suspend=True), Then("Suspended", 0)),
        (fires(), Then("Suspended", 0)),
        (resolves(), Then("Suspended", 0)),
        (spec(suspend=False), Then("Watching", 0)),
    ],
    "what the API server forbids is told, and started when it may be": [
        (forbids(Reason.QUOTA_EXCEEDED), Then("Watching", 0)),
        (fires(), Then("QuotaExceeded", 0)),
        (seconds(7200), Then("QuotaExceeded", 0)),
        (forbids(None), Then("Reoptimizing", 1)),
    ],
    "forbidden until it is over: never started": [
        (forbids(Reason.FORBIDDEN), Then("Watching", 0)),
        (fires(), Then("Forbidden", 0)),
        (resolves(), Then("Watching", 0)),
        (forbids(None), Then("Watching", 0)),
    ],
    "over before it was seen: never started": [
        (lambda world: (fires()(world), resolves()(world))[0], Then("Watching", 0)),
    ],
    "a new incident of the same alert has a job of its own": [
        (fires("d1"), Then("Reoptimizing", 1)),
        (job_ends(), Then("Triggered", 1)),
        (resolves("d1"), Then("Watching", 1)),
        (seconds(4000), Then("Watching", 1)),
        (fires("d1", after=4000), Then("Reoptimizing", 2)),
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(scenario: list[tuple[Happening, Then]]) -> None:
    world = MonitorWorld()
    world.reconcile()
    for happens, then in scenario:
        happens(world)
        decision = world.reconcile()
        assert Then(world.monitor.status.state, len(world.jobs), decision.requeue_after) == then
        again = world.reconcile()
        assert (again.status, again.create, again.events) == (decision.status, None, ())


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_killed_before_any_status_is_written_the_end_is_the_same(scenario: list[tuple[Happening, Then]]) -> None:
    world, undisturbed = MonitorWorld(), MonitorWorld()
    for happens, then in scenario:
        happens(world)
        world.reconcile(killed=True)
        world.reconcile()
        assert (world.monitor.status.state, len(world.jobs)) == (then.state, then.jobs)
        happens(undisturbed)
        undisturbed.reconcile()
        assert starts_told(world) == starts_told(undisturbed)


@pytest.mark.parametrize("before", [nothing, fires()], ids=["nothing fires", "an alert waits"])
def test_a_monitor_whose_rule_may_not_be_written_is_not_ready_and_starts_nothing(before: Happening) -> None:
    world = MonitorWorld()
    before(world)
    blind = Unwatched(Reason.FORBIDDEN, "PATCH configmaps: 403")
    decision = reconcile_monitor(world.monitor, (), NOW, RUNBOOKS, blind)
    assert (decision.create, decision.status.state) == (None, "Forbidden")
    ready = find(decision.status.conditions, "Ready")
    assert ready
    assert (ready.status, ready.reason, ready.message) == ("False", "Forbidden", blind.message)
    assert {trigger.message for trigger in decision.status.triggers} <= {f"Forbidden: {blind.message}"}

    world.monitor = world.monitor.model_copy(update={"status": decision.status})
    assert world.reconcile().status.state == ("Reoptimizing" if decision.status.triggers else "Watching")


def starts_told(world: MonitorWorld) -> set[str]:
    return {event.message for event in world.events if event.reason == EventReason.TRIGGERED}


def test_the_job_says_where_it_comes_from() -> None:
    world = MonitorWorld()
    fires()(world)
    job = world.reconcile().create
    assert job
    trigger = world.monitor.status.triggers[0]
    assert job.metadata.namespace == "ml"
    assert job.metadata.labels == {"trimtab.dev/monitor-name": "magika", "trimtab.dev/monitor-uid": "3f1c-77"}
    assert job.metadata.annotations == {"trimtab.dev/trigger": trigger.key}
    assert trigger.key == "d1@2026-01-01T00:00:00.000Z"
    assert (trigger.job, world.monitor.status.last_job) == (job.metadata.name, job.metadata.name)
    assert job.metadata.name.startswith("magika-")


def test_names_differ_by_monitor_and_incident_and_fit() -> None:
    names = set()
    for name, uid, start in (("m", "1", 0), ("m", "2", 0), ("m", "1", 9), ("m." * 126, "3", 0)):
        world = MonitorWorld()
        metadata = world.monitor.metadata.model_copy(update={"name": name, "uid": uid})
        world.monitor = world.monitor.model_copy(update={"metadata": metadata})
        fires(after=start)(world)
        created = world.reconcile().create
        assert created
        names.add(created.metadata.name)
        assert all(len(text) <= 63 for text in (created.metadata.name, *created.metadata.labels.values()))
    assert len(names) == 4


@pytest.mark.parametrize(
    ("action", "alert", "calibration"),
    [
        ("Recalibrate", "ModelDriftDetected", "pvc://captured/magika/current.npz"),
        ("Recalibrate", LATENCY, "pvc://data/calibration.npz"),
        ("Reoptimize", "ModelDriftDetected", "pvc://data/calibration.npz"),
    ],
)
def test_only_drift_is_recalibrated(action: str, alert: str, calibration: str) -> None:
    world = MonitorWorld(make_monitor(action=action))
    fires(name=alert)(world)
    job = world.reconcile().create
    assert job
    assert job.spec.data.calibration
    assert job.spec.data.calibration.uri == calibration
    template = world.monitor.spec.job_template.spec
    assert job.spec.model_copy(update={"data": template.data}) == template


def told(world: MonitorWorld) -> dict[str, tuple[str, str, str]]:
    return {c.type: (c.status, c.reason, c.last_transition_time) for c in world.monitor.status.conditions}


def test_conditions_move_with_their_status_only() -> None:
    world = MonitorWorld()
    world.reconcile()
    begun = ("True", "Watching", "2026-01-01T00:00:00Z")
    assert told(world) == {"Ready": begun, "Triggered": ("False", "Watching", "2026-01-01T00:00:00Z")}
    world.wait(60)
    fires(after=60)(world)
    world.reconcile()
    assert told(world) == {"Ready": begun, "Triggered": ("True", "Reoptimizing", "2026-01-01T00:01:00Z")}
    world.wait(60)
    job_ends()(world)
    world.reconcile()
    assert told(world)["Triggered"] == ("True", "Triggered", "2026-01-01T00:01:00Z")
    world.wait(60)
    resolves(after=60)(world)
    world.reconcile()
    assert told(world)["Triggered"] == ("False", "Resolved", "2026-01-01T00:03:00Z")
    spec(suspend=True)(world)
    world.reconcile()
    assert told(world)["Ready"][:2] == ("False", "Suspended")
    assert {c.observed_generation for c in world.monitor.status.conditions} == {2}


def test_a_failed_job_is_told_while_its_alert_fires() -> None:
    world = MonitorWorld()
    fires()(world)
    world.reconcile()
    world.finish("Failed", "InvalidInput", "pvc://captured/magika/current.npz does not exist")
    world.reconcile()
    (name,) = world.jobs
    expected = (
        f"job {name} failed: InvalidInput: pvc://captured/magika/current.npz does not exist; "
        "fix it and delete the job to try again"
    )
    assert world.monitor.status.triggers[0].message == expected
    assert told(world)["Ready"][:2] == ("False", "JobFailed")
    assert world.monitor.status.conditions[0].message == expected
    resolves()(world)
    world.reconcile()
    assert world.monitor.status.triggers[0].message == ""
    assert told(world)["Ready"][:2] == ("True", "Watching")


def test_events_tell_transitions_once() -> None:
    world = MonitorWorld()
    job = "magika-[0-9a-f]{8}"
    steps = [fires("d1"), fires("l1", LATENCY), job_ends(), seconds(60), seconds(4000), job_ends(), resolves("d1")]
    for happens in [*steps, resolves("l1", LATENCY)]:
        happens(world)
        for _ in range(3):
            world.reconcile()
    expected = [
        ("Triggered", f"ModelDriftDetected: starting job {job}"),
        ("Suppressed", f"ModelLatencyHigh: Reoptimizing: job {job} is running, and there is one at a time"),
        ("Suppressed", "ModelLatencyHigh: CoolingDown: the next job may start at 2026-01-01T01:00:00Z"),
        ("Triggered", f"ModelLatencyHigh: starting job {job}"),
        ("Resolved", "no alert fires"),
    ]
    assert [event.reason for event in world.events] == [reason for reason, _ in expected]
    for event, (_, message) in zip(world.events, expected, strict=True):
        assert re.fullmatch(message, event.message)


def moment(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


RECORDED: dict[str, tuple[list[Alert], list[tuple[str, float, str]]]] = {
    "one fires": ([make_alert("a")], [("a", 0, "Firing")]),
    "one fires and is resolved": ([make_alert("a"), make_alert("a", ends_at=moment(9))], [("a", 0, "Resolved")]),
    "the end of something unknown": ([make_alert("a", ends_at=moment(9))], []),
    "a late delivery does not fire again": (
        [make_alert("a"), make_alert("a", ends_at=moment(9)), make_alert("a")],
        [("a", 0, "Resolved")],
    ),
    "a new incident": (
        [make_alert("a"), make_alert("a", ends_at=moment(9)), make_alert("a", starts_at=moment(20))],
        [("a", 0, "Resolved"), ("a", 20, "Firing")],
    ),
    "a new incident though the end of the first was lost": (
        [make_alert("a"), make_alert("a", starts_at=moment(20))],
        [("a", 0, "Resolved"), ("a", 20, "Firing")],
    ),
    "an old incident after a new one": (
        [make_alert("a", starts_at=moment(20)), make_alert("a")],
        [("a", 20, "Firing")],
    ),
    "the late end of an old incident": (
        [make_alert("a", starts_at=moment(20)), make_alert("a", ends_at=moment(9))],
        [("a", 20, "Firing")],
    ),
    "an end whose start was moved by a second Prometheus": (
        [make_alert("a", starts_at=moment(3)), make_alert("a", starts_at=moment(1), ends_at=moment(9))],
        [("a", 3, "Resolved")],
    ),
    "fingerprints are told apart": (
        [make_alert("a"), make_alert("ab"), make_alert("a", ends_at=moment(9))],
        [("a", 0, "Resolved"), ("ab", 0, "Firing")],
    ),
}


@pytest.mark.parametrize(("alerts", "expected"), RECORDED.values(), ids=RECORDED)
def test_record(alerts: list[Alert], expected: list[tuple[str, float, str]]) -> None:
    status = ModelMonitorStatus()
    for alert in alerts:
        status = record(status, [alert], NOW)
        assert record(status, [alert], moment(99)) == status
    assert [(t.key, t.state) for t in status.triggers] == [
        (f"{fingerprint}@{moment(start):%Y-%m-%dT%H:%M:%S}.000Z", state) for fingerprint, start, state in expected
    ]


def test_what_still_fires_is_forgotten_last() -> None:
    firing = make_alert("old")
    status = record(ModelMonitorStatus(), [firing], NOW)
    for second in range(1, 2 * TRIGGERS_KEPT, 2):
        status = record(status, [make_alert("new", starts_at=moment(second))], NOW)
        status = record(status, [make_alert("new", starts_at=moment(second), ends_at=moment(second + 1))], NOW)
    assert len(status.triggers) == TRIGGERS_KEPT
    assert status.triggers[0].key.startswith("old@")
    assert [trigger.starts_at for trigger in status.triggers] == sorted(t.starts_at for t in status.triggers)
    assert record(status, [firing], NOW) == status
