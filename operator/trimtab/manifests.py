"""The Kubernetes objects that decisions become, as plain dicts. Pure, and read back by the same module.

A Job is the record of a proposal: its pod template carries the whole Task, so what was started can always be read
from what runs, and nothing is remembered twice. Jobs are only ever created, never changed: Kueue and admission
webhooks own parts of a stored Job, and a name stands for one attempt at one piece of work. A Job with a queue is
created suspended: its pod must not start before Kueue has seen it, whether or not a webhook of Kueue's is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import yaml

from trimtab.api.job import ObjectMeta, OptimizationJob
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
    RUNTIME_ANNOTATION,
    STAGE_LABEL,
    TEAM_LABEL,
    TRIAL_LABEL,
    label_value,
)
from trimtab.api.quantities import parse_duration
from trimtab.api.runtime import OptimizationRuntime, OptimizationRuntimeSpec
from trimtab.api.work import INVALID_INPUT_EXIT, Task
from trimtab.decisions import Work
from trimtab.pod import TORCHRUN_PORT, Manifest, nodes, pod_spec, service_name, task_text


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
            "annotations": {RUNTIME_ANNOTATION: runtime.edition},
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
                "spec": pod_spec(work, runtime),
            },
        },
    }


def queue_labels(of_job: Mapping[str, str], spec: OptimizationRuntimeSpec) -> dict[str, str]:
    """Kueue's labels of a Job: the queue of its OptimizationJob, else the runtime's; the priority the other way round.

    Empty is as good as none, so that a runtime's queue can be changed for another of the namespace but not left. By its
    priority a job may have others evicted, so the one that a runtime names stands.
    """
    queue = spec.queue
    name = of_job.get(QUEUE_LABEL) or (queue and queue.name)
    priority = (queue and queue.priority_class_name) or of_job.get(QUEUE_PRIORITY_LABEL)
    return {label: value for label, value in ((QUEUE_LABEL, name), (QUEUE_PRIORITY_LABEL, priority)) if value}


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
            "name": service_name(work.task),
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


def work_of(job: Mapping[str, Any]) -> Work:
    """The work that a Job from `job_manifest` was made of. Raises ValueError if it holds no readable Task."""
    metadata = job["metadata"]
    attempt = int(metadata.get("labels", {}).get(ATTEMPT_LABEL, 0))
    return Work(metadata["name"], Task.recorded(task_text(job)), attempt)


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
