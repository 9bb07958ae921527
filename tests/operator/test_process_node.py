"""Slice A without root: from a manifest to a published winner, with the operator and the pods as processes.

The pods of tests/e2e are containers on a node; that takes root. Here the node is tests/process_node.py, which says what
it is. Everything else is real: model, data, techniques, engine, control plane, operator.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
import yaml

import apiserver
from operators import create_runtime, process
from ports import free_port
from process_node import NODE, PLACED, WARNING, add_claim, pods_of, process_node
from trimtab.api.report import JobReport
from trimtab.api.status import OptimizationJobStatus
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.settings import Settings
from waiting import patience, there

pytestmark = pytest.mark.e2e

SECONDS = 600
"""A pod imports ONNX Runtime, and machines may be busy."""


async def submit(client: Client, namespace: str, digits: Path, folder: Path) -> None:
    """The digits example as it is, but for a place to publish to; its claims are folders here."""
    for name, place in (("digits", digits), ("store", folder / "store"), ("published", folder / "published")):
        await add_claim(client, namespace, name, place)
    await create_runtime(client, namespace, **PLACED)
    job = yaml.safe_load((digits / "job.yaml").read_text())
    job["metadata"]["namespace"] = namespace
    job["spec"]["publish"] = {"uri": "pvc://published"}
    await objects.create(client, objects.OPTIMIZATION_JOBS, job)


async def suspend(client: Client, namespace: str, suspended: bool) -> None:
    path = objects.OPTIMIZATION_JOBS.path(namespace, "digits")
    await client.request("PATCH", path, body={"spec": {"suspend": suspended}}, headers=MERGE_PATCH)


def test_slice_a_in_processes(namespace: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{WARNING}\n")
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())

    async def main() -> Object:
        async with (
            await Client.connect() as client,
            process_node(client, namespace, tmp_path) as node,
            process(settings),
        ):
            node.hold = "inspect-0"
            await submit(client, namespace, digits, tmp_path)
            # What is deleted while it runs is told, ends, and is begun anew.
            async with patience(client, namespace):
                await node.held()
                await suspend(client, namespace, True)
                while await pods_of(client, namespace):
                    await asyncio.sleep(0.1)
            node.release()
            await suspend(client, namespace, False)
            what = "optimizationjobs.trimtab.dev/digits"
            wait = ("wait", "--for=condition=Complete", f"--timeout={SECONDS}s", "--namespace", namespace, what)
            waited = await asyncio.to_thread(apiserver.kubectl, *wait)
            assert waited.returncode == 0, await there(client, namespace)
            done = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "digits")
            assert {pod["spec"]["nodeName"] for pod in await pods_of(client, namespace)} == {NODE}
            stages = sorted(pod["metadata"]["labels"]["trimtab.dev/stage"] for pod in await pods_of(client, namespace))
            assert stages == ["Inspect", "Playoff", "Publish", "Trial", "Trial"]
            assert len(node.ran) == 6
        return done

    status = OptimizationJobStatus.model_validate(asyncio.run(main())["status"])
    assert [trial.settings.get("quantize.operatorScope") for trial in status.trials] == [None, "All", "Compute"]
    assert status.published
    assert status.claim
    current = json.loads((tmp_path / "published" / "current.json").read_text())
    assert current["digest"] == status.published.digest
    report = tmp_path / "published" / status.published.uri.rpartition("/")[2] / "report.json"
    assert JobReport.model_validate_json(report.read_bytes()).claim == status.claim
