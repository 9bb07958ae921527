"""Series that come and go with the objects behind them."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trimtab.api.doing import Doing
from trimtab.cluster.records import JobRecord
from trimtab.decisions import WorkState
from trimtab.errors import Forbidden, OverQuota, Permanent, Waits
from trimtab.metrics import Metrics, ends
from trimtab.snapshot import Snapshot


def job(
    state: str = "", trials: list[dict[str, Any]] | None = None, namespace: str = "ml", **status: Any
) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": "m", "uid": uuid.uuid4().hex, "resourceVersion": "1"}
    told = {"state": state, "trials": trials or [], **status} if state else {}
    return {"metadata": metadata, "spec": {}, **({"status": told} if told else {})}


def trial(index: int, state: str, *outcomes: str | None) -> dict[str, Any]:
    return {"index": index, "state": state, "candidates": [{"outcome": o} if o else {} for o in outcomes]}


@pytest.mark.parametrize(
    ("found", "outcomes"),
    [
        (trial(0, "Succeeded", "Feasible"), []),
        (trial(1, "Running"), ["Running"]),
        (trial(1, "Succeeded", "Feasible", "Dominated"), ["Feasible", "Dominated"]),
        (trial(1, "Succeeded", None), ["Pending"]),
        (trial(1, "Skipped"), ["Skipped"]),
        (trial(1, "Failed"), ["Failed"]),
    ],
    ids=["input model", "running", "two engines", "not judged yet", "skipped", "failed"],
)
def test_how_a_trial_is_counted(found: dict[str, Any], outcomes: list[str]) -> None:
    assert list(ends(found)) == outcomes


def test_a_series_goes_with_the_last_object_behind_it() -> None:
    searching = job("Searching", [trial(1, "Running"), trial(2, "Failed")])
    jobs = [Snapshot.of(each) for each in (job(), searching, job("Searching", namespace="other"))]
    metrics = Metrics()
    metrics.watch_jobs(lambda: jobs)
    value = metrics.registry.get_sample_value
    assert value("trimtab_jobs", {"namespace": "ml", "state": "Pending"}) == 1
    assert value("trimtab_jobs", {"namespace": "ml", "state": "Searching"}) == 1
    assert value("trimtab_jobs", {"namespace": "other", "state": "Searching"}) == 1
    assert value("trimtab_trials", {"namespace": "ml", "outcome": "Failed"}) == 1
    del jobs[1]
    assert value("trimtab_jobs", {"namespace": "ml", "state": "Searching"}) is None
    assert value("trimtab_trials", {"namespace": "ml", "outcome": "Failed"}) is None


def test_the_longest_that_pods_have_run_is_told_by_stage() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def record(stage: str, seconds: float | None, namespace: str = "ml") -> JobRecord:
        since = None if seconds is None else now - timedelta(seconds=seconds)
        uid = uuid.uuid4().hex
        state = WorkState.ACTIVE
        return JobRecord(namespace, uid, uid, 1, "m", "u", 0, "", state, running_since=since, stage=stage)

    works = [record("Trial", 60), record("Trial", 3600), record("Playoff", None), record("Trial", 5, "other")]
    metrics = Metrics()
    told = {works[1].uid: Doing(step=3, steps=4, what="quantize"), works[0].uid: Doing(step=1, steps=9, what="prune")}
    metrics.watch_works(lambda: works, told.get, lambda: now)
    found = re.findall(r"^trimtab_longest_running_seconds{(.*)} (.*)$", metrics.text().decode(), re.MULTILINE)
    assert found == [('namespace="ml",stage="Trial"', "3600.0"), ('namespace="other",stage="Trial"', "5.0")]
    assert re.findall(r"^trimtab_longest_running_steps_done{.*$", metrics.text().decode(), re.MULTILINE) == [
        'trimtab_longest_running_steps_done{namespace="ml",stage="Trial"} 0.5'
    ]
    works.clear()
    assert "trimtab_longest_running_steps_done{" not in metrics.text().decode()
    assert "trimtab_longest_running_seconds{" not in metrics.text().decode()


def test_gpu_seconds_are_those_of_the_jobs_that_exist() -> None:
    jobs = [
        Snapshot.of(job("Published", cost={"gpuSeconds": "90"})),
        Snapshot.of(job("Searching", cost={"gpuSeconds": "10.5"})),
        Snapshot.of(job("Published", namespace="other", cost={"gpuSeconds": "0"})),
    ]
    metrics = Metrics()
    metrics.watch_jobs(lambda: jobs)
    value = metrics.registry.get_sample_value
    assert value("trimtab_gpu_seconds", {"namespace": "ml"}) == 100.5
    del jobs[0]
    assert value("trimtab_gpu_seconds", {"namespace": "ml"}) == 10.5
    assert value("trimtab_gpu_seconds", {"namespace": "other"}) == 0


def test_a_turn_that_waits_for_a_tenant_s_quota_is_no_failure() -> None:
    metrics = Metrics()
    for error in (Waits("exceeded quota: q"), Forbidden("no role"), OverQuota("exceeded quota: q")):
        with pytest.raises(Permanent), metrics.failing("OptimizationJob"):
            raise error
    assert metrics.registry.get_sample_value("trimtab_reconcile_failures_total", {"kind": "OptimizationJob"}) == 2


def test_what_is_counted_as_it_happens() -> None:
    metrics = Metrics()
    metrics.called("GET", "pods", 200)
    metrics.called("GET", "pods", 200)
    metrics.watch_queue(lambda: 3)
    labels = {"verb": "GET", "resource": "pods", "code": "200"}
    assert metrics.registry.get_sample_value("trimtab_api_requests_total", labels) == 2
    assert metrics.registry.get_sample_value("trimtab_queue_depth") == 3
    assert b"process_resident_memory_bytes" in metrics.text()
    assert b"_created" not in metrics.text()
