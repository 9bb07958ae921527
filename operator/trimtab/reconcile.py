"""What to do next for one OptimizationJob: the spec, the status and the observed work go in, a Decision comes out.

The stages follow from what is known, not from a stored phase: without an inspection, Inspect runs; while the search
has a next point, trials run; then one exclusive playoff; then Publish. So any view of the world, however it came about
(a restart, a missed event, a deleted Job), leads to the same end. Results are folded into the status before
anything is decided, decisions read only the status, and a result once in the status is never asked for again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import inf
from typing import Any

from trimtab import narrate, plan
from trimtab.api.job import Algorithm, OptimizationJob
from trimtab.api.names import Reason
from trimtab.api.quantities import parse_duration
from trimtab.api.runtime import KEPT_SECONDS, OptimizationRuntime
from trimtab.api.status import OptimizationJobStatus, Running, TrialState, TrialStatus, Verdict
from trimtab.api.work import ErrorKind, Finalist, Stage
from trimtab.candidates import baseline_is_best
from trimtab.conditions import is_finished, parse_timestamp, timestamp
from trimtab.decisions import Decision, Observed, ObservedWork, Refusal, Work, WorkState
from trimtab.harvest import fold, settle, suspended
from trimtab.recipe import explore
from trimtab.report import so_far
from trimtab.search import Exploration, propose
from trimtab.select import finalists, score, select
from trimtab.space import Tried
from trimtab.stopping import given_up, patience, why_stopped

ATTEMPTS = 3
"""How often work is started when the pod is lost or leaves no report; invalid input is never tried again."""

NAMED = 3
"""How many that wait for one thing are told by their names."""

SPACE_TRIED = "there is nothing else to try"


_AT_REST: dict[str, Any] = {"queued_since": None, "running": None}
"""What the status says of pods of which there are none."""


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


def reconcile(job: OptimizationJob, observed: Observed, now: datetime) -> Decision:
    """Decide. Pure: the same arguments always give the same Decision."""
    active = tuple(seen.work.name for seen in observed.works if seen.state == WorkState.ACTIVE)
    if is_finished(job.status.conditions):
        return _retire(job, observed.runtime, now, active)
    current = _with_status(job, _with_longest(fold(job.status, observed), observed))
    if job.spec.suspend:
        # As in batch/v1, time does not pass for a suspended job.
        status = suspended(current.status, observed)
        paused = _with_status(current, status.model_copy(update={"start_time": None, **_AT_REST}))
        return _decide(job, narrate.progressed(paused, Reason.SUSPENDED, now), delete=active)
    try:
        return _go_on(job, current, observed, now)
    except Ended as ended:
        status = narrate.failed(current, ended.reason, str(ended), now)
        return _decide(job, settle(current.status, status, observed), delete=active)


def _retire(
    job: OptimizationJob, runtime: OptimizationRuntime | Refusal, now: datetime, active: tuple[str, ...]
) -> Decision:
    """Of a job that has ended: everything is in its status, so its Jobs, and then itself, may go in their time.

    That is one call for all its Jobs. `ttlSecondsAfterFinished` on each would take a PATCH for every result, and
    Kubernetes would delete them while the search goes on, with the logs and the record of failed attempts.
    """
    kept = KEPT_SECONDS if isinstance(runtime, Refusal) else runtime.spec.ttl_seconds_after_finished
    sweep = _left(job, kept, now)
    expire = _left(job, job.spec.ttl_seconds_after_finished, now)
    later = min((seconds for seconds in (sweep, expire) if 0 < seconds < inf), default=None)
    return Decision(narrate.seen(job), delete=active, sweep=sweep <= 0, expire=expire <= 0, requeue_after=later)


def _left(job: OptimizationJob, ttl: int | None, now: datetime) -> float:
    """Seconds until a time to live after the job's end is over; infinite if there is none."""
    if ttl is None or job.status.completion_time is None:
        return inf
    return (parse_timestamp(job.status.completion_time) - now).total_seconds() + ttl


def _go_on(job: OptimizationJob, current: OptimizationJob, observed: Observed, now: datetime) -> Decision:
    """Advance a job that may run. `job` is as it was read, `current` with the results of finished work."""
    current = _with_status(current, _queued(current.status, observed, now))
    clock = parse_timestamp(current.status.queued_since) if current.status.queued_since else now
    if isinstance(observed.runtime, Refusal):
        _check_deadline(current, clock)
        status = narrate.not_accepted(current, observed.runtime, now)
        return _decide(job, status, requeue_after=None if clock < now else _time_left(current, now))
    current = _with_status(current, _begun(current.status, now))
    progress = _advance(current, observed, observed.runtime, clock)
    current = _with_status(current, progress.status)
    reason = progress.reason or _outcome(progress.status)
    if progress.reason:
        reason = _held_back(current.status, observed) or reason
    status = narrate.progressed(current, reason, now, _stuck(observed), _in_queue(observed))
    delete = _given_up(progress.status, observed)
    return _decide(job, status, create=progress.create, delete=delete, requeue_after=_next_look(current, clock))


def _queued(status: OptimizationJobStatus, observed: Observed, now: datetime) -> OptimizationJobStatus:
    """The status with its clock stopped while everything under way is held back by a queue, or going on."""
    active = [seen for seen in observed.works if seen.state == WorkState.ACTIVE]
    if active and all(seen.queue for seen in active):
        return status if status.queued_since else status.model_copy(update={"queued_since": timestamp(now)})
    if not status.queued_since:
        return status
    waited = now - parse_timestamp(status.queued_since)
    start = status.start_time and timestamp(parse_timestamp(status.start_time) + waited)
    return status.model_copy(update={"start_time": start, "queued_since": None})


def _next_look(job: OptimizationJob, now: datetime) -> float | None:
    """When time alone changes something: the deadline, or the end of the patience with a search's last trials."""
    if job.status.queued_since:
        return None
    trials = job.status.trials
    left = (_time_left(job, now), patience(job, trials, now) if _running(trials) else None)
    return min((seconds for seconds in left if seconds is not None), default=None)


def _with_status(job: OptimizationJob, status: OptimizationJobStatus) -> OptimizationJob:
    return job.model_copy(update={"status": status})


def _stuck(observed: Observed) -> str:
    """What work waits for (an image that cannot be pulled, a node with room, a quota)."""
    waiting: dict[str, list[str]] = {}
    for seen in observed.works:
        if seen.state == WorkState.ACTIVE and seen.message:
            waiting.setdefault(seen.message, []).append(seen.work.name)
    told = [*_in_queue(observed), *(f"{_wait(names)}: {message}" for message, names in waiting.items())]
    return "; ".join([*told, observed.forbidden.message] if observed.forbidden else told)


def _wait(names: list[str]) -> str:
    """Up to 64 trials may wait for one quota, and their message is a line of `kubectl get`."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more} {'waits' if len(names) == 1 else 'wait'}"


def _with_longest(status: OptimizationJobStatus, observed: Observed) -> OptimizationJobStatus:
    """The status with the pod that has run the longest, if that is long. Others would each cost a status write.

    What is known of how far it is stays until it says something else: an operator that starts anew has not heard it.
    """
    running = [seen for seen in observed.works if seen.state == WorkState.ACTIVE and seen.since]
    if not running:
        return status.model_copy(update={"running": None}) if status.running else status
    longest, known = min(running, key=lambda seen: (seen.since, seen.work.name)), status.running
    before = known.doing if known and (known.job, known.since) == (longest.work.name, longest.since) else None
    now = Running(job=longest.work.name, since=longest.since, doing=longest.doing or before)
    return status.model_copy(update={"running": now})


def _held_back(status: OptimizationJobStatus, observed: Observed) -> Reason | None:
    """Why nothing at all gets on, if that is so."""
    if status.queued_since:
        return Reason.QUEUED_BY_KUEUE
    refused = [seen.refused for seen in observed.works if seen.state == WorkState.ACTIVE]
    if observed.forbidden:
        refused.insert(0, observed.forbidden.reason)
    return refused[0] if refused and all(refused) else None


def _in_queue(observed: Observed) -> list[str]:
    """How much work is held back, for each queue."""
    held = Counter(seen.queue for seen in observed.works if seen.state == WorkState.ACTIVE and seen.queue)
    return [
        f"{count} {'Job waits' if count == 1 else 'Jobs wait'} in Kueue's queue {queue}: "
        "kubectl get workloads.kueue.x-k8s.io says for what"
        for queue, count in sorted(held.items())
    ]


def _decide(job: OptimizationJob, status: OptimizationJobStatus, **actions: Any) -> Decision:
    if is_finished(status.conditions):
        actions["requeue_after"] = None
        status = status.model_copy(update=_AT_REST)
    return Decision(status, events=narrate.events(job.status, status), **actions)


def _begun(status: OptimizationJobStatus, now: datetime) -> OptimizationJobStatus:
    return status if status.start_time else status.model_copy(update={"start_time": timestamp(now)})


def _time_left(job: OptimizationJob, now: datetime) -> float | None:
    """Seconds to the deadline, which counts from the first pod; None before that."""
    if job.status.start_time is None:
        return None
    deadline = parse_timestamp(job.status.start_time) + timedelta(seconds=parse_duration(job.spec.budget.deadline))
    return (deadline - now).total_seconds()


def _check_deadline(job: OptimizationJob, now: datetime) -> None:
    left = _time_left(job, now)
    if left is not None and left <= 0:
        raise Ended(Reason.DEADLINE_EXCEEDED, f"spec.budget.deadline: {job.spec.budget.deadline} have passed")


def _advance(job: OptimizationJob, observed: Observed, runtime: OptimizationRuntime, now: datetime) -> Progress:
    """Through the stages until one has to wait for work; with no reason to wait the flow has ended."""
    progress = Progress(job.status)
    for stage in (_inspect, partial(_search, now=now), _playoff, _publish):
        progress = stage(_with_status(job, progress.status), observed, runtime)
        if progress.reason:
            _check_deadline(job, now)
            return progress
    return progress


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
    stopped = "" if _running(job.status.trials) else job.status.search_stopped
    job = _with_status(job, settle(job.status, job.status.model_copy(update={"trials": trials}), observed))
    exploration: Exploration | None = None
    while not stopped and _running(trials) < search.parallelism:
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
    waits = _running(trials) or _given_up(status, observed)
    return Progress(status, Reason.SEARCHING if waits else None, tuple(create))


def _refused_alone(observed: Observed, trials: list[TrialStatus]) -> bool:
    """Whether Jobs of trials are found invalid, nothing else runs, and other trials have succeeded."""
    refused = observed.forbidden is not None and observed.forbidden.reason == Reason.JOB_REFUSED
    runs = any(seen.state == WorkState.ACTIVE for seen in observed.works)
    return refused and not runs and any(trial.state == TrialState.SUCCEEDED for trial in trials[1:])


def _refused(trial: TrialStatus, refusal: Refusal) -> TrialStatus:
    if trial.state != TrialState.RUNNING:
        return trial
    return trial.model_copy(update={"state": TrialState.FAILED, "message": refusal.message})


def _given_up(status: OptimizationJobStatus, observed: Observed) -> tuple[str, ...]:
    """Work that still runs for trials that are not waited for: the playoff must be alone on its node."""
    over = {trial.index for trial in status.trials if trial.state != TrialState.RUNNING}
    active = (seen.work for seen in observed.works if seen.state == WorkState.ACTIVE)
    return tuple(work.name for work in active if work.task.stage == Stage.TRIAL and work.task.trial in over)


def _free_index(trials: list[TrialStatus]) -> int:
    """The next, or a missing one: of two trials started at once the later may be seen first."""
    known = {trial.index for trial in trials}
    return next(index for index in range(len(trials) + 1) if index not in known)


def _running(trials: list[TrialStatus]) -> int:
    return sum(trial.state == TrialState.RUNNING for trial in trials)


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
        raise Ended(Reason.WORK_FAILED, f"{stage} failed {len(seen)} times, at last with: {_why(seen)}")
    return (make(max((s.work.attempt + 1 for s in seen), default=0)),)


def _why(seen: list[ObservedWork]) -> str:
    last = max(seen, key=lambda s: s.work.attempt)
    return last.report.error.message if last.report and last.report.error else last.message or "no report was left"


def _outcome(status: OptimizationJobStatus) -> Reason:
    """How a flow that ran to its end ended."""
    if status.best is None:
        return Reason.NO_FEASIBLE_CANDIDATE
    if status.claim and status.claim.verdict == Verdict.VIOLATED:
        return Reason.CLAIM_VIOLATED
    if baseline_is_best(status):
        return Reason.BASELINE_IS_BEST
    return Reason.PUBLISHED if status.published else Reason.SELECTED
