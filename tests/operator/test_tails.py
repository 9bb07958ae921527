"""How far long pods are, from a real API server that asks a kubelet on loopback for the end of their logs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from builders import make_runtime
from kubelet import Kubelet, Logs, played, serving_logs
from trimtab import plan
from trimtab.api.doing import Doing
from trimtab.api.job import OptimizationJob
from trimtab.api.work import Stage
from trimtab.cluster import objects, tails
from trimtab.cluster.client import Client, Object
from trimtab.cluster.pods import LONG, Pods
from trimtab.cluster.records import JobRecord, record_of
from trimtab.cluster.tails import Tails
from trimtab.decisions import ObservedWork, WorkState
from trimtab.errors import Forbidden
from trimtab.manifests import job_manifest, work_of
from trimtab.metrics import Metrics
from waiting import HANG, patience

from .test_controller import Simulated, add_runtime, job_where, message, operator, submit, told_of

pytestmark = pytest.mark.e2e

FIRST, SECOND = (Doing(step=2, steps=4, what=f"distill: epoch {epoch} of 10") for epoch in (3, 9))


@dataclass
class Lab:
    """One trial's Job, whose pod runs on a node that serves its log."""

    client: Client
    kubelet: Kubelet
    logs: Logs
    job: Object
    record: JobRecord
    pod: str
    woken: list[str]

    def pods(self, client: Client | None = None) -> Pods:
        return Pods(client or self.client, Tails(client or self.client, lambda record: self.woken.append(record.name)))

    async def observed(self, pods: Pods, minutes: int = 1) -> ObservedWork:
        """As it is after so many minutes, once what was asked has been answered."""
        assert self.record.running_since
        now = self.record.running_since + minutes * LONG
        await pods.observe([self.record], now)
        assert pods._tails
        async with asyncio.timeout(HANG):
            while pods._tails._reading:
                await asyncio.sleep(0.01)
        (seen,) = await pods.observe([self.record], now)
        return seen


Scenario = Callable[[Lab], Awaitable[None]]


def run(namespace: str, scenario: Scenario) -> None:
    async def main() -> None:
        async with await Client.connect() as client, serving_logs(client, namespace) as logs:
            owner = OptimizationJob.model_validate(await submit(client, namespace))
            runtime = make_runtime(schedulerName="nobody")
            manifest = job_manifest(plan.trial(owner, runtime, 1, {}, 0), runtime, owner)
            job, kubelet = await objects.create(client, objects.JOBS, manifest), Kubelet(client)
            pod = await kubelet.run(job, logs.node)
            record = record_of(job)
            async with patience(client, namespace):
                while record.running_since is None:
                    await asyncio.sleep(0.05)
                    record = record_of(await objects.get(client, objects.JOBS, namespace, record.name))
            await scenario(Lab(client, kubelet, logs, job, record, pod, []))

    asyncio.run(main())


def test_the_end_of_a_long_pod_s_log_is_read_once_a_minute(namespace: str) -> None:
    async def scenario(lab: Lab) -> None:
        pods, name = lab.pods(), lab.record.name
        assert lab.record.running_since
        lab.logs.said[lab.pod] = f"Trial of ml/m\n{FIRST.line}\nUserWarning: \x1b[31mbeta\n"
        early = await pods.observe([lab.record], lab.record.running_since + LONG - timedelta(seconds=1))
        assert [(seen.since, seen.doing) for seen in early] == [("", None)]
        assert lab.logs.asked == []

        seen = await lab.observed(pods)
        assert (seen.state, seen.doing, lab.woken) == (WorkState.ACTIVE, FIRST, [name])
        assert lab.logs.asked == [{"container": "work", "tailLines": "50", "limitBytes": str(2**15)}]
        assert pods.next_look([lab.record], lab.record.running_since + LONG) == tails.INTERVAL.total_seconds()

        lab.logs.said[lab.pod] += f"{SECOND.line}\n"
        assert (await lab.observed(pods, 2)).doing == SECOND
        lab.logs.said[lab.pod] += "something else\n" * 3
        assert (await lab.observed(pods, 3)).doing == SECOND
        assert (len(lab.logs.asked), lab.woken) == (3, [name, name])
        pods.forget(lab.record.uid)
        assert pods.doing(lab.record.uid) is None

    run(namespace, scenario)


async def no_kubelet(lab: Lab) -> None:
    status = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}
    path = f"/api/v1/nodes/{lab.logs.node}/status"
    await lab.client.request("PATCH", path, body={"status": status}, headers=objects.MERGE_PATCH)


async def error(lab: Lab) -> None:
    lab.logs.code = 500


async def silence(lab: Lab) -> None:
    lab.logs.silent = True


async def no_pod(lab: Lab) -> None:
    path = objects.PODS.path(lab.record.namespace, lab.pod)
    await lab.client.request("DELETE", path, body={"gracePeriodSeconds": 0})


async def nothing(lab: Lab) -> None:
    lab.logs.said[lab.pod] = "\x00" * 2**17


@pytest.mark.parametrize("trouble", [no_kubelet, error, silence, no_pod, nothing])
def test_whatever_goes_wrong_it_is_only_not_known(
    namespace: str, trouble: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "SECONDS", 0.5)

    async def scenario(lab: Lab) -> None:
        await trouble(lab)
        seen = await lab.observed(pods := lab.pods())
        assert (seen.state, seen.message, seen.doing, lab.woken) == (WorkState.ACTIVE, "", None, [])
        assert seen.since
        await lab.observed(pods, 2)

    run(namespace, scenario)


def test_without_the_right_to_read_logs_one_line_says_so(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    class Unprivileged(Client):
        tried = 0

        async def text(self, *arguments: Any, **options: Any) -> str:
            self.tried += 1
            raise Forbidden("GET /api/v1/…/log: 403 pods is forbidden")

    async def scenario(lab: Lab) -> None:
        async with await Unprivileged.connect() as client:
            assert isinstance(client, Unprivileged)
            pods = lab.pods(client)
            for minutes in (1, 2, 3):
                assert (await lab.observed(pods, minutes)).doing is None
            assert client.tried == 1
            await lab.observed(pods, 62)
            assert client.tried == 2

    run(namespace, scenario)
    assert [r.getMessage().partition(":")[0] for r in caplog.records if r.name == tails.__name__] == [
        "how far pods are is not known"
    ]


def test_a_job_says_how_far_its_longest_pod_is(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.cluster.pods.LONG", timedelta(seconds=0.2))
    monkeypatch.setattr(tails, "INTERVAL", timedelta(seconds=0.5))
    simulated, told, metrics = Simulated(), list[str](), Metrics()

    async def main() -> None:
        async with await Client.connect() as client, serving_logs(client, namespace) as logs:

            async def play(kubelet: Kubelet, job: Object) -> None:
                task = work_of(job).task
                if (task.stage, task.trial) == (Stage.TRIAL, 1):
                    await last(kubelet, job)
                await kubelet.leave(job, simulated(task))

            async def last(kubelet: Kubelet, job: Object) -> None:
                pod = await kubelet.run(job, logs.node)
                for doing in (FIRST, SECOND, Doing(step=3, steps=4, what="quantize")):
                    logs.said[pod] = doing.line
                    said = f"{job['metadata']['name']} runs since "
                    async with patience(client, namespace):
                        while said not in (now := await complete()) or not now.endswith(f": {doing}"):
                            await asyncio.sleep(0.05)
                    told.append(metrics.text().decode().partition("steps_done{")[2].partition("\n")[0])

            async def complete() -> str:
                stored = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m")
                return message(OptimizationJob.model_validate(stored).status, "Complete")

            async with operator(namespace) as life, played(client, namespace, play):
                metrics.watch_works(lambda: life.world.works, life.controller.pods.doing)
                await add_runtime(client, namespace, schedulerName="nobody")
                await submit(client, namespace)
                status = await job_where(client, namespace, Complete="Published")
                assert status.running is None
                (name,) = {note.partition(":")[0] for note in await told_of(client, namespace, "StepStarted")}
                assert name.endswith("-trial-1-0")
                assert await told_of(client, namespace, "StepStarted") == [f"{name}: step 3 of 4, quantize"]
        labels = f'namespace="{namespace}",stage="Trial"}}'
        assert told == [f"{labels} 0.25", f"{labels} 0.25", f"{labels} 0.5"]

    asyncio.run(main())


def test_a_read_that_no_node_answers_is_not_asked_for_again_meanwhile(namespace: str) -> None:
    """Turns would come back at once, for as long as it takes."""

    async def scenario(lab: Lab) -> None:
        lab.logs.silent = True
        now = lab.record.running_since
        assert now
        pods, late = lab.pods(), now + LONG
        await pods.observe([lab.record], late)
        later = late + 2 * tails.INTERVAL
        await pods.observe([lab.record], later)
        assert pods.next_look([lab.record], later) == tails.INTERVAL.total_seconds()

    run(namespace, scenario)
