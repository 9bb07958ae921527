"""The usual operator, as tutorials of kopf and of the client lead to it: `python -m bench.scale.naive SCRIPTS TRIALS`.

A create-handler starts the first Job, and a handler of Jobs that ended reads the pod's message, writes the owner's
status, tells events and starts the next. Plain functions, the official client, kopf's settings untouched. It decides
nothing and would lose its place if it were killed: only its calls are those of the real one, with one status a Job.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import kopf
import kubernetes.client
import kubernetes.config

from bench.scale import replay
from bench.scale.load import Object, number_of, shape
from trimtab.api.names import API_VERSION, GROUP, MANAGED_LABEL, VERSION
from trimtab.cluster.pods import JOB_UID_LABEL
from trimtab.manifests import controller_of

scripts = replay.load(Path(sys.argv[1]))
trials = int(sys.argv[2])
ended: set[str] = set()
KIND = {"apiVersion": API_VERSION, "kind": "OptimizationJob"}


@kopf.on.startup()
def configure(**_: Any) -> None:
    kubernetes.config.load_kube_config()


@kopf.on.create(GROUP, VERSION, "optimizationjobs")
def created(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
    _start({"metadata": dict(body.metadata)}, 0)
    patch.status["state"] = "Inspecting"


@kopf.on.event("batch", "v1", "jobs", labels={MANAGED_LABEL: "true"})
def changed(body: kopf.Body, namespace: str | None, uid: str, **_: Any) -> None:
    if not body.status.get("succeeded") or uid in ended:
        return
    ended.add(uid)
    reference = controller_of(dict(body.metadata)) or {}
    owner: Any = {**KIND, "metadata": {"name": reference["name"], "namespace": namespace, "uid": reference["uid"]}}
    script = _script(owner)
    index = script.index(dict(body.metadata))
    pods = kubernetes.client.CoreV1Api().list_namespaced_pod(namespace, label_selector=f"{JOB_UID_LABEL}={uid}")
    report = json.loads(pods.items[0].status.container_statuses[0].state.terminated.message)
    assert report["stage"]
    kubernetes.client.CustomObjectsApi().patch_namespaced_custom_object_status(
        GROUP, VERSION, namespace, "optimizationjobs", reference["name"], {"status": script.status_after(index + 1)}
    )
    for event in script.events_after(index):
        kopf.event(owner, type=event["type"], reason=event["reason"], message=event["note"])
    if index + 1 < len(script.jobs):
        _start(owner, index + 1)


def _start(owner: Object, index: int) -> None:
    job = _script(owner).job(owner, index)
    kubernetes.client.BatchV1Api().create_namespaced_job(job["metadata"]["namespace"], job)


def _script(owner: Object) -> replay.Script:
    return scripts[shape(number_of(owner), trials).name]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    kopf.run(clusterwide=True, standalone=True)
