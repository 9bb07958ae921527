"""The pod that carries out a piece of work, as a plain dict. Pure, and read back by the same module.

Pods get nothing they don't need: no API token, no root, no writable image, no capability; what they may read and
write follows from the addresses in the Task, which is all in one variable of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trimtab.api.model import claim_of
from trimtab.api.names import MANAGED_LABEL
from trimtab.api.resources import is_gpu
from trimtab.api.runtime import Exclusive, OptimizationRuntime, OptimizationRuntimeSpec, Playoff
from trimtab.api.scheduling import Affinity
from trimtab.api.work import (
    CONFINED_VARIABLE,
    MESSAGE_VARIABLE,
    TASK_VARIABLE,
    VOLUMES_PATH,
    VOLUMES_VARIABLE,
    Stage,
    Task,
)
from trimtab.decisions import Work

MESSAGE_PATH = "/dev/termination-log"
CONTAINER = "work"
USER = 65532
"""The `nonroot` of distroless images; the Dockerfile uses the same."""

TORCHRUN_PORT = 29500
"""torchrun's own default. A trial's later meetings take the ports after it."""

Manifest = dict[str, Any]


def pod_spec(work: Work, runtime: OptimizationRuntime) -> Manifest:
    """The `spec` of a Job's pod template."""
    task, spec = work.task, runtime.spec
    claims = sorted({*claimed(task), *(mount.claim for mount in spec.claims)})
    volumes = {claim: f"claim-{number}" for number, claim in enumerate(claims)}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Without this every start walks the whole volume to change owners.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_placement(task.stage, spec),
        **({"subdomain": service_name(task)} if nodes(task) > 1 else {}),
        "containers": [_container(work, runtime, volumes)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *([{"name": "shm", "emptyDir": {"medium": "Memory"}}] if _shares_memory(task) else []),
            *_volumes(work, runtime, volumes),
        ],
    }


def nodes(task: Task) -> int:
    """How many pods do the work."""
    return task.distributed.num_nodes if task.distributed else 1


def service_name(task: Task) -> str:
    """Of the headless Service by which the pods of a job's trials find each other."""
    return f"trimtab-{task.job.uid}"


def claimed(task: Task) -> dict[str, bool]:
    """Every claim that the Task's `pvc://` addresses name, and whether the pod writes to it."""
    custom = task.metrics.custom.code if task.metrics.custom else None
    read = [task.model.uri, task.model.code, custom, *(split.uri for split in task.data.named().values())]
    writes = _claims([task.store, task.publish])
    return {claim: claim in writes for claim in {*_claims(read), *writes}}


def task_text(job: Mapping[str, Any]) -> str:
    """The Task's JSON in a Job's pod template. Raises ValueError if there is none."""
    containers = job["spec"]["template"]["spec"]["containers"]
    for variable in (v for c in containers if c["name"] == CONTAINER for v in c.get("env", [])):
        if variable["name"] == TASK_VARIABLE:
            return str(variable.get("value", "")).replace("$$", "$")
    raise ValueError(f"Job {job['metadata']['name']} has no {TASK_VARIABLE} in its container {CONTAINER!r}")


def gpus(job: Mapping[str, Any]) -> int:
    """How many GPUs, or slices of one, each pod of a Job holds. A claim of devices counts as one, whatever it holds."""
    pod = job["spec"]["template"]["spec"]
    limits = (limit for c in pod["containers"] for limit in c.get("resources", {}).get("limits", {}).items())
    counted = sum(int(amount) for name, amount in limits if is_gpu(name) and str(amount).isdigit())
    return counted + len(pod.get("resourceClaims", []))


def _placement(stage: Stage, spec: OptimizationRuntimeSpec) -> Manifest:
    """Where a stage's pod may run. What is left out stays out, for the cluster has defaults of its own."""
    instead = spec.playoff if stage == Stage.PLAYOFF else Playoff()
    selector = spec.node_selector if instead.node_selector is None else instead.node_selector
    tolerations = spec.tolerations if instead.tolerations is None else instead.tolerations
    affinity = (instead.affinity or spec.affinity or Affinity()).wire()
    asked = {
        "nodeSelector": selector,
        "tolerations": [toleration.wire() for toleration in tolerations],
        "affinity": _alone(affinity, spec.playoff.exclusive) if stage == Stage.PLAYOFF else affinity,
        "priorityClassName": spec.priority_class_name,
        "schedulerName": spec.scheduler_name,
        "runtimeClassName": spec.runtime_class_name,
        "imagePullSecrets": [secret.wire() for secret in spec.image_pull_secrets],
        "resourceClaims": [claim.wire() for claim in spec.resource_claims],
    }
    return {name: value for name, value in asked.items() if value}


def _alone(affinity: Manifest, exclusive: Exclusive) -> Manifest:
    """With a term that keeps a pod away from all others of ours; the scheduler also keeps later ones away from it."""
    term = {
        "labelSelector": {"matchLabels": {MANAGED_LABEL: "true"}},
        "namespaceSelector": {},
        "topologyKey": "kubernetes.io/hostname",
    }
    required = exclusive == Exclusive.REQUIRED
    kind = f"{'required' if required else 'preferred'}DuringSchedulingIgnoredDuringExecution"
    apart = affinity.get("podAntiAffinity", {})
    mine = term if required else {"weight": 100, "podAffinityTerm": term}
    return affinity | {"podAntiAffinity": apart | {kind: [*apart.get(kind, []), mine]}}


def _container(work: Work, runtime: OptimizationRuntime, volumes: Mapping[str, str]) -> Manifest:
    task, spec = work.task, runtime.spec
    return {
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy.value,
        "command": ["python", "-m", "trimtab_jobs"],
        "env": _environment(work, runtime),
        "envFrom": [source.wire() for source in spec.env_from],
        "resources": _resources(task.stage, spec),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *([{"name": "shm", "mountPath": "/dev/shm"}] if _shares_memory(task) else []),  # noqa: S108
            *_mounts(task, runtime, volumes),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": MESSAGE_PATH,
        # A pod that dies without a report (an import that fails) leaves the end of its log instead.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _resources(stage: Stage, spec: OptimizationRuntimeSpec) -> Manifest:
    instead = spec.playoff.resources if stage == Stage.PLAYOFF else None
    claims = [{"name": claim.name} for claim in spec.resource_claims]
    return (instead or spec.resources).wire() | ({"claims": claims} if claims else {})


def _environment(work: Work, runtime: OptimizationRuntime) -> list[Manifest]:
    """The runtime's variables and ours, which win over a repeated name."""
    task = work.task
    mounts = {claim: f"{VOLUMES_PATH}/{claim}" for claim in sorted(claimed(task))}
    ours = {
        TASK_VARIABLE: task.text(),
        VOLUMES_VARIABLE: json.dumps(mounts),
        MESSAGE_VARIABLE: MESSAGE_PATH,
        CONFINED_VARIABLE: task.store,
        **_meeting(work),
    }
    # The root filesystem is read-only and the user has no entry in passwd: libraries cache under HOME.
    theirs = {"HOME": "/tmp", **{v.name: v.value for v in runtime.spec.env}}  # noqa: S108
    return [{"name": name, "value": _literal(value)} for name, value in (theirs | ours).items()]


def _meeting(work: Work) -> dict[str, str]:
    """Where the pods meet: at index 0, which Kubernetes gives a host name by its index."""
    if nodes(work.task) == 1:
        return {}
    return {"MASTER_ADDR": f"{work.name}-0.{service_name(work.task)}", "MASTER_PORT": str(TORCHRUN_PORT)}


def _literal(value: str) -> str:
    """Kubernetes expands $(NAME) in a variable and reads $$ as $; a file's name may hold either."""
    return value.replace("$", "$$")


def _volumes(work: Work, runtime: OptimizationRuntime, volumes: Mapping[str, str]) -> Iterator[Manifest]:
    """Claims that nothing here writes are read-only themselves: of the others the kubelet changes group and modes."""
    written = {claim for claim, writes in claimed(work.task).items() if writes}
    written |= {mount.claim for mount in runtime.spec.claims if not mount.read_only}
    for claim, name in volumes.items():
        kept = {} if claim in written else {"readOnly": True}
        yield {"name": name, "persistentVolumeClaim": {"claimName": claim} | kept}


def _mounts(task: Task, runtime: OptimizationRuntime, volumes: Mapping[str, str]) -> Iterator[Manifest]:
    for claim, writable in sorted(claimed(task).items()):
        yield {"name": volumes[claim], "mountPath": f"{VOLUMES_PATH}/{claim}", "readOnly": not writable}
    for mount in runtime.spec.claims:
        yield {"name": volumes[mount.claim], "mountPath": mount.mount_path, "readOnly": mount.read_only}


def _shares_memory(task: Task) -> bool:
    """NCCL passes data between the processes of a pod through /dev/shm, where containers have 64 MiB."""
    return task.distributed is not None and task.distributed.num_proc_per_node > 1


def _claims(uris: Iterable[str | None]) -> set[str]:
    return {claim for uri in uris if uri and (claim := claim_of(uri))}
