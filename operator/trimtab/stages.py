"""The stages of one OptimizationJob: what each lacks, and where it leaves the job.

A stage follows from what is known, not from a stored phase: without an inspection, Inspect runs; while the search has a
next point, trials run; then one exclusive playoff; then Publish. So any view of the world, however it came about (a
restart, a missed event, a deleted Job), leads to the same end. A stage reads only the status, into which the results of
finished work were folded before, and of the work only whether it is under way or was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from trimtab import plan
from trimtab.api.job import Algorithm, OptimizationJob
from trimtab.api.names import Reason
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.status import OptimizationJobStatus, TrialState, TrialStatus
from trimtab.api.work import ErrorKind, Finalist, Stage
from trimtab.decisions import Observed, ObservedWork, Refusal, Work, WorkState
from trimtab.harvest import settle
from trimtab.recipe import explore
from trimtab.report import so_far
from trimtab.search import Exploration, propose
from trimtab.select import finalists, score, select
from trimtab.space import Tried
from trimtab.stopping import given_up, patience, why_stopped

ATTEMPTS = 3
"""How often work is started when the pod is lost or leaves no report; invalid input is never tried again."""

SPACE_TRIED = "there is nothing else to try"


class Ended(Exception):
    """The job cannot go on. `reason` becomes the Failed condition's."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Progress:
    """Where a stage leaves the job. The next stage begins when `reason` is None."""

    status: OptimizationJobStatus
    reason: Reason | None = None
    create: tuple[Work, ...] = ()


def advance(job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime, now: datetime) -> Progress:
    """Through the stages until one has to wait for work; with no reason to wait the flow has ended. Raises Ended."""
    progress = Progress(job.status)
    for stage in (_inspect, partial(_search, now=now), _playoff, _publish):
        progress = stage(with_status(job, progress.status), observed, runtime)
        if progress.reason:
            return progress
    return progress


def abandoned(status: OptimizationJobStatus, observed: Observed) -> tuple[str, ...]:
    """Work that still runs for trials that are not waited for: the playoff must be alone on its node."""
    over = {trial.index for trial in status.trials if trial.state != TrialState.RUNNING}
    active = (seen.work for seen in observed.works if seen.state == WorkState.ACTIVE)
    return tuple(work.name for work in active if work.task.stage == Stage.TRIAL and work.task.trial in over)


def outdated(observed: Observed, current: str) -> tuple[str, ...]:
    """Work whose pods wait, and were made by another edition of the runtime than the current: they are made anew.

    A pod keeps its image, claims and node selector, so mending the runtime would not help the one that waits for them.
    """
    waiting = (seen for seen in observed.works if seen.state == WorkState.ACTIVE and seen.edition)
    return tuple(seen.work.name for seen in waiting if seen.edition != current)


def under_way(trials: list[TrialStatus]) -> int:
    """How many trials are not over."""
    return sum(trial.state == TrialState.RUNNING for trial in trials)


def _inspect(job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime) -> Progress:
    if job.status.inspection:
        return Progress(job.status)
    create = _start(observed, Stage.INSPECT, None, lambda attempt: plan.inspect(job, runtime, attempt))
    return Progress(job.status, Reason.INSPECTING, create)


def _search(job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime, now: datetime) -> Progress:
    """Keep `parallelism` trials running until a limit is reached or the space is used up.

    Until the last one has ended a limit may still be raised; a search that is over stays over.
    """
    create: list[Work] = []
    trials: list[TrialStatus] = []
    for known in job.status.trials:
        trial, works = _keep_running(job, observed, runtime, known)
        trials.append(trial)
        create += works
    if observed.forbidden and _refused_alone(observed, trials):
        trials, create = [_refused(trial, observed.forbidden) for trial in trials], []
    search = job.spec.search
    stopped = "" if under_way(job.status.trials) else job.status.search_stopped
    job = with_status(job, settle(job.status, job.status.model_copy(update={"trials": trials}), observed))
    exploration: Exploration | None = None
    while not stopped and under_way(trials) < search.parallelism:
        if stopped := why_stopped(job, trials, now):
            break
        index = _free_index(trials)
        exploration = exploration or explore(job)
        point = propose(exploration, search.seed, index, _history(job, trials, exploration.algorithm))
        if point is None:
            stopped = SPACE_TRIED
            break
        started = TrialStatus(index=index, state=TrialState.RUNNING, settings=dict(point))
        trials = sorted([*trials, started], key=lambda trial: trial.index)
        create.append(plan.trial(job, runtime, index, point, 0))
    left = patience(job, trials, now)
    if left is not None and left <= 0:
        trials = [given_up(trial, job) if trial.state == TrialState.RUNNING else trial for trial in trials]
        create = []
    ended = job.status.model_copy(update={"trials": trials, "search_stopped": stopped})
    status = settle(job.status, ended, observed)
    waits = under_way(trials) or abandoned(status, observed)
    return Progress(status, Reason.SEARCHING if waits else None, tuple(create))


def _keep_running(
    job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime, trial: TrialStatus
) -> tuple[TrialStatus, tuple[Work, ...]]:
    """The work a running trial lacks, or the trial as Failed: a failed trial never sinks the job."""
    if trial.state != TrialState.RUNNING:
        return trial, ()

    def again(attempt: int) -> Work:
        return plan.trial(job, runtime, trial.index, trial.settings, attempt)

    try:
        return trial, _start(observed, Stage.TRIAL, trial.index, again)
    except Ended as ended:
        return trial.model_copy(update={"state": TrialState.FAILED, "message": str(ended)}), ()


def _history(job: OptimizationJob, trials: list[TrialStatus], algorithm: Algorithm) -> list[Tried]:
    """What was tried, with scores where the algorithm goes by them: every proposal takes them anew."""
    baseline, *tried = trials
    if algorithm != Algorithm.BAYESIAN:
        return [Tried(trial.settings) for trial in tried]
    history = []
    for trial in tried:
        measured = any(candidate.metrics for candidate in trial.candidates)
        value, violation = score(job.spec, trial, baseline) if measured else (None, 0.0)
        history.append(Tried(trial.settings, value, violation))
    return history


def _refused_alone(observed: Observed, trials: list[TrialStatus]) -> bool:
    """Whether Jobs of trials are found invalid, nothing else runs, and other trials have succeeded."""
    refused = observed.forbidden is not None and observed.forbidden.reason == Reason.JOB_REFUSED
    runs = any(seen.state == WorkState.ACTIVE for seen in observed.works)
    return refused and not runs and any(trial.state == TrialState.SUCCEEDED for trial in trials[1:])


def _refused(trial: TrialStatus, refusal: Refusal) -> TrialStatus:
    if trial.state != TrialState.RUNNING:
        return trial
    return trial.model_copy(update={"state": TrialState.FAILED, "message": refusal.message})


def _free_index(trials: list[TrialStatus]) -> int:
    """The next, or a missing one: of two trials started at once the later may be seen first."""
    known = {trial.index for trial in trials}
    return next(index for index in range(len(trials) + 1) if index not in known)


def _playoff(job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime) -> Progress:
    """Measure the finalists once all trials have ended, then select. Without a rival there is nothing to measure."""
    entrants = finalists(job.spec, job.status)
    if len(entrants) > 1 and not job.status.playoff_done:
        create = _start(observed, Stage.PLAYOFF, None, lambda attempt: plan.playoff(job, runtime, entrants, attempt))
        return Progress(job.status, Reason.BENCHMARKING, create)
    selection = select(job.spec, job.status)
    update = {"trials": list(selection.trials), "best": selection.best, "nearest_miss": selection.nearest_miss}
    return Progress(job.status.model_copy(update=update | {"playoff_done": True}))


def _publish(job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime) -> Progress:
    """Make the claim on the holdout split and publish, or neither when nothing keeps the promises."""
    best = job.status.best
    if best is None or job.status.claim:
        return Progress(job.status)
    baseline = job.status.trials[plan.BASELINE_TRIAL]
    reference = Finalist(trial=baseline.index, engine=baseline.candidates[0].engine, artifact=baseline.artifact)
    winner = Finalist(trial=best.trial, engine=best.engine, artifact=best.artifact)

    def again(attempt: int) -> Work:
        report = so_far(job).packed() if job.spec.publish else ""
        return plan.publish(job, runtime, (reference, winner), report, attempt)

    return Progress(job.status, Reason.PUBLISHING, _start(observed, Stage.PUBLISH, None, again))


def _start(observed: Observed, stage: Stage, trial: int | None, make: Callable[[int], Work]) -> tuple[Work, ...]:
    """The work to create: none while one is under way, the next attempt after a lost pod. Raises Ended."""
    seen = [s for s in observed.works if s.work.task.stage == stage and s.work.task.trial == trial]
    if any(s.state == WorkState.ACTIVE for s in seen):
        return ()
    for s in seen:
        if s.report and s.report.error and s.report.error.kind == ErrorKind.PERMANENT:
            raise Ended(Reason.INVALID_INPUT, s.report.error.message)
    if len(seen) >= ATTEMPTS:
        raise Ended(Reason.WORK_FAILED, f"{stage} failed {len(seen)} times, at last with: {why_failed(seen)}")
    return (make(max((s.work.attempt + 1 for s in seen), default=0)),)


def why_failed(seen: list[ObservedWork]) -> str:
    """What became of the last attempt."""
    last = max(seen, key=lambda s: s.work.attempt)
    return last.report.error.message if last.report and last.report.error else last.message or "no report was left"


def with_status(job: OptimizationJob, status: OptimizationJobStatus) -> OptimizationJob:
    return job.model_copy(update={"status": status})
