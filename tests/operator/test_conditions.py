"""Conditions and events of a whole life on a real API server, as `kubectl wait` and the API conventions want them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

import apiserver
from builders import broken, job_dict
from kubelet import node
from operators import answer, process, says, submit
from ports import free_port
from trimtab.api.names import ConditionType
from trimtab.api.work import ErrorKind, Report, Task
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.settings import Settings
from waiting import patience

pytestmark = pytest.mark.e2e

REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
TYPES = {kind.value for kind in ConditionType} - {"QuotaReserved"}
"""All but the one of a job in a queue: tests/operator/test_kueue.py."""


def told(job: Object) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in job.get("status", {}).get("conditions", [])}


def check(job: Object) -> None:
    """Every condition is there once, in metav1's form, and of the newest spec."""
    conditions = job["status"]["conditions"]
    assert Counter(c["type"] for c in conditions) == Counter(TYPES)
    for found in conditions:
        assert found["status"] in ("True", "False", "Unknown")
        assert REASON.fullmatch(found["reason"])
        assert datetime.fromisoformat(found["lastTransitionTime"]).tzinfo
        assert found["observedGeneration"] == job["metadata"]["generation"]


@contextlib.asynccontextmanager
async def operating(namespace: str) -> AsyncIterator[None]:
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())
    async with process(settings):
        await says(settings.http_port, "ok", "/readyz")
        yield


async def job_at(client: Client, namespace: str, name: str, state: str, generation: int) -> Object:
    """The job once it is in this state, and its status is of this generation or a later one."""
    async with patience(client, namespace):
        while True:
            job = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, name)
            status = job.get("status", {})
            if status.get("state") == state and status["observedGeneration"] >= generation:
                return job
            await asyncio.sleep(0.1)


async def edit(client: Client, namespace: str, **spec: object) -> None:
    path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
    await client.request("PATCH", path, body={"spec": spec}, headers=MERGE_PATCH)


async def wait(namespace: str, condition: str, name: str = "m") -> None:
    what = f"optimizationjobs.trimtab.dev/{name}"
    words = ("wait", f"--for=condition={condition}", "--timeout=300s", "--namespace", namespace, what)
    done = await asyncio.to_thread(apiserver.kubectl, *words)
    assert done.returncode == 0, done.stderr


async def events(client: Client, namespace: str) -> list[tuple[str, str]]:
    found = (await client.request("GET", objects.EVENTS.path(namespace)))["items"]
    ours = [event for event in found if event.get("reportingController") == "trimtab.dev/operator"]
    return [(event["regarding"]["name"], event["reason"]) for event in ours]


ONCE = ["Inspected", "TrialSucceeded", "TrialSucceeded", "SearchStopped", "CandidateSelected", "Published", "Complete"]
EXPECTED = [*(("m", reason) for reason in ONCE), ("bad", "Failed")]


def unhappy(task: Task) -> Report:
    """What pods leave; those of the job `bad` find its data wanting."""
    return broken(task.stage, ErrorKind.PERMANENT, "no such file") if task.job.name == "bad" else happy(task)


happy = answer()


def test_a_life_in_conditions_and_events(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            manifest = job_dict(target={"runtimeRef": {"name": "later"}})
            manifest["metadata"] = {"name": "bad", "namespace": namespace}
            await objects.create(client, objects.OPTIMIZATION_JOBS, manifest)
            async with operating(namespace):
                first = await job_at(client, namespace, "bad", "RuntimeNotFound", 1)
                check(first)
                assert told(first) == {
                    "Accepted": ("False", "RuntimeNotFound"),
                    "CandidateSelected": ("Unknown", "Pending"),
                    "Published": ("Unknown", "Pending"),
                    "Complete": ("False", "RuntimeNotFound"),
                    "Failed": ("False", "RuntimeNotFound"),
                    "Suspended": ("False", "Pending"),
                }
                await submit(client, namespace)
                begun = await job_at(client, namespace, "m", "Inspecting", 1)
                check(begun)
                assert told(begun)["Accepted"] == ("Unknown", "Pending")

                await edit(client, namespace, suspend=True)
                await wait(namespace, "Suspended")
                await edit(client, namespace, suspend=False, search={"maxTrials": 12})
                await wait(namespace, "Suspended=false")
                check(await job_at(client, namespace, "m", "Inspecting", 3))
            # The next operator goes on, and tells nothing twice.
            runtime = await objects.get(client, objects.OPTIMIZATION_RUNTIMES, namespace, "default")
            later = {"metadata": {"name": "later", "namespace": namespace}, "spec": runtime["spec"]}
            async with node(client, namespace, unhappy), operating(namespace):
                await objects.create(client, objects.OPTIMIZATION_RUNTIMES, runtime | later)
                await wait(namespace, "Complete")
                await wait(namespace, "Failed", "bad")
                bad = await job_at(client, namespace, "bad", "InvalidInput", 1)
                check(bad)
                assert told(bad)["Accepted"] == ("False", "InvalidInput")

                # What has ended may still be edited, and is waited for as before.
                await edit(client, namespace, ttlSecondsAfterFinished=3600)
                await wait(namespace, "Complete")
                ended = await job_at(client, namespace, "m", "Published", 4)
                check(ended)
                assert [kind for kind, (status, _) in told(ended).items() if status == "True"] == [
                    "Accepted",
                    "CandidateSelected",
                    "Published",
                    "Complete",
                ]
                # The last is told after the status that it is about.
                async with patience(client, namespace):
                    while len(await events(client, namespace)) < len(EXPECTED):
                        await asyncio.sleep(0.1)
            async with operating(namespace):
                await edit(client, namespace, ttlSecondsAfterFinished=7200)
                again = await job_at(client, namespace, "m", "Published", 5)
            times = [[c["lastTransitionTime"] for c in job["status"]["conditions"]] for job in (ended, again)]
            assert times[0] == times[1]
            assert sorted(await events(client, namespace)) == sorted(EXPECTED)

    asyncio.run(main())
