"""An upgrade with a job in flight, and a rollback: operators and pods of two versions work on one job.

Real processes of the previous version's wheel and of this checkout, on a real API server: the second operator stands
by, as in the chart's rolling update, and takes over in the middle of a job, while a pod of the first's image runs. That
pod is stopped for as long as the change takes, so that its report is the second operator's to find. Everything after
it runs in the second's image, on the same store. What both operators do at every other moment is in `test_replay`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import apiserver
from operators import fetch, process
from ports import free_port
from process_node import PLACED, WARNING, ProcessNode, add_claim, pods_of, process_node
from stories import ended, listed, new_namespace, ours, stage_of
from trimtab.api.names import ConditionType
from trimtab.api.status import OptimizationJobStatus
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.settings import Settings
from versions import Version, present, previous
from waiting import patience

pytestmark = pytest.mark.e2e

SECONDS = 600
"""A pod imports ONNX Runtime, and machines may be busy."""
JOB = "digits.v1"
"""Versions name the Jobs of a name with a dot differently."""
WORKS = ["inspect-0", "trial-1-0", "trial-2-0", "trial-3-0", "playoff-0", "publish-0"]
"""Every Job, in the order in which they run."""
TOLD = {"Inspected": 1, "TrialSucceeded": 3, "SearchStopped": 1, "CandidateSelected": 1, "Published": 1, "Complete": 1}


@dataclass(frozen=True)
class Change:
    """Of operator and image, while the pod of this Job runs; the CRDs are those of the version they had before."""

    first: str
    second: str
    during: str
    crds: str


UPGRADE, ROLLBACK = ("previous", "present"), ("present", "previous")
CHANGES = [
    Change(*UPGRADE, "trial-2-0", crds="present"),
    Change(*ROLLBACK, "trial-2-0", crds="previous"),
    *(
        pytest.param(Change(*versions, during, crds), marks=pytest.mark.full)
        for versions, during, crds in [
            (UPGRADE, "inspect-0", "present"),
            (UPGRADE, "playoff-0", "present"),
            (ROLLBACK, "inspect-0", "previous"),
            (ROLLBACK, "playoff-0", "previous"),
            # CRDs that are not the chart's (crds.enabled=false) stay as they are.
            (ROLLBACK, "trial-2-0", "present"),
        ]
    ),
]
PAIRS = [("present", "previous"), ("previous", "present")]


@pytest.fixture(scope="module")
def versions(kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Version]]:
    sys.stdout.write(f"\n{WARNING}\n")
    before, now = previous(tmp_path_factory.mktemp("previous")), present()
    for name in now.crds.keys() - before.crds.keys():
        apiserver.kubectl("delete", "crd", name)
    yield {"previous": before, "present": now}
    apiserver.install_crds()


def named(value: object) -> str | None:
    return f"{value.first}-{value.during}-{value.crds}" if isinstance(value, Change) else None


@pytest.mark.parametrize("change", CHANGES, ids=named)
def test_another_version_takes_over(change: Change, versions: dict[str, Version], digits: Path, tmp_path: Path) -> None:
    first, second = versions[change.first], versions[change.second]

    async def main() -> None:
        async with await Client.connect() as client:
            namespace = await new_namespace(client)
            code = {version.image: version.code for version in versions.values()}
            async with process_node(client, namespace, tmp_path, code) as node:
                await asyncio.to_thread(first.install_crds)
                async with process(operator(namespace), PYTHONPATH=first.code) as leader:
                    node.hold = change.during
                    await submit(client, namespace, digits, tmp_path, first.image)
                    async with patience(client, namespace, SECONDS):
                        await node.held()
                    await asyncio.to_thread(versions[change.crds].install_crds)  # the node has to beat meanwhile
                    await use_image(client, namespace, second.image)  # before the second lists what there is
                    settings = operator(namespace)
                    async with process(settings, PYTHONPATH=second.code):
                        await fetch(settings.http_port, "/healthz")
                        leader.process.terminate()
                        assert await leader.ended() == 0
                        node.release()
                        await check(client, await complete(client, namespace), node, tmp_path)
                before = WORKS.index(change.during) + 1
                images = [first.image] * before + [second.image] * (len(WORKS) - before)
                assert await images_of(client, namespace) == dict(zip(WORKS, images, strict=True))

    asyncio.run(main())


@pytest.mark.full
@pytest.mark.parametrize(("operated", "image"), PAIRS)
def test_an_operator_with_images_of_the_other_version(
    operated: str, image: str, versions: dict[str, Version], digits: Path, tmp_path: Path
) -> None:
    """As while only one of the two has been changed."""

    async def main() -> None:
        async with await Client.connect() as client:
            namespace = await new_namespace(client)
            code = {version.image: version.code for version in versions.values()}
            await asyncio.to_thread(versions["present"].install_crds)
            async with (
                process_node(client, namespace, tmp_path, code) as node,
                process(operator(namespace), PYTHONPATH=versions[operated].code),
            ):
                await submit(client, namespace, digits, tmp_path, versions[image].image)
                await check(client, await complete(client, namespace), node, tmp_path)

    asyncio.run(main())


def operator(namespace: str) -> Settings:
    return Settings(watch_namespaces=[namespace], http_port=free_port(), lease=f"{namespace}/trimtab")


async def submit(client: Client, namespace: str, digits: Path, folder: Path, image: str) -> None:
    """Three trials, one after the other."""
    for name, place in (("digits", digits), ("store", folder / "store"), ("published", folder / "published")):
        await add_claim(client, namespace, name, place)
    runtime = {"metadata": {"name": "default"}, "spec": {"image": image, "store": {"uri": "pvc://store"}, **PLACED}}
    header = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "OptimizationRuntime"}
    await client.request("POST", objects.OPTIMIZATION_RUNTIMES.path(namespace), body=header | runtime)
    job = yaml.safe_load((digits / "job.yaml").read_text())
    job["metadata"] = {"name": JOB, "namespace": namespace}
    job["spec"] |= {
        "target": {"engines": ["ONNXRuntime"]},
        "techniques": [{"quantize": {"operatorScope": ["All", "Compute"], "perChannel": [True, False]}}],
        "search": {"algorithm": "Grid", "maxTrials": 3, "parallelism": 1},
        "publish": {"uri": "pvc://published"},
    }
    await objects.create(client, objects.OPTIMIZATION_JOBS, job)


async def use_image(client: Client, namespace: str, image: str) -> None:
    path = objects.OPTIMIZATION_RUNTIMES.path(namespace, "default")
    await client.request("PATCH", path, body={"spec": {"image": image}}, headers=MERGE_PATCH)


async def complete(client: Client, namespace: str) -> Object:
    """The job, once it has ended."""
    async with patience(client, namespace, SECONDS):
        while not ended(job := await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, JOB)):
            await asyncio.sleep(0.2)
        return job


async def check(client: Client, job: Object, node: ProcessNode, folder: Path) -> None:
    """That it ended well, that everything ran once, and that one winner was published, as is said."""
    namespace = job["metadata"]["namespace"]
    status = OptimizationJobStatus.model_validate(job["status"])
    assert {c.type for c in status.conditions if c.status == "True"} >= {ConditionType.COMPLETE}, job["status"]
    assert [stage_of(pod.rpartition("-")[0]) for pod in node.ran] == WORKS
    assert await told(client, namespace) == TOLD
    assert status.published
    assert json.loads((folder / "published" / "current.json").read_text())["digest"] == status.published.digest
    assert len(list((folder / "published").glob("[!.]*/"))) == 1
    reports = [json.loads(path.read_text()) for path in (folder / "store" / "reports").glob("*/Trial-*.json")]
    assert [step["cached"] for report in reports for step in report["steps"]] == [False] * 3


async def told(client: Client, namespace: str) -> Counter[str]:
    """The reasons of all events, once there is the last, which follows the status that it is about."""
    async with patience(client, namespace):
        while True:
            reasons = Counter(e["reason"] for e in await listed(client, objects.EVENTS, namespace) if ours(e))
            if reasons["Complete"]:
                return reasons
            await asyncio.sleep(0.1)


async def images_of(client: Client, namespace: str) -> dict[str, str]:
    pods = await pods_of(client, namespace)
    return {stage_of(p["metadata"]["labels"]["job-name"]): p["spec"]["containers"][0]["image"] for p in pods}
