"""Two kinds called OptimizationJob in one cluster, ours and a stub of Kubeflow Trainer's: none is taken for the other.

Their group sorts before ours, so a bare `optimizationjobs` means theirs wherever both are installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import apiserver
from builders import job_dict, make_runtime
from kubelet import node
from monitors import make_monitor
from operators import answer, process, published, submit
from ports import free_port
from trimtab import plan
from trimtab.alerts import Alert
from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.cluster import objects
from trimtab.cluster.client import Client, Object
from trimtab.manifests import job_manifest
from trimtab.monitoring import reconcile_monitor, record
from trimtab.settings import Settings
from waiting import patience

pytestmark = pytest.mark.e2e

GROUP = "trainer.kubeflow.org"
THEIR_JOB = "a"
"""Before all of ours, so that a call that deletes all Jobs with our labels takes it first."""
THEIRS = objects.Resource(f"/apis/{GROUP}/v1alpha1", "optimizationjobs")
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"optimizationjobs.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {
            "kind": "OptimizationJob",
            "listKind": "OptimizationJobList",
            "plural": "optimizationjobs",
            "singular": "optimizationjob",
            "shortNames": ["optjob"],
        },
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@pytest.fixture(scope="module", autouse=True)
def _their_crd(kubeconfig: str) -> Iterator[None]:
    made = apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(CRD))
    assert made.returncode == 0, made.stderr
    name = f"crd/{CRD['metadata']['name']}"  # type: ignore[index]
    established = apiserver.kubectl("wait", "--for=condition=Established", "--timeout=300s", name)
    assert established.returncode == 0, established.stderr
    yield
    gone = apiserver.kubectl("delete", "--timeout=300s", name)
    assert gone.returncode == 0, gone.stderr


def theirs(namespace: str, name: str = "m", **metadata: Any) -> Object:
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "OptimizationJob",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"trials": 3},
    }


def in_disguise(job: OptimizationJob, owner: Object) -> Object:
    """A Job of theirs that is one of ours in all but its name and owner: labels, Task and all."""
    runtime = make_runtime()
    manifest = job_manifest(plan.inspect(job, runtime, 0), runtime, job)
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
    reference |= {field: owner["metadata"][field] for field in ("name", "uid")}
    manifest["metadata"] |= {"name": THEIR_JOB, "ownerReferences": [reference]}
    return manifest


async def jobs_of(client: Client, namespace: str) -> dict[str, Object]:
    found = (await client.request("GET", objects.JOBS.path(namespace)))["items"]
    return {job["metadata"]["name"]: job for job in found}


@contextlib.asynccontextmanager
async def watched(namespace: str) -> AsyncIterator[Client]:
    """Our operator in this namespace, as a process."""
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())
    async with await Client.connect() as client, process(settings):
        yield client


async def untouched(client: Client, made: Object) -> bool:
    metadata = made["metadata"]
    now = await objects.get(client, THEIRS, metadata["namespace"], metadata["name"])
    events = (await client.request("GET", objects.EVENTS.path(metadata["namespace"])))["items"]
    return now == made and not [e for e in events if e["regarding"].get("uid") == metadata["uid"]]


def test_ours_is_served_and_theirs_is_left_alone_with_its_jobs(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await submit(client, namespace, ttlSecondsAfterFinished=0)
            ours = OptimizationJob.model_validate(await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m"))
            made = await objects.create(client, THEIRS, theirs(namespace))
            await objects.create(client, objects.JOBS, in_disguise(ours, made))
            async with node(client, namespace, answer()) as ran, watched(namespace):
                done = await published(client, namespace)
                async with patience(client, namespace):
                    while set(await jobs_of(client, namespace)) != {THEIR_JOB}:
                        await asyncio.sleep(0.1)
            assert done["status"]["best"]["trial"] == 2
            # Their report of the same stage was not ours: our own Inspect ran, and was charged once.
            assert len(ran) == len(set(ran)) == 6
            assert done["status"]["cost"]["podSeconds"] == "9"
            assert await untouched(client, made)

    asyncio.run(main())


def test_a_monitor_starts_ours_though_theirs_has_the_name(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            body = make_monitor().wire() | {"metadata": {"name": "magika", "namespace": namespace}}
            body.pop("status")
            monitor = ModelMonitor.model_validate(await objects.create(client, objects.MODEL_MONITORS, body))
            now = datetime.now(UTC)
            status = record(monitor.status, [Alert("ModelDriftDetected", "d1", now, None)], now)
            alerted = await objects.write_status(
                client, objects.MODEL_MONITORS, monitor.metadata, monitor.status, status
            )
            decision = reconcile_monitor(ModelMonitor.model_validate(alerted), (), now, "")
            assert decision.create
            name, labels = decision.create.metadata.name, decision.create.metadata.labels
            owner = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ModelMonitor", "controller": True}
            owner |= {"name": "magika", "uid": monitor.metadata.uid}
            made = await objects.create(client, THEIRS, theirs(namespace, name, labels=labels, ownerReferences=[owner]))
            async with watched(namespace), patience(client, namespace):
                while "lastJob" not in (await monitor_status(client, namespace)):
                    await asyncio.sleep(0.1)
            ours = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, name)
            assert ours["metadata"]["ownerReferences"][0]["uid"] == monitor.metadata.uid
            assert await untouched(client, made)

    asyncio.run(main())


async def monitor_status(client: Client, namespace: str) -> Object:
    found: Object = (await objects.get(client, objects.MODEL_MONITORS, namespace, "magika")).get("status", {})
    return {name: value for name, value in found.items() if value}


class TestKubectl:
    @pytest.fixture(autouse=True)
    def _setting(self, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.namespace = namespace
        # What kubectl has cached of an API server may be from before their CRD.
        monkeypatch.setenv("KUBECACHEDIR", str(tmp_path))
        monkeypatch.setenv("PATH", f"{apiserver.tool('kubectl').parent}:{os.environ['PATH']}")
        for manifest in (theirs(namespace), job_dict() | {"metadata": {"name": "m", "namespace": namespace}}):
            assert apiserver.kubectl("create", "-f", "-", stdin=json.dumps(manifest)).returncode == 0

    def kind_of(self, what: str) -> str:
        said = apiserver.kubectl("get", what, "m", "--namespace", self.namespace, "--output=json")
        assert said.returncode == 0, said.stderr
        return str(json.loads(said.stdout)["apiVersion"])

    def plugin(self, *words: str) -> str:
        program = [sys.executable, "-c", "import sys; from trimtab.plugin import main; sys.exit(main())"]
        done = subprocess.run(
            [*program, *words, "m", "--namespace", self.namespace], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.parametrize(
        ("what", "group"),
        [
            ("tjob", "trimtab.dev"),
            ("optimizationjobs.trimtab.dev", "trimtab.dev"),
            ("optimizationjob.trimtab.dev", "trimtab.dev"),
            ("optjob", GROUP),
            # Why documents and programs of ours never say this.
            ("optimizationjobs", GROUP),
        ],
    )
    def test_what_a_name_means(self, what: str, group: str) -> None:
        assert self.kind_of(what) == f"{group}/v1alpha1"

    def test_the_plugin_means_ours(self) -> None:
        assert "m" in self.plugin("explain")
        self.plugin("suspend")
        path = ("--namespace", self.namespace, "--output=jsonpath={.spec.suspend}")
        assert apiserver.kubectl("get", "tjob", "m", *path).stdout == "true"
        assert apiserver.kubectl("get", "optjob", "m", *path).stdout == ""
