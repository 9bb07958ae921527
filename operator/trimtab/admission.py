"""Which runtime a job gets, or why it gets none. Pure, and asked anew at every turn.

An administrator's ClusterOptimizationRuntime does two things: jobs in the namespaces it allows may name it, and its
`allowedImages` bound what the OptimizationRuntimes of those namespaces may run. Both fail closed: what cannot be read
allows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trimtab.api.job import OptimizationJob
from trimtab.api.model import RuntimeKind
from trimtab.api.names import Reason
from trimtab.api.runtime import ClusterOptimizationRuntime, OptimizationRuntime
from trimtab.decisions import Refusal

NAME = "spec.target.runtimeRef.name"


def admit(
    job: OptimizationJob, own: OptimizationRuntime | None, shared: Sequence[ClusterOptimizationRuntime] | None
) -> OptimizationRuntime | Refusal:
    """The runtime that a job may use: `own` of its namespace, or one of the cluster's.

    `shared` is None where the operator may not read those.
    """
    if job.spec.target.runtime_ref.kind == RuntimeKind.CLUSTER:
        return _shared(job, shared)
    if own is None:
        name, namespace = job.spec.target.runtime_ref.name, job.metadata.namespace
        return Refusal(
            Reason.RUNTIME_NOT_FOUND,
            f"{NAME}: there is no OptimizationRuntime {name!r} in namespace {namespace}; create it, or name another",
        )
    return _image_refused(job.metadata.namespace, own, shared or ()) or own


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


def _serves(runtime: ClusterOptimizationRuntime, namespace: str) -> bool:
    return any(_matches(pattern, namespace) for pattern in runtime.spec.allowed_namespaces)


def _matches(pattern: str, text: str) -> bool:
    """`*` stands for any characters, and nothing else is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
