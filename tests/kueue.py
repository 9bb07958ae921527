"""Kueue, played on a real API server after what its documentation says it does to Jobs with a queue.

Kueue itself cannot be built here. It owns such a Job's `spec.suspend`: it admits by setting it to false, together with
the node labels of the flavor that has quota, and evicts by setting it to true, taking those labels back. Its webhook
would suspend a Job at its creation; there is none here, so a Job that is not created suspended runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from kubelet import container_status
from trimtab.api.names import QUEUE_LABEL
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.watch import Seen, watch
from trimtab.errors import NotFound, Refused
from waiting import patience

FLAVOR = {"pool": "batch"}


@dataclass
class Queue:
    """One LocalQueue of a namespace. While it has no quota, its Jobs wait."""

    client: Client
    namespace: str
    name: str
    quota: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: list[str] = field(default_factory=list)

    async def serve(self) -> None:
        """Admit every Job as soon as there is quota; a stopped queue's Jobs stay where they are."""
        query = [("labelSelector", f"{QUEUE_LABEL}={self.name}")]
        async for change in watch(self.client, objects.JOBS.path(self.namespace), query):
            if isinstance(change, Seen) and change.object["spec"].get("suspend"):
                await self.quota.wait()
                with contextlib.suppress(NotFound):  # deleted while it waited
                    await self.admit(change.object["metadata"]["name"])

    async def admit(self, job: str) -> None:
        self.admitted.append(job)
        spec = {"suspend": False, "template": {"spec": {"nodeSelector": FLAVOR}}}
        await self._patch(job, {"spec": spec})

    async def evict(self, job: str) -> None:
        """The start time must be gone, and its controller have noted it, before the template may be changed again."""
        await self._patch(job, {"spec": {"suspend": True}})
        async with patience(self.client, self.namespace):
            while True:
                await self._patch(job, {"status": {"startTime": None}}, "status")
                with contextlib.suppress(Refused):
                    return await self._patch(job, {"spec": {"template": {"spec": {"nodeSelector": None}}}})
                await asyncio.sleep(0.1)

    async def _patch(self, job: str, body: Object, part: str | None = None) -> None:
        path = objects.JOBS.path(self.namespace, job, part)
        await self.client.request("PATCH", path, body=body, headers=MERGE_PATCH)


@contextlib.asynccontextmanager
async def queue(client: Client, namespace: str, name: str) -> AsyncIterator[Queue]:
    """A queue without quota."""
    made = Queue(client, namespace, name)
    serving = asyncio.create_task(made.serve())
    try:
        yield made
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def bind(client: Client, pod: Object) -> None:
    """Give a pod a node, so that it does not go before a kubelet says that it has ended."""
    metadata = pod["metadata"]
    body = {"metadata": {"name": metadata["name"]}, "target": {"kind": "Node", "name": "somewhere"}}
    await client.request("POST", objects.PODS.path(metadata["namespace"], metadata["name"], "binding"), body=body)


async def die(client: Client, pod: Object) -> None:
    """What the kubelet does with a pod that is being deleted: SIGTERM, its end, and away with it."""
    metadata = pod["metadata"]
    path = objects.PODS.path(metadata["namespace"], metadata["name"])
    async with patience(client, metadata["namespace"]):
        while "deletionTimestamp" not in (await client.request("GET", path))["metadata"]:
            await asyncio.sleep(0.05)
    now = "2026-01-01T00:00:00Z"
    ended = {"exitCode": 143, "reason": "Error", "startedAt": now, "finishedAt": now}
    status = {"phase": "Failed", "containerStatuses": [container_status({"terminated": ended})]}
    await client.request("PATCH", f"{path}/status", body={"status": status}, headers=MERGE_PATCH)
    await client.request("DELETE", path, body={"gracePeriodSeconds": 0})
