"""A node without containers: its kubelet runs the Task of each pod as a process of this machine.

What is real: the control plane, the scheduler that gives a pod this node, claims bound to volumes, the command,
variables and exit code of the container, its termination message, and an end by SIGTERM. What is not: images, users,
security contexts, limits, read-only mounts, the network. A test on this node says so (`WARNING`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.api.work import MESSAGE_VARIABLE, VOLUMES_VARIABLE
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.watch import Seen, watch
from trimtab.errors import NotFound, Temporary

WARNING = "PROCESSES, NO CONTAINERS: pods ran as this user, without image, isolation or limits"
NODE = "processes"
REPOSITORY = Path(__file__).parents[1]
SOURCES = f"{REPOSITORY / 'operator'}:{REPOSITORY / 'jobs'}"
HEARTBEAT = 10.0
"""Seconds; the node counts as lost after 50 without one."""
STOPPED = ("/bin/sh", "-c", 'kill -STOP $$; exec "$@"', "sh")
LOG_KEPT = 2048
"""Bytes of a log's end that stand in for a termination message."""
NODES = objects.Resource("/api/v1", "nodes")
VOLUMES = objects.Resource("/api/v1", "persistentvolumes")
CLAIMS = objects.Resource("/api/v1", "persistentvolumeclaims")
HEARTBEATS = "kube-node-lease"
TAINT = {"key": "trimtab.dev/processes", "effect": "NoSchedule"}
PLACED = {
    "nodeSelector": {"kubernetes.io/hostname": NODE},
    "tolerations": [{"key": TAINT["key"], "operator": "Exists"}],
}
"""For a runtime whose pods are to run here; what other tests left waiting for a node is not."""


@dataclass
class ProcessNode:
    """Runs the pods of one namespace."""

    client: Client
    namespace: str
    folder: Path
    code: Mapping[str, str] = field(default_factory=dict)
    """Where Python finds the code of an image, if it is not this checkout's."""
    hold: str | None = None
    """The pods of Jobs whose name ends so are stopped (SIGSTOP) before their program begins: they run as long as a test
    likes, however fast the machine is."""
    ran: list[str] = field(default_factory=list)
    """The names of the pods that were started."""
    _pods: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _processes: dict[str, Process] = field(default_factory=dict)
    _jobs: dict[str, str] = field(default_factory=dict)
    """The Jobs that started pods are of. All of these by the pod's UID."""
    _leaving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Pods that are being deleted, by UID."""

    async def register(self) -> None:
        """Be a node that is ready, as the scheduler and the node controller want it."""
        await self._beat("POST")
        labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}
        body = {"metadata": {"name": NODE, "labels": labels}, "spec": {"taints": [TAINT]}}
        await self.client.request("POST", NODES.path(), body=body)
        room = {"cpu": "64", "memory": "256Gi", "pods": "100", "ephemeral-storage": "100Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": WARNING}
        ready |= {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        path = NODES.path(name=NODE, part="status")
        await self.client.request("PATCH", path, body={"status": status}, headers=MERGE_PATCH)

    async def leave(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        tasks = [*self._pods.values(), *self._leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for path in (NODES.path(name=NODE), objects.LEASES.path(HEARTBEATS, NODE)):
            with contextlib.suppress(NotFound):
                await self.client.request("DELETE", path)

    async def held(self) -> None:
        """Until a pod that is to be held has stopped itself. One that is told to go on before stops all the same."""
        while not any(_is_stopped(process.pid) for process in self._held()):
            await asyncio.sleep(0.05)

    def release(self) -> None:
        """Hold no other, and let those go on that have stopped."""
        for process in self._held():
            process.send_signal(signal.SIGCONT)
        self.hold = None

    def _held(self) -> list[Process]:
        of_job = [process for uid, process in self._processes.items() if self._is_to_stop(uid)]
        return [process for process in of_job if process.returncode is None]

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            with contextlib.suppress(Temporary):  # as a kubelet, it tries again
                await self._beat("PATCH")

    async def _beat(self, verb: str) -> None:
        lease = {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": f"{_now()[:-1]}.000000Z"}
        path = objects.LEASES.path(HEARTBEATS, None if verb == "POST" else NODE)
        headers = {} if verb == "POST" else MERGE_PATCH
        await self.client.request(verb, path, body={"metadata": {"name": NODE}, "spec": lease}, headers=headers)

    async def serve(self) -> None:
        """Run the pods that get this node, and see those off that are deleted."""
        mine = [("fieldSelector", f"spec.nodeName={NODE}")]
        async for change in watch(self.client, objects.PODS.path(self.namespace), mine):
            if not isinstance(change, Seen):
                continue
            pod, uid = change.object, change.object["metadata"]["uid"]
            if pod["metadata"].get("deletionTimestamp"):
                if uid not in self._leaving:
                    self._leaving[uid] = asyncio.create_task(self._see_off(pod))
            elif uid not in self._pods:
                self.ran.append(pod["metadata"]["name"])
                self._jobs[uid] = pod["metadata"]["labels"]["job-name"]
                self._pods[uid] = asyncio.create_task(self._run(pod))

    async def _see_off(self, pod: Object) -> None:
        """SIGTERM, and once it has ended the pod goes."""
        uid = pod["metadata"]["uid"]
        self._end(uid)
        if task := self._pods.get(uid):
            await asyncio.wait([task], timeout=pod["spec"].get("terminationGracePeriodSeconds", 30))
        with contextlib.suppress(NotFound):
            await self.client.request("DELETE", _path(pod), body={"gracePeriodSeconds": 0})

    def _end(self, uid: str) -> None:
        if (process := self._processes.get(uid)) and process.returncode is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # what is stopped hears nothing else

    def _is_to_stop(self, uid: str) -> bool:
        return self.hold is not None and self._jobs[uid].endswith(self.hold)

    async def _run(self, pod: Object) -> None:
        home = self.folder / pod["metadata"]["uid"]
        home.mkdir()
        (container,) = pod["spec"]["containers"]
        log, message, began = home / "log", home / "message", _now()
        message.touch()
        variables = os.environ | _variables(container) | await self._instead(pod, container, home)
        with log.open("wb") as stream:
            stopped = STOPPED if self._is_to_stop(pod["metadata"]["uid"]) else ()
            program = [*stopped, sys.executable, *container["command"][1:]]
            process = await asyncio.create_subprocess_exec(
                *program, env=variables, cwd=home, stdout=stream, stderr=stream
            )
            self._processes[pod["metadata"]["uid"]] = process
            if pod["metadata"]["uid"] in self._leaving:
                self._end(pod["metadata"]["uid"])
            await self._tell(pod, "Running", {"running": {"startedAt": began}}, ready=True)
            code = await process.wait()
        said = message.read_text() or ("" if code == 0 else log.read_text(errors="replace")[-LOG_KEPT:])
        code = 128 - code if code < 0 else code
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": said}
        ended |= {"startedAt": began, "finishedAt": _now()}
        with contextlib.suppress(NotFound):
            await self._tell(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    async def _instead(self, pod: Object, container: Object, home: Path) -> dict[str, str]:
        """What a container has by mounts, a process has by variables: claims, the message's file, a home."""
        folders = {v["name"]: await self._folder(pod, v) for v in pod["spec"]["volumes"]}
        mounted = {mount["mountPath"]: folders[mount["name"]] for mount in container["volumeMounts"]}
        given = json.loads(_variables(container)[VOLUMES_VARIABLE])
        claims = {claim: str(mounted[path]) for claim, path in given.items()}
        sources = self.code.get(container["image"], SOURCES)
        home_of = {"HOME": str(home), "TMPDIR": str(folders["tmp"]), "PYTHONPATH": sources}
        return {VOLUMES_VARIABLE: json.dumps(claims), MESSAGE_VARIABLE: str(home / "message"), **home_of}

    async def _folder(self, pod: Object, volume: Object) -> Path:
        """The folder behind a volume, as bound in the cluster."""
        if "persistentVolumeClaim" not in volume:
            return Path(tempfile.mkdtemp(dir=self.folder))
        namespace, name = pod["metadata"]["namespace"], volume["persistentVolumeClaim"]["claimName"]
        claim = await objects.get(self.client, CLAIMS, namespace, name)
        bound = await self.client.request("GET", VOLUMES.path(name=claim["spec"]["volumeName"]))
        return Path(bound["spec"]["hostPath"]["path"])

    async def _tell(self, pod: Object, phase: str, state: Object, ready: bool = False) -> None:
        (container,) = pod["spec"]["containers"]
        about = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": _now()}]
        kept = [c for c in pod["status"].get("conditions", []) if c["type"] != "Ready"]
        status = {"phase": phase, "startTime": _now(), "conditions": [*kept, *conditions]}
        status["containerStatuses"] = [{**about, "ready": ready, "state": state}]
        await self.client.request("PATCH", f"{_path(pod)}/status", body={"status": status}, headers=MERGE_PATCH)


def _variables(container: Mapping[str, Any]) -> dict[str, str]:
    """As the kubelet expands them: $(NAME) is the value of one before, and $$ is $."""
    given: dict[str, str] = {}
    for variable in container.get("env", []):
        given[variable["name"]] = _expanded(variable.get("value", ""), given)
    return given


def _expanded(text: str, known: Mapping[str, str]) -> str:
    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):  # it is gone
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _path(pod: Object) -> str:
    return objects.PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.asynccontextmanager
async def process_node(
    client: Client, namespace: str, folder: Path, code: Mapping[str, str] | None = None
) -> AsyncIterator[ProcessNode]:
    """The node in the cluster, for as long as the context lasts. It says loudly what it is."""
    sys.stderr.write(f"\n{WARNING}\n")
    node = ProcessNode(client, namespace, folder, code or {})
    await node.register()
    tasks = [asyncio.create_task(node.serve()), asyncio.create_task(node.beat())]
    try:
        yield node
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await node.leave()


async def add_claim(client: Client, namespace: str, name: str, folder: Path) -> None:
    """A claim, and the volume that is this folder."""
    folder.mkdir(exist_ok=True)
    common = {"accessModes": ["ReadWriteMany"]}
    size = {"storage": "1Gi"}
    reference = {"namespace": namespace, "name": name}
    volume = {**common, "capacity": size, "claimRef": reference, "hostPath": {"path": str(folder)}}
    body = {"metadata": {"name": f"{namespace}-{name}"}, "spec": {**volume, "persistentVolumeReclaimPolicy": "Retain"}}
    await client.request("POST", VOLUMES.path(), body=body)
    claim = {"metadata": {"name": name}, "spec": {**common, "resources": {"requests": size}}}
    await client.request("POST", CLAIMS.path(namespace), body=claim)


async def pods_of(client: Client, namespace: str) -> list[Object]:
    return list((await client.request("GET", objects.PODS.path(namespace)))["items"])
