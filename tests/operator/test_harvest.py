"""What of a pod's report the status keeps, and what the Tasks after Inspect know from it."""

from __future__ import annotations

from typing import Any

import pytest

from builders import World, lost, make_job, report_for, scopes
from trimtab.api.model import Metric
from trimtab.api.work import Report, Stage
from trimtab.conditions import is_finished
from trimtab.decisions import ObservedWork, Work, WorkState
from trimtab.harvest import Outcomes

PRICED = {
    "metrics": {"pricePerHour": "3.6"},
    "objectives": [{"metric": "costPerMillion", "goal": "Minimize"}],
    "constraints": [{"metric": "cosine", "maxDrop": "1%"}],
}


def world(**spec: Any) -> World:
    """One whose pods find that cosine counts."""

    def told(work: Work) -> ObservedWork:
        trials = {0: {}} | {seen.work.task.trial or 0: seen.work.task.settings for seen in made.works.values()}
        report = report_for(work.task, scopes, trials)
        if report.inspection:
            found = report.inspection.model_copy(update={"quality": Metric.COSINE})
            report = report.model_copy(update={"inspection": found})
        for measured in report.measurements:
            measured.metrics[Metric.COSINE] = measured.metrics.pop(Metric.ACCURACY)
        return ObservedWork(work, WorkState.SUCCEEDED, Report.model_validate_json(report.compact()))

    made = World(make_job(**spec), sabotage=told)
    return made


def test_the_tasks_after_inspect_carry_the_metric_that_counts() -> None:
    seen = world(**PRICED)
    seen.run()
    tasks = {works.work.task.stage: works.work.task for works in seen.works.values()}
    assert tasks.keys() == set(Stage)
    assert {task.quality for task in tasks.values()} == {Metric.COSINE}
    assert tasks[Stage.PLAYOFF].measure == [Metric.COSINE, Metric.COST_PER_MILLION]
    assert tasks[Stage.TRIAL].metrics.price_per_hour == "3.6"


@pytest.mark.parametrize("constraints", [[], [{"metric": "latencyP50", "max": "1s"}]])
def test_where_no_quality_is_named_inspect_chooses(constraints: list[dict[str, str]]) -> None:
    seen = world(constraints=constraints)
    seen.run()
    asked = {works.work.task.stage: works.work.task.quality for works in seen.works.values()}
    assert asked == {stage: None if stage == Stage.INSPECT else Metric.COSINE for stage in Stage}


def test_a_million_requests_cost_what_their_median_latency_takes() -> None:
    """At 3.6 an hour a second costs 0.001, and a request takes 0.002; the playoff's time is what counts."""
    seen = world(**PRICED)
    status = seen.run()
    costs = [candidate.metrics["costPerMillion"] for trial in status.trials for candidate in trial.candidates]
    assert [float(cost) for cost in costs] == pytest.approx([2.0, 1.2, 1.34])
    assert status.best
    assert status.best.message.startswith("trial 2 on ONNXRuntime: 1.49x the speed, cosine 95% → 95.1%")


def test_sizes_are_kept_to_the_byte() -> None:
    seen = World(make_job(), truth=lambda settings, engine: scopes(settings, engine).__class__(size=123456789))
    assert seen.run().trials[0].candidates[0].metrics["size"] == "123456789"


def test_what_a_status_has_the_outcome_of() -> None:
    """That no decision depends on the rest of it any more, the simulated world asserts at every step."""
    seen = World(make_job(), sabotage=lambda work: lost(work) if work.task.trial == 2 else None)
    places = [("Inspect", None), ("Trial", 1), ("Trial", 2), ("Playoff", None), ("Publish", None), ("Nonsense", None)]
    known = []
    while not is_finished(seen.job.status.conditions):
        known.append(
            [stage + str(trial or "") for stage, trial in places if (stage, trial) in Outcomes(seen.job.status)]
        )
        seen.step()
    assert known == [
        [],
        [],
        ["Inspect"],
        ["Inspect", "Trial1"],
        ["Inspect", "Trial1"],
        ["Inspect", "Trial1", "Trial2", "Playoff"],  # nobody was left to time
    ]
    assert all(place in Outcomes(seen.job.status) for place in places)
