"""The words between deciding and doing: what was observed, and what shall be done.

`reconcile` and `monitoring` turn the first into the second without touching the world. Two runners carry decisions
out: `cluster` with Kubernetes Jobs, `local` with processes. Neither decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trimtab.api.doing import Doing
from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitorStatus
from trimtab.api.names import EventReason, Reason
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import Report, Task


@dataclass(frozen=True)
class Work:
    """One pod's worth of work to start. The name is unique to job, stage, trial and attempt: starting twice is once."""

    name: str
    task: Task
    attempt: int = 0


class WorkState(StrEnum):
    ACTIVE = "Active"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True)
class ObservedWork:
    """A piece of work as the world shows it."""

    work: Work
    state: WorkState
    report: Report | None = None
    """None where the pod left none, or none that can be read."""
    message: str = ""
    """Why it failed, where the report does not say: `OOMKilled`, `DeadlineExceeded`, `exit code 137`."""
    queue: str = ""
    """The queue that holds it back, while one does."""
    refused: Reason | None = None
    """Why the API server lets it have no pod, which the message says in its words."""
    edition: str = ""
    """Of the runtime that it was made by, while its pod has not run and waits for what the message says."""
    since: str = ""
    """Since when it runs, where that is long."""
    doing: Doing | None = None
    """What it says of how far it is; None where that is not known, or not known anew."""
    gpu_seconds: float = 0.0
    """GPUs times the seconds for which it held them, once it has ended or is to be deleted."""


@dataclass(frozen=True)
class Refusal:
    """Why a job gets no runtime, or its work no Job, for as long as that is so."""

    reason: Reason
    message: str


class Unwatched(Refusal):
    """Why the rule of a monitor could not be written, so that it watches nothing."""


@dataclass(frozen=True)
class Observed:
    """The world around one OptimizationJob."""

    runtime: OptimizationRuntime | Refusal
    works: tuple[ObservedWork, ...] = ()
    forbidden: Refusal | None = None
    """Why work that was to be started could not be: a quota, a role that is missing, a Job that is invalid."""


@dataclass(frozen=True)
class Event:
    reason: EventReason
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do for one OptimizationJob: start `create`, end `delete`, write `status` if it changed, tell `events`.

    Of one that has ended, `sweep` takes away everything it ever started, and `expire` the object itself.
    """

    status: OptimizationJobStatus
    create: tuple[Work, ...] = ()
    delete: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again though nothing happened: a deadline."""
    sweep: bool = False
    expire: bool = False


@dataclass(frozen=True)
class MonitorDecision:
    """What to do for one ModelMonitor."""

    status: ModelMonitorStatus
    rule: dict[str, Any]
    """The Prometheus rule file as a dict: {"groups": [...]}."""
    create: OptimizationJob | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
