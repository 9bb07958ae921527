"""When a search has had enough."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from builders import NOW, make_job
from trimtab.api.status import CandidateStatus, Cost, OptimizationJobStatus, TrialState, TrialStatus
from trimtab.conditions import timestamp
from trimtab.stopping import why_stopped

PATIENT = {"search": {"maxTrials": 9, "earlyStopping": {"patience": 2}}}
RUNNING, FAILED = TrialState.RUNNING, TrialState.FAILED


def trial(index: int, result: float | tuple[float, float] | TrialState) -> TrialStatus:
    """A trial with this latency in milliseconds, or with latency and accuracy; or one in this state, unmeasured."""
    if isinstance(result, TrialState):
        return TrialStatus(index=index, state=result)
    latency, accuracy = result if isinstance(result, tuple) else (result, 0.95)
    metrics = {"latencyP50": f"{latency / 1000:.6g}", "accuracy": str(accuracy), "size": "1000"}
    candidates = [CandidateStatus.model_validate({"engine": "ONNXRuntime", "metrics": metrics})]
    return TrialStatus(index=index, state=TrialState.SUCCEEDED, candidates=candidates)


def stopped(results: list[Any], spec: dict[str, Any], spent: str = "0") -> str:
    trials = [trial(0, 10.0), *(trial(index, result) for index, result in enumerate(results, 1))]
    job = make_job(**spec)
    status = OptimizationJobStatus(start_time=timestamp(NOW), trials=trials, cost=Cost(gpu_seconds=spent))
    return why_stopped(job.model_copy(update={"status": status}), trials, NOW + timedelta(minutes=10))


@pytest.mark.parametrize(
    ("results", "spec", "spent", "says"),
    [
        ([5.0] * 3, {"search": {"maxTrials": 4}}, "0", ""),
        ([5.0] * 4, {"search": {"maxTrials": 4}}, "0", "spec.search.maxTrials: 4 may be tried"),
        ([5.0] * 4, {"search": {"maxTrials": 2}}, "0", "spec.search.maxTrials: 2 may be tried"),
        ([], {"search": {"timeout": "11m"}}, "0", ""),
        ([], {"search": {"timeout": "10m"}}, "0", "spec.search.timeout: 10m have passed"),
        ([], {"budget": {"gpuSeconds": 100}}, "99.6", ""),
        ([], {"budget": {"gpuSeconds": 100}}, "100", "spec.budget.gpuSeconds: 100 of 100 are spent"),
        ([], {"budget": {"gpuSeconds": 100}}, "250.2", "spec.budget.gpuSeconds: 250 of 100 are spent"),
        ([], {}, "1e9", ""),
    ],
    ids=[
        "trials left",
        "no trials left",
        "fewer allowed since",
        "in time",
        "late",
        "left",
        "spent",
        "more",
        "no limit",
    ],
)
def test_limits(results: list[Any], spec: dict[str, Any], spent: str, says: str) -> None:
    assert stopped(results, spec, spent) == says


@pytest.mark.parametrize(
    ("results", "idle"),
    [
        ([], 0),
        ([9.0, 8.0, 7.0], 0),
        ([7.0, 8.0], 0),
        ([7.0, 8.0, 9.0], 2),
        ([7.0, 6.99, 6.95], 2),
        ([7.0, 8.0, 6.0], 0),
        ([7.0, RUNNING, 8.0, 9.0], 0),
        ([7.0, 8.0, 9.0, RUNNING], 2),
        ([FAILED, FAILED], 2),
        ([FAILED, 7.0, FAILED], 0),
        ([(3.0, 0.2), (4.0, 0.5), (7.0, 0.95)], 0),
        ([(7.0, 0.95), (3.0, 0.2), (4.0, 0.5)], 2),
    ],
    ids=[
        "nothing tried",
        "ever better",
        "one worse",
        "two worse",
        "better by less than noise",
        "better again",
        "what is not known yet",
        "one under way does not matter",
        "only failures",
        "failures between",
        "a promise missed by less is better",
        "faster and worse is not",
    ],
)
def test_nothing_better_for_a_while(results: list[Any], idle: int) -> None:
    says = f"spec.search.earlyStopping: trials in a row that brought nothing better: {idle}" if idle else ""
    assert stopped(results, PATIENT) == says
