"""Jobs in a queue of Kueue's, played in tests/kueue.py: the Job controller, API server and operator are real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import apiserver
from builders import make_job, make_runtime
from kubelet import Kubelet, node
from kueue import FLAVOR, bind, die, queue
from operators import answer, process, published, submit
from ports import free_port
from trimtab import plan
from trimtab.api.names import QUEUE_LABEL, QUEUE_PRIORITY_LABEL
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.endings import PATIENCE
from trimtab.cluster.pods import MOMENT, Pods
from trimtab.cluster.records import record_of
from trimtab.decisions import WorkState
from trimtab.manifests import job_manifest
from trimtab.settings import Settings
from waiting import patience

START = "2026-01-01T00:00:00Z"
HOURS_LATER = "2026-01-01T05:00:00Z"
WHO = "it is suspended: kubectl describe job m-01234567-inspect-0 says by whom"
ONE_WAITS = "1 Job waits in Kueue's queue team: kubectl get workloads.kueue.x-k8s.io says for what"


def stored(queue_name: str = "team", suspend: bool = False, **status: Any) -> Object:
    """A Job as the API server might give it back."""
    job, runtime = make_job(), make_runtime()
    manifest = job_manifest(plan.inspect(job, runtime, 0), runtime, job)
    manifest["metadata"] |= {"uid": "j1", "resourceVersion": "5", "creationTimestamp": START}
    manifest["metadata"]["labels"] |= {QUEUE_LABEL: queue_name} if queue_name else {}
    manifest["spec"]["suspend"] = suspend
    return manifest | {"status": status}


def suspended(since: str = START) -> list[Object]:
    return [{"type": "Suspended", "status": "True", "lastTransitionTime": since}]


RESUMED = [{"type": "Suspended", "status": "False", "lastTransitionTime": HOURS_LATER}]


@pytest.mark.parametrize(
    ("job", "held", "starting"),
    [
        (stored(), None, START),
        (stored(suspend=True), START, None),
        (stored(suspend=True, conditions=suspended(HOURS_LATER), startTime=START), HOURS_LATER, None),
        (stored(conditions=suspended()), None, None),
        (stored(conditions=suspended(), startTime=START), None, None),
        (stored(conditions=RESUMED, startTime=HOURS_LATER), None, HOURS_LATER),
        (stored(conditions=RESUMED, startTime=HOURS_LATER, ready=1), None, None),
    ],
    ids=["no queue", "new", "evicted", "admitted", "admitted again", "started", "ready"],
)
def test_the_time_in_a_queue_is_not_a_pod_s_waiting_time(job: Object, held: str | None, starting: str | None) -> None:
    record = record_of(job)
    assert record.held_since == (held and datetime.fromisoformat(held))
    assert record.starting_since == (starting and datetime.fromisoformat(starting))


@pytest.mark.parametrize(
    ("job", "seconds", "told", "look"),
    [
        (stored(suspend=True), 0, ("", ""), MOMENT.total_seconds()),
        (stored(suspend=True), 60, ("team", ""), None),
        (
            stored("", suspend=True),
            60,
            ("", WHO),
            None,
        ),
        (stored(), 0, ("", ""), PATIENCE.total_seconds()),
    ],
    ids=["for a moment", "in a queue", "by whomever", "not held"],
)
def test_what_is_told_of_a_job_that_is_held_back(
    job: Object, seconds: float, told: tuple[str, str], look: float | None
) -> None:
    record, pods = record_of(job), Pods(None)  # type: ignore[arg-type]  # nothing is asked
    now = datetime.fromisoformat(START) + timedelta(seconds=seconds)
    (seen,) = asyncio.run(pods.observe([record], now))
    assert (seen.state, seen.queue) == (WorkState.ACTIVE, told[0])
    assert seen.message == told[1]
    assert pods.next_look([record], now) == look


async def status_where(client: Client, namespace: str, test: Callable[[Object], bool]) -> Object:
    async with patience(client, namespace):
        while True:
            found = (await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m")).get("status", {})
            if test(found):
                return dict(found)
            await asyncio.sleep(0.1)


def condition(status: Object, kind: str) -> tuple[str, str, str]:
    found = next((c for c in status.get("conditions", []) if c["type"] == kind), {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def in_state(state: str) -> Callable[[Object], bool]:
    return lambda status: status.get("state") == state


async def jobs_of(client: Client, namespace: str) -> list[Object]:
    return list((await client.request("GET", objects.JOBS.path(namespace)))["items"])


async def suspend(client: Client, namespace: str, suspended: bool) -> None:
    path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
    await client.request("PATCH", path, body={"spec": {"suspend": suspended}}, headers=MERGE_PATCH)


@pytest.mark.e2e
def test_a_life_with_a_queue(namespace: str) -> None:
    """Queued, suspended and resumed by its owner, admitted, evicted while its pod runs, admitted again, published."""
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())

    async def main() -> None:
        async with await Client.connect() as client, queue(client, namespace, "team") as kueue, process(settings):
            labels = {QUEUE_LABEL: "team", QUEUE_PRIORITY_LABEL: "high"}
            await submit(client, namespace, labels, queue={"name": "x", "priorityClassName": "low"})
            status = await status_where(client, namespace, in_state("QueuedByKueue"))
            assert condition(status, "QuotaReserved") == ("False", "QueuedByKueue", ONE_WAITS)
            shown = apiserver.kubectl("--namespace", namespace, "get", "tjob").stdout
            assert shown.splitlines()[1].split()[:2] == ["m", "QueuedByKueue"]
            (inspect,) = await jobs_of(client, namespace)
            labels = inspect["metadata"]["labels"]
            assert (labels[QUEUE_LABEL], labels[QUEUE_PRIORITY_LABEL]) == ("team", "low")
            assert (await client.request("GET", objects.PODS.path(namespace)))["items"] == []

            await suspend(client, namespace, True)
            await status_where(client, namespace, in_state("Suspended"))
            await suspend(client, namespace, False)
            await status_where(client, namespace, in_state("QueuedByKueue"))

            name = inspect["metadata"]["name"]
            await kueue.admit(name)
            job = await objects.get(client, objects.JOBS, namespace, name)
            pod = await Kubelet(client).pod_of(job)
            assert pod["spec"]["nodeSelector"] == FLAVOR
            await status_where(client, namespace, lambda s: condition(s, "QuotaReserved")[0] == "True")
            await bind(client, pod)
            await asyncio.gather(kueue.evict(name), die(client, pod))
            await status_where(client, namespace, in_state("QueuedByKueue"))
            evicted = await objects.get(client, objects.JOBS, namespace, name)
            assert evicted["status"].get("failed", 0) == 0
            assert "nodeSelector" not in evicted["spec"]["template"]["spec"]

            async with node(client, namespace, answer()) as ran:
                kueue.quota.set()
                done = await published(client, namespace)
            assert len(ran) == len(set(ran)) == 5
            assert all(name.endswith("-0") for name in ran), "an eviction counted as an attempt"
            assert condition(done["status"], "QuotaReserved")[:2] == ("True", "QuotaReserved")
            assert "queuedSince" not in done["status"]
            assert {job["metadata"]["labels"][QUEUE_LABEL] for job in await jobs_of(client, namespace)} == {"team"}

    asyncio.run(main())
