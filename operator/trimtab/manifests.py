"""The Kubernetes objects that decisions become, as plain dicts. Pure, and read back by the same module.

A Job is the record of a proposal: its pod template carries the whole Task, so what was started can always be read
from what runs, and nothing is remembered twice. Jobs are only ever created, never changed: Kueue and admission
webhooks own parts of a stored Job, and a name stands for one attempt at one piece of work. A Job with a queue is
created suspended: its pod must not start before Kueue has seen it, whether or not a webhook of Kueue's is asked.

Pods get nothing they don't need: no API token, no root, no writable image, no capability; what they may read and
write follows from the addresses in the Task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from typing import Any

import yaml

from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.model import claim_of
from trimtab.api.monitor import ModelMonitor
from trimtab.api.names import (
    API_VERSION,
    ATTEMPT_LABEL,
    GROUP,
    JOB_LABEL,
    JOB_UID_LABEL,
    MANAGED_LABEL,
    MONITOR_LABEL,
    QUEUE_LABEL,
    QUEUE_PRIORITY_LABEL,
    RULES_LABEL,
    STAGE_LABEL,
    TEAM_LABEL,
    TRIAL_LABEL,
    label_value,
)
from trimtab.api.quantities import parse_duration
from trimtab.api.runtime import Exclusive, OptimizationRuntime, OptimizationRuntimeSpec, Playoff
from trimtab.api.scheduling import Affinity
from trimtab.api.work import (
    CONFINED_VARIABLE,
    INVALID_INPUT_EXIT,
    MESSAGE_VARIABLE,
    TASK_VARIABLE,
    VOLUMES_VARIABLE,
    Stage,
    Task,
)
from trimtab.decisions import Work

VOLUMES_PATH = "/trimtab/volumes"
MESSAGE_PATH = "/dev/termination-log"
CONTAINER = "work"
USER = 65532
"""The `nonroot` of distroless images; the Dockerfile uses the same."""

TORCHRUN_PORT = 29500
"""torchrun's own default. A trial's later meetings take the ports after it."""

GPU = re.compile(r"(^|[./])gpu\b|/mig-")
"""Matches nvidia.com/gpu, amd.com/gpu, gpu.intel.com/i915 and nvidia.com/mig-1g.5gb."""

Manifest = dict[str, Any]


def job_manifest(work: Work, runtime: OptimizationRuntime, owner: OptimizationJob) -> Manifest:
    """The batch/v1 Job that carries out `work`.

    `backoffLimit` is 0 because a Job is one attempt: whether another is worth it, and under which name, is decided
    from the report. Only a pod that the cluster itself took away (preempted, drained) is replaced without a word.
    """
    labels, queue = _labels(work, owner), queue_labels(owner.metadata.labels, runtime.spec)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": work.name,
            "namespace": owner.metadata.namespace,
            "labels": labels | queue,
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            **({"suspend": True} if QUEUE_LABEL in queue else {}),
            "backoffLimit": 0,
            **_nodes(work.task),
            "activeDeadlineSeconds": ceil(parse_duration(runtime.spec.active_deadline)),
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [INVALID_INPUT_EXIT]}},
                ]
            },
            "template": {
                "metadata": {
                    "labels": runtime.spec.pod_labels | labels,
                    "annotations": runtime.spec.pod_annotations,
                },
                "spec": _pod_spec(work, runtime),
            },
        },
    }


def queue_labels(of_job: Mapping[str, str], spec: OptimizationRuntimeSpec) -> dict[str, str]:
    """Kueue's labels of a Job: those of its OptimizationJob, else the runtime's queue.

    Empty is as good as none, so that a runtime's queue can be changed for another of the namespace but not left.
    """
    queue = spec.queue
    default = {QUEUE_LABEL: queue and queue.name, QUEUE_PRIORITY_LABEL: queue and queue.priority_class_name}
    chosen = {label: of_job.get(label) or value for label, value in default.items()}
    return {label: value for label, value in chosen.items() if value}


def service_manifest(work: Work, owner: OptimizationJob) -> Manifest | None:
    """The headless Service by which the pods of `work` find each other, one for all of a job's trials; it may be there.

    None where there is one pod. It has the job's UID as its name, because a Service's may not begin with a digit.
    """
    if nodes(work.task) == 1:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": _service_name(work.task),
            "namespace": owner.metadata.namespace,
            "labels": {**_common_labels("training", owner.metadata.name), JOB_UID_LABEL: owner.metadata.uid},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {JOB_UID_LABEL: owner.metadata.uid},
            # Pods have no probes to be ready by, and meet before anything else.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "torchrun", "port": TORCHRUN_PORT}],
        },
    }


def nodes(task: Task) -> int:
    """How many pods do the work."""
    return task.distributed.num_nodes if task.distributed else 1


def _nodes(task: Task) -> Manifest:
    """Index 0 makes the result, and decides that all is done: what it finds in its cache, it does not train again."""
    if nodes(task) == 1:
        return {}
    return {
        "completionMode": "Indexed",
        "completions": nodes(task),
        "parallelism": nodes(task),
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    }


def _shares_memory(task: Task) -> bool:
    """NCCL passes data between the processes of a pod through /dev/shm, where containers have 64 MiB."""
    return task.distributed is not None and task.distributed.num_proc_per_node > 1


def _service_name(task: Task) -> str:
    return f"trimtab-{task.job.uid}"


def work_of(job: Mapping[str, Any]) -> Work:
    """The work that a Job from `job_manifest` was made of. Raises ValueError if it holds no readable Task."""
    metadata = job["metadata"]
    attempt = int(metadata.get("labels", {}).get(ATTEMPT_LABEL, 0))
    return Work(metadata["name"], Task.recorded(task_text(job)), attempt)


def task_text(job: Mapping[str, Any]) -> str:
    """The Task's JSON in a Job's pod template. Raises ValueError if there is none."""
    containers = job["spec"]["template"]["spec"]["containers"]
    for variable in (v for c in containers if c["name"] == CONTAINER for v in c.get("env", [])):
        if variable["name"] == TASK_VARIABLE:
            return str(variable.get("value", "")).replace("$$", "$")
    raise ValueError(f"Job {job['metadata']['name']} has no {TASK_VARIABLE} in its container {CONTAINER!r}")


def gpus(job: Mapping[str, Any]) -> int:
    """How many GPUs, or slices of one, each pod of a Job holds, by what vendors' device plugins call them."""
    containers = job["spec"]["template"]["spec"]["containers"]
    limits = (limit for c in containers for limit in c.get("resources", {}).get("limits", {}).items())
    return sum(int(amount) for name, amount in limits if GPU.search(name) and str(amount).isdigit())


def optimization_job_manifest(job: OptimizationJob, owner: ModelMonitor) -> Manifest:
    """An OptimizationJob that a monitor starts. It goes when the monitor goes."""
    metadata = job.metadata
    return {
        "apiVersion": API_VERSION,
        "kind": job.kind,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": metadata.labels | _common_labels("optimization-job", owner.metadata.name),
            "annotations": metadata.annotations,
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": job.spec.wire(),
    }


def rule_manifest(name: str, rule: Mapping[str, Any], owner: ModelMonitor) -> Manifest:
    """The ConfigMap `name` that holds a monitor's Prometheus rule file, under a name Prometheus can glob."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": owner.metadata.namespace,
            "labels": {
                **_common_labels("rules", owner.metadata.name),
                MONITOR_LABEL: label_value(owner.metadata.name),
                RULES_LABEL: "true",
            },
            "ownerReferences": [owner_reference(owner)],
        },
        "data": {f"{owner.metadata.namespace}-{owner.metadata.name}.yaml": yaml.safe_dump(dict(rule), sort_keys=False)},
    }


def owner_reference(owner: OptimizationJob | ModelMonitor) -> Manifest:
    """What makes Kubernetes delete an object with its owner.

    `blockOwnerDeletion` is left out: it matters to foreground deletion only, and on clusters with
    OwnerReferencesPermissionEnforcement it takes a right on the owner's finalizers.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
    }


def controller_of(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The one owner reference that is marked as the controller."""
    return next((o for o in metadata.get("ownerReferences", []) if o.get("controller")), None)


def owner_of(metadata: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The controller, if it is of a kind of ours: Kubeflow's group has an OptimizationJob too."""
    owner = controller_of(metadata)
    ours = owner is not None and owner["kind"] == kind and owner["apiVersion"].partition("/")[0] == GROUP
    return owner if ours else None


def metadata_of(raw: Mapping[str, Any]) -> ObjectMeta:
    """An object's metadata, readable even if the rest of it is not."""
    return ObjectMeta.model_validate(raw["metadata"])


def _common_labels(component: str, instance: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "trimtab",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/instance": label_value(instance),
        "app.kubernetes.io/part-of": "trimtab",
        "app.kubernetes.io/managed-by": "trimtab",
    }


def _labels(work: Work, owner: OptimizationJob) -> dict[str, str]:
    labels = {
        **_common_labels("work", owner.metadata.name),
        MANAGED_LABEL: "true",
        JOB_LABEL: label_value(owner.metadata.name),
        JOB_UID_LABEL: owner.metadata.uid,
        STAGE_LABEL: work.task.stage.value,
        ATTEMPT_LABEL: str(work.attempt),
    }
    team = {TEAM_LABEL: "true"} if nodes(work.task) > 1 else {}
    return labels | team if work.task.trial is None else labels | team | {TRIAL_LABEL: str(work.task.trial)}


def _pod_spec(work: Work, runtime: OptimizationRuntime) -> Manifest:
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
        **({"subdomain": _service_name(task)} if nodes(task) > 1 else {}),
        "containers": [_container(work, runtime, volumes)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *([{"name": "shm", "emptyDir": {"medium": "Memory"}}] if _shares_memory(task) else []),
            *({"name": name, "persistentVolumeClaim": {"claimName": claim}} for claim, name in volumes.items()),
        ],
    }


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
    return {"MASTER_ADDR": f"{work.name}-0.{_service_name(work.task)}", "MASTER_PORT": str(TORCHRUN_PORT)}


def _literal(value: str) -> str:
    """Kubernetes expands $(NAME) in a variable and reads $$ as $; a file's name may hold either."""
    return value.replace("$", "$$")


def _mounts(task: Task, runtime: OptimizationRuntime, volumes: Mapping[str, str]) -> Iterator[Manifest]:
    for claim, writable in sorted(claimed(task).items()):
        yield {"name": volumes[claim], "mountPath": f"{VOLUMES_PATH}/{claim}", "readOnly": not writable}
    for mount in runtime.spec.claims:
        yield {"name": volumes[mount.claim], "mountPath": mount.mount_path, "readOnly": mount.read_only}


def claimed(task: Task) -> dict[str, bool]:
    """Every claim that the Task's `pvc://` addresses name, and whether the pod writes to it."""
    custom = task.metrics.custom.code if task.metrics.custom else None
    read = [task.model.uri, task.model.code, custom, *(split.uri for split in task.data.named().values())]
    writes = _claims([task.store, task.publish])
    return {claim: claim in writes for claim in {*_claims(read), *writes}}


def _claims(uris: Iterable[str | None]) -> set[str]:
    return {claim for uri in uris if uri and (claim := claim_of(uri))}
