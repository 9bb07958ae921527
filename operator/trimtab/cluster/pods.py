"""What became of a Job: its Report where its pod left one, otherwise a reason that people understand.

Pods are not watched. A Job's own status says when it has ended and whether its pod is ready, so pods are listed when
there is something to learn: once for the Jobs that ended since the last look (the result is kept per Job UID), and
now and then for a Job whose pod is long in starting. A Job that is suspended has no pod, and says itself in which queue
it is. One call asks for all of them, also for those of other turns that
come while the namespace's call before is under way: under load, that is one call for several Jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from trimtab.api.names import ATTEMPT_LABEL, GROUP, QUEUE_LABEL
from trimtab.api.work import WORK_VERSION, Report, Task
from trimtab.cluster.client import Client, Object
from trimtab.cluster.objects import PODS
from trimtab.decisions import ObservedWork, Work, WorkState
from trimtab.errors import Permanent
from trimtab.manifests import CONTAINER, gpus, owner_of, task_text

PATIENCE, INTERVAL = timedelta(seconds=20), timedelta(seconds=60)
"""A pod that is not ready after PATIENCE is looked at, and then again every INTERVAL."""
TERMINATION = timedelta(seconds=120)
"""A Job that has failed waits for its pods to end, for which they have 30 s. A lost node never tells of that."""
MOMENT = timedelta(seconds=2)
"""A Job that is held back for longer is told of: a queue with quota to give takes less, and costs no status write."""

OWNER = "OptimizationJob"
LOST = "if it is gone for good, delete its Node object"
TOO_LATE = "DeadlineExceeded"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


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
    held_since: datetime | None = None
    """Since when it is suspended: never by us, we delete Jobs."""
    queue: str = ""
    """What its label says, which Kueue may have set."""
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
    return JobRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        owner=owner["name"],
        owner_uid=owner["uid"],
        attempt=int(metadata["labels"].get(ATTEMPT_LABEL, 0)),
        task=task,
        state=state,
        reason=reason,
        starting_since=_starting_since(job) if state == WorkState.ACTIVE else None,
        held_since=_held_since(job) if state == WorkState.ACTIVE else None,
        queue=metadata["labels"].get(QUEUE_LABEL, ""),
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
    return (found.get("stage", ""), found.get("trial")) if isinstance(found, dict) else ("", None)


class Pods:
    """Turns Jobs into observed work. Remembers what it learned until told to forget."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ended: dict[str, ObservedWork] = {}
        self._waiting: dict[str, tuple[datetime, str]] = {}
        """By UID, the last look at a Job that waits, and why it does."""
        self._since: dict[str, tuple[datetime, datetime]] = {}
        """By UID, since when a Job waits or is held by the API server's clock, and since when by ours."""
        self._failing: dict[str, datetime] = {}
        """By UID, since when a failed Job waits for its pods to end."""
        self._turns: dict[str, asyncio.Lock] = {}
        self._batches: dict[str, tuple[list[str], asyncio.Task[dict[str, list[Object]]]]] = {}
        """By namespace, the Jobs that the next call asks for, and its answer."""

    async def observe(self, jobs: Sequence[JobRecord], now: datetime) -> tuple[ObservedWork, ...]:
        """The Jobs of one namespace as work. At most one call. Raises Permanent for a Job with an unreadable Task."""
        asked = [job for job in jobs if self._worth_a_look(job, now)]
        if asked:
            found = await self._list(asked)
            for job in asked:
                self._learn(job, found.get(job.uid, []), now)
        return tuple(self._ended.get(job.uid) or self._active(job, now) for job in jobs)

    def next_look(self, jobs: Iterable[JobRecord], now: datetime) -> float | None:
        """Seconds after which `observe` may tell something new though no Job has changed."""
        open_jobs = [job for job in jobs if job.uid not in self._ended]
        dues = [self._due(job, now) for job in open_jobs]
        told = [self._begun(job, job.held_since, now) + MOMENT for job in open_jobs if job.held_since]
        waits = [(due - now).total_seconds() for due in (*dues, *(due for due in told if due > now)) if due is not None]
        return max(0.0, min(waits)) if waits else None

    def forget(self, uid: str) -> None:
        for known in (self._ended, self._waiting, self._since, self._failing):
            known.pop(uid, None)

    def _worth_a_look(self, job: JobRecord, now: datetime) -> bool:
        if job.uid in self._ended:
            return False
        due = self._due(job, now)
        return job.state != WorkState.ACTIVE or (due is not None and due <= now)

    def _due(self, job: JobRecord, now: datetime) -> datetime | None:
        if job.starting_since is None:
            return None
        if job.uid in self._waiting:
            return self._waiting[job.uid][0] + INTERVAL
        return self._begun(job, job.starting_since, now) + PATIENCE

    def _begun(self, job: JobRecord, since: datetime, now: datetime) -> datetime:
        """When that began, by the clock that says so first: with ours behind, the other's moment would be to come."""
        if self._since.get(job.uid, (None, now))[0] != since:
            self._since[job.uid] = since, now
        return min(self._since[job.uid])

    def _is_lost(self, job: JobRecord, now: datetime) -> bool:
        """Whether it has failed, and its pods should have ended long ago: nothing more is to be expected of it."""
        return bool(job.reason) and self._failing.setdefault(job.uid, now) + TERMINATION <= now

    def _learn(self, job: JobRecord, pods: Sequence[Object], now: datetime) -> None:
        if job.state == WorkState.ACTIVE and not self._is_lost(job, now):
            self._waiting[job.uid] = (now, waiting_reason(pods, job.name, now))
            return
        report, message = _left_by(job, pods)
        _, waited = self._waiting.get(job.uid, (now, ""))
        self.forget(job.uid)
        if waited and message.startswith(TOO_LATE):
            message = f"{message}; its pod was waiting: {waited}"
        # A pod that was waiting when it was deleted had no node, and so no GPUs.
        spent = 0.0 if waited and not pods else job.gpus * _held(job, pods)
        state = WorkState.FAILED if job.state == WorkState.ACTIVE else job.state
        self._ended[job.uid] = ObservedWork(_work(job), state, report, message, gpu_seconds=spent)

    def _active(self, job: JobRecord, now: datetime) -> ObservedWork:
        if job.starting_since is None:
            self._waiting.pop(job.uid, None)
        if job.held_since is not None and self._begun(job, job.held_since, now) + MOMENT <= now:
            message = "" if job.queue else f"it is suspended: kubectl describe job {job.name} says by whom"
            return ObservedWork(_work(job), WorkState.ACTIVE, None, message, job.queue)
        _, message = self._waiting.get(job.uid, (None, ""))
        return ObservedWork(_work(job), WorkState.ACTIVE, None, message)

    async def _list(self, jobs: Sequence[JobRecord]) -> dict[str, list[Object]]:
        """Pods by the UID of their Job."""
        namespace = jobs[0].namespace
        if namespace not in self._batches:
            names: list[str] = []
            self._batches[namespace] = names, asyncio.create_task(self._ask(namespace, names))
        names, answer = self._batches[namespace]
        names += [job.name for job in jobs]
        return await asyncio.shield(answer)  # a turn that is cancelled takes no other's answer with it

    async def _ask(self, namespace: str, names: Sequence[str]) -> dict[str, list[Object]]:
        """Ask once, when the call before has been answered; `names` grows until then."""
        async with self._turns.setdefault(namespace, asyncio.Lock()):
            del self._batches[namespace]
            selector = f"{JOB_NAME_LABEL} in ({','.join(names)})"
            found: dict[str, list[Object]] = {}
            async for page in self._client.pages(PODS.path(namespace), [("labelSelector", selector)]):
                for pod in page["items"]:
                    found.setdefault(pod["metadata"]["labels"].get(JOB_UID_LABEL, ""), []).append(pod)
            return found


def waiting_reason(pods: Sequence[Object], job: str, now: datetime) -> str:
    """Why no pod of an active Job is ready, or nothing if one is about to be."""
    if not pods:
        return f"no pod was created: kubectl describe job {job} says why"
    return next(filter(None, (_waits_for(pod, now) for pod in _newest(pods))), "")


def _newest(pods: Sequence[Object]) -> Iterable[Object]:
    """The newest of each index: the others were replaced."""
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return {_annotations(pod).get(INDEX_ANNOTATION): pod for pod in ordered}.values()


def _waits_for(pod: Object, now: datetime) -> str:
    status = pod["status"]
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason')}: {condition.get('message')}"
    if pod["spec"].get("nodeName") and (lost := _lost(pod, now)):
        return f"node {pod['spec']['nodeName']} {lost}; {LOST}"
    waiting = _container(status).get("state", {}).get("waiting", {})
    # ContainerCreating is what a healthy pod says while its image is pulled.
    if waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return ""
    return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")


def _lost(pod: Object, now: datetime) -> str:
    """What its node does not do, if that lasts."""
    gone = pod["metadata"].get("deletionTimestamp")  # when it is to be gone, at the latest
    if gone and datetime.fromisoformat(gone) + PATIENCE <= now:
        return "has not confirmed that the pod was deleted"
    # It has no readiness probe: as long as its node answers, what runs is ready.
    unready = any(c["type"] == "Ready" and c["status"] != "True" for c in pod["status"].get("conditions", []))
    return "does not answer" if not gone and unready and "running" in _container(pod["status"]).get("state", {}) else ""


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
        message = f"it took longer than the runtime's activeDeadline, {job['spec']['activeDeadlineSeconds']}s"
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


def _held(job: JobRecord, pods: Sequence[Object]) -> float:
    """For how many seconds the Job's pods had their resources, which are theirs once they have a node.

    Of several, those that still ran were deleted when the Job ended: they had theirs for as long as it took.
    """
    gone = max(0, job.pods - len(pods)) / job.pods
    return sum(_time_on_node(pod) for pod in pods) + gone * job.ran or job.ran


def _time_on_node(pod: Object) -> float:
    placed = [c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "True"]
    ended = _finished_at(pod)
    if not placed or not ended:
        return 0.0
    since = datetime.fromisoformat(placed[0].get("lastTransitionTime") or ended)
    return max(0.0, (datetime.fromisoformat(ended) - since).total_seconds())


def _starting_since(job: Mapping[str, Any]) -> datetime | None:
    """None while the Job is suspended, and once its pods are ready.

    Until its controller has taken note that it is no longer suspended, its times are those of before.
    """
    status = job.get("status", {})
    begun = status.get("ready", 0) + status.get("succeeded", 0) >= job["spec"].get("parallelism", 1)
    if job["spec"].get("suspend") or _suspended(job) or begun:
        return None
    return datetime.fromisoformat(status.get("startTime") or job["metadata"]["creationTimestamp"])


def _held_since(job: Mapping[str, Any]) -> datetime | None:
    if not job["spec"].get("suspend"):
        return None
    noted = _suspended(job)
    return datetime.fromisoformat(noted["lastTransitionTime"] if noted else job["metadata"]["creationTimestamp"])


def _suspended(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The Job controller's condition, if it holds."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Suspended" and c["status"] == "True"), None)


def _left_by(job: JobRecord, pods: Sequence[Object]) -> tuple[Report | None, str]:
    """The report of the pod that decided the Job's end, and what to say where there is none."""
    pod = _last_of_index_0(pods) if job.pods == 1 or job.state == WorkState.SUCCEEDED else _first_to_fail(pods)
    if pod is None and job.reason.startswith(TOO_LATE):
        return None, job.reason  # such a Job deletes its pods
    if pod is None:
        return None, "the pod was deleted before its report was read" + (f" ({job.reason})" if job.reason else "")
    ended = _container(pod["status"]).get("state", {}).get("terminated", {})
    text = ended.get("message", "")
    try:
        report = Report.model_validate_json(text)
    except ValidationError:
        return None, _why(pod, ended, text, job.reason)
    if report.version != WORK_VERSION:
        return None, f"a report of version {report.version}, not {WORK_VERSION}: name another image in the runtime"
    return report, ""


def _last_of_index_0(pods: Sequence[Object]) -> Object | None:
    """One that the cluster took away was replaced. Pods of other indices only help, and leave no report."""
    ours = [pod for pod in pods if _annotations(pod).get(INDEX_ANNOTATION, "0") == "0"]
    return max(ours, key=lambda pod: (pod["status"].get("phase") == "Succeeded", _finished_at(pod)), default=None)


def _first_to_fail(pods: Sequence[Object]) -> Object | None:
    """Of pods that train together: the others fail because they lose it, or are deleted."""
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed" and not _disrupted(pod)]
    return min(failed, key=_finished_at, default=None)


def _disrupted(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions)


def _annotations(pod: Object) -> Mapping[str, str]:
    annotations: Mapping[str, str] = pod["metadata"].get("annotations", {})
    return annotations


def _why(pod: Object, ended: Mapping[str, Any], text: str, reason: str) -> str:
    """In the order of how much each explains."""
    last_line = text.strip().rpartition("\n")[2][:500]
    if ended.get("reason") == "OOMKilled":
        limit = _limits(pod).get("memory")
        return f"OOMKilled: the pod needed more memory than {limit or 'the node has'}: raise the runtime's memory limit"
    if reason.startswith(TOO_LATE):
        return reason
    if pod["status"].get("reason"):
        return f"{pod['status']['reason']}: {pod['status'].get('message', '')}"
    if not ended:
        return reason or "the pod ended without having run"
    if ended.get("exitCode") == 0:
        return f"the pod left no report that can be read: {last_line or 'its termination message is empty'}"
    return f"exit code {ended.get('exitCode')}" + (f": {last_line}" if last_line else "")


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((c for c in status.get("containerStatuses", []) if c["name"] == CONTAINER), {})


def _limits(pod: Object) -> Mapping[str, str]:
    containers = {c["name"]: c for c in pod["spec"]["containers"]}
    limits: Mapping[str, str] = containers.get(CONTAINER, {}).get("resources", {}).get("limits", {})
    return limits


def _finished_at(pod: Object) -> str:
    return str(_container(pod["status"]).get("state", {}).get("terminated", {}).get("finishedAt", ""))


def _work(job: JobRecord) -> Work:
    try:
        return Work(job.name, _task(job.task), job.attempt)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Permanent(f"Job {job.namespace}/{job.name}: its Task cannot be read: {field}: {first['msg']}") from None


@lru_cache(maxsize=256)
def _task(text: str) -> Task:
    """Tasks are frozen, and the same few are observed again and again."""
    return Task.recorded(text)
