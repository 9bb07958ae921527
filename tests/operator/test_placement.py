"""Where the real scheduler and admission put our pods, on nodes that the API server alone knows: no kubelet runs.

A GPU is an extended resource of a node's status, and a device of DRA a line in a ResourceSlice, so placing, queueing
and refusing are real; a driver that prepares a device is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import job_dict, make_runtime
from kubelet import Kubelet
from trimtab import plan
from trimtab.api.job import OptimizationJob
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.work import Finalist, Stage
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.endings import PATIENCE
from trimtab.cluster.objects import Resource
from trimtab.cluster.pods import Pods
from trimtab.cluster.records import record_of
from trimtab.decisions import Work
from trimtab.errors import Forbidden
from trimtab.manifests import job_manifest
from waiting import HANG, patience

pytestmark = pytest.mark.e2e

HOSTNAME = "kubernetes.io/hostname"
EVERYTHING: dict[str, Any] = {
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    "envFrom": [{"secretRef": {"name": "s3"}}],
    "claims": [{"claim": "models", "mountPath": "/models", "readOnly": False}, {"claim": "venv", "mountPath": "/venv"}],
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    "imagePullSecrets": [{"name": "registry"}],
    "podLabels": {"cost-center": "ml"},
    "podAnnotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
}
FINALISTS = [Finalist(trial=n, engine="ONNXRuntime", artifact=f"sha256:{n}") for n in (0, 1)]


def run(scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await scenario(client)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def nodes(client: Client, test: str, **capacities: Mapping[str, str]) -> AsyncIterator[None]:
    """Nodes that say they are ready, with room for pods and what else is given; tainted, for `borne` in this test.

    Their names are this test's too: what others left bound to a node of that name would take its room.
    """
    taint = {"key": "test", "value": test, "effect": "NoSchedule"}
    full = {f"{name}.{test}": capacity for name, capacity in capacities.items()}
    for name, capacity in full.items():
        labels = {HOSTNAME: name.partition(".")[0]}
        node = {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [taint]}}
        await client.request("POST", "/api/v1/nodes", body=node)
        room = {"cpu": "8", "memory": "8Gi", "pods": "10"} | dict(capacity)
        ready = {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now()}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await client.request("PATCH", f"/api/v1/nodes/{name}/status", body={"status": status}, headers=MERGE_PATCH)
    try:
        async with asyncio.timeout(HANG):  # a new node is tainted until a controller has looked at it
            for name in full:
                while len(await taints(client, name)) > 1:
                    await asyncio.sleep(0.1)
        yield
    finally:
        for name in full:
            await client.request("DELETE", f"/api/v1/nodes/{name}")


async def taints(client: Client, name: str) -> list[Any]:
    return list((await client.request("GET", f"/api/v1/nodes/{name}"))["spec"]["taints"])


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def make(client: Client, api: str, plural: str, kind: str, name: str, namespace: str = "", **rest: Any) -> None:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    body = {"apiVersion": api.removeprefix("/apis/").removeprefix("/api/"), "kind": kind, "metadata": metadata} | rest
    await client.request("POST", Resource(api, plural).path(namespace or None), body=body)


def works(job: OptimizationJob, runtime: OptimizationRuntime) -> dict[Stage, Work]:
    return {
        Stage.INSPECT: plan.inspect(job, runtime, 0),
        Stage.TRIAL: plan.trial(job, runtime, 1, {"quantize.operatorScope": "Compute"}, 0),
        Stage.PLAYOFF: plan.playoff(job, runtime, FINALISTS, 0),
        Stage.PUBLISH: plan.publish(job, runtime, (FINALISTS[0], FINALISTS[1]), "", 0),
    }


def borne(test: str) -> list[Object]:
    """No kubelet renews a node's lease, and on a busy machine it counts as unreachable before a test is over."""
    return [{"key": "test", "value": test}, {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]


async def start(client: Client, namespace: str, name: str, stage: Stage, **spec: Any) -> Object:
    """The Job of a stage of a new OptimizationJob, without claims: a pod with an unbound one is placed nowhere."""
    runtime = make_runtime(**{"tolerations": borne(namespace), "store": {"uri": "file:///tmp/store"}} | spec)
    splits = {name: {"uri": f"https://host/{name}.npz"} for name in ("calibration", "evaluation", "holdout")}
    manifest = job_dict(model={"uri": "https://host/m.onnx", "format": "ONNX"}, data=splits, publish=None)
    manifest["metadata"] = {"name": name, "namespace": namespace}
    job = OptimizationJob.model_validate(await objects.create(client, objects.OPTIMIZATION_JOBS, manifest))
    return await objects.create(client, objects.JOBS, job_manifest(works(job, runtime)[stage], runtime, job))


async def place(client: Client, job: Object) -> str:
    """The node its pod is bound to, as soon as it is."""
    async with patience(client, job["metadata"]["namespace"]):
        while "nodeName" not in (pod := await Kubelet(client).pod_of(job))["spec"]:
            await asyncio.sleep(0.1)
        return str(pod["spec"]["nodeName"]).partition(".")[0]


async def waits_for(client: Client, job: Object) -> str:
    """What people are told once the scheduler has found no node for its pod."""
    async with patience(client, job["metadata"]["namespace"]):
        while True:
            (seen,) = await Pods(client).observe([record_of(job)], datetime.now(UTC) + PATIENCE)
            if "Unschedulable" in seen.message:
                return seen.message
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_gpus_are_counted_and_a_pod_without_one_says_what_it_waits_for(namespace: str, resource: str) -> None:
    async def scenario(client: Client) -> None:
        settings = {"resources": {"limits": {resource: "1"}}}
        async with nodes(client, namespace, plain={}, gpu={resource: "1"}):
            first = await start(client, namespace, "a", Stage.TRIAL, **settings)
            assert await place(client, first) == "gpu"
            second = await start(client, namespace, "b", Stage.TRIAL, **settings)
            assert f"Insufficient {resource}" in await waits_for(client, second)

    run(scenario)


def test_a_pod_bears_the_taints_and_keeps_to_the_nodes_that_the_runtime_says(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        chosen = {"key": HOSTNAME, "operator": "NotIn", "values": ["a", "b"]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [chosen]}]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        async with nodes(client, namespace, a={}, b={}, c={}):
            job = await start(client, namespace, "m", Stage.TRIAL, affinity=affinity)
            assert await place(client, job) == "c"
            untolerated = await start(client, namespace, "n", Stage.TRIAL, tolerations=[])
            assert "untolerated taint" in await waits_for(client, untolerated)

    run(scenario)


def test_the_playoff_has_nodes_and_resources_of_its_own(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        settings = {
            "nodeSelector": {HOSTNAME: "train"},
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
            "playoff": {"nodeSelector": {HOSTNAME: "serve"}, "resources": {"limits": {"cpu": "2"}}},
        }
        async with nodes(client, namespace, train={"nvidia.com/gpu": "1"}, serve={}):
            trial = await start(client, namespace, "a", Stage.TRIAL, **settings)
            playoff = await start(client, namespace, "b", Stage.PLAYOFF, **settings)
            assert (await place(client, trial), await place(client, playoff)) == ("train", "serve")

    run(scenario)


def test_a_playoff_is_alone_on_its_node(namespace: str, other_namespace: str) -> None:
    async def scenario(client: Client) -> None:
        here = {"tolerations": borne(namespace)}
        required = {"playoff": {"exclusive": "Required"}}
        async with nodes(client, namespace, a={}, b={}):
            taken = await place(client, await start(client, other_namespace, "a", Stage.TRIAL, **here))
            free = await place(client, await start(client, namespace, "b", Stage.PLAYOFF, **required))
            assert {taken, free} == {"a", "b"}
            assert "anti-affinity" in await waits_for(
                client, await start(client, namespace, "c", Stage.PLAYOFF, **required)
            )
            # Whatever comes later keeps away from it too.
            assert await place(client, await start(client, other_namespace, "d", Stage.TRIAL, **here)) == taken
            # Preferred takes what there is.
            assert await place(client, await start(client, other_namespace, "e", Stage.PLAYOFF, **here)) == taken

    run(scenario)


def test_a_device_of_dra_is_claimed_for_every_pod(namespace: str) -> None:
    api, name = "/apis/resource.k8s.io/v1", f"gpu-{namespace}"

    async def scenario(client: Client) -> None:
        await make(client, api, "deviceclasses", "DeviceClass", name, spec={})
        device = {"exactly": {"deviceClassName": name}}
        template = {"spec": {"devices": {"requests": [{"name": "gpu", **device}]}}}
        await make(client, api, "resourceclaimtemplates", "ResourceClaimTemplate", "one-gpu", namespace, spec=template)
        pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
        spec = {
            "driver": "gpu.example.com",
            "pool": pool,
            "nodeName": f"gpu.{namespace}",
            "devices": [{"name": "gpu-0"}],
        }
        settings = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}
        async with nodes(client, namespace, plain={}, gpu={}):
            await make(client, api, "resourceslices", "ResourceSlice", name, spec=spec)
            assert await place(client, await start(client, namespace, "a", Stage.TRIAL, **settings)) == "gpu"
            (claim,) = (await client.request("GET", f"{api}/namespaces/{namespace}/resourceclaims"))["items"]
            assert claim["status"]["allocation"]["devices"]["results"][0]["device"] == "gpu-0"
            second = await start(client, namespace, "b", Stage.TRIAL, **settings)
            assert "cannot allocate all claims" in await waits_for(client, second)
            await client.request("DELETE", f"{api}/resourceslices/{name}")
        await client.request("DELETE", f"{api}/deviceclasses/{name}")

    run(scenario)


@pytest.mark.parametrize("stage", Stage)
def test_pods_of_every_stage_pass_the_restricted_standard(namespace: str, stage: Stage) -> None:
    async def scenario(client: Client) -> None:
        enforce = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        await client.request("PATCH", f"/api/v1/namespaces/{namespace}", body=enforce, headers=MERGE_PATCH)
        for api, plural, kind, rest in (
            ("/apis/scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", {"value": 1}),
            ("/apis/node.k8s.io/v1", "runtimeclasses", "RuntimeClass", {"handler": "runc"}),
        ):
            await make(client, api, plural, kind, namespace, **rest)
        everything = EVERYTHING | {"priorityClassName": namespace, "runtimeClassName": namespace}
        job = await start(client, namespace, "m", stage, **everything)
        pod = await Kubelet(client).pod_of(job)
        assert pod["spec"]["priorityClassName"] == namespace
        assert [v for v in pod["spec"]["volumes"] if "projected" in v] == []  # no token of a service account
        claims = [v["persistentVolumeClaim"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
        assert claims == [{"claimName": "models"}, {"claimName": "venv", "readOnly": True}]
        pod["spec"]["hostNetwork"] = True
        loose = {"metadata": {"name": "loose"}, "spec": {k: v for k, v in pod["spec"].items() if k != "priority"}}
        with pytest.raises(Forbidden, match='violates PodSecurity "restricted:latest": host namespaces'):
            await client.request("POST", objects.PODS.path(namespace), body=loose)

    run(scenario)
