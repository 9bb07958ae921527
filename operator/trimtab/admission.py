"""Which runtime a job gets, or why it gets none. Pure, and asked anew at every turn.

An administrator's ClusterOptimizationRuntime does two things: jobs in the namespaces it allows may name it, and its
`allowedImages` bound what the OptimizationRuntimes of those namespaces may run. An operator that may not read them, as
one that serves named namespaces may not unless the chart says so, uses none and keeps to none: it says so at start.

Who writes jobs may be somebody else than who writes runtimes, and trusted with less. A runtime's pods hold Secrets,
claims and the store; a job reaches them neither by code of its own, unless the runtime says so, nor by an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from trimtab.api.job import OptimizationJob
from trimtab.api.model import Device, RuntimeKind, leads_into, scheme_of
from trimtab.api.names import Reason
from trimtab.api.resources import Resources, is_gpu
from trimtab.api.runtime import ClusterOptimizationRuntime, CustomCode, OptimizationRuntime
from trimtab.decisions import Refusal

NAME = "spec.target.runtimeRef.name"


def admit(
    job: OptimizationJob,
    own: Sequence[OptimizationRuntime],
    shared: Sequence[ClusterOptimizationRuntime] | None,
) -> OptimizationRuntime | Refusal:
    """The runtime that a job may use: one of its namespace's `own`, or one of the cluster's.

    `shared` is None where the operator may not read those.
    """
    runtime = _named(job, own, shared)
    if isinstance(runtime, Refusal):
        return runtime
    serving = [found for found in shared or () if _serves(found, job.metadata.namespace)]
    refused = _code_refused(job, runtime) or _device_refused(job, runtime) or _address_refused(job, [*own, *serving])
    return refused or runtime


def _named(
    job: OptimizationJob,
    own: Sequence[OptimizationRuntime],
    shared: Sequence[ClusterOptimizationRuntime] | None,
) -> OptimizationRuntime | Refusal:
    if job.spec.target.runtime_ref.kind == RuntimeKind.CLUSTER:
        return _shared(job, shared)
    name, namespace = job.spec.target.runtime_ref.name, job.metadata.namespace
    found = next((runtime for runtime in own if runtime.metadata.name == name), None)
    if found is None:
        return Refusal(
            Reason.RUNTIME_NOT_FOUND,
            f"{NAME}: there is no OptimizationRuntime {name!r} in namespace {namespace}; create it, or name another",
        )
    return _image_refused(namespace, found, shared or ()) or found


def _shared(job: OptimizationJob, shared: Sequence[ClusterOptimizationRuntime] | None) -> OptimizationRuntime | Refusal:
    name, namespace = job.spec.target.runtime_ref.name, job.metadata.namespace
    if shared is None:
        return Refusal(
            Reason.RUNTIME_NOT_FOUND,
            f"{NAME}: this operator serves named namespaces and may not read ClusterOptimizationRuntimes: name an "
            "OptimizationRuntime, or have the chart installed with clusterRuntimes=true",
        )
    found = next((runtime for runtime in shared if runtime.metadata.name == name), None)
    if found is None:
        return Refusal(
            Reason.RUNTIME_NOT_FOUND,
            f"{NAME}: there is no ClusterOptimizationRuntime {name!r}; create it, or name another",
        )
    if not _serves(found, namespace):
        return Refusal(
            Reason.RUNTIME_NOT_ALLOWED,
            f"{NAME}: the ClusterOptimizationRuntime {name!r} is not for namespace {namespace}: its allowedNamespaces "
            f"are {', '.join(found.spec.allowed_namespaces)}",
        )
    return found


def _image_refused(
    namespace: str, own: OptimizationRuntime, shared: Iterable[ClusterOptimizationRuntime]
) -> Refusal | None:
    """Where several of the cluster's runtimes bound a namespace, an image that one of them allows is allowed."""
    allowed = {image for runtime in shared if _serves(runtime, namespace) for image in runtime.spec.allowed_images}
    if not allowed or any(_matches(image, own.spec.image) for image in allowed):
        return None
    return Refusal(
        Reason.IMAGE_NOT_ALLOWED,
        f"OptimizationRuntime {own.metadata.name!r}: image {own.spec.image!r} is not allowed in namespace {namespace}: "
        f"allowed are {', '.join(sorted(allowed))}",
    )


def _code_refused(job: OptimizationJob, runtime: OptimizationRuntime) -> Refusal | None:
    """A function of the image is a job's choice like any other: `cgi:print_environ` is in the standard library."""
    code = next(_code(job), None)
    if code is None or runtime.spec.custom_code == CustomCode.ALLOW:
        return None
    return Refusal(
        Reason.CODE_NOT_ALLOWED,
        f"{code} is code of the job's choice, and {_called(runtime)} lets none run with the Secrets, claims and store "
        "of its pods: leave it out, or name a runtime with customCode: Allow",
    )


def _code(job: OptimizationJob) -> Iterator[str]:
    if job.spec.model.factory:
        yield f"spec.model.factory: {job.spec.model.factory!r}"
    if job.spec.metrics.custom:
        yield f"spec.metrics.custom.function: {job.spec.metrics.custom.function!r}"


def _device_refused(job: OptimizationJob, runtime: OptimizationRuntime) -> Refusal | None:
    """Without a GPU in its pods a job would run on CPUs, and never say so; in the playoff too, whose times decide."""
    spec, instead = runtime.spec, runtime.spec.playoff.resources
    if job.spec.target.device == Device.CPU or spec.resource_claims:
        return None
    if not _has_gpu(spec.resources):
        lacks = "gives its pods none: name a runtime with a limit such as nvidia.com/gpu, or with resourceClaims"
    elif instead and not _has_gpu(instead):
        lacks = (
            "gives its playoff none: spec.playoff.resources stands in place of spec.resources: name a runtime with a "
            "limit such as nvidia.com/gpu in both, or with resourceClaims"
        )
    else:
        return None
    return Refusal(Reason.DEVICE_NOT_GIVEN, f"spec.target.device: GPU: {_called(runtime)} {lacks}")


def _has_gpu(resources: Resources) -> bool:
    return any(is_gpu(name) for name in resources.limits)


@dataclass(frozen=True)
class Kept:
    """What a runtime keeps from jobs: a claim, or a folder of a bucket."""

    runtime: OptimizationRuntime
    uri: str
    use: str


def _address_refused(job: OptimizationJob, runtimes: Iterable[OptimizationRuntime]) -> Refusal | None:
    kept = [place for runtime in runtimes for place in _kept(runtime)]
    problems = (
        f"{field}: {uri} {problem}"
        for field, uri in job.spec.addresses().items()
        if (problem := _address_problem(uri, kept))
    )
    message = next(problems, None)
    return Refusal(Reason.ADDRESS_NOT_ALLOWED, message) if message else None


def _address_problem(uri: str, kept: Iterable[Kept]) -> str:
    if scheme_of(uri) == "file":  # stored before the API server refused it
        return "would be a file of the image, or of what the runtime mounts: name a claim (pvc://) or another address"
    owned = next((place for place in kept if leads_into(uri, place.uri)), None)
    return f"is in {owned.use} of {_called(owned.runtime)}, which no job may name: name another place" if owned else ""


def _kept(runtime: OptimizationRuntime) -> Iterator[Kept]:
    yield Kept(runtime, runtime.spec.store.uri, "the store")
    for mount in runtime.spec.claims:
        yield Kept(runtime, f"pvc://{mount.claim}", "a claim")


def _called(runtime: OptimizationRuntime) -> str:
    return f"{runtime.kind} {runtime.metadata.name!r}"


def _serves(runtime: ClusterOptimizationRuntime, namespace: str) -> bool:
    return any(_matches(pattern, namespace) for pattern in runtime.spec.allowed_namespaces)


def _matches(pattern: str, text: str) -> bool:
    """`*` stands for any characters, and nothing else is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
