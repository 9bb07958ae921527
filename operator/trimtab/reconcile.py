"""What to do next for one OptimizationJob: the spec, the status and the observed work go in, a Decision comes out.

Results are folded into the status before anything is decided, decisions read only the status, and a result once in the
status is never asked for again. Then the job goes through its stages (`stages`), as far as it can without waiting. What
is here is what holds a job back or ends it whatever stage it is in: no runtime, a suspension, a queue, the deadline.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from math import inf
from typing import Any

from trimtab import narrate
from trimtab.api.job import OptimizationJob
from trimtab.api.names import Reason
from trimtab.api.quantities import parse_duration
from trimtab.api.runtime import KEPT_SECONDS, OptimizationRuntime
from trimtab.api.status import OptimizationJobStatus, Running, Verdict
from trimtab.candidates import baseline_is_best
from trimtab.conditions import is_finished, parse_timestamp, timestamp
from trimtab.decisions import Decision, Observed, ObservedWork, Refusal, WorkState
from trimtab.harvest import Outcomes, fold, settle, suspended
from trimtab.stages import ATTEMPTS, Ended, abandoned, advance, outdated, under_way, why_failed, with_status
from trimtab.stopping import patience

NAMED = 3
"""How many that wait for one thing are told by their names."""

_AT_REST: dict[str, Any] = {"queued_since": None, "running": None}
"""What the status says of pods of which there are none."""


def reconcile(job: OptimizationJob, observed: Observed, now: datetime) -> Decision:
    """Decide. Pure: the same arguments always give the same Decision."""
    active = tuple(seen.work.name for seen in observed.works if seen.state == WorkState.ACTIVE)
    if is_finished(job.status.conditions):
        return _retire(job, observed.runtime, now, active)
    current = with_status(job, _with_longest(fold(job.status, observed), observed))
    if job.spec.suspend:
        # As in batch/v1, time does not pass for a suspended job.
        status = suspended(current.status, observed)
        paused = with_status(current, status.model_copy(update={"start_time": None, **_AT_REST}))
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
    current = with_status(current, _queued(current.status, observed, now))
    clock = parse_timestamp(current.status.queued_since) if current.status.queued_since else now
    if isinstance(observed.runtime, Refusal):
        _check_deadline(current, clock)
        status = narrate.not_accepted(current, observed.runtime, now)
        return _decide(job, status, requeue_after=None if clock < now else _time_left(current, now))
    current = with_status(current, _begun(current.status, now))
    progress = advance(current, observed, observed.runtime, clock)
    current = with_status(current, progress.status)
    reason = progress.reason or _outcome(progress.status)
    if progress.reason:
        _check_deadline(current, clock)
        reason = _held_back(current.status, observed) or reason
    status = narrate.progressed(current, reason, now, _stuck(current.status, observed), _in_queue(observed))
    delete = abandoned(progress.status, observed) + outdated(observed, observed.runtime.edition)
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
    left = (_time_left(job, now), patience(job, trials, now) if under_way(trials) else None)
    return min((seconds for seconds in left if seconds is not None), default=None)


def _stuck(status: OptimizationJobStatus, observed: Observed) -> str:
    """What is tried again, and what work waits for (an image that cannot be pulled, a node with room, a quota)."""
    waiting: dict[str, list[str]] = {}
    for seen in observed.works:
        if seen.state == WorkState.ACTIVE and seen.message:
            waiting.setdefault(seen.message, []).append(seen.work.name)
    waits = (f"{_wait(names)}: {message}" for message, names in waiting.items())
    told = [*_again(status, observed), *_in_queue(observed), *waits]
    return "; ".join([*told, observed.forbidden.message] if observed.forbidden else told)


def _again(status: OptimizationJobStatus, observed: Observed) -> list[str]:
    """Which work without an outcome has ended, so that another attempt is under way, and why it did.

    The attempt itself is not asked for: the text is the same before it is started, and while nothing can be.
    """
    known, ended = Outcomes(status), defaultdict[tuple[str, int | None], list[ObservedWork]](list)
    for seen in observed.works:
        task = seen.work.task
        if seen.state != WorkState.ACTIVE and (task.stage, task.trial) not in known:
            ended[task.stage, task.trial].append(seen)
    alike: dict[tuple[int, str], list[str]] = {}
    for (stage, trial), works in sorted(ended.items(), key=lambda item: item[0][1] or 0):
        name = stage if trial is None else f"trial {trial}"
        alike.setdefault((len(works) + 1, why_failed(works)), []).append(name)
    return [
        f"{_named(names)}: attempt {attempt} of {ATTEMPTS}, as the last one failed: {why}"
        for (attempt, why), names in alike.items()
    ]


def _wait(names: list[str]) -> str:
    return f"{_named(names)} {'waits' if len(names) == 1 else 'wait'}"


def _named(names: list[str]) -> str:
    """Up to 64 trials may wait for one quota, and their message is a line of `kubectl get`."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


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


def _outcome(status: OptimizationJobStatus) -> Reason:
    """How a flow that ran to its end ended."""
    if status.best is None:
        return Reason.NO_FEASIBLE_CANDIDATE
    if status.claim and status.claim.verdict == Verdict.VIOLATED:
        return Reason.CLAIM_VIOLATED
    if baseline_is_best(status):
        return Reason.BASELINE_IS_BEST
    return Reason.PUBLISHED if status.published else Reason.SELECTED
