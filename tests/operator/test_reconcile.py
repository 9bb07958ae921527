"""The flow of one job, in a world where pods end at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from builders import NOW, Quality, World, broken, lost, make_job, make_runtime, report_for, scopes
from trimtab.api.doing import Doing
from trimtab.api.model import EngineName
from trimtab.api.names import Reason
from trimtab.api.status import OptimizationJobStatus, Outcome, Running, TrialState
from trimtab.api.work import ErrorKind, Stage
from trimtab.decisions import Observed, ObservedWork, Refusal, Work, WorkState
from trimtab.recipe import explore
from trimtab.reconcile import reconcile
from trimtab.stages import ATTEMPTS


def outcomes(status: OptimizationJobStatus) -> dict[tuple[int, str], Outcome | None]:
    return {(t.index, c.engine): c.outcome for t in status.trials for c in t.candidates}


def test_a_job_runs_from_manifest_to_published_winner() -> None:
    world = World(make_job())
    status = world.run()
    assert world.started == [
        "m-01234567-inspect-0",
        "m-01234567-trial-1-0",
        "m-01234567-trial-2-0",
        "m-01234567-playoff-0",
        "m-01234567-publish-0",
    ]
    assert status.best
    assert (status.best.trial, status.best.speed_up, status.best.size) == (2, "1.49x", "320")
    assert status.state == "Published"
    assert world.condition("Complete")[:2] == ("True", "Published")
    assert outcomes(status) == {
        (0, "ONNXRuntime"): Outcome.DOMINATED,
        (1, "ONNXRuntime"): Outcome.INFEASIBLE,
        (2, "ONNXRuntime"): Outcome.FEASIBLE,
    }
    assert status.cost.pod_seconds == "9"


def test_events_tell_each_transition_once() -> None:
    world = World(make_job())
    world.run()
    world.run()
    assert [event.reason for event in world.events] == [
        "Inspected",
        "TrialSucceeded",
        "TrialSucceeded",
        "SearchStopped",
        "CandidateSelected",
        "Published",
        "Complete",
    ]


def test_doubts_about_the_input_are_told_and_refuse_nothing() -> None:
    def doubtful(work: Work) -> ObservedWork | None:
        if work.task.stage != Stage.INSPECT:
            return None
        report = report_for(work.task, world.truth)
        assert report.inspection
        inspection = report.inspection.model_copy(update={"warnings": ["labels are shifted"]})
        return ObservedWork(work, WorkState.SUCCEEDED, report.model_copy(update={"inspection": inspection}))

    world = World(make_job())
    world.sabotage = doubtful
    assert world.run().state == "Published"
    told = [(event.reason, event.message) for event in world.events if event.warning]
    assert told == [("InputDoubtful", "labels are shifted")]
    assert world.condition("Accepted") == ("True", "SpecAccepted", "labels are shifted")


def test_parallelism_bounds_the_trials_under_way() -> None:
    world = World(
        make_job(
            techniques=[{"quantize": {"operatorScope": ["All", "Compute"], "perChannel": [True, False]}}],
            search={"parallelism": 3, "maxTrials": 4},
        )
    )
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial else None
    world.run()
    assert [name for name in world.started if "trial" in name] == [f"m-01234567-trial-{i}-0" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("spec", "truth", "state", "best"),
    [
        pytest.param({}, scopes, "Published", 2, id="the faster one that keeps its accuracy wins"),
        pytest.param({"publish": None}, scopes, "Selected", 2, id="without publish the winner is only named"),
        pytest.param(
            {}, lambda settings, engine: Quality(), "BaselineIsBest", 0, id="nothing faster: the input model wins"
        ),
        pytest.param(
            {},
            lambda settings, engine: Quality(ratio=0.99) if settings else Quality(),
            "BaselineIsBest",
            0,
            id="faster within noise is not faster",
        ),
        pytest.param(
            {"constraints": [{"metric": "size", "max": "100"}]},
            scopes,
            "NoFeasibleCandidate",
            None,
            id="nothing keeps the promise",
        ),
        pytest.param(
            {"constraints": [{"metric": "size", "max": "500"}]},
            lambda settings, engine: Quality(ratio=1.3, size=400) if settings else Quality(),
            "Published",
            1,
            id="a slower model wins when the input model breaks a promise",
        ),
        pytest.param(
            {"objectives": [{"metric": "size", "goal": "Minimize"}], "constraints": []},
            scopes,
            "Published",
            1,
            id="the objective decides",
        ),
        pytest.param(
            {"target": {"engines": ["ONNXRuntime", "OpenVINO"]}},
            lambda settings, engine: Quality(ratio=0.5 if engine == EngineName.OPENVINO and not settings else 1.0),
            "Published",
            0,
            id="the input model on another engine is a candidate",
        ),
    ],
)
def test_selection(spec: dict, truth, state: str, best: int | None) -> None:
    status = World(make_job(**spec), truth).run()
    assert status.state == state
    assert (status.best.trial if status.best else None) == best
    assert all(outcomes(status).values()), "every candidate has an outcome"


def test_nothing_feasible_names_the_nearest_miss_and_the_binding_constraint() -> None:
    world = World(make_job(constraints=[{"metric": "size", "max": "100"}]))
    status = world.run()
    assert status.nearest_miss == "trial 1 on ONNXRuntime: size is 300, above 100"
    assert world.condition("CandidateSelected") == ("False", "NoFeasibleCandidate", status.nearest_miss)
    assert world.condition("Published")[0] == "False"
    assert not any("publish" in name for name in world.started)


def test_a_lost_pod_is_started_again_and_a_finished_one_is_not() -> None:
    world = World(make_job())
    world.sabotage = lambda work: lost(work) if work.name.endswith("trial-1-0") else None
    status = world.run()
    assert [name for name in world.started if "trial" in name] == [
        "m-01234567-trial-1-0",
        "m-01234567-trial-2-0",
        "m-01234567-trial-1-1",
    ]
    assert status.state == "Published"


NO_NETWORK = "spec.model.uri: cannot be reached now; mend the network"


def unreachable(work: Work) -> ObservedWork | None:
    """At the first attempt at everything; the second goes on."""
    if work.attempt:
        return ObservedWork(work, WorkState.ACTIVE)
    left = broken(work.task.stage, ErrorKind.TEMPORARY, NO_NETWORK, work.task.trial)
    return ObservedWork(work, WorkState.FAILED, left)


@pytest.mark.parametrize(
    ("sabotage", "told"),
    [
        (unreachable, f"Inspect: attempt 2 of 3, as the last one failed: {NO_NETWORK}"),
        (
            lambda work: (lost(work) if work.attempt < 2 else unreachable(work)) if work.task.trial else None,
            "trials: 2 under way, 0 ended; trial 1, trial 2: attempt 3 of 3, as the last one failed: OOMKilled",
        ),
        (
            lambda work: unreachable(work) if work.task.stage == Stage.PLAYOFF else None,
            f"Playoff: attempt 2 of 3, as the last one failed: {NO_NETWORK}",
        ),
    ],
    ids=["Inspect", "two trials alike", "Playoff"],
)
def test_what_is_tried_again_is_told_until_it_has_an_outcome(
    sabotage: Callable[[Work], ObservedWork | None], told: str
) -> None:
    world = World(make_job(search={"parallelism": 2}), sabotage=sabotage)
    world.run()
    assert world.condition("Complete")[2].endswith(told)
    assert world.step().status == world.job.status

    world.sabotage = lambda work: None
    world.works |= {n: world.succeed(seen.work) for n, seen in world.works.items() if seen.state == WorkState.ACTIVE}
    world.step()
    assert told not in world.condition("Complete")[2]
    assert world.run().state == "Published"
    assert "attempt" not in world.condition("Complete")[2]


def test_a_missing_report_means_again() -> None:
    world = World(make_job())
    world.sabotage = lambda work: ObservedWork(work, WorkState.SUCCEEDED) if work.attempt == 0 else None
    assert world.run().state == "Published"


def test_a_failed_trial_never_sinks_the_job() -> None:
    world = World(make_job())
    world.sabotage = lambda work: lost(work) if work.task.trial == 1 else None
    status = world.run()
    assert status.state == "Published"
    assert status.trials[1].state == TrialState.FAILED
    assert status.trials[1].message == f"Trial failed {ATTEMPTS} times, at last with: OOMKilled"


@pytest.mark.parametrize(
    ("kind", "starts", "accepted", "reason"),
    [(ErrorKind.PERMANENT, 1, "False", "InvalidInput"), (ErrorKind.TEMPORARY, ATTEMPTS, "Unknown", "WorkFailed")],
)
def test_an_inspection_that_fails_ends_the_job(kind: ErrorKind, starts: int, accepted: str, reason: str) -> None:
    world = World(make_job())
    message = "spec.model.uri: m.onnx is not an ONNX file; export it again"
    world.sabotage = lambda work: ObservedWork(work, WorkState.FAILED, broken(Stage.INSPECT, kind, message))
    world.run()
    assert len(world.started) == starts
    assert world.condition("Failed")[:2] == ("True", reason)
    assert message in world.condition("Failed")[2]
    assert world.condition("Accepted")[0] == accepted


def test_a_missing_runtime_is_waited_for() -> None:
    world = World(make_job(), runtime=None)
    world.run()
    assert world.condition("Accepted")[:2] == ("False", "RuntimeNotFound")
    assert "'default'" in world.condition("Accepted")[2]
    world.runtime = make_runtime()
    assert world.run().state == "Published"


def test_suspend_deletes_what_runs_and_resume_goes_on() -> None:
    world = World(make_job())
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial else None
    world.run()
    spec = world.job.spec
    world.job = world.job.model_copy(update={"spec": spec.model_copy(update={"suspend": True})})
    world.run()
    assert not any(seen.state == WorkState.ACTIVE for seen in world.works.values())
    assert world.condition("Suspended")[:2] == ("True", "Suspended")
    assert world.condition("Complete") == ("False", "Suspended", "trials: 2 suspended, 0 ended")
    world.job = world.job.model_copy(update={"spec": spec})
    world.sabotage = lambda work: None
    assert world.run().state == "Published"
    assert world.condition("Suspended")[:2] == ("False", "Resumed")


def test_the_pod_that_has_run_the_longest_is_told_of() -> None:
    """Only that one: the more run for long, the more often would a status be written for nothing."""
    world = World(make_job(search={"parallelism": 2}))
    since = {1: "2026-01-01T00:02:00Z", 2: "2026-01-01T00:01:00Z"}
    world.sabotage = lambda work: (
        ObservedWork(work, WorkState.ACTIVE, since=since[work.task.trial]) if work.task.trial else None
    )
    world.run()
    told = (
        "trials: 2 under way, 0 ended; m-01234567-trial-2-0 runs since 2026-01-01T00:01:00Z: its log says how far it is"
    )
    assert world.condition("Complete") == ("False", "Searching", told)
    name = "m-01234567-trial-1-0"
    world.works[name] = replace(world.works[name], since="")
    assert world.step().status == world.job.status


LONG_AGO = "2026-01-01T00:01:00Z"
AT_1, FURTHER, AT_2 = (
    Doing(step=step, steps=3, what=what)
    for step, what in ((1, "distill"), (1, "distill: epoch 2 of 9"), (2, "quantize"))
)


def test_what_a_long_pod_says_is_told_and_each_step_once() -> None:
    """What it does not say, or says no more, is no news."""
    world = World(make_job(search={"maxTrials": 1}))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial else None
    world.run()
    name = "m-01234567-trial-1-0"
    told = []
    for doing in (None, AT_1, FURTHER, None, AT_2, AT_2, AT_1):
        world.works[name] = replace(world.works[name], since=LONG_AGO, doing=doing)
        world.step()
        told.append(world.condition("Complete")[2].partition(f"{name} runs since {LONG_AGO}: ")[2])
    assert told == ["its log says how far it is", *map(str, (AT_1, FURTHER, FURTHER, AT_2, AT_2, AT_1))]
    steps = [event for event in world.events if event.reason == "StepStarted"]
    assert [(event.message, event.warning) for event in steps] == [(f"{name}: step 2 of 3, quantize", False)]

    world.works[name] = world.succeed(world.works[name].work)
    world.sabotage = lambda work: None
    assert (world.run().state, world.job.status.running) == ("BaselineIsBest", None)


@pytest.mark.parametrize("edit", [{"suspend": True}, {"budget": {"deadline": "1s"}}])
def test_of_pods_that_are_no_more_nothing_is_told(edit: dict[str, Any]) -> None:
    world = World(make_job())
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE, since=LONG_AGO, doing=AT_1)
    world.run()
    assert world.job.status.running
    world.now += timedelta(hours=1)
    edited(world, **edit)
    world.run()
    assert world.job.status.running is None


def test_another_pod_s_words_are_not_taken_for_its_own() -> None:
    world = World(make_job(search={"parallelism": 2}))
    world.sabotage = lambda work: (
        ObservedWork(work, WorkState.ACTIVE, since=LONG_AGO, doing={1: AT_1}.get(work.task.trial))
        if work.task.trial
        else None
    )
    world.run()
    first, second = sorted(name for name in world.works if "trial" in name)
    assert world.job.status.running == Running(job=first, since=LONG_AGO, doing=AT_1)
    world.works[first] = replace(world.works[first], since="")
    world.step()
    assert world.job.status.running == Running(job=second, since=LONG_AGO, doing=None)


def test_the_words_of_a_pod_that_was_replaced_are_forgotten() -> None:
    world = World(make_job(search={"parallelism": 1}))
    world.sabotage = lambda work: (
        ObservedWork(work, WorkState.ACTIVE, since=LONG_AGO, doing=AT_1) if work.task.trial else None
    )
    world.run()
    (name,) = (name for name in world.works if "trial" in name)
    later = "2026-01-01T02:00:00Z"
    world.works[name] = replace(world.works[name], since=later, doing=None)
    world.step()
    assert world.job.status.running == Running(job=name, since=later, doing=None)


def test_a_refused_trial_is_a_failed_one_once_others_have_succeeded() -> None:
    refusal = Refusal(Reason.JOB_REFUSED, "OptimizationRuntime 'default': 422")
    world = World(make_job(search={"parallelism": 2}))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial == 1 else None
    world.run()
    (name,) = (name for name, seen in world.works.items() if seen.state == WorkState.ACTIVE)
    del world.works[name]
    decision = reconcile(world.job, Observed(make_runtime(), tuple(world.works.values()), refusal), world.now)
    _, refused, other = decision.status.trials
    assert (refused.state, refused.message) == (TrialState.FAILED, refusal.message)
    assert other.state == TrialState.SUCCEEDED
    world.write(decision)
    assert world.run().state == "Published"


def test_a_pod_that_cannot_start_is_told_of() -> None:
    world = World(make_job())
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE, None, "ImagePullBackOff: no such image")
    world.run()
    assert world.condition("Complete") == (
        "False",
        "Inspecting",
        "m-01234567-inspect-0 waits: ImagePullBackOff: no such image",
    )


def test_a_pod_that_waits_is_made_anew_by_a_runtime_that_was_mended() -> None:
    world = World(make_job())
    assert world.runtime
    waits = partial(ObservedWork, state=WorkState.ACTIVE, message="ImagePullBackOff: no such image")
    edition = world.runtime.edition
    world.sabotage = lambda work: waits(work, edition=edition) if len(world.started) == 1 else None
    world.run()
    assert world.started == ["m-01234567-inspect-0"]
    metadata = world.runtime.metadata.model_copy(update={"generation": 2})
    world.runtime = world.runtime.model_copy(update={"metadata": metadata})
    assert world.step().delete == ("m-01234567-inspect-0",)
    world.run()
    assert world.started[1:3] == ["m-01234567-inspect-0", "m-01234567-trial-1-0"]
    assert world.condition("Complete")[:2] == ("True", "Published")


def test_the_deadline_ends_the_job_and_its_pods() -> None:
    world = World(make_job(budget={"deadline": "1h"}))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE)
    assert world.step().requeue_after == 3600
    world.now = NOW + timedelta(hours=1)
    world.run()
    assert world.condition("Failed")[:2] == ("True", "DeadlineExceeded")
    assert not world.works


@pytest.mark.parametrize("first", [TrialState.SUCCEEDED, TrialState.RUNNING])
def test_the_last_trials_of_a_late_search_are_waited_for_unless_another_has_succeeded(first: TrialState) -> None:
    world = World(make_job(search={"timeout": "10m"}))
    slow = {2} if first == TrialState.SUCCEEDED else {1, 2}
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial in slow else None
    world.run()
    world.now = NOW + timedelta(minutes=14, seconds=59)
    world.run()
    assert [trial.state for trial in world.job.status.trials[1:]] == [first, TrialState.RUNNING]
    world.now = NOW + timedelta(minutes=15)
    decision = world.step()
    if first == TrialState.RUNNING:
        assert not decision.delete
        return
    assert not decision.create, "the playoff must be alone on its node"
    status = world.run()
    assert (status.state, status.trials[2].state) == ("BaselineIsBest", TrialState.FAILED)
    assert status.trials[2].message == "spec.search.timeout: still running when 1.5 times 10m had passed"
    assert not any(seen.state == WorkState.ACTIVE for seen in world.works.values())


def test_a_result_counts_though_the_deadline_has_passed_when_it_is_seen() -> None:
    """The operator was down meanwhile. What is finished is kept, and only further work comes too late."""
    world = World(make_job(budget={"deadline": "1h"}))
    for _ in range(4):
        world.step()
    assert world.job.status.state == "Publishing"
    world.now = NOW + timedelta(hours=2)
    assert world.run().state == "Published"

    early = World(make_job(budget={"deadline": "1h"}))
    early.step()
    early.now = NOW + timedelta(hours=2)
    status = early.run()
    assert (status.state, status.inspection is not None) == ("DeadlineExceeded", True)
    assert early.started == ["m-01234567-inspect-0"]


def test_a_deadline_may_be_moved() -> None:
    world = World(make_job(budget={"deadline": "1h"}))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE)
    world.step()
    edited(world, budget={"deadline": "3h"})
    world.now = NOW + timedelta(hours=2)
    assert world.step().requeue_after == 3600
    edited(world, budget={"deadline": "90m"})
    world.run()
    assert world.condition("Failed") == ("True", "DeadlineExceeded", "spec.budget.deadline: 90m have passed")


def test_time_does_not_pass_for_a_suspended_job() -> None:
    world = World(make_job(suspend=True, budget={"deadline": "1h"}))
    world.run()
    world.now = NOW + timedelta(hours=3)
    world.job = world.job.model_copy(update={"spec": world.job.spec.model_copy(update={"suspend": False})})
    assert world.run().state == "Published"


def in_queue(work: Work) -> ObservedWork:
    return ObservedWork(work, WorkState.ACTIVE, queue="team")


def test_time_does_not_pass_while_all_work_waits_in_a_queue() -> None:
    world = World(make_job(budget={"deadline": "1h"}), sabotage=in_queue)
    world.run()
    waits = "1 Job waits in Kueue's queue team: kubectl get workloads.kueue.x-k8s.io says for what"
    assert world.condition("QuotaReserved") == ("False", "QueuedByKueue", waits)
    assert world.condition("Complete") == ("False", "QueuedByKueue", waits)
    assert world.job.status.state == "QueuedByKueue"
    began = world.job.status.start_time
    world.now = NOW + timedelta(hours=5)
    assert world.step().requeue_after is None
    assert world.job.status.start_time == began

    # Admitted, it has the hour that it had; evicted, it keeps what is left of it.
    (name,) = world.works
    running = replace(world.works[name], queue="")
    world.works[name] = running
    assert world.step().requeue_after == 3600
    assert world.condition("QuotaReserved")[:2] == ("True", "QuotaReserved")
    assert world.job.status.state == "Inspecting"
    world.now += timedelta(minutes=50)
    world.works[name] = in_queue(running.work)
    world.run()
    world.now += timedelta(days=1)
    world.works[name] = running
    assert world.step().requeue_after == 600
    world.now += timedelta(minutes=11)
    world.step()
    assert world.condition("Failed")[:2] == ("True", "DeadlineExceeded")
    assert world.started == [name]


def test_time_passes_while_some_work_is_not_in_the_queue() -> None:
    world = World(make_job(budget={"deadline": "1h"}))
    trials = {1: in_queue, 2: lambda work: ObservedWork(work, WorkState.ACTIVE)}
    world.sabotage = lambda work: trials[work.task.trial](work) if work.task.trial else None
    world.run()
    assert world.job.status.state == "Searching"
    assert world.condition("QuotaReserved")[:2] == ("False", "QueuedByKueue")
    world.now = NOW + timedelta(minutes=61)
    world.step()
    assert world.condition("Failed")[:2] == ("True", "DeadlineExceeded")


@pytest.mark.parametrize(
    ("state", "reason"),
    [(WorkState.ACTIVE, "Searching"), (WorkState.FAILED, "QuotaExceeded")],
    ids=["another trial runs", "nothing runs"],
)
def test_what_the_api_server_forbids_is_the_state_of_a_job_of_which_nothing_runs(state: WorkState, reason: str) -> None:
    world = World(make_job(search={"parallelism": 2}))
    world.sabotage = lambda work: ObservedWork(work, state) if work.task.stage == Stage.TRIAL else None
    world.step()
    create = world.step().create
    forbidden = Refusal(Reason.QUOTA_EXCEEDED, "403 exceeded quota: q")
    seen = tuple(w for w in world.works.values() if w.work.task.trial != 2)
    status = reconcile(world.job, Observed(make_runtime(), seen, forbidden), NOW).status
    assert len(create) == 2
    assert (status.state, status.search_stopped) == (reason, "")
    told = next(c for c in status.conditions if c.type == "Complete")
    assert (told.status, told.reason) == ("False", reason)
    assert told.message.endswith("403 exceeded quota: q")


NO_POD = "no pod can be created: exceeded quota: q"


@pytest.mark.parametrize(
    ("refused", "state"),
    [
        ((Reason.QUOTA_EXCEEDED, Reason.QUOTA_EXCEEDED), "QuotaExceeded"),
        ((Reason.FORBIDDEN, Reason.FORBIDDEN), "Forbidden"),
        ((Reason.QUOTA_EXCEEDED, None), "Searching"),
        ((None, None), "Searching"),
    ],
)
def test_pods_that_are_refused_are_the_state_of_a_job_that_has_no_other(
    refused: tuple[Reason | None, ...], state: str
) -> None:
    world = World(make_job(search={"parallelism": 2}))
    world.sabotage = lambda work: (
        ObservedWork(work, WorkState.ACTIVE, None, NO_POD, refused=refused[work.task.trial - 1])
        if work.task.trial
        else None
    )
    world.run()
    told = f"m-01234567-trial-1-0, m-01234567-trial-2-0 wait: {NO_POD}"
    assert world.condition("Complete") == ("False", state, f"trials: 2 under way, 0 ended; {told}")
    warned = [event.message for event in world.events if event.warning]
    assert warned == ([f"trials: 2 under way, 0 ended; {told}"] if state != "Searching" else [])

    world.works = {name: world.succeed(seen.work) for name, seen in world.works.items()}
    world.sabotage = lambda work: None
    assert world.run().state == "Published"


def test_a_queue_is_left_by_suspending_or_by_an_end() -> None:
    world = World(make_job(), sabotage=in_queue)
    world.run()
    assert world.job.status.queued_since
    edited(world, suspend=True)
    world.run()
    assert (world.job.status.state, world.job.status.queued_since, world.works) == ("Suspended", None, {})
    assert world.condition("QuotaReserved")[0] == "True"

    edited(world, suspend=False)
    world.run()
    wrong = broken(Stage.INSPECT, ErrorKind.PERMANENT, "no such file")
    (name,) = world.works
    world.works["another"] = replace(world.works[name], state=WorkState.FAILED, report=wrong, queue="")
    del world.works[name]
    world.run()
    assert (world.job.status.state, world.job.status.queued_since) == ("InvalidInput", None)


def test_without_its_runtime_a_job_keeps_results_suspend_and_deadline() -> None:
    world = World(make_job(budget={"deadline": "1h"}))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial == 2 else None
    world.step()
    world.step()
    world.runtime = None
    world.run()
    assert world.job.status.trials[1].state == TrialState.SUCCEEDED
    world.now = NOW + timedelta(hours=1)
    status = world.run()
    assert world.condition("Failed")[:2] == ("True", "DeadlineExceeded")
    assert (status.trials[2].state, status.trials[2].message) == (TrialState.FAILED, "the job ended: DeadlineExceeded")
    assert not any(seen.state == WorkState.ACTIVE for seen in world.works.values())


def test_the_job_of_a_trial_is_the_record_of_its_proposal() -> None:
    """The operator died between starting a trial and writing the status: the trial is adopted as it was proposed."""
    world = World(make_job())
    world.step()
    before = world.job
    world.step()
    world.job = before
    status = world.run()
    assert status.trials[2].settings == {"quantize.operatorScope": "Compute"}
    assert len(world.started) == len(set(world.started)) == 5


@pytest.mark.parametrize("lost_write", range(6))
def test_a_lost_status_write_changes_nothing_at_the_end(lost_write: int) -> None:
    undisturbed = World(make_job()).run()
    world = World(make_job())
    for step in range(12):
        before = world.job
        world.step()
        if step == lost_write:
            world.job = before
    assert world.job.status == undisturbed
    assert len(world.started) == len(set(world.started)) == 5


def test_reconcile_is_pure() -> None:
    job = make_job()
    observed = Observed(make_runtime())
    assert reconcile(job, observed, NOW) == reconcile(job, observed, NOW)
    assert job == make_job()


def test_a_finished_job_only_ends_what_still_runs() -> None:
    world = World(make_job())
    world.run()
    straggler = next(iter(world.works.values()))
    world.works = {"late": ObservedWork(Work("late", straggler.work.task), WorkState.ACTIVE)}
    decision = world.step()
    assert (decision.create, decision.delete, decision.events) == ((), ("late",), ())


def test_without_techniques_the_recipe_is_what_runs() -> None:
    world = World(make_job(techniques=None), lambda settings, _: Quality(ratio=0.6 if settings else 1.0))
    status = world.run()
    assert status.state == "Published"
    assert [t.settings for t in status.trials[1:]] == [dict(point) for point in explore(world.job).first]


def test_the_recipe_warms_a_search_of_the_users_own_space() -> None:
    world = World(
        make_job(
            techniques=[{"quantize": {"operatorScope": ["All", "Compute"], "perChannel": [False, True]}}],
            search={"algorithm": "Random", "parallelism": 1},
        )
    )
    trials = world.run().trials
    assert trials[1].settings == {"quantize.operatorScope": "Compute", "quantize.perChannel": "false"}
    assert len(trials) == 5


def test_after_the_timeout_no_trial_starts_and_the_best_so_far_wins() -> None:
    world = World(
        make_job(
            search={"timeout": "10m", "parallelism": 1},
            techniques=[{"quantize": {"operatorScope": ["Compute", "All"]}}],
        )
    )
    world.step()
    world.step()
    world.now = NOW + timedelta(minutes=10)
    status = world.run()
    assert len(status.trials) == 2
    assert status.best
    assert (status.state, status.best.trial) == ("Published", 1)


def edited(world: World, **spec: object) -> None:
    """Somebody edits the spec, as the API server lets them."""
    wire = world.job.spec.wire() | spec
    world.job = world.job.model_copy(update={"spec": make_job(**wire).spec})


SIX = {"techniques": [{"quantize": {"operatorScope": ["Compute", "Conv", "All"], "perChannel": [True, False]}}]}


def test_a_search_that_is_under_way_may_be_widened_and_one_that_is_over_stays_over() -> None:
    world = World(make_job(**SIX, search={"maxTrials": 2}))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial == 2 else None
    world.run()
    assert world.job.status.progress == "1/2"
    assert world.condition("Complete")[2].startswith(
        "trials: 1 under way, 1 ended; no further one is started: spec.search"
    )
    edited(world, search={"maxTrials": 4, "parallelism": 1})
    world.run()
    assert world.job.status.progress == "1/4"
    world.works = {name: seen for name, seen in world.works.items() if seen.state != WorkState.ACTIVE}
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.stage == Stage.PLAYOFF else None
    world.run()
    assert world.job.status.progress == "4/4"
    edited(world, search={"maxTrials": 6})
    world.run()
    assert (world.job.status.state, world.job.status.progress) == ("Benchmarking", "4/4")


def test_a_search_that_timed_out_is_over_even_if_the_job_was_suspended_since() -> None:
    world = World(make_job(**SIX, search={"timeout": "10m", "parallelism": 1}))
    world.step()
    world.step()
    world.now = NOW + timedelta(minutes=10)
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.stage == Stage.PLAYOFF else None
    world.run()
    edited(world, suspend=True)
    world.run()
    edited(world, suspend=False)
    world.sabotage = lambda work: None
    status = world.run()
    assert (status.state, len(status.trials)) == ("Published", 2)


def on_gpus(seconds: float) -> Callable[[Work], ObservedWork | None]:
    """Trials take GPUs; the first attempt of the first is lost."""

    def found(work: Work) -> ObservedWork | None:
        if work.task.stage != Stage.TRIAL:
            return None
        if work.name.endswith("trial-1-0"):
            return replace(lost(work), gpu_seconds=seconds)
        report = report_for(work.task, scopes, {work.task.trial or 0: work.task.settings})
        return ObservedWork(work, WorkState.SUCCEEDED, report, gpu_seconds=seconds)

    return found


def test_every_attempt_is_charged_once_and_the_search_stops_when_the_budget_is_spent() -> None:
    world = World(make_job(**SIX, search={"parallelism": 1}, budget={"gpuSeconds": 80}), sabotage=on_gpus(30.0))
    status = world.run()
    assert (status.cost.gpu_seconds, status.progress) == ("90", "2/2")
    assert status.search_stopped == "spec.budget.gpuSeconds: 90 of 80 are spent"
    assert [e.message for e in world.events if e.reason == "SearchStopped"] == [status.search_stopped]
    assert status.state == "Published"


def test_gpus_of_a_trial_that_failed_and_of_a_job_that_failed_are_charged_too() -> None:
    def fail(work: Work) -> ObservedWork | None:
        return replace(lost(work), gpu_seconds=10.0) if work.task.stage in failing else None

    failing = {Stage.TRIAL}
    assert World(make_job(), sabotage=fail).run().cost.gpu_seconds == "60"
    failing = {Stage.INSPECT}
    assert World(make_job(), sabotage=fail).run().cost.gpu_seconds == "30"


def runs_on_gpus(work: Work) -> ObservedWork | None:
    """Trials that go on, the second after an attempt that was lost."""
    if work.task.stage != Stage.TRIAL:
        return None
    if work.name.endswith("trial-2-0"):
        return replace(lost(work), gpu_seconds=5.0)
    return ObservedWork(work, WorkState.ACTIVE, gpu_seconds=30.0)


def test_what_runs_when_a_job_is_suspended_is_charged_once() -> None:
    """Though it may be seen again, as after an operator that was killed before it deleted anything."""
    world = World(make_job(budget={"gpuSeconds": 60}), sabotage=runs_on_gpus)
    world.run()
    assert world.job.status.cost.gpu_seconds == "0"
    before = dict(world.works)
    edited(world, suspend=True)
    world.run()
    assert world.job.status.cost.gpu_seconds == "60"
    name = "m-01234567-trial-1-0"
    finished = replace(world.succeed(before[name].work), gpu_seconds=31.0)
    for seen in (before[name], finished):
        world.works[name] = seen
        world.run()
        assert world.job.status.cost.gpu_seconds == "60"
    edited(world, suspend=False)
    world.sabotage = lambda work: replace(world.succeed(work), gpu_seconds=7.0) if work.task.trial else None
    status = world.run()
    assert status.cost.gpu_seconds == "72"  # of the second trial the attempt that was lost, and its last
    assert status.search_stopped == "spec.budget.gpuSeconds: 60 of 60 are spent"


def test_what_runs_when_a_job_fails_or_gives_a_trial_up_is_charged() -> None:
    world = World(make_job(budget={"deadline": "1h"}), sabotage=runs_on_gpus)
    world.run()
    world.now = NOW + timedelta(hours=1)
    assert (world.run().state, world.job.status.cost.gpu_seconds) == ("DeadlineExceeded", "65")
    late = World(make_job(search={"timeout": "10m"}))
    late.sabotage = lambda work: runs_on_gpus(work) if work.task.trial == 2 else None
    late.run()
    late.now = NOW + timedelta(minutes=15)
    assert (late.run().state, late.job.status.cost.gpu_seconds) == ("BaselineIsBest", "35")


def test_early_stopping_leaves_the_rest_of_the_space_alone() -> None:
    world = World(make_job(**SIX, search={"parallelism": 1, "earlyStopping": {"patience": 1}}))
    status = world.run()
    assert status.search_stopped == "spec.search.earlyStopping: trials in a row that brought nothing better: 1"
    assert (status.progress, status.state) == ("2/2", "Published")


@pytest.mark.parametrize(
    ("after", "sweep", "expire", "again"),
    [(0, False, False, 60), (60, True, False, 40), (100, True, True, None)],
    ids=["kept", "its pods may go", "it may go"],
)
def test_what_has_ended_goes_in_its_time(after: int, sweep: bool, expire: bool, again: float | None) -> None:
    world = World(make_job(ttlSecondsAfterFinished=100), runtime=make_runtime(ttlSecondsAfterFinished=60))
    world.run()
    world.now = NOW + timedelta(seconds=after)
    decision = world.step()
    assert (decision.sweep, decision.expire, decision.requeue_after) == (sweep, expire, again)
    assert decision.status == world.job.status


def test_what_is_under_way_or_has_no_time_to_live_stays() -> None:
    world = World(make_job(ttlSecondsAfterFinished=0))
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE)
    assert not world.step().expire
    kept = World(make_job())
    kept.run()
    kept.now = NOW + timedelta(days=1000)
    assert not kept.step().expire


@pytest.mark.parametrize(("days", "sweep"), [(0, False), (1, True)])
def test_without_its_runtime_an_ended_job_keeps_its_pods_for_a_day(days: int, sweep: bool) -> None:
    world = World(make_job(), runtime=make_runtime(ttlSecondsAfterFinished=10**6))
    world.run()
    world.runtime = None
    world.now = NOW + timedelta(days=days)
    assert world.step().sweep == sweep
