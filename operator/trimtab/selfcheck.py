"""Whether a cluster lets the operator work: what `helm test` runs, in a pod with the operator's own account.

Every kind of call that the operator makes is made once: reads for real, writes as the API server's dry run, which
goes through authorization, schemas, quotas and admission policies and stores nothing. What is written is made by the
functions that make it in earnest. A change of what is not there ends with NotFound, and only for those who may make it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from yarl import URL

from trimtab import plan
from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.names import JOB_UID_LABEL, EventReason
from trimtab.api.runtime import Distributed, OptimizationRuntime
from trimtab.cluster import objects
from trimtab.cluster.client import APPLY_PATCH, JSON, MERGE_PATCH, Client, Object
from trimtab.cluster.objects import Resource
from trimtab.decisions import Event, Work
from trimtab.errors import ClusterError, NotFound
from trimtab.manifests import job_manifest, optimization_job_manifest, rule_manifest, service_manifest
from trimtab.settings import Settings
from trimtab.world import RESOURCES

DRY_RUN = ("dryRun", "All")
NAME = "trimtab-selfcheck"
HEALTH_SECONDS = 10.0
MONITORS, DISTRIBUTED, CLUSTER_RUNTIMES = "monitors", "distributed", "clusterRuntimes"
OPTIONAL = (MONITORS, DISTRIBUTED, CLUSTER_RUNTIMES)
"""The rights that the chart can leave out, by its values."""

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Attempt:
    """A call, in the words of RBAC: `get`, `list`, `create`, `patch`, `delete`, `deletecollection`."""

    verb: str
    resource: Resource
    namespace: str | None
    part: str | None = None
    body: Object | None = None
    name: str = NAME
    right: str = ""
    """Of those that the chart can leave out, the one that it takes."""

    def __str__(self) -> str:
        kind = self.resource.plural + (f"/{self.part}" if self.part else "")
        return f"{self.verb} {kind} in {self.namespace or 'all namespaces'}"


async def problems(settings: Settings, host: str, rights: Collection[str]) -> list[str]:
    """One line for everything that is not as the operator needs it. `host` is where its Service is."""
    found = await _health(host, settings.http_port)
    async with await Client.connect() as client:
        for attempt in attempts(settings, own_namespace(), rights):
            try:
                await _make(client, attempt)
            except ClusterError as error:
                found.append(f"{attempt}: {error}")
    return found


def attempts(settings: Settings, own: str, rights: Collection[str] = OPTIONAL) -> Iterator[Attempt]:
    """What to try, of what can be left out the `rights` that were given.

    Where all namespaces are served, writes are tried in the operator's `own`.
    """
    given = {"", *rights} if settings.watch_namespaces else {"", *rights, CLUSTER_RUNTIMES}
    return (attempt for attempt in _all(settings, own) if attempt.right in given)


def _all(settings: Settings, own: str) -> Iterator[Attempt]:
    served: list[str | None] = [*settings.watch_namespaces] or [None]
    for namespace in served:
        for resource in (*RESOURCES.values(), objects.JOBS, objects.PODS, objects.EVENTS):
            yield Attempt("list", resource, namespace)
        yield from _writes(namespace or own)
        if settings.read_logs:
            yield Attempt("get", objects.PODS, namespace or own, "log")
    yield from (Attempt(verb, objects.CLUSTER_RUNTIMES, None, right=CLUSTER_RUNTIMES) for verb in ("list", "get"))
    if settings.lease_name:
        yield from _election(*settings.lease_name)


def own_namespace() -> str:
    """The namespace of this pod, or what a kubeconfig means without one."""
    return _NAMESPACE.read_text().strip() if _NAMESPACE.exists() else "default"


def _writes(namespace: str) -> Iterator[Attempt]:
    about = ObjectMeta(name=NAME, namespace=namespace, uid="00000000-0000-0000-0000-000000000000")
    data = {split: {"uri": f"pvc://data/{split}.npz"} for split in ("calibration", "evaluation", "holdout")}
    spec = {"model": {"uri": "pvc://models/model.onnx", "format": "ONNX"}, "data": data}
    job = OptimizationJob.model_validate({"metadata": about, "spec": spec})
    watched = {"target": {"model": "model"}, "triggers": [{"drift": {}}], "jobTemplate": {"spec": spec}}
    monitor = ModelMonitor.model_validate({"metadata": about, "spec": watched})
    runtime = OptimizationRuntime.model_validate(
        {"metadata": about, "spec": {"image": "trimtab-jobs", "store": {"uri": "pvc://store"}}}
    )
    work = job_manifest(plan.inspect(job, runtime, 0), runtime, job)
    service = service_manifest(_on_two_nodes(job, runtime), job)
    event = objects.event_manifest(job.kind, about, Event(EventReason.COMPLETE, "tried by helm test"))
    rule = rule_manifest(about.name, {"groups": []}, monitor)

    for resource, body, right in (
        (objects.JOBS, work, ""),
        (objects.SERVICES, service, DISTRIBUTED),
        (objects.OPTIMIZATION_JOBS, optimization_job_manifest(job, monitor), MONITORS),
        (objects.EVENTS, event, ""),
    ):
        yield Attempt("create", resource, namespace, body=body, right=right)
    # Server-side apply: it is asked for `create` too where the object is not there.
    yield Attempt("patch", objects.CONFIG_MAPS, namespace, body=rule, right=MONITORS)
    for resource in (*RESOURCES.values(), objects.JOBS):
        yield Attempt("get", resource, namespace)
    yield Attempt("get", objects.SERVICES, namespace, right=DISTRIBUTED)
    for resource in (objects.OPTIMIZATION_JOBS, objects.MODEL_MONITORS):
        yield Attempt("patch", resource, namespace, "status", {"status": {}})
    for resource in (objects.OPTIMIZATION_JOBS, objects.JOBS):
        yield Attempt("delete", resource, namespace)
    yield Attempt("deletecollection", objects.JOBS, namespace)


def _on_two_nodes(job: OptimizationJob, runtime: OptimizationRuntime) -> Work:
    work = plan.inspect(job, runtime, 0)
    return replace(work, task=work.task.model_copy(update={"distributed": Distributed(num_nodes=2)}))


def _election(namespace: str, name: str) -> Iterator[Attempt]:
    """On the Lease itself, the only one that the role names; its holder goes on."""
    yield Attempt("get", objects.LEASES, namespace, name=name)
    yield Attempt("patch", objects.LEASES, namespace, body={"metadata": {}}, name=name)
    yield Attempt("create", objects.LEASES, namespace, body={"metadata": {"name": NAME}, "spec": {}})


async def _make(client: Client, attempt: Attempt) -> None:
    """Raises ClusterError, but not for want of an object that nobody has made."""
    resource, namespace, body = attempt.resource, attempt.namespace, attempt.body
    if attempt.verb == "list":
        await client.request("GET", resource.path(namespace), [("limit", "1")])
    elif attempt.verb == "create":
        await client.request("POST", resource.path(namespace), [DRY_RUN], body)
    elif attempt.verb == "deletecollection":
        await client.request(
            "DELETE", resource.path(namespace), [("labelSelector", f"{JOB_UID_LABEL}={NAME}"), DRY_RUN]
        )
    elif resource == objects.CONFIG_MAPS:
        query = [("fieldManager", objects.FIELD_MANAGER), ("force", "true"), DRY_RUN]
        await client.request("PATCH", resource.path(namespace, attempt.name), query, body, APPLY_PATCH)
    else:
        verb, query, headers = _ON_NOTHING[attempt.verb]
        with suppress(NotFound):
            await client.request(verb, resource.path(namespace, attempt.name, attempt.part), query, body, headers)


_ON_NOTHING: dict[str, tuple[str, list[tuple[str, str]], Mapping[str, str]]] = {
    "get": ("GET", [], JSON),
    "patch": ("PATCH", [DRY_RUN], MERGE_PATCH),
    "delete": ("DELETE", [DRY_RUN], JSON),
}


async def _health(host: str, port: int) -> list[str]:
    url = URL.build(scheme="http", host=host, port=port, path="/readyz")
    timeout = aiohttp.ClientTimeout(total=HEALTH_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        return [f"the operator at {url} does not answer: {error!r}"]
    return [] if response.status == 200 else [f"the operator at {url}: {line}" for line in text.splitlines()]
