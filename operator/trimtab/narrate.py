"""What people are told: conditions, the State column, and events on transitions.

Everything here is derived from the status before and after; it decides nothing. `state` is the reason of the
condition that sums the job up, so that `kubectl get` and `kubectl wait` never disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from trimtab.api.doing import Doing
from trimtab.api.job import OptimizationJob
from trimtab.api.names import ConditionType, EventReason, Reason
from trimtab.api.status import Condition, OptimizationJobStatus, Running, TrialState, TrialStatus
from trimtab.conditions import find, is_true, timestamp, with_condition
from trimtab.decisions import Event, Refusal
from trimtab.space import words

ENDED = frozenset(
    {
        Reason.PUBLISHED,
        Reason.SELECTED,
        Reason.BASELINE_IS_BEST,
        Reason.NO_FEASIBLE_CANDIDATE,
        Reason.CLAIM_VIOLATED,
    }
)
"""The reasons of a flow that ran to its end. That nothing is feasible is a result, not a failure."""

UNKNOWN = "its log says how far it is"

FORBIDDEN = frozenset({Reason.QUOTA_EXCEEDED, Reason.FORBIDDEN, Reason.JOB_REFUSED})
"""The reasons of a job that the API server lets start nothing."""


def progressed(
    job: OptimizationJob, reason: Reason, now: datetime, stuck: str = "", queued: Sequence[str] = ()
) -> OptimizationJobStatus:
    """The status with its conditions set for a job that is under way, suspended or complete.

    `stuck` says which pods wait for something, and what; `queued` what is held back by queues.
    """
    status = job.status
    ended = reason in ENDED
    doing = "suspended" if job.spec.suspend else "under way"
    told = {
        ConditionType.ACCEPTED: _accepted(status),
        ConditionType.CANDIDATE_SELECTED: _selected(status),
        ConditionType.PUBLISHED: _published(status, ended),
        ConditionType.COMPLETE: (ended, reason, summary(status) if ended else _under_way(status, stuck, doing)),
        ConditionType.FAILED: (False, reason, ""),
        ConditionType.SUSPENDED: _suspended(job),
        **_quota(status, queued),
    }
    update = {"state": reason.value, "completion_time": timestamp(now) if ended else None}
    return _told(job, told, now).model_copy(update=update)


def failed(job: OptimizationJob, reason: Reason, message: str, now: datetime) -> OptimizationJobStatus:
    """The status of a job that cannot go on. What still ran has failed with it."""
    told: dict[ConditionType, Told] = {
        ConditionType.FAILED: (True, reason, message),
        ConditionType.COMPLETE: (False, reason, message),
        ConditionType.CANDIDATE_SELECTED: (bool(job.status.best), reason, ""),
        ConditionType.PUBLISHED: (bool(job.status.published), reason, ""),
    }
    if reason == Reason.INVALID_INPUT and not job.status.inspection:
        told = {ConditionType.ACCEPTED: (False, reason, message), **told}
    update = {
        "trials": [_stopped(trial, reason) for trial in job.status.trials],
        "state": reason.value,
        "completion_time": timestamp(now),
    }
    return _told(job, told, now).model_copy(update=update)


def _stopped(trial: TrialStatus, reason: Reason) -> TrialStatus:
    if trial.state != TrialState.RUNNING:
        return trial
    return trial.model_copy(update={"state": TrialState.FAILED, "message": f"the job ended: {reason.value}"})


def not_accepted(job: OptimizationJob, refusal: Refusal, now: datetime) -> OptimizationJobStatus:
    """The status of a job that gets no runtime, or not yet."""
    told: dict[ConditionType, Told] = {
        ConditionType.ACCEPTED: (False, refusal.reason, refusal.message),
        ConditionType.CANDIDATE_SELECTED: _selected(job.status),
        ConditionType.PUBLISHED: _published(job.status, ended=False),
        ConditionType.COMPLETE: (False, refusal.reason, refusal.message),
        ConditionType.FAILED: (False, refusal.reason, ""),
        ConditionType.SUSPENDED: _suspended(job),
    }
    return _told(job, told, now).model_copy(update={"state": refusal.reason.value})


def seen(job: OptimizationJob) -> OptimizationJobStatus:
    """The job's status, told to be of its newest generation: conditions of another one `kubectl wait` passes over."""
    generation = job.metadata.generation
    conditions = [
        c if c.observed_generation == generation else c.model_copy(update={"observed_generation": generation})
        for c in job.status.conditions
    ]
    return job.status.model_copy(update={"conditions": conditions, "observed_generation": generation})


Told = tuple[bool | None, Reason, str]
"""A condition's status (None is Unknown), reason and message."""


def _told(job: OptimizationJob, told: dict[ConditionType, Told], now: datetime) -> OptimizationJobStatus:
    conditions = list(job.status.conditions)
    for kind, (holds, reason, message) in told.items():
        status = "Unknown" if holds is None else str(holds)
        known = find(conditions, kind)
        if known and (known.status, known.reason, known.message) == (status, reason, message):
            continue  # as most are at every turn
        new = Condition(type=kind.value, status=status, reason=reason.value, message=message)
        conditions = with_condition(conditions, new, now)
    told_of = job.status.model_copy(update={"conditions": conditions, "progress": _progress(job)})
    return seen(job.model_copy(update={"status": told_of}))


def _progress(job: OptimizationJob) -> str:
    """For `kubectl get`; a search may end before its last trial, and then says so."""
    started = len(job.status.trials) - 1
    if started < 0:
        return ""
    running = sum(trial.state == TrialState.RUNNING for trial in job.status.trials)
    total = started if job.status.search_stopped else max(started, job.spec.search.max_trials)
    return f"{started - running}/{total}"


def _accepted(status: OptimizationJobStatus) -> Told:
    if status.inspection is None:
        return None, Reason.PENDING, ""
    return True, Reason.SPEC_ACCEPTED, "; ".join(status.inspection.warnings)


def _selected(status: OptimizationJobStatus) -> Told:
    if status.best:
        return True, Reason.SELECTED, status.best.message
    if status.nearest_miss:
        return False, Reason.NO_FEASIBLE_CANDIDATE, status.nearest_miss
    return None, Reason.PENDING, ""


def _published(status: OptimizationJobStatus, ended: bool) -> Told:
    if status.published:
        return True, Reason.PUBLISHED, f"{status.published.digest} at {status.published.uri}"
    if not ended:
        return None, Reason.PENDING, ""
    if status.claim and status.claim.message:
        return False, Reason.CLAIM_VIOLATED, status.claim.message
    return False, Reason.NOTHING_TO_PUBLISH, status.nearest_miss


def _suspended(job: OptimizationJob) -> Told:
    if job.spec.suspend:
        return True, Reason.SUSPENDED, "spec.suspend is true"
    was = is_true(job.status.conditions, ConditionType.SUSPENDED)
    known = next((c for c in job.status.conditions if c.type == ConditionType.SUSPENDED), None)
    resumed = was or (known is not None and known.reason == Reason.RESUMED)
    return False, Reason.RESUMED if resumed else Reason.PENDING, ""


def _quota(status: OptimizationJobStatus, queued: Sequence[str]) -> dict[ConditionType, Told]:
    """Nothing for a job that never had to wait in a queue."""
    if queued:
        return {ConditionType.QUOTA_RESERVED: (False, Reason.QUEUED_BY_KUEUE, "; ".join(queued))}
    waited = find(status.conditions, ConditionType.QUOTA_RESERVED)
    return {ConditionType.QUOTA_RESERVED: (True, Reason.QUOTA_RESERVED, "")} if waited else {}


def _under_way(status: OptimizationJobStatus, stuck: str, doing: str) -> str:
    """How many trials there will be is known to nobody before the end, and TRIALS says how many at most."""
    tried = status.trials[1:]
    left = sum(trial.state == TrialState.RUNNING for trial in tried)
    count = f"trials: {left} {doing}, {len(tried) - left} ended" if tried else ""
    stopped = f"no further one is started: {status.search_stopped}" if status.search_stopped else ""
    return "; ".join(text for text in (count, stopped, stuck, _running(status)) if text)


def _running(status: OptimizationJobStatus) -> str:
    """The pod that has run the longest, if that is long."""
    if status.running is None:
        return ""
    return f"{status.running.job} runs since {status.running.since}: {status.running.doing or UNKNOWN}"


def summary(status: OptimizationJobStatus) -> str:
    """One sentence on how a job ended."""
    if status.best is None:
        return f"nothing keeps every promise; nearest miss: {status.nearest_miss}"
    claim = f"; holdout: {status.claim.message}" if status.claim and status.claim.message else ""
    return f"{status.best.message}{claim}"


def events(before: OptimizationJobStatus, after: OptimizationJobStatus) -> tuple[Event, ...]:
    """What happened between two statuses, once each."""
    return tuple(_events(before, after))


def _events(before: OptimizationJobStatus, after: OptimizationJobStatus) -> Iterator[Event]:
    if after.inspection and not before.inspection:
        yield Event(EventReason.INSPECTED, f"model {after.inspection.model_digest}")
        for doubt in after.inspection.warnings:
            yield Event(EventReason.INPUT_DOUBTFUL, doubt, warning=True)
    known = {trial.index: trial.state for trial in before.trials}
    for trial in after.trials[1:]:
        if trial.state in _TRIAL_EVENTS and known.get(trial.index) != trial.state:
            yield _trial_event(trial)
    if (step := _entered(before.running, after.running)) and after.running:
        yield Event(EventReason.STEP_STARTED, f"{after.running.job}: {step}")
    if _searched(after) and not _searched(before):
        yield Event(EventReason.SEARCH_STOPPED, after.search_stopped)
    if after.best and not before.best:
        yield Event(EventReason.CANDIDATE_SELECTED, after.best.message)
    if after.published and not before.published:
        yield Event(EventReason.PUBLISHED, f"{after.published.digest} at {after.published.uri}")
    yield from _summed_up(before, after)


def _summed_up(before: OptimizationJobStatus, after: OptimizationJobStatus) -> Iterator[Event]:
    """What the summary condition has become: that nothing can be started, or the end."""
    told = find(after.conditions, ConditionType.COMPLETE)
    if told and after.state in FORBIDDEN and after.state != before.state:
        yield Event(EventReason.NOT_STARTED, told.message, warning=True)
    for kind, reason in ((ConditionType.COMPLETE, EventReason.COMPLETE), (ConditionType.FAILED, EventReason.FAILED)):
        now = next((c for c in after.conditions if c.type == kind and c.status == "True"), None)
        if now and not is_true(before.conditions, kind):
            yield Event(reason, now.message, warning=kind == ConditionType.FAILED)


def _entered(before: Running | None, after: Running | None) -> Doing | None:
    """The step that a long pod has begun since it was last heard of: one event a minute at most, as logs are read."""
    if not before or not after or not before.doing or not after.doing or before.job != after.job:
        return None
    return after.doing if after.doing.step > before.doing.step else None


def _searched(status: OptimizationJobStatus) -> bool:
    """Whether the search is over; until its last trial has ended a limit may be raised."""
    return bool(status.search_stopped) and all(trial.state != TrialState.RUNNING for trial in status.trials)


_TRIAL_EVENTS = {
    TrialState.SUCCEEDED: EventReason.TRIAL_SUCCEEDED,
    TrialState.SKIPPED: EventReason.TRIAL_SKIPPED,
    TrialState.FAILED: EventReason.TRIAL_FAILED,
}


def _trial_event(trial: TrialStatus) -> Event:
    chosen = words(trial.settings)
    text = " ".join([f"trial {trial.index}", *([f"({chosen})"] if chosen else [])])
    text += f": {trial.message}" if trial.message else ""
    return Event(_TRIAL_EVENTS[trial.state], text, warning=trial.state == TrialState.FAILED)
