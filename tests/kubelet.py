"""A kubelet played by hand, also as a server of logs, and a connection to the API server that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from trimtab.api.work import Report, Task
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.endings import INDEX_ANNOTATION
from trimtab.cluster.watch import Seen, watch
from trimtab.errors import Temporary
from trimtab.manifests import work_of
from trimtab.pod import CONTAINER
from waiting import patience

logger = logging.getLogger(__name__)

ENDED = ("Succeeded", "Failed")


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Cuttable:
    """A TCP proxy before the API server: its connections can be cut, or go silent as a lost route does."""

    target: tuple[str, int]
    port: int = 0
    connections: int = 0
    silent: bool = False
    open: asyncio.Event = field(default_factory=_set)
    """While it is not set, new connections wait."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _lost: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(*self.target)
        await self.open.wait()
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back, False), self._pump(there, writer, True), return_exceptions=True)
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if answer and (self.silent or writer in self._lost):
                    continue
                writer.write(chunk)
                await writer.drain()
        writer.close()

    def hush(self) -> None:
        """Let the connections of this moment go silent. Later ones wait until it is open again, and speak."""
        self._lost |= self._writers
        self.open.clear()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def cuttable() -> AsyncIterator[tuple[Client, Cuttable, list[tuple[str, str, int]]]]:
    """A client behind a proxy, the proxy, and every answer the client got."""
    calls: list[tuple[str, str, int]] = []
    client = await Client.connect(lambda *call: calls.append(call))
    configuration = client._api.configuration
    address = urlsplit(configuration.host)
    proxy = Cuttable((str(address.hostname), int(address.port or 443)))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    configuration.host = f"https://127.0.0.1:{proxy.port}"
    try:
        yield client, proxy, calls
    finally:
        await client.close()
        proxy.cut()
        server.close()


@dataclass(frozen=True)
class Kubelet:
    """Ends pods of Jobs as a kubelet would report it: those of one index, where there are several."""

    client: Client
    index: int = 0

    async def pod_of(self, job: Object) -> Object:
        """The Job's newest pod, as soon as the Job controller has made one that has not ended."""
        query = [("labelSelector", f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}")]
        path = objects.PODS.path(job["metadata"]["namespace"])
        async with patience(self.client, job["metadata"]["namespace"]):
            while True:
                pods = (await self.client.request("GET", path, query))["items"]
                alive = [pod for pod in pods if pod["status"]["phase"] not in ENDED and _index(pod) == self.index]
                if alive:
                    return dict(alive[0])
                await asyncio.sleep(0.05)

    async def run(self, job: Object, node: str) -> str:
        """The pod runs on that node, and is ready. Returns its name."""
        metadata = (await self.pod_of(job))["metadata"]
        path = objects.PODS.path(metadata["namespace"], metadata["name"], "binding")
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        await self.client.request("POST", path, body={"metadata": {"name": metadata["name"]}, "target": target})
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        await self.report(job, "Running", ready | {"containerStatuses": [container_status({"running": {}})]})
        return str(metadata["name"])

    async def report(self, job: Object, phase: str, status: Object) -> None:
        """Make the pod's status what a kubelet would."""
        pod = await self.pod_of(job)
        metadata = pod["metadata"]
        path = objects.PODS.path(metadata["namespace"], metadata["name"], "status")
        body = {"status": {"phase": phase, **status}}
        await self.client.request("PATCH", path, body=body, headers=MERGE_PATCH)

    async def terminate(self, job: Object, code: int, message: str = "", **terminated: Any) -> None:
        """The container ended with that exit code and termination message."""
        state = {
            "exitCode": code,
            "message": message,
            "startedAt": "2026-01-01T00:00:00Z",
            "finishedAt": "2026-01-01T00:00:01Z",
            "reason": "Completed" if code == 0 else "Error",
            **terminated,
        }
        status = {"containerStatuses": [container_status({"terminated": state})]}
        await self.report(job, "Succeeded" if code == 0 else "Failed", status)

    async def leave(self, job: Object, report: Report) -> None:
        """The pod left this report and the exit code that goes with it."""
        code = 0 if report.error is None else {"Permanent": 2, "Temporary": 75}[report.error.kind]
        await self.terminate(job, code, report.compact())


@dataclass
class Logs:
    """What a node's pods have printed, as its kubelet serves it."""

    node: str
    said: dict[str, str] = field(default_factory=dict)
    """By the pod's name."""
    code: int = 200
    silent: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append({"container": request.match_info["container"], **request.query})
        if self.silent:
            await asyncio.sleep(3600)
        return web.Response(text=self.said.get(request.match_info["pod"], ""), status=self.code)


@contextlib.asynccontextmanager
async def serving_logs(client: Client, name: str) -> AsyncIterator[Logs]:
    """A Node on loopback. Its kubelet has the API server's own certificate, which is for the same address."""
    logs, app = Logs(name), web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    keys = Path(os.environ["KUBECONFIG"]).parent / "pki"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys / "apiserver.crt", keys / "apiserver.key")
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    await client.request("POST", "/api/v1/nodes", body={"metadata": {"name": name}})
    await client.request("PATCH", f"/api/v1/nodes/{name}/status", body={"status": status}, headers=MERGE_PATCH)
    try:
        yield logs
    finally:
        await client.request("DELETE", f"/api/v1/nodes/{name}")
        await runner.cleanup()


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION, 0))


def container_status(state: Object) -> Object:
    return {
        "name": CONTAINER,
        "state": state,
        "image": "jobs:dev",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
    }


async def ended(client: Client, job: Object) -> Object:
    """The Job once its controller has decided how it ended."""
    metadata = job["metadata"]
    async with patience(client, metadata["namespace"]):
        while True:
            stored = await objects.get(client, objects.JOBS, metadata["namespace"], metadata["name"])
            conditions = stored.get("status", {}).get("conditions", [])
            if any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions):
                return stored
            await asyncio.sleep(0.05)


Play = Callable[[Kubelet, Object], Awaitable[None]]
"""What becomes of a Job's pods."""


@contextlib.asynccontextmanager
async def node(client: Client, namespace: str, answer: Callable[[Task], Report]) -> AsyncIterator[list[str]]:
    """Runs every Job of the namespace: its pod leaves `answer` to its Task. Yields the names of those it ran."""

    async def leave(kubelet: Kubelet, job: Object) -> None:
        await kubelet.leave(job, answer(work_of(job).task))

    async with played(client, namespace, leave) as ran:
        yield ran


@contextlib.asynccontextmanager
async def played(client: Client, namespace: str, play: Play) -> AsyncIterator[list[str]]:
    """Plays every Job of the namespace, all at once. Yields their names."""
    ran: list[str] = []
    busy: set[asyncio.Task[None]] = set()

    async def serve() -> None:
        async for change in watch(client, objects.JOBS.path(namespace)):
            if isinstance(change, Seen) and change.object["metadata"]["uid"] not in seen:
                seen.add(change.object["metadata"]["uid"])
                ran.append(change.object["metadata"]["name"])
                busy.add(asyncio.create_task(persist(change.object)))

    async def persist(job: Object) -> None:
        """As a kubelet does: until the API server, which may be away, has heard of it."""
        while True:
            try:
                return await play(Kubelet(client), job)
            except (Temporary, TimeoutError):
                await asyncio.sleep(0.2)
            except Exception:
                logger.exception("the kubelet of the test lost Job %s", job["metadata"]["name"])
                raise

    seen: set[str] = set()
    serving = asyncio.create_task(serve())
    try:
        yield ran
    finally:
        for task in (serving, *busy):
            task.cancel()
        await asyncio.gather(serving, *busy, return_exceptions=True)
