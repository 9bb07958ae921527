"""A Job as it is remembered: what its own status says, read once when it is seen. Pure.

Whoever may edit Jobs in a namespace can write into one of ours, or into one that only looks so, whatever the API server
lets pass. That is their own job's loss: nothing here may fail on it but by a ValueError, or grow a metric by a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any

from pydantic_core import from_json

from trimtab.api.names import ATTEMPT_LABEL, GROUP, QUEUE_LABEL, RUNTIME_ANNOTATION
from trimtab.api.work import Stage
from trimtab.decisions import WorkState
from trimtab.manifests import owner_of
from trimtab.pod import gpus, task_text

OWNER = "OptimizationJob"
TOO_LATE = "DeadlineExceeded"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is remembered of a Job: a few hundred bytes beside its Task, where the whole object takes tens of kB."""

    namespace: str
    name: str
    uid: str
    version: int
    owner: str
    owner_uid: str
    attempt: int
    task: str
    state: WorkState
    reason: str = ""
    """Why it failed, or will have when its pods have ended, beginning with the Job controller's word for it:
    `DeadlineExceeded: ...`."""
    starting_since: datetime | None = None
    """Since when it waits for its pod to be ready."""
    running_since: datetime | None = None
    """Since when it is active, once its pods are ready."""
    held_since: datetime | None = None
    """Since when it is suspended: never by us, we delete Jobs."""
    queue: str = ""
    """What its label says, which Kueue may have set."""
    edition: str = ""
    """Of the runtime that it was made by; empty if an earlier version made it."""
    pods: int = 1
    """How many it has at a time: several where a step trains on several nodes."""
    gpus: int = 0
    """What each of its pods holds."""
    ran: float = 0.0
    """Seconds from its start to its end, if it has ended, times its pods."""
    stage: str = ""
    """What the Task is about, so that few have to be read; nothing if it cannot be."""
    trial: int | None = None


def record_of(job: Mapping[str, Any]) -> JobRecord:
    """Raises ValueError if this is no Job of ours: no OptimizationJob owns it, or it has no Task."""
    metadata = job["metadata"]
    owner = owner_of(metadata, OWNER)
    if owner is None:
        name = f"{metadata['namespace']}/{metadata['name']}"
        raise ValueError(f"Job {name} belongs to no {OWNER} of {GROUP}")
    state, reason = _ending(job)
    task = task_text(job)
    stage, trial = _about(task)
    starting, running = _since(job) if state == WorkState.ACTIVE else (None, None)
    return JobRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        owner=owner["name"],
        owner_uid=owner["uid"],
        attempt=int(metadata["labels"].get(ATTEMPT_LABEL, 0)),  # or a ValueError
        task=task,
        state=state,
        reason=reason,
        starting_since=starting,
        running_since=running,
        held_since=_held_since(job) if state == WorkState.ACTIVE else None,
        queue=metadata["labels"].get(QUEUE_LABEL, ""),
        edition=intern(metadata.get("annotations", {}).get(RUNTIME_ANNOTATION, "")),
        pods=max(1, job["spec"].get("parallelism", 1)),
        gpus=gpus(job),
        ran=_ran(job),
        stage=stage,
        trial=trial,
    )


def _about(task: str) -> tuple[str, int | None]:
    try:
        found = from_json(task)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("stage") not in list(Stage):
        return "", None
    trial = found.get("trial")
    return found["stage"], trial if isinstance(trial, int) else None


def _ending(job: Mapping[str, Any]) -> tuple[WorkState, str]:
    conditions = job.get("status", {}).get("conditions", [])
    true = {condition["type"]: condition for condition in conditions if condition["status"] == "True"}
    if "Complete" in true:
        return WorkState.SUCCEEDED, ""
    failed = true.get("Failed") or true.get("FailureTarget")
    if failed is None:
        return WorkState.ACTIVE, ""
    reason, message = failed.get("reason"), failed.get("message")
    if reason == TOO_LATE:
        # A Job that has failed may still be edited: the field can be gone.
        seconds = job["spec"].get("activeDeadlineSeconds")
        message = "it took longer than the runtime's activeDeadline" + (f", {seconds}s" if seconds else "")
    return WorkState.FAILED if "Failed" in true else WorkState.ACTIVE, f"{reason}: {message}"


def _ran(job: Mapping[str, Any]) -> float:
    status = job.get("status", {})
    failed = [c for c in status.get("conditions", []) if c["type"] in ("Failed", "FailureTarget")]
    ends = [c.get("lastTransitionTime") for c in failed]
    ended = status.get("completionTime") or next(iter(ends), None)
    if not ended or not status.get("startTime"):
        return 0.0
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(status["startTime"])).total_seconds()
    return float(seconds * job["spec"].get("parallelism", 1))


def _since(job: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Since when the Job starts, or else runs: its pods are ready. Neither while it is suspended.

    Until its controller has taken note that it is no longer suspended, its times are those of before.
    """
    status = job.get("status", {})
    if job["spec"].get("suspend") or _suspended(job):
        return None, None
    since = datetime.fromisoformat(status.get("startTime") or job["metadata"]["creationTimestamp"])
    ready = status.get("ready", 0) + status.get("succeeded", 0) >= job["spec"].get("parallelism", 1)
    return (None, since) if ready else (since, None)


def _held_since(job: Mapping[str, Any]) -> datetime | None:
    if not job["spec"].get("suspend"):
        return None
    noted = _suspended(job)
    return datetime.fromisoformat(noted["lastTransitionTime"] if noted else job["metadata"]["creationTimestamp"])


def _suspended(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The Job controller's condition, if it holds."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Suspended" and c["status"] == "True"), None)
