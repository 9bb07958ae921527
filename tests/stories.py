"""Whole lives under an operator, for tests that disturb it: how one begins, when it is over, what it came to.

Whoever runs the operator, and disturbs it, is the test's; the API server and its controllers are real, and pods are
ended by the kubelet played by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from builders import broken, job_dict
from kubelet import node
from monitors import make_monitor
from operators import answer, create_runtime
from ports import free_port
from trimtab.api.work import ErrorKind, Report, Stage, Task
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.errors import Forbidden, Temporary
from trimtab.settings import Settings
from waiting import patience

BROKEN_TRIAL = 3
WORKS = ["inspect-0", "playoff-0", "publish-0", "trial-1-0", "trial-2-0", "trial-3-0", "trial-4-0"]
"""Every Job of a life: four trials, two at a time, one of them fails for good."""
TOLD = {"Inspected": 1, "TrialSucceeded": 3, "TrialFailed": 1, "SearchStopped": 1}
TOLD |= {"CandidateSelected": 1, "Published": 1, "Complete": 1}
WINNER = 4
TTL = 1
LIFETIME = 900.0
"""Seconds that a life may take on a busy machine: with four others on its core, one took more than 240."""


@dataclass(frozen=True)
class Story:
    begin: Callable[[Client, str, int], AbstractAsyncContextManager[None]]
    """In a namespace, whose operator listens on this port."""
    over: Callable[[Client, str], Awaitable[bool]]
    events: Counter[str]


@dataclass(frozen=True)
class Life:
    """What an observer sees in the end."""

    end: dict[str, Any]
    works: list[str]
    events: Counter[str]

    def check(self, story: Story, like: Life | None = None, told_all: bool = True) -> None:
        """That it is what the story is about, and has come to the same end as another; an event may have been lost."""
        assert self.works == WORKS
        assert self.end["job"]["best"]["trial"] == WINNER
        assert self.events <= story.events, "nothing is told twice"
        if told_all:
            assert self.events == story.events
        assert like is None or self.end == like.end


async def live(
    client: Client, story: Story, operate: Callable[[Settings], AbstractAsyncContextManager[None]], folder: Path
) -> Life:
    """A life from its beginning to its end, in a namespace of its own."""
    namespace = await new_namespace(client)
    token = folder / "token"
    token.write_text("s3cret")
    settings = Settings(watch_namespaces=[namespace], http_port=free_port(), alerts_token_file=str(token))
    async with (
        node(client, namespace, report()) as ran,
        story.begin(client, namespace, settings.http_port),
        operate(settings),
    ):
        await _lived(client, story, namespace)
    events = await listed(client, objects.EVENTS, namespace)
    return Life(
        end=await remembered(client, namespace),
        works=sorted(stage_of(name) for name in ran),
        events=Counter(e["reason"] for e in events if ours(e)),
    )


async def _lived(client: Client, story: Story, namespace: str) -> None:
    async with patience(client, namespace, LIFETIME):
        while not await _is_over(client, story, namespace):
            await asyncio.sleep(0.2)


async def _is_over(client: Client, story: Story, namespace: str) -> bool:
    try:
        return await story.over(client, namespace)
    except Temporary:
        return False  # the API server is away


async def new_namespace(client: Client) -> str:
    made = await client.request("POST", "/api/v1/namespaces", body={"metadata": {"generateName": "test-"}})
    name = str(made["metadata"]["name"])
    async with patience(client, name):  # pods need its account, which appears a moment later
        while not (await client.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts"))["items"]:
            await asyncio.sleep(0.05)
    return name


def report() -> Callable[[Task], Report]:
    """What pods leave: one trial fails for good, the others are as `scopes` has them."""
    healthy = answer()

    def left(task: Task) -> Report:
        if task.trial == BROKEN_TRIAL:
            return broken(Stage.TRIAL, ErrorKind.PERMANENT, "this layer cannot be quantized", trial=task.trial)
        done: Report = healthy(task)
        return done

    return left


def spec() -> dict[str, Any]:
    quantize = {"operatorScope": ["All", "Compute"], "perChannel": [True, False]}
    wanted: dict[str, Any] = job_dict(techniques=[{"quantize": quantize}], search={"parallelism": 2})["spec"]
    return wanted


@contextlib.asynccontextmanager
async def a_job(client: Client, namespace: str, _port: int) -> AsyncIterator[None]:
    await create_runtime(client, namespace, ttlSecondsAfterFinished=TTL)
    metadata = {"name": "m", "namespace": namespace}
    await objects.apply(client, objects.OPTIMIZATION_JOBS, job_dict() | {"metadata": metadata, "spec": spec()})
    yield


@contextlib.asynccontextmanager
async def an_alert(client: Client, namespace: str, port: int) -> AsyncIterator[None]:
    """A monitor whose alert fires until its job has ended."""
    await create_runtime(client, namespace, ttlSecondsAfterFinished=TTL)
    manifest = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ModelMonitor",
        "metadata": {"name": "magika", "namespace": namespace},
        "spec": make_monitor(jobTemplate={"spec": spec()}).spec.wire(),
    }
    uid = (await objects.apply(client, objects.MODEL_MONITORS, manifest))["metadata"]["uid"]
    sending = asyncio.create_task(_alertmanager(client, namespace, uid, port))
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _alertmanager(client: Client, namespace: str, uid: str, port: int) -> None:
    """Sends both notifications until each has been acknowledged, as Alertmanager does."""
    labels = {"alertname": "ModelDriftDetected", "namespace": namespace, "modelmonitor": "magika"}
    alert = {"labels": labels | {"modelmonitor_uid": uid}, "fingerprint": "d1", "startsAt": "2026-01-01T00:00:00Z"}
    await _acknowledged(port, alert | {"status": "firing", "endsAt": "0001-01-01T00:00:00Z"})
    while not [job for job in await listed(client, objects.OPTIMIZATION_JOBS, namespace) if ended(job)]:
        await asyncio.sleep(0.2)
    await _acknowledged(port, alert | {"status": "resolved", "endsAt": "2026-01-01T01:00:00Z"})


async def _acknowledged(port: int, alert: Object) -> None:
    body = {"version": "4", "status": alert["status"], "alerts": [alert]}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer s3cret"}) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(f"http://127.0.0.1:{port}/alerts", json=body) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.2)


POD = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
QUOTAS: dict[str, tuple[objects.Resource, Object]] = {
    "pods": (objects.PODS, {"spec": POD}),
    "count/jobs.batch": (objects.JOBS, {"spec": {"template": {"spec": POD}}}),
    "count/optimizationjobs.trimtab.dev": (objects.OPTIMIZATION_JOBS, job_dict()),
}
"""What a quota may be of, and one of these."""


async def use_up(client: Client, namespace: str, what: str = "count/jobs.batch") -> str:
    """A quota of none at all, which is kept from now on; its path."""
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    used_up = {"hard": {what: "0"}}
    await client.request("POST", quotas, body={"metadata": {"name": "q"}, "spec": used_up})
    # What its controller counts, which takes minutes to hear of a new kind.
    status = used_up | {"used": {what: "0"}}
    await client.request("PATCH", f"{quotas}/q/status", body={"status": status}, headers=MERGE_PATCH)
    kind, body = QUOTAS[what]
    await refused(client, kind, body | {"metadata": {"name": "x", "namespace": namespace}}, "exceeded quota")
    return f"{quotas}/q"


async def refused(client: Client, kind: objects.Resource, body: Object, words: str) -> None:
    """Until the API server would not take this object: its admission hears of what it keeps a moment later."""
    namespace = body["metadata"]["namespace"]
    async with patience(client, namespace):
        while words not in await _refusal(client, kind.path(namespace), body):
            await asyncio.sleep(0.05)


async def _refusal(client: Client, path: str, body: Object) -> str:
    try:
        await client.request("POST", path, [("dryRun", "All")], body)
    except Forbidden as error:
        return str(error)
    return ""


async def listed(client: Client, resource: objects.Resource, namespace: str) -> list[Object]:
    return list((await client.request("GET", resource.path(namespace)))["items"])


def ours(event: Object) -> bool:
    return event.get("reportingController") == "trimtab.dev/operator"


def ended(job: Object) -> bool:
    return bool(job.get("status", {}).get("completionTime"))


async def _swept(client: Client, namespace: str) -> bool:
    """There is one OptimizationJob, and it has ended; its Jobs have been taken away."""
    jobs = await listed(client, objects.OPTIMIZATION_JOBS, namespace)
    return [ended(job) for job in jobs] == [True] and not await listed(client, objects.JOBS, namespace)


async def _calm(client: Client, namespace: str) -> bool:
    """The alert is over, its job has ended, and the monitor, which knows it, says no more than that it watches."""
    monitor = await objects.get(client, objects.MODEL_MONITORS, namespace, "magika")
    status = monitor.get("status", {})
    resolved = [(trigger["state"], bool(trigger.get("job"))) for trigger in status.get("triggers", [])]
    return resolved == [("Resolved", True)] and status.get("state") == "Watching" and await _swept(client, namespace)


JOB = Story(a_job, _swept, Counter(TOLD))
MONITOR = Story(an_alert, _calm, Counter(TOLD | {"Triggered": 1, "Resolved": 1}))


def stage_of(name: str) -> str:
    """Of `m-0123abcd-trial-1-0`, what does not depend on the job's name and UID."""
    found = re.search(r"(inspect|trial-\d+|playoff|publish)-\d+$", name)
    assert found, name
    return found.group()


async def remembered(client: Client, namespace: str) -> dict[str, Any]:
    """What the statuses say in the end, without moments and without names made of UIDs."""
    (job,) = await listed(client, objects.OPTIMIZATION_JOBS, namespace)
    monitors = await listed(client, objects.MODEL_MONITORS, namespace)
    said = {"job": job["status"], "monitors": [monitor["status"] for monitor in monitors]}
    text = json.dumps(said, sort_keys=True).replace(job["metadata"]["name"], "JOB")
    return dict(json.loads(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)))
