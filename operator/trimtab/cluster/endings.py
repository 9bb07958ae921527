"""What a Job's pods tell: why they don't start, what the one that counts left, and how long they held a node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from trimtab.api.work import WORK_VERSION, Report
from trimtab.cluster.client import Object
from trimtab.cluster.records import TOO_LATE, JobRecord
from trimtab.conditions import timestamp
from trimtab.decisions import WorkState
from trimtab.errors import NotFound
from trimtab.pod import CONTAINER

PATIENCE = timedelta(seconds=20)
"""A pod that is not ready after this is looked at."""
LOST = "if it is gone for good, delete its Node object"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


def waiting_reason(pods: Sequence[Object], now: datetime) -> str:
    """Why no pod of an active Job is ready, or nothing if one is about to be."""
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


def teller(pods: Sequence[Object]) -> str:
    """The name of the pod that tells in its log how far a Job is. Raises NotFound."""
    running = [pod for pod in pods if _index_0(pod) and pod["status"].get("phase") == "Running"]
    if not running:
        raise NotFound("no pod runs")
    newest = max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(newest["metadata"]["name"])


def held(job: JobRecord, pods: Sequence[Object]) -> float:
    """For how many seconds the Job's pods had their resources, which are theirs once they have a node.

    Of several, those that still ran were deleted when the Job ended: they had theirs for as long as it took.
    """
    gone = max(0, job.pods - len(pods)) / job.pods
    return sum(_time_on_node(pod) for pod in pods) + gone * job.ran or job.ran


def held_so_far(pods: Sequence[Object], now: datetime) -> float:
    """The same of a Job whose pods still run."""
    return sum(_time_on_node(pod, timestamp(now)) for pod in pods)


def _time_on_node(pod: Object, until: str = "") -> float:
    """`until` is the end of a pod that has none yet."""
    placed = [c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "True"]
    ended = _finished_at(pod) or until
    if not placed or not ended:
        return 0.0
    since = datetime.fromisoformat(placed[0].get("lastTransitionTime") or ended)
    return max(0.0, (datetime.fromisoformat(ended) - since).total_seconds())


def left_by(job: JobRecord, pods: Sequence[Object]) -> tuple[Report | None, str]:
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
    ours = [pod for pod in pods if _index_0(pod)]
    return max(ours, key=lambda pod: (pod["status"].get("phase") == "Succeeded", _finished_at(pod)), default=None)


def _index_0(pod: Object) -> bool:
    return _annotations(pod).get(INDEX_ANNOTATION, "0") == "0"


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
