"""Decisions carried out in a real API server: whole flows, killed after every write, on stale and broken views."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pydantic_core import to_json

from builders import job_dict, make_runtime, report_for, scopes
from kubelet import Kubelet, container_status, ended, node
from stories import use_up
from trimtab import plan
from trimtab.api.job import OptimizationJob
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import Report, Task
from trimtab.cluster import objects
from trimtab.cluster.client import APPLY_PATCH, MERGE_PATCH, Client, Object
from trimtab.cluster.watch import Gone, Seen, watch
from trimtab.conditions import find, is_finished, timestamp
from trimtab.controller import Controller
from trimtab.errors import Conflict, Unavailable
from trimtab.feeds import Feeds
from trimtab.manifests import job_manifest, work_of
from trimtab.queue import WorkQueue
from trimtab.snapshot import Name
from trimtab.world import RESOURCES, Key, Kind, World
from waiting import patience

pytestmark = pytest.mark.e2e


KIND = "ClusterOptimizationRuntime"


class Killed(BaseException):
    """What a killed process feels like from inside: nothing below runs any further."""


class Mortal(Client):
    """A client whose process dies right after its `lifetime`-th write has reached the API server."""

    lifetime: int | None = None
    writes: int = 0

    async def request(self, verb: str, *arguments: Any, **options: Any) -> Object:
        answer = await super().request(verb, *arguments, **options)
        self.writes += verb != "GET"
        if self.lifetime is not None and self.writes >= self.lifetime:
            raise Killed
        return answer


class Deaf(Mortal):
    """A client that hears no answer to any write of a status, though each is made."""

    async def request(self, verb: str, path: str, *arguments: Any, **options: Any) -> Object:
        answer = await super().request(verb, path, *arguments, **options)
        if verb == "PATCH" and path.endswith("/status"):
            raise Unavailable("the answer was lost")
        return answer


class Mute(Mortal):
    """A client that has to tell every event again."""

    tried: frozenset[str] = frozenset()

    async def request(self, verb: str, path: str, *arguments: Any, **options: Any) -> Object:
        if path.endswith("/events") and (name := options["body"]["metadata"]["name"]) not in self.tried:
            self.tried |= {name}
            raise Unavailable("it was not taken")
        return await super().request(verb, path, *arguments, **options)


@dataclass
class Life:
    """One life of the operator in one namespace, with plain watches in place of kopf's."""

    client: Mortal
    namespace: str
    world: World = field(default_factory=World)
    queue: WorkQueue[Key] = field(default_factory=lambda: WorkQueue(gap=0.05, backoff=(0.05, 1.0)))
    skew: timedelta = timedelta(0)
    """By how much its clock is ahead of the API server's."""

    def __post_init__(self) -> None:
        self.controller = Controller(self.client, self.world, self.queue, lambda: datetime.now(UTC) + self.skew)
        self.feeds = Feeds(self.client, self.world, self.queue, self.controller.pods, [self.namespace])

    async def follow(self, kind: Kind) -> None:
        async for change in watch(self.client, RESOURCES[kind].path(self.namespace)):
            if isinstance(change, Seen):
                self.feeds.seen(kind, change.object)
            elif isinstance(change, Gone):
                self.feeds.gone(kind, change.object)

    async def live(self) -> None:
        await self.feeds.load()
        listed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feeds.follow_cluster_runtimes())
            group.create_task(self.feeds.follow_jobs(self.namespace, listed))
            await listed.wait()
            for kind in Kind:
                group.create_task(self.follow(kind))
            for _ in range(4):
                group.create_task(self.queue.work(self.controller.handle))


@contextlib.asynccontextmanager
async def operator(
    namespace: str, skew: timedelta = timedelta(0), connected: type[Mortal] = Mortal
) -> AsyncIterator[Life]:
    """The operator alive in the background."""
    async with await connected.connect() as client:
        assert isinstance(client, Mortal)
        life = Life(client, namespace, skew=skew)
        async with operating(life):
            yield life


@contextlib.asynccontextmanager
async def operating(life: Life) -> AsyncIterator[None]:
    task = asyncio.create_task(life.live())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def lives_of(namespace: str, lifetime: int) -> int:
    """Live again and again, each life cut off after that many writes, until one has nothing to write; how often."""
    for count in range(200):
        if not await dies(namespace, lifetime):
            return count
    raise AssertionError("it never came to rest")


async def dies(namespace: str, lifetime: int) -> bool:
    """One life: True if it was cut off, False if the job had ended before."""
    async with await Mortal.connect() as client:
        assert isinstance(client, Mortal)
        client.lifetime = lifetime
        life = Life(client, namespace)
        task = asyncio.create_task(life.live())
        async with patience(client, namespace):
            while not task.done() and not finished(life.world, namespace):
                await asyncio.sleep(0.02)
            # The last turn may still have to tell of the end.
            await asyncio.wait([task], timeout=0.3)
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        return isinstance(end, BaseExceptionGroup)


def finished(world: World, namespace: str) -> bool:
    kept = world.get(Kind.JOB, (namespace, "m"))
    return kept is not None and is_finished(OptimizationJob.model_validate_json(kept.json).status.conditions)


async def submit(client: Client, namespace: str, name: str = "m", **spec: Any) -> OptimizationJob:
    manifest = job_dict(**spec)
    manifest["metadata"] = {"name": name, "namespace": namespace}
    return OptimizationJob.model_validate(await objects.create(client, objects.OPTIMIZATION_JOBS, manifest))


async def add_runtime(client: Client, namespace: str, **spec: Any) -> None:
    manifest = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "OptimizationRuntime",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"image": "jobs:dev", "store": {"uri": "pvc://store"}} | spec,
    }
    await objects.create(client, objects.OPTIMIZATION_RUNTIMES, manifest)


async def job_where(client: Client, namespace: str, name: str = "m", **wanted: str) -> OptimizationJobStatus:
    """The job's status once a condition of each type has the wanted reason."""
    async with patience(client, namespace):
        while True:
            job = OptimizationJob.model_validate(await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, name))
            found = {kind: find(job.status.conditions, kind) for kind in wanted}
            if all(c is not None and c.reason == wanted[kind] for kind, c in found.items()):
                return job.status
            await asyncio.sleep(0.05)


def message(status: OptimizationJobStatus, kind: str) -> str:
    found = find(status.conditions, kind)
    assert found is not None
    return found.message


@dataclass
class Simulated:
    """Answers Tasks with what healthy pods would report."""

    settings: dict[int, Mapping[str, str]] = field(default_factory=dict)

    def __call__(self, task: Task) -> Report:
        self.settings[task.trial or 0] = task.settings
        return report_for(task, scopes, self.settings)


def timeless(status: OptimizationJobStatus) -> dict[str, Any]:
    """A status without its moments."""
    wire = status.wire() | {"startTime": None, "completionTime": None}
    return wire | {"conditions": [c | {"lastTransitionTime": ""} for c in wire["conditions"]]}


async def jobs_of(client: Client, namespace: str) -> list[str]:
    return [job["metadata"]["name"] for job in (await client.request("GET", objects.JOBS.path(namespace)))["items"]]


async def taken_away(client: Client, namespace: str) -> None:
    async with patience(client, namespace):
        while await jobs_of(client, namespace):
            await asyncio.sleep(0.1)


async def shorten(client: Client, namespace: str, **spec: Any) -> None:
    """Edit the runtime, now that a test has seen what was there for longer."""
    path = objects.OPTIMIZATION_RUNTIMES.path(namespace, "default")
    await client.request("PATCH", path, body={"spec": spec}, headers=MERGE_PATCH)


async def at_rest(life: Life) -> None:
    """Until the operator has looked at the job as it is now, and has nothing to do at once."""
    path = objects.OPTIMIZATION_JOBS.path(life.namespace, "m")
    async with patience(life.client, life.namespace):
        while not _is_at_rest(life, await life.client.request("GET", path)):
            await asyncio.sleep(0.05)


def _is_at_rest(life: Life, stored: Object) -> bool:
    known = life.world.get(Kind.JOB, (life.namespace, "m"))
    same = known and known.version == int(stored["metadata"]["resourceVersion"])
    return bool(same and life.queue._idle.is_set() and not len(life.queue))


def test_a_flow_from_manifest_to_winner_and_what_it_costs(
    namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trimtab.statuses")
    monkeypatch.setattr("trimtab.cluster.pods.PATIENCE", timedelta(hours=1))  # a late pod costs more

    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()) as ran:
            await add_runtime(client, namespace)
            await submit(client, namespace)
            calls: Counter[tuple[str, str]] = Counter()
            async with operator(namespace) as life:
                life.client._observe = lambda verb, resource, code: calls.update([(verb, resource)])
                status = await job_where(client, namespace, Complete="Published")
                logged = f"{Key(Kind.JOB, (namespace, 'm'))}: Complete: {message(status, 'Complete')}"
                async with asyncio.timeout(60):
                    while logged not in caplog.messages:
                        await asyncio.sleep(0.05)
            assert len([line for line in caplog.messages if namespace in line and ": Complete: " in line]) == 1
            assert status.best is not None
            assert status.best.trial == 2
            assert [name.split("-", 2)[2] for name in ran] == [
                "inspect-0",
                "trial-1-0",
                "trial-2-0",
                "playoff-0",
                "publish-0",
            ]
            assert calls["POST", "jobs"] == 5
            assert calls["GET", "pods"] <= 5
            assert calls["PATCH", "optimizationjobs/status"] <= 8
            ours = ("optimizationjobs", "optimizationruntimes", "clusteroptimizationruntimes", "modelmonitors")
            assert set(calls) == {
                *(("GET", kind) for kind in (*ours, "jobs", "pods")),
                *(("WATCH", kind) for kind in (*ours, "jobs")),
                ("POST", "jobs"),
                ("POST", "events"),
                ("PATCH", "optimizationjobs/status"),
            }

    asyncio.run(main())


def test_killed_after_every_write_it_comes_to_the_same_end(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()) as ran:
            await add_runtime(client, namespace)
            job = await submit(client, namespace)
            assert await lives_of(namespace, 1) >= 10
            killed = await job_where(client, namespace, Complete="Published")
            assert len(ran) == len(set(ran)) == 5

            await objects.delete(client, objects.OPTIMIZATION_JOBS, namespace, "m", uid=job.metadata.uid)
            await taken_away(client, namespace)
            await submit(client, namespace)
            async with operator(namespace):
                undisturbed = await job_where(client, namespace, Complete="Published")
            assert timeless(killed) == timeless(undisturbed)

    asyncio.run(main())


def test_the_pods_of_trials_that_train_have_one_service_to_find_each_other_by(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()) as ran:
            await add_runtime(client, namespace, distributed={"numNodes": 2}, customCode="Allow")
            splits = ("train", "calibration", "evaluation", "holdout")
            job = await submit(
                client,
                namespace,
                model={"uri": "pvc://models/m.safetensors", "format": "PyTorch", "factory": "net:make"},
                data={split: {"uri": f"pvc://data/{split}.npz"} for split in splits},
                techniques=[{"distill": {"epochs": {"values": [1, 2]}}}],
            )
            await lives_of(namespace, 1)  # also between the Service and the Job that needs it
            assert await job_where(client, namespace, Complete="BaselineIsBest")
            assert len(ran) == len(set(ran)) == 5
            services = (await client.request("GET", objects.SERVICES.path(namespace)))["items"]
            assert [service["metadata"]["name"] for service in services] == [f"trimtab-{job.metadata.uid}"]

    asyncio.run(main())


def test_two_that_act_at_once_do_no_harm(namespace: str) -> None:
    """What the lease prevents, and what a write that is late in spite of it amounts to."""

    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()) as ran:
            await add_runtime(client, namespace)
            async with operator(namespace) as one, operator(namespace) as other:
                await submit(client, namespace)
                status = await job_where(client, namespace, Complete="Published")
                async with patience(client, namespace):
                    while not await told(client, namespace) >= TOLD:
                        await asyncio.sleep(0.1)
                for life in (one, other):  # each has been through the end, and leaves it at that
                    await at_rest(life)
            assert len(ran) == len(set(ran)) == 5
            assert status.best is not None
            assert status.best.trial == 2
            assert await told(client, namespace) == TOLD

    asyncio.run(main())


@pytest.mark.parametrize("connected", [Deaf, Mute])
def test_what_could_not_be_told_at_once_is_told(namespace: str, connected: type[Mortal]) -> None:
    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()) as ran:
            await add_runtime(client, namespace)
            await submit(client, namespace)
            async with operator(namespace, connected=connected), patience(client, namespace):
                while (found := await told(client, namespace))["Complete"] == 0:
                    await asyncio.sleep(0.1)
            assert (found, len(ran)) == (TOLD, 5)

    asyncio.run(main())


def test_work_that_a_late_leader_starts_again_is_ended(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace) as life:
            await add_runtime(client, namespace)
            async with node(client, namespace, Simulated()):
                await submit(client, namespace)
                await job_where(client, namespace, Complete="Published")
            job = OptimizationJob.model_validate(await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m"))
            late = plan.inspect(job.model_copy(update={"status": OptimizationJobStatus()}), make_runtime(), attempt=1)
            await objects.create(client, objects.JOBS, job_manifest(late, make_runtime(), job))
            async with patience(client, namespace):
                while (
                    late.name in await jobs_of(client, namespace)
                    or len(life.world.works.of(namespace, job.metadata.uid)) > 5
                ):
                    await asyncio.sleep(0.1)
            assert (await job_where(client, namespace, Complete="Published")).trials == job.status.trials

    asyncio.run(main())


TOLD = Counter({"Inspected": 1, "TrialSucceeded": 2, "SearchStopped": 1})
TOLD.update(["CandidateSelected", "Published", "Complete"])


async def told(client: Client, namespace: str) -> Counter[str]:
    """How often each of our events was told."""
    events = (await client.request("GET", objects.EVENTS.path(namespace)))["items"]
    return Counter(e["reason"] for e in events if e.get("reportingController") == "trimtab.dev/operator")


def test_a_stranger_with_our_label_is_passed_over(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            container = {"name": "x", "image": "x"}
            stranger = {
                "metadata": {"name": "stranger", "labels": {"trimtab.dev/managed": "true"}},
                "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
            }
            await client.request("POST", objects.JOBS.path(namespace), body=stranger)
            await add_runtime(client, namespace)
            async with operator(namespace) as life:
                await submit(client, namespace)
                await job_where(client, namespace, Complete="Inspecting")
                await client.request("DELETE", objects.JOBS.path(namespace, "stranger"))
                (work,) = set(await jobs_of(client, namespace)) - {"stranger"}
                (before,) = life.world.works
                await client.request("DELETE", objects.JOBS.path(namespace, work))
                # The operator has lived to see both deletions: it has started the work anew.
                async with patience(client, namespace):
                    while [record.uid for record in life.world.works] in ([], [before.uid]):
                        await asyncio.sleep(0.1)
            told = f"Job {namespace}/stranger belongs to no OptimizationJob of trimtab.dev; remove its label"
            assert told in caplog.text

    asyncio.run(main())


def test_suspended_and_resumed(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            await add_runtime(client, namespace)
            await submit(client, namespace)
            await job_where(client, namespace, Complete="Inspecting")
            path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
            await client.request("PATCH", path, body={"spec": {"suspend": True}}, headers=MERGE_PATCH)
            await job_where(client, namespace, Suspended="Suspended")
            await taken_away(client, namespace)
            await client.request("PATCH", path, body={"spec": {"suspend": False}}, headers=MERGE_PATCH)
            await job_where(client, namespace, Suspended="Resumed")
            async with node(client, namespace, Simulated()):
                await job_where(client, namespace, Complete="Published")

    asyncio.run(main())


def test_a_suspended_job_is_charged_with_the_gpus_that_its_pod_held(namespace: str) -> None:
    """One claim of a device and seven GPUs, for an hour."""
    spec = {
        "resources": {"limits": {"nvidia.com/gpu": "7"}},
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
        "schedulerName": "nobody",  # the cluster's, which finds no node, would contradict what the kubelet says
    }
    since = timestamp(datetime.now(UTC) - timedelta(hours=1))
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}
    ready = container_status({"running": {"startedAt": since}}) | {"ready": True}
    running = {"conditions": [placed, {"type": "Ready", "status": "True"}], "containerStatuses": [ready]}

    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            await add_runtime(client, namespace, **spec)
            await submit(client, namespace, budget={"gpuSeconds": 100_000})
            await job_where(client, namespace, Complete="Inspecting")
            (name,) = await jobs_of(client, namespace)
            await Kubelet(client).report(await objects.get(client, objects.JOBS, namespace, name), "Running", running)
            await edit(client, namespace, suspend=True)
            status = await job_where(client, namespace, Suspended="Suspended")
            assert 8 * 3600 <= float(status.cost.gpu_seconds) < 8 * 7200
            await taken_away(client, namespace)
            await edit(client, namespace, suspend=False)
            resumed = await job_where(client, namespace, Suspended="Resumed")
            assert resumed.cost.gpu_seconds == status.cost.gpu_seconds

    asyncio.run(main())


async def edit(client: Client, namespace: str, **spec: Any) -> None:
    path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
    await client.request("PATCH", path, body={"spec": spec}, headers=MERGE_PATCH)


def test_a_running_job_is_edited(namespace: str) -> None:
    """More trials, then a deadline that has passed already: each edit is acted on."""

    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            await add_runtime(client, namespace)
            quantize = {"operatorScope": ["All", "Compute"], "perChannel": [True, False]}
            await submit(client, namespace, techniques=[{"quantize": quantize}], search={"maxTrials": 1})
            await job_where(client, namespace, Complete="Inspecting")
            (inspect,) = (await client.request("GET", objects.JOBS.path(namespace)))["items"]
            await Kubelet(client).leave(inspect, Simulated()(work_of(inspect).task))
            assert (await job_where(client, namespace, Complete="Searching")).progress == "0/1"
            await edit(client, namespace, search={"maxTrials": 3, "parallelism": 3})
            async with patience(client, namespace):
                while (status := await job_where(client, namespace, Complete="Searching")).progress != "0/3":
                    await asyncio.sleep(0.05)
            assert len(status.trials) == len(await jobs_of(client, namespace)) == 4
            await edit(client, namespace, budget={"deadline": "1ms"})
            status = await job_where(client, namespace, Failed="DeadlineExceeded")
            assert status.observed_generation == 3
            async with patience(client, namespace):
                while len(await jobs_of(client, namespace)) > 1:
                    await asyncio.sleep(0.1)

    asyncio.run(main())


@pytest.mark.parametrize("moment", range(1, 14, 3))
def test_deleted_at_any_point_nothing_is_left(namespace: str, moment: int) -> None:
    """After so many writes of the operator."""

    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()):
            await add_runtime(client, namespace)
            job = await submit(client, namespace)
            async with operator(namespace) as life, patience(client, namespace):
                while life.client.writes < moment:
                    await asyncio.sleep(0.01)
                await objects.delete(client, objects.OPTIMIZATION_JOBS, namespace, "m", uid=job.metadata.uid)
                while await jobs_of(client, namespace) or life.world.works.of(namespace, job.metadata.uid):
                    await asyncio.sleep(0.1)
                while life.world.get(Kind.JOB, (namespace, "m")):
                    await asyncio.sleep(0.1)
            path = objects.OPTIMIZATION_JOBS.path(namespace)
            assert (await client.request("GET", path))["items"] == []

    asyncio.run(main())


def test_what_has_ended_is_taken_away_when_its_time_has_come(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()) as ran:
            await add_runtime(client, namespace, ttlSecondsAfterFinished=3600)
            await submit(client, namespace)
            calls: Counter[tuple[str, str]] = Counter()
            async with operator(namespace) as life, patience(client, namespace):
                await job_where(client, namespace, Complete="Published")
                assert len(await jobs_of(client, namespace)) == 5
                life.client._observe = lambda verb, resource, code: calls.update([(verb, resource)])
                await shorten(client, namespace, ttlSecondsAfterFinished=3)
                while not calls["DELETE", "jobs"] or await jobs_of(client, namespace):
                    await asyncio.sleep(0.1)
                await job_where(client, namespace, Complete="Published")
                assert (calls["DELETE", "jobs"], len(ran)) == (1, 5)

                await edit(client, namespace, ttlSecondsAfterFinished=4)
                path = objects.OPTIMIZATION_JOBS.path(namespace)
                while not calls["DELETE", "optimizationjobs"] or (await client.request("GET", path))["items"]:
                    await asyncio.sleep(0.1)
                assert calls["DELETE", "optimizationjobs"] == 1

    asyncio.run(main())


def test_the_jobs_of_one_whose_runtime_is_gone_do_not_stay_for_ever(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()):
            await add_runtime(client, namespace)
            await submit(client, namespace)
            async with operator(namespace):
                await job_where(client, namespace, Complete="Published")
                await client.request("DELETE", objects.OPTIMIZATION_RUNTIMES.path(namespace, "default"))
            # What only has the label of its UID is somebody's own, and nobody's to sweep away.
            uid = (await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m"))["metadata"]["uid"]
            container = {"name": "x", "image": "x"}
            debugging = {
                "metadata": {"name": "debugging", "namespace": namespace, "labels": {"trimtab.dev/job-uid": uid}},
                "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
            }
            await client.request("POST", objects.JOBS.path(namespace), body=debugging)
            assert len(await jobs_of(client, namespace)) == 6
            async with operator(namespace, skew=timedelta(days=1)), patience(client, namespace):
                while await jobs_of(client, namespace) != ["debugging"]:
                    await asyncio.sleep(0.1)

    asyncio.run(main())


def test_work_that_this_version_cannot_read_is_named_and_waited_for(namespace: str) -> None:
    """An operator that was rolled back finds what the later one started."""

    async def main() -> None:
        async with await Client.connect() as client:
            await add_runtime(client, namespace)
            job = await submit(client, namespace, budget={"deadline": "1h"})
            manifest = job_manifest(plan.inspect(job, make_runtime(), 0), make_runtime(), job)
            environment = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
            task = next(variable for variable in environment if variable["name"] == "TRIMTAB_TASK")
            task["value"] = json.dumps(json.loads(task["value"]) | {"target": {"engines": ["NewRuntime"]}})
            await objects.create(client, objects.JOBS, manifest)
            name = manifest["metadata"]["name"]
            async with operator(namespace) as life:
                status = await job_where(client, namespace, Accepted="InvalidInput")
                told = message(status, "Accepted")
                assert told.startswith(f"Job {name}: its Task cannot be read: target.engines.0: ")
                assert told.endswith("run the version of Trimtab that started it, or delete the Job")
                assert await jobs_of(client, namespace) == [name]
                await client.request("DELETE", objects.JOBS.path(namespace, name))
                async with node(client, namespace, Simulated()):
                    await job_where(client, namespace, Complete="Published")
                assert life.client.writes

    asyncio.run(main())


def test_a_runtime_that_comes_later_is_noticed(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            await submit(client, namespace)
            await job_where(client, namespace, Accepted="RuntimeNotFound")
            await add_runtime(client, namespace)
            await job_where(client, namespace, Complete="Inspecting")

    asyncio.run(main())


def test_the_cluster_s_runtimes_serve_and_bound_the_namespaces_they_allow(namespace: str) -> None:
    path = objects.CLUSTER_RUNTIMES.path(name=namespace)

    async def allow(client: Client, **spec: Any) -> None:
        body = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ClusterOptimizationRuntime"}
        body |= {"metadata": {"name": namespace}, "spec": {"image": "big:dev", "store": {"uri": "pvc://store"}} | spec}
        headers, query = APPLY_PATCH, [("fieldManager", "test"), ("force", "true")]
        await client.request("PATCH", path, query, body, headers)

    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            await add_runtime(client, namespace)
            await allow(client, allowedNamespaces=["elsewhere"])
            await submit(client, namespace, target={"runtimeRef": {"kind": KIND, "name": namespace}})
            status = await job_where(client, namespace, Accepted="RuntimeNotAllowed")
            assert "its allowedNamespaces are elsewhere" in message(status, "Accepted")
            assert await jobs_of(client, namespace) == []
            await allow(client, allowedNamespaces=["elsewhere", namespace])
            await job_where(client, namespace, Complete="Inspecting")
            (name,) = await jobs_of(client, namespace)
            job = await objects.get(client, objects.JOBS, namespace, name)
            assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "big:dev"

            await submit(client, namespace, name="own")
            await job_where(client, namespace, name="own", Complete="Inspecting")
            await allow(client, allowedNamespaces=[namespace], allowedImages=["registry.example.com/*"])
            status = await job_where(client, namespace, name="own", Accepted="ImageNotAllowed")
            assert "'jobs:dev' is not allowed" in message(status, "Accepted")
            await client.request("DELETE", path)
            await job_where(client, namespace, name="own", Complete="Inspecting")

    asyncio.run(main())


def test_a_job_waits_while_a_runtime_keeps_what_it_would_reach(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace) as life:
            await add_runtime(client, namespace)
            other = {"metadata": {"name": "other"}, "spec": make_runtime(store={"uri": "pvc://models"}).spec.wire()}
            header = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "OptimizationRuntime"}
            path = objects.OPTIMIZATION_RUNTIMES.path(namespace)
            await client.request("POST", path, body=header | other)
            async with patience(client, namespace):  # it comes by another watch than the job
                while life.world.get(Kind.RUNTIME, (namespace, "other")) is None:
                    await asyncio.sleep(0.05)
            await submit(client, namespace)
            status = await job_where(client, namespace, Accepted="AddressNotAllowed")
            kept = "spec.model.uri: pvc://models/m.onnx is in the store of OptimizationRuntime 'other'"
            assert message(status, "Accepted").startswith(kept)
            assert await jobs_of(client, namespace) == []
            await client.request("DELETE", f"{path}/other")
            await job_where(client, namespace, Complete="Inspecting")

            await submit(client, namespace, name="code", metrics={"custom": {"function": "mine:leak"}})
            await job_where(client, namespace, name="code", Accepted="CodeNotAllowed")
            allow = {"spec": {"customCode": "Allow"}}
            await client.request("PATCH", f"{path}/default", body=allow, headers=MERGE_PATCH)
            await job_where(client, namespace, name="code", Complete="Inspecting")

    asyncio.run(main())


def test_a_job_that_kubernetes_finds_invalid_waits_until_its_runtime_is_mended(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            # Only the API server's validation of pods knows that this cannot be.
            await add_runtime(client, namespace, resources={"limits": {"hugepages-2Mi": "2Mi"}})
            await submit(client, namespace)
            status = await job_where(client, namespace, Complete="JobRefused")
            assert message(status, "Complete").startswith("OptimizationRuntime 'default': POST /apis/batch/v1/")
            assert "HugePages require cpu or memory" in message(status, "Complete")
            assert not is_finished(status.conditions)
            assert await jobs_of(client, namespace) == []
            mended = {"spec": {"resources": {"limits": {"memory": "1Gi"}}}}
            path = objects.OPTIMIZATION_RUNTIMES.path(namespace, "default")
            await client.request("PATCH", path, body=mended, headers=MERGE_PATCH)
            status = await job_where(client, namespace, Complete="Inspecting")
            assert "HugePages" not in message(status, "Complete")
            assert [note for note in await told_of(client, namespace, "NotStarted") if "HugePages" in note]

    asyncio.run(main())


def test_an_invalid_job_counts_its_deadline(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            await add_runtime(client, namespace, resources={"limits": {"hugepages-2Mi": "2Mi"}})
            await submit(client, namespace, budget={"deadline": "1h"})
            await job_where(client, namespace, Complete="JobRefused")
            await edit(client, namespace, budget={"deadline": "4s"})
            await job_where(client, namespace, Failed="DeadlineExceeded")

    asyncio.run(main())


def test_a_trial_whose_job_is_refused_alone_sinks_nothing(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await add_runtime(client, namespace)
            job = await submit(client, namespace)
            taken = job_manifest(plan.trial(job, make_runtime(), 1, {}, 0), make_runtime(), job)
            del taken["metadata"]["ownerReferences"]
            await objects.create(client, objects.JOBS, taken | {"spec": taken["spec"] | {"suspend": True}})
            async with operator(namespace), node(client, namespace, Simulated()):
                status = await job_where(client, namespace, Complete="Published")
                _, refused, other = status.trials
                assert (refused.state, other.state) == ("Failed", "Succeeded")
                assert "belongs to somebody else: delete or rename it" in refused.message

    asyncio.run(main())


def test_the_deadline_of_a_job_without_quota_is_not_slept_through(namespace: str) -> None:
    async def main() -> None:
        async with await Mortal.connect() as client:
            assert isinstance(client, Mortal)
            await use_up(client, namespace)
            await add_runtime(client, namespace)
            await submit(client, namespace, budget={"deadline": "1h"})
            patient: WorkQueue[Key] = WorkQueue(backoff=(600, 600))
            async with operating(Life(client, namespace, queue=patient)):
                await job_where(client, namespace, Complete="QuotaExceeded")
                await edit(client, namespace, budget={"deadline": "4s"})
                await job_where(client, namespace, Failed="DeadlineExceeded")

    asyncio.run(main())


async def told_of(client: Client, namespace: str, reason: str) -> list[str]:
    """What the events with this reason say."""
    events = (await client.request("GET", objects.EVENTS.path(namespace)))["items"]
    return [event["note"] for event in events if event["reason"] == reason]


def test_a_quota_that_is_used_up_is_named_and_waited_for(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            quota = await use_up(client, namespace)
            await add_runtime(client, namespace)
            await submit(client, namespace)
            async with operator(namespace):
                first = await job_where(client, namespace, Complete="QuotaExceeded")
                async with patience(client, namespace):
                    while not await told_of(client, namespace, "NotStarted"):
                        await asyncio.sleep(0.05)
            assert "exceeded quota: q" in message(first, "Complete")
            assert first.state == "QuotaExceeded"
            # The next operator finds it as it was left, and tells nobody again.
            codes: Counter[int] = Counter()
            async with operator(namespace) as life, patience(client, namespace):
                life.client._observe = lambda verb, resource, code: codes.update([code])
                while codes[403] < 2:  # so that one turn is over
                    await asyncio.sleep(0.05)
                assert await job_where(client, namespace, Complete="QuotaExceeded") == first
                assert life.client.writes == 0
                await client.request("DELETE", quota)
                async with node(client, namespace, Simulated()):
                    status = await job_where(client, namespace, Complete="Published")
            assert "quota" not in message(status, "Complete")
            (note,) = await told_of(client, namespace, "NotStarted")
            assert "exceeded quota: q" in note

    asyncio.run(main())


def test_a_job_that_ends_while_it_is_to_be_deleted_keeps_its_result(namespace: str) -> None:
    async def main() -> None:
        async with still(namespace) as operator, node(operator.client, namespace, Simulated()):
            await operator.turn()
            (name,) = await jobs_of(operator.client, namespace)
            await ended(operator.client, {"metadata": {"namespace": namespace, "name": name}})
            path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
            suspended = await operator.client.request(
                "PATCH", path, body={"spec": {"suspend": True}}, headers=MERGE_PATCH
            )
            operator.life.feeds.seen(Kind.JOB, suspended)
            # Its view of the Job is from before it ended.
            with pytest.raises(Conflict):
                await operator.turn()
            assert len(await jobs_of(operator.client, namespace)) == 1

    asyncio.run(main())


@dataclass
class Still:
    """An operator whose world does not move by itself: views are what the test makes them."""

    life: Life
    client: Mortal

    async def turn(self, name: str = "m") -> float | None:
        return await self.life.controller.handle(Key(Kind.JOB, (self.life.namespace, name)))


@contextlib.asynccontextmanager
async def still(namespace: str) -> AsyncIterator[Still]:
    async with await Mortal.connect() as client:
        assert isinstance(client, Mortal)
        await add_runtime(client, namespace)
        await submit(client, namespace)
        life = Life(client, namespace)
        await life.feeds.load()
        yield Still(life, client)


@contextlib.contextmanager
def changed(world: World, kind: Kind, name: Name) -> Iterator[Object]:
    """An object in the operator's view, to be changed as no API server would let it."""
    kept = world.get(kind, name)
    assert kept is not None
    item = kept.object()
    yield item
    # A job keeps its version, or its status could not be written; of a runtime each version is read once.
    version = kept.version + (kind == Kind.RUNTIME)
    world.shelves[kind].homes[name[0]][name[1]] = replace(kept, json=to_json(item), version=version)


def test_a_stored_object_that_cannot_be_understood_says_so(namespace: str) -> None:
    async def main() -> None:
        async with still(namespace) as operator:

            def spoil() -> None:
                with changed(operator.life.world, Kind.JOB, (namespace, "m")) as item:
                    item["spec"]["search"]["algorithm"] = "Annealing"

            spoil()
            await operator.turn()
            status = await job_where(operator.client, namespace, Accepted="InvalidInput")
            assert "spec.search.algorithm: 'Annealing' is none of" in message(status, "Accepted")
            assert status.state == "InvalidInput"
            writes = operator.client.writes
            spoil()  # the answer to the write has replaced what we spoilt
            await operator.turn()
            assert operator.client.writes == writes

    asyncio.run(main())


def test_what_cannot_be_understood_any_more_changes_nothing_of_how_a_job_ended(namespace: str) -> None:
    """An operator that was rolled back finds what the later one let in."""

    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, Simulated()), still(namespace) as operator:
            async with operating(operator.life):
                ended = await job_where(client, namespace, Complete="Published")
            await submit(client, namespace, name="begun")
            await operator.life.feeds.load()
            spoilt = partial(changed, operator.life.world)
            with spoilt(Kind.RUNTIME, (namespace, "default")) as item:
                item["spec"]["customCode"] = "Ask"
            await operator.turn()
            await operator.turn("begun")
            waits = await job_where(client, namespace, name="begun", Accepted="InvalidInput")
            assert "default: spec.customCode: 'Ask' is none of" in message(waits, "Accepted")
            with spoilt(Kind.JOB, (namespace, "m")) as item:
                item["spec"]["search"]["algorithm"] = "Annealing"
            await operator.turn()
            with spoilt(Kind.JOB, (namespace, "m")) as item:
                item["status"]["trials"][1]["candidates"][0]["outcome"] = "Doubtful"
            await operator.turn()
            assert await job_where(client, namespace, Complete="Published") == ended

    asyncio.run(main())


def test_a_status_that_another_version_wrote_is_left_to_it(namespace: str) -> None:
    """Until it is back the job waits, and says for what; what it says is no news at the next turn."""

    async def main() -> None:
        async with still(namespace) as operator:
            await operator.turn()
            await operator.turn()
            before = await job_where(operator.client, namespace, Complete="Inspecting")

            def spoil() -> None:
                with changed(operator.life.world, Kind.JOB, (namespace, "m")) as item:
                    item["status"]["inspection"] = {"quality": "Perplexity"}

            spoil()
            await operator.turn()
            waits = await job_where(operator.client, namespace, Accepted="InvalidInput")
            assert "status.inspection.quality: 'Perplexity'" in message(waits, "Accepted")
            assert waits.start_time == before.start_time
            writes = operator.client.writes
            spoil()
            await operator.turn()
            assert operator.client.writes == writes

            with changed(operator.life.world, Kind.JOB, (namespace, "m")) as item:
                del item["status"]["inspection"]
            await operator.turn()
            assert timeless(await job_where(operator.client, namespace, Accepted="Pending")) == timeless(before)
            assert len(await jobs_of(operator.client, namespace)) == 1

    asyncio.run(main())


def test_a_stale_view_writes_nothing_and_is_renewed(namespace: str) -> None:
    async def main() -> None:
        async with still(namespace) as operator:
            path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
            await operator.client.request("PATCH", path, body={"metadata": {"labels": {"a": "b"}}}, headers=MERGE_PATCH)
            with pytest.raises(Exception, match="409"):
                await operator.turn()
            await operator.turn()
            await job_where(operator.client, namespace, Complete="Inspecting")
            assert len(await jobs_of(operator.client, namespace)) == 1

    asyncio.run(main())


def test_an_own_write_is_read_back_and_its_echo_is_no_news(namespace: str) -> None:
    async def main() -> None:
        async with still(namespace) as operator:
            await operator.turn()
            echo = await objects.get(operator.client, objects.OPTIMIZATION_JOBS, namespace, "m")
            assert not operator.life.world.shelves[Kind.JOB].put(echo)
            writes = operator.client.writes
            await operator.turn()
            assert operator.client.writes == writes

    asyncio.run(main())


@pytest.mark.parametrize("held", [False, True], ids=["gone", "going"])
def test_what_is_deleted_is_left_alone(namespace: str, held: bool) -> None:
    async def main() -> None:
        async with still(namespace) as operator:
            client, world = operator.client, operator.life.world
            path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
            if held:
                body = {"metadata": {"finalizers": ["example.com/hold"]}}
                await client.request("PATCH", path, body=body, headers=MERGE_PATCH)
            await client.request("DELETE", path)
            if held:
                world.shelves[Kind.JOB].put(await client.request("GET", path))
                writes = client.writes
                await operator.turn()
                assert client.writes == writes
            else:
                # Nobody told us: the status write finds out, and owner references take the Job away again.
                await operator.turn()
                assert world.get(Kind.JOB, (namespace, "m")) is None
                await taken_away(client, namespace)

    asyncio.run(main())


def test_an_audit_forgets_ghosts_and_finds_dead_watches(namespace: str) -> None:
    async def main() -> None:
        async with still(namespace) as operator:
            client, feeds = operator.client, operator.life.feeds
            path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
            await feeds.audit()
            assert (feeds.missed, feeds.dead) == ({}, [])

            await client.request("PATCH", path, body={"metadata": {"labels": {"a": "b"}}}, headers=MERGE_PATCH)
            await feeds.audit()
            assert (len(feeds.missed), feeds.dead) == (1, [])
            await feeds.audit()
            assert feeds.dead == ["the watch of optimizationjobs misses changes"]
            feeds.seen(Kind.JOB, await client.request("GET", path))
            await feeds.audit()
            assert (feeds.missed, feeds.dead) == ({}, [])

            await client.request("DELETE", path)
            await feeds.audit()
            assert operator.life.world.get(Kind.JOB, (namespace, "m")) is None
            assert feeds.dead == []

    asyncio.run(main())
