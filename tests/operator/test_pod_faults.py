"""What can befall a pod: at the first attempt of everything, at every attempt of a trial, at every attempt of Inspect.

The first leads to the end that there would have been, the second to a trial that says why it failed, the third to a job
that does. Pods are the Job controller's; what a kubelet, an eviction or a lost node makes of them is played by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from builders import broken
from kubelet import Kubelet, container_status, node, played
from stories import LIFETIME, listed, new_namespace, ours, stage_of, use_up
from trimtab.api.job import OptimizationJob
from trimtab.api.status import OptimizationJobStatus, TrialState
from trimtab.api.work import ErrorKind
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.decisions import Work
from trimtab.errors import NotFound
from trimtab.manifests import controller_of, work_of
from waiting import patience

from .test_cluster import bind, expire, silent_node
from .test_controller import Simulated, add_runtime, job_where, message, operator, submit

pytestmark = pytest.mark.e2e

Befall = Callable[[Kubelet, Object], Awaitable[None]]
RUNTIME: dict[str, Any] = {
    # Else the cluster's scheduler, which finds no node, contradicts what the kubelet says.
    "schedulerName": "nobody",
    "resources": {"limits": {"memory": "64Mi"}},
}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "jobs:dev"'}}
WRONG = "jobs:missing"
UNREACHABLE = "store: s3://models/store cannot be reached now (connection refused): mend the network"


async def evicted(kubelet: Kubelet, job: Object) -> None:
    await kubelet.report(job, "Failed", {"reason": "Evicted", "message": "The node was low on resource: memory."})


async def oom_killed(kubelet: Kubelet, job: Object) -> None:
    await kubelet.terminate(job, 137, reason="OOMKilled")


async def without_a_word(kubelet: Kubelet, job: Object) -> None:
    await kubelet.terminate(job, 0)


async def deleted(kubelet: Kubelet, job: Object) -> None:
    """By somebody's kubectl; the container ends on SIGTERM."""
    name = (await kubelet.pod_of(job))["metadata"]["name"]
    await kubelet.client.request("DELETE", objects.PODS.path(job["metadata"]["namespace"], name))
    await kubelet.terminate(job, 143)


async def store_unreachable(kubelet: Kubelet, job: Object) -> None:
    task = work_of(job).task
    await kubelet.leave(job, broken(task.stage, ErrorKind.TEMPORARY, UNREACHABLE, trial=task.trial))


async def image_missing(kubelet: Kubelet, job: Object) -> None:
    """The job says so while it waits."""
    scheduled = [{"type": "PodScheduled", "status": "True"}]
    waiting = {"conditions": scheduled, "containerStatuses": [container_status(NO_IMAGE)]}
    await kubelet.report(job, "Pending", waiting)
    owner, namespace = controller_of(job["metadata"]), job["metadata"]["namespace"]
    assert owner
    while True:
        stored = await objects.get(kubelet.client, objects.OPTIMIZATION_JOBS, namespace, owner["name"])
        conditions = stored.get("status", {}).get("conditions", [])
        told = {c["type"]: c["message"] for c in conditions}.get("Complete", "")
        if job["metadata"]["name"] in told and "wait: ImagePullBackOff: Back-off" in told.replace("waits:", "wait:"):
            return
        await asyncio.sleep(0.1)


async def drained(kubelet: Kubelet, job: Object) -> None:
    """As a drain, a preemption and the loss of a node leave it."""
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
    await kubelet.report(job, "Failed", {"conditions": [disruption]})


async def vanished(kubelet: Kubelet, job: Object) -> None:
    """Nothing is left of the pod, not even for its Job's controller to count."""
    name = (await kubelet.pod_of(job))["metadata"]["name"]
    path = objects.PODS.path(job["metadata"]["namespace"], name)
    await kubelet.client.request("PATCH", path, body={"metadata": {"finalizers": None}}, headers=MERGE_PATCH)
    await kubelet.client.request("DELETE", path, body={"gracePeriodSeconds": 0})


async def node_removed(kubelet: Kubelet, job: Object) -> None:
    """The machine is deleted under a running pod, which the pod garbage collector notices within two minutes."""
    pod = await kubelet.pod_of(job)
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    async with silent_node(kubelet.client, namespace):
        await bind(kubelet.client, pod, namespace)
        await kubelet.report(job, "Running", {"containerStatuses": [container_status({"running": {}})]})
    with contextlib.suppress(NotFound):
        while True:
            await objects.get(kubelet.client, objects.PODS, namespace, name)
            await asyncio.sleep(1)


@dataclass(frozen=True)
class Case:
    befall: Befall
    words: str = ""
    """What is said when it has befallen every attempt."""
    goes_on: bool = False
    """The same Job comes to its end after all, with this pod or another."""


CASES = {
    "evicted": Case(evicted, "Evicted: The node was low on resource: memory."),
    "OOM-killed": Case(oom_killed, "OOMKilled: the pod needed more memory than 64Mi: raise the runtime's memory limit"),
    "without a word": Case(without_a_word, "the pod left no report that can be read"),
    "deleted": Case(deleted, "the pod was deleted before its report was read"),
    "store unreachable": Case(store_unreachable, UNREACHABLE),
    "image missing": Case(image_missing, "its pod was waiting: ImagePullBackOff: Back-off pulling image", goes_on=True),
    "drained": Case(drained, goes_on=True),
    "vanished": Case(vanished, goes_on=True),
}
WORKS = ["inspect-0", "playoff-0", "publish-0", "trial-1-0", "trial-2-0"]
SECOND = [name.replace("-0", "-1") for name in WORKS]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pods", "endings"):
        monkeypatch.setattr(f"trimtab.cluster.{module}.PATIENCE", timedelta(seconds=0.2))
    monkeypatch.setattr("trimtab.cluster.pods.INTERVAL", timedelta(seconds=1))


@dataclass(frozen=True)
class Lived:
    status: OptimizationJobStatus
    works: list[str]
    events: list[str]


async def lived(client: Client, case: Case, befallen: Callable[[Work], bool], lasting: bool = False) -> Lived:
    """A job's life, in which that befalls some work: all attempts at it if it is `lasting`."""
    namespace, simulated = await new_namespace(client), Simulated()

    async def play(kubelet: Kubelet, job: Object) -> None:
        work = work_of(job)
        befalls = befallen(work)
        if befalls:
            await case.befall(kubelet, job)
        if befalls and case.goes_on and lasting:
            await expire(kubelet.client, job, 1)
        elif case.goes_on or not befalls:
            await kubelet.leave(job, simulated(work.task))

    async with played(client, namespace, play) as ran, operator(namespace):
        await add_runtime(client, namespace, **RUNTIME)
        await submit(client, namespace)
        events = await told_all(client, namespace)
    (job,) = await listed(client, objects.OPTIMIZATION_JOBS, namespace)
    return Lived(OptimizationJob.model_validate(job).status, sorted(stage_of(name) for name in ran), events)


async def told_all(client: Client, namespace: str) -> list[str]:
    """The reasons of our events, once the last has been told."""
    async with patience(client, namespace, LIFETIME):
        while True:
            found = [e["reason"] for e in await listed(client, objects.EVENTS, namespace) if ours(e)]
            if {"Complete", "Failed"} & {*found}:
                return found
            await asyncio.sleep(0.1)


def all_cases(client_test: Callable[[Client, str], Awaitable[None]], names: Iterable[str]) -> None:
    """One after the other they would mostly wait."""

    async def main() -> None:
        async with await Client.connect() as client, asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(client_test(client, name), name=name)

    asyncio.run(main())


REPLACED = ("drained", "vanished")
"""The Job controller waits for ten seconds and longer before it replaces a pod."""


@pytest.mark.parametrize(
    "names",
    [[name for name in CASES if name not in REPLACED], pytest.param(REPLACED, marks=pytest.mark.full)],
    ids=["quick", "slow"],
)
def test_at_the_first_attempt_of_everything_it_changes_nothing(kubeconfig: str, names: Sequence[str]) -> None:
    async def test(client: Client, name: str) -> None:
        life = await lived(client, CASES[name], lambda work: work.attempt == 0)
        assert life.works == (WORKS if CASES[name].goes_on else sorted([*WORKS, *SECOND])), name
        assert (life.status.state, life.status.best and life.status.best.trial) == ("Published", 2), name
        assert [life.events.count(reason) for reason in ("Published", "TrialFailed")] == [1, 0], name

    all_cases(test, names)


@pytest.mark.full
def test_a_node_that_is_removed_under_a_trial_changes_nothing(kubeconfig: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            case = Case(node_removed, goes_on=True)
            life = await lived(client, case, lambda work: work.task.trial == 1)
            assert (life.works, life.status.state) == (WORKS, "Published")

    asyncio.run(main())


LASTING = [
    [name for name, case in CASES.items() if case.words and not case.goes_on],
    pytest.param(["image missing"], marks=pytest.mark.full),
]


@pytest.mark.parametrize("names", LASTING, ids=["quick", "slow"])
def test_at_every_attempt_of_a_trial_it_costs_that_trial(kubeconfig: str, names: list[str]) -> None:
    async def test(client: Client, name: str) -> None:
        life = await lived(client, CASES[name], lambda work: work.task.trial == 1, lasting=True)
        assert life.works == sorted([*WORKS, "trial-1-1", "trial-1-2"]), name
        assert (life.status.state, life.status.best and life.status.best.trial) == ("Published", 2), name
        failed = life.status.trials[1]
        assert failed.state == TrialState.FAILED
        assert failed.message.startswith("Trial failed 3 times, at last with: ")
        assert CASES[name].words in failed.message
        assert [life.events.count(reason) for reason in ("Published", "TrialFailed")] == [1, 1], name

    all_cases(test, names)


@pytest.mark.parametrize("names", LASTING, ids=["quick", "slow"])
def test_at_every_attempt_of_inspect_the_job_says_why_it_failed(kubeconfig: str, names: list[str]) -> None:
    async def test(client: Client, name: str) -> None:
        life = await lived(client, CASES[name], lambda work: True, lasting=True)
        assert life.works == ["inspect-0", "inspect-1", "inspect-2"], name
        told = message(life.status, "Failed")
        assert (life.status.state, told.startswith("Inspect failed 3 times, at last with: ")) == ("WorkFailed", True)
        assert CASES[name].words in told

    all_cases(test, names)


def test_a_quota_of_pods_is_named_and_a_job_goes_on_once_it_is_lifted(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client, operator(namespace):
            quota = await use_up(client, namespace, "pods")
            await add_runtime(client, namespace, **RUNTIME)
            await submit(client, namespace)
            waiting = await job_where(client, namespace, Complete="QuotaExceeded")
            assert "inspect-0 waits: no pod can be created: exceeded quota: q" in message(waiting, "Complete")
            assert waiting.state == "QuotaExceeded"
            await client.request("DELETE", quota)
            async with node(client, namespace, Simulated()) as ran:
                done = await job_where(client, namespace, Complete="Published")
            assert (sorted(stage_of(name) for name in ran), "quota" in message(done, "Complete")) == (WORKS, False)
            events = [e["reason"] for e in await listed(client, objects.EVENTS, namespace) if ours(e)]
            assert events.count("NotStarted") == 1

    asyncio.run(main())


def test_a_pod_that_waits_for_an_image_is_made_anew_when_its_runtime_has_another(namespace: str) -> None:
    async def main() -> None:
        simulated = Simulated()

        async def play(kubelet: Kubelet, job: Object) -> None:
            if job["spec"]["template"]["spec"]["containers"][0]["image"] == WRONG:
                await image_missing(kubelet, job)
            else:
                await kubelet.leave(job, simulated(work_of(job).task))

        async with await Client.connect() as client, played(client, namespace, play) as ran, operator(namespace):
            await add_runtime(client, namespace, **RUNTIME | {"image": WRONG})
            await submit(client, namespace)
            async with patience(client, namespace):
                while "Back-off" not in message(await job_where(client, namespace, Complete="Inspecting"), "Complete"):
                    await asyncio.sleep(0.1)
            path = objects.OPTIMIZATION_RUNTIMES.path(namespace, "default")
            await client.request("PATCH", path, body={"spec": {"image": "jobs:dev"}}, headers=MERGE_PATCH)
            await job_where(client, namespace, Complete="Published")
            assert sorted(stage_of(name) for name in ran) == ["inspect-0", *WORKS]

    asyncio.run(main())
