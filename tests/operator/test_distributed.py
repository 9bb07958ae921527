"""A trial on several pods, as a real API server, Job and EndpointSlice controllers have it: no kubelet runs.

The pods' programs are tested in `tests/jobs/test_ranks.py`, with the variables that are asserted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import broken, job_dict, make_runtime
from kubelet import Kubelet, container_status, ended
from trimtab import plan
from trimtab.api.job import OptimizationJob
from trimtab.api.work import ErrorKind, Report, Stage
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.endings import INDEX_ANNOTATION
from trimtab.cluster.objects import Resource
from trimtab.cluster.pods import Pods
from trimtab.cluster.records import record_of
from trimtab.decisions import ObservedWork, WorkState
from trimtab.manifests import job_manifest, service_manifest
from waiting import patience

pytestmark = pytest.mark.e2e

SLICES = Resource("/apis/discovery.k8s.io/v1", "endpointslices")
SPLITS = ("train", "calibration", "evaluation", "holdout")
REPORT = Report(stage=Stage.TRIAL, trial=1, artifact="sha256:made")


def run(scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await scenario(client)

    asyncio.run(main())


async def start(client: Client, namespace: str, name: str = "m") -> Object:
    """The Job of a trial that trains on two nodes with two GPUs each, and the Service before it."""
    manifest = job_dict(
        model={"uri": "pvc://models/m.safetensors", "format": "PyTorch", "factory": "net:make"},
        data={split: {"uri": f"pvc://data/{split}.npz"} for split in SPLITS},
        techniques=[{"distill": {}}],
    )
    manifest["metadata"] = {"name": name, "namespace": namespace}
    job = OptimizationJob.model_validate(await objects.create(client, objects.OPTIMIZATION_JOBS, manifest))
    runtime = make_runtime(
        distributed={"numNodes": 2, "numProcPerNode": 2},
        resources={"limits": {"nvidia.com/gpu": "2"}},
        schedulerName="nobody",  # the cluster's, which finds no node, would contradict what the kubelet says
    )
    work = plan.trial(job, runtime, 1, {}, 0)
    service = service_manifest(work, job)
    assert service
    await objects.create(client, objects.SERVICES, service)
    await objects.create(client, objects.SERVICES, service)  # as the next trial does
    return await objects.create(client, objects.JOBS, job_manifest(work, runtime, job))


async def observed(client: Client, job: Object) -> ObservedWork:
    (seen,) = await Pods(client).observe([record_of(await ended(client, job))], datetime.now(UTC))
    return seen


@pytest.mark.parametrize("name", ["3d-net", "resnet.v2"])
def test_pods_know_their_index_and_where_index_0_is(namespace: str, name: str) -> None:
    """A job's name may begin with a digit, which a Service's may not, and have dots, which a hostname may not."""

    async def scenario(client: Client) -> None:
        job = await start(client, namespace, name)
        for index in (0, 1):
            pod = await Kubelet(client, index).pod_of(job)
            variables = {v["name"]: v for v in pod["spec"]["containers"][0]["env"]}
            assert pod["metadata"]["annotations"][INDEX_ANNOTATION] == str(index)
            assert INDEX_ANNOTATION in variables["JOB_COMPLETION_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
            assert pod["spec"]["hostname"] == f"{job['metadata']['name']}-{index}"
            host, _, service = variables["MASTER_ADDR"]["value"].partition(".")
            assert (host, service) == (f"{job['metadata']['name']}-0", pod["spec"]["subdomain"])
            assert variables["MASTER_PORT"]["value"] == "29500"
            assert (await objects.get(client, objects.SERVICES, namespace, service))["spec"]["clusterIP"] == "None"

    run(scenario)


def test_index_0_is_found_by_its_name_before_it_is_ready(namespace: str) -> None:
    """What cluster DNS makes its records of: an endpoint with a host name."""

    async def scenario(client: Client) -> None:
        job = await start(client, namespace)
        pod = await Kubelet(client).pod_of(job)
        path = objects.PODS.path(namespace, pod["metadata"]["name"], "status")
        status = {"phase": "Pending", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}]}
        await client.request("PATCH", path, body={"status": status}, headers=MERGE_PATCH)
        service = [("labelSelector", f"kubernetes.io/service-name={pod['spec']['subdomain']}")]
        async with patience(client, namespace):
            while not (found := await endpoints(client, namespace, service)):
                await asyncio.sleep(0.1)
        (endpoint,) = found
        assert (endpoint["hostname"], endpoint["addresses"]) == (f"{job['metadata']['name']}-0", ["10.0.0.7"])
        assert endpoint["conditions"]["ready"] is True

    run(scenario)


async def endpoints(client: Client, namespace: str, query: list[tuple[str, str]]) -> list[Any]:
    slices = (await client.request("GET", SLICES.path(namespace), query))["items"]
    return [endpoint for found in slices for endpoint in found.get("endpoints") or []]


def test_the_service_goes_with_the_job(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        pod = await Kubelet(client).pod_of(await start(client, namespace))
        service = await objects.get(client, objects.SERVICES, namespace, pod["spec"]["subdomain"])
        (owner,) = service["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("OptimizationJob", "m", True)
        stored = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m")
        assert owner["uid"] == stored["metadata"]["uid"]

    run(scenario)


def placed_for_a_minute(code: int, message: str = "") -> Object:
    """The status of a pod that got its node at 11:59 and ended at noon."""
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T11:59:00Z"}
    ended_at = {"startedAt": "2026-01-01T11:59:00Z", "finishedAt": "2026-01-01T12:00:00Z"}
    terminated = {"exitCode": code, "message": message, **ended_at}
    return {"conditions": [placed], "containerStatuses": [container_status({"terminated": terminated})]}


def test_the_report_is_that_of_index_0_and_gpus_are_counted_of_all(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, namespace)
        await Kubelet(client, 1).report(job, "Succeeded", placed_for_a_minute(0))
        await Kubelet(client, 0).report(job, "Succeeded", placed_for_a_minute(0, REPORT.compact()))
        seen = await observed(client, job)
        assert (seen.state, seen.report) == (WorkState.SUCCEEDED, REPORT)
        assert seen.gpu_seconds == 2 * 2 * 60

    run(scenario)


def test_a_job_has_succeeded_with_index_0_though_others_wait_to_help(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, namespace)
        await Kubelet(client, 1).pod_of(job)
        await Kubelet(client, 0).leave(job, REPORT)
        seen = await observed(client, job)
        assert (seen.state, seen.report) == (WorkState.SUCCEEDED, REPORT)

    run(scenario)


@pytest.mark.parametrize(
    ("index", "kind"), [(0, ErrorKind.TEMPORARY), (1, ErrorKind.TEMPORARY), (1, ErrorKind.PERMANENT)]
)
def test_whichever_pod_fails_fails_the_attempt_and_is_heard(namespace: str, index: int, kind: ErrorKind) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, namespace)
        failure = broken(Stage.TRIAL, kind, f"said {index}", trial=1)
        await Kubelet(client, 1 - index).pod_of(job)
        await Kubelet(client, index).leave(job, failure)
        seen = await observed(client, job)
        assert (seen.state, seen.report) == (WorkState.FAILED, failure)

    run(scenario)


def test_a_helper_that_ended_well_says_nothing_of_a_job_past_its_deadline(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, namespace)
        await Kubelet(client, 1).terminate(job, 0)
        path = objects.JOBS.path(namespace, job["metadata"]["name"])
        body = {"spec": {"activeDeadlineSeconds": 1}}
        await client.request("PATCH", path, body=body, headers=MERGE_PATCH)
        seen = await observed(client, job)
        assert (seen.state, seen.report) == (WorkState.FAILED, None)
        assert seen.message.startswith("DeadlineExceeded: ")

    run(scenario)
