"""Ends pods at once, in a process of its own: `python -m bench.scale.pods KEPT`.

It stands for the Job controller, the scheduler and the kubelet, which the bench's control plane does not run: a Job
gets a pod, the pod a termination message, and the Job its condition, in three writes. The time of the last is
written into KEPT, a line per Job. What it costs is reported apart.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from bench.scale.load import Object, mark, report
from trimtab.api.names import MANAGED_LABEL
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client
from trimtab.cluster.pods import JOB_UID_LABEL
from trimtab.cluster.records import JOB_NAME_LABEL
from trimtab.cluster.watch import Seen, watch
from trimtab.pod import CONTAINER

AT_ONCE = 16


async def run(kept: TextIO) -> None:
    """Every Job that is there or comes, until killed."""
    todo: asyncio.Queue[Object] = asyncio.Queue()
    async with await Client.connect() as client, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(_work(client, todo, kept))
        seen: set[str] = set()
        async for change in watch(client, objects.JOBS.path(), [("labelSelector", f"{MANAGED_LABEL}=true")]):
            if isinstance(change, Seen) and (uid := change.object["metadata"]["uid"]) not in seen:
                seen.add(uid)
                if not change.object.get("status", {}).get("conditions"):
                    todo.put_nowait(change.object)


async def _work(client: Client, todo: asyncio.Queue[Object], kept: TextIO) -> None:
    while True:
        job = await todo.get()
        await end(client, job)
        kept.write(f"{time.time():.6f} {mark(job)}\n")


async def end(client: Client, job: Object) -> None:
    """The Job's pod came, ran and went well."""
    metadata = job["metadata"]
    where, name = metadata["namespace"], f"{metadata['name']}-0"
    await client.request("POST", objects.PODS.path(where), body=_pod(job, name))
    await client.request("PATCH", objects.PODS.path(where, name, "status"), body=_left(job), headers=MERGE_PATCH)
    path = objects.JOBS.path(where, metadata["name"], "status")
    await client.request("PATCH", path, body=_complete(), headers=MERGE_PATCH)


def _pod(job: Object, name: str) -> Object:
    metadata, template = job["metadata"], job["spec"]["template"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: metadata["name"], JOB_UID_LABEL: metadata["uid"]}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "metadata": {"name": name, "labels": labels, "ownerReferences": [{**owner, "controller": True}]},
        "spec": {**template["spec"], "nodeName": "nowhere"},
    }


def _left(job: Object) -> Object:
    now = _now()
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now, "message": report(job)}
    container = {"name": CONTAINER, "image": "jobs:dev", "imageID": "", "ready": False, "restartCount": 0}
    return {"status": {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}}


def _complete() -> Object:
    now = _now()
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": now}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    ended = {"startTime": now, "completionTime": now, "succeeded": 1, "ready": 0, "terminating": 0}
    return {"status": {**ended, "conditions": conditions}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    with Path(sys.argv[1]).open("a", buffering=1) as lines:
        asyncio.run(run(lines))
