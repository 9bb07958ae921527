"""What a Task becomes in Kubernetes, and back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from builders import make_job, make_runtime
from trimtab import plan
from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.names import TEAM_LABEL, label_value
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.work import Finalist, Stage, Task
from trimtab.decisions import Work
from trimtab.manifests import (
    job_manifest,
    metadata_of,
    optimization_job_manifest,
    rule_manifest,
    service_manifest,
    work_of,
)
from trimtab.pod import VOLUMES_PATH, claimed, gpus

FINALISTS = [Finalist(trial=n, engine="ONNXRuntime", artifact=f"sha256:{n}") for n in (0, 2)]


def works(job: OptimizationJob, runtime: OptimizationRuntime) -> dict[Stage, Work]:
    point = {"quantize.operatorScope": "Compute"}
    return {
        Stage.INSPECT: plan.inspect(job, runtime, 0),
        Stage.TRIAL: plan.trial(job, runtime, 2, point, 1),
        Stage.PLAYOFF: plan.playoff(job, runtime, FINALISTS, 0),
        Stage.PUBLISH: plan.publish(job, runtime, (FINALISTS[0], FINALISTS[1]), "packed", 2),
    }


def made(stage: Stage = Stage.TRIAL, runtime: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    job, settings = make_job(**spec), make_runtime(**(runtime or {}))
    return job_manifest(works(job, settings)[stage], settings, job)


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(manifest)["containers"]
    return dict(only)


def environment(manifest: dict[str, Any]) -> dict[str, str]:
    variables = container(manifest)["env"]
    assert len({v["name"] for v in variables}) == len(variables)
    return {v["name"]: v["value"] for v in variables}


@pytest.mark.parametrize("stage", Stage)
def test_the_work_of_every_stage_is_read_back_as_it_was(stage: Stage) -> None:
    job, runtime = make_job(), make_runtime()
    work = works(job, runtime)[stage]
    manifest = job_manifest(work, runtime, job)
    assert work_of(manifest) == work
    assert manifest["metadata"]["name"] == work.name


@pytest.mark.parametrize("name", ["$(HOME).onnx", "$$.onnx", "a$.onnx"])
def test_a_dollar_in_a_file_s_name_is_data(name: str) -> None:
    manifest = made(model={"uri": f"pvc://models/{name}", "format": "ONNX"})
    assert work_of(manifest).task.model.uri == f"pvc://models/{name}"
    # What Kubernetes makes of it: no $(…) is left that it would expand, and $$ becomes $.
    text = environment(manifest)["TRIMTAB_TASK"]
    assert "$(" not in text.replace("$$", "")
    assert Task.model_validate_json(text.replace("$$", "$")).model.uri == f"pvc://models/{name}"


def test_a_job_without_a_task_is_none_of_ours() -> None:
    manifest = made()
    container(manifest)["env"].clear()
    with pytest.raises(ValueError, match="m-01234567-trial-2-1 has no TRIMTAB_TASK"):
        work_of(manifest)


@pytest.mark.parametrize(
    ("addresses", "claims"),
    [
        ({}, {"models": False, "data": False, "store": True, "published": True}),
        ({"publish": None}, {"models": False, "data": False, "store": True}),
        ({"publish": {"uri": "pvc://models/out"}}, {"models": True, "data": False, "store": True}),
        ({"model": {"uri": "file:///m.onnx", "format": "ONNX"}}, {"data": False, "store": True, "published": True}),
        (
            {"model": {"uri": "hf://org/name/m.onnx", "format": "ONNX"}, "publish": {"uri": "s3://models/m"}},
            {"data": False, "store": True},
        ),
        (
            {"publish": None, "metrics": {"custom": {"function": "mine:error", "code": "pvc://code/mine.py"}}},
            {"models": False, "data": False, "store": True, "code": False},
        ),
    ],
    ids=["each its own", "no publish", "published beside the model", "a file in the image", "elsewhere", "code"],
)
def test_claims_that_a_task_names_and_whether_it_writes(addresses: dict[str, Any], claims: dict[str, bool]) -> None:
    manifest = made(Stage.PUBLISH, **addresses)
    assert claimed(work_of(manifest).task) == claims
    names = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod(manifest)["volumes"] if v["name"] != "tmp"}
    mounts = {names[m["name"]]: m for m in container(manifest)["volumeMounts"] if m["name"] != "tmp"}
    assert {claim: not mount["readOnly"] for claim, mount in mounts.items()} == claims
    assert writable(manifest) == claims
    assert {claim: mount["mountPath"] for claim, mount in mounts.items()} == {c: f"{VOLUMES_PATH}/{c}" for c in claims}
    assert json.loads(environment(manifest)["TRIMTAB_VOLUMES"]) == {c: f"{VOLUMES_PATH}/{c}" for c in claims}


def writable(manifest: dict[str, Any]) -> dict[str, bool]:
    """Whether each claim's volume is writable: of one that is, the kubelet makes every file fsGroup's."""
    sources = [v["persistentVolumeClaim"] for v in pod(manifest)["volumes"] if "persistentVolumeClaim" in v]
    return {source["claimName"]: not source.get("readOnly", False) for source in sources}


def test_a_claim_is_writable_where_either_mount_of_it_is() -> None:
    extra = [
        {"claim": "venv", "mountPath": "/opt/venv"},
        {"claim": "scratch", "mountPath": "/scratch", "readOnly": False},
        {"claim": "data", "mountPath": "/raw", "readOnly": False},
        {"claim": "store", "mountPath": "/made"},
    ]
    manifest = made(runtime={"claims": extra})
    assert writable(manifest) == {"models": False, "data": True, "store": True, "venv": False, "scratch": True}


def test_only_a_stage_that_publishes_may_write_there() -> None:
    assert "published" not in claimed(work_of(made(Stage.TRIAL)).task)


@pytest.mark.parametrize("stage", Stage)
def test_only_the_pod_that_publishes_cleans_the_store(stage: Stage) -> None:
    store = {"uri": "pvc://store", "keep": "720h"}
    assert work_of(made(stage, {"store": store})).task.keep == ("720h" if stage == Stage.PUBLISH else None)


def test_the_code_of_a_model_is_mounted_too() -> None:
    model = {
        "uri": "pvc://models/m.safetensors",
        "format": "PyTorch",
        "factory": "net:make",
        "code": "pvc://code/net.py",
    }
    assert claimed(work_of(made(model=model)).task)["code"] is False


def test_a_claim_of_the_runtime_is_mounted_where_the_admin_says_even_if_a_task_names_it() -> None:
    extra = [{"claim": "venv", "mountPath": "/opt/venv"}, {"claim": "data", "mountPath": "/raw", "readOnly": False}]
    manifest = made(runtime={"claims": extra})
    mounts = {
        m["mountPath"]: (m["name"], m["readOnly"]) for m in container(manifest)["volumeMounts"] if "readOnly" in m
    }
    volume = {
        v["persistentVolumeClaim"]["claimName"]: v["name"] for v in pod(manifest)["volumes"] if v["name"] != "tmp"
    }
    assert mounts["/opt/venv"] == (volume["venv"], True)
    assert mounts["/raw"] == (volume["data"], False)
    assert mounts[f"{VOLUMES_PATH}/data"] == (volume["data"], True)
    assert "venv" not in environment(manifest)["TRIMTAB_VOLUMES"]


def test_pods_keep_to_the_restricted_standard_and_get_no_token() -> None:
    spec = pod(made())
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(made())["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert "serviceAccountName" not in spec


def test_a_job_is_one_attempt_but_for_pods_that_the_cluster_takes_away() -> None:
    spec = made(runtime={"activeDeadline": "1500ms"})["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 2)
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", [2])


TORCH = {
    "model": {"uri": "pvc://models/m.safetensors", "format": "PyTorch", "factory": "net:make"},
    "data": {name: {"uri": f"pvc://data/{name}.npz"} for name in ("train", "calibration", "evaluation", "holdout")},
    "techniques": [{"prune": {}}, {"distill": {}, "optional": True}, {"quantize": {}}],
}


@pytest.mark.parametrize(
    ("distributed", "enabled", "stage", "pods"),
    [
        ({"numNodes": 2, "numProcPerNode": 4}, "true", Stage.TRIAL, 2),
        ({"numProcPerNode": 4}, "true", Stage.TRIAL, 1),
        ({"numNodes": 2}, "false", Stage.TRIAL, 1),
        ({"numNodes": 2}, "true", Stage.INSPECT, 1),
        ({"numNodes": 2}, "true", Stage.PLAYOFF, 1),
        (None, "true", Stage.TRIAL, 1),
    ],
    ids=["trains", "in one pod", "leaves the step out", "looks", "times", "not asked for"],
)
def test_only_a_trial_that_trains_has_several_pods(
    distributed: dict[str, int] | None, enabled: str, stage: Stage, pods: int
) -> None:
    job, runtime = make_job(**TORCH), make_runtime(distributed=distributed)
    trial = plan.trial(job, runtime, 2, {"distill.enabled": enabled}, 1)
    work = works(job, runtime)[stage] if stage != Stage.TRIAL else trial
    manifest, service = job_manifest(work, runtime, job), service_manifest(work, job)
    assert work_of(manifest) == work
    assert manifest["spec"].get("parallelism", 1) == manifest["spec"].get("completions", 1) == pods
    assert (service is None) == (pods == 1)
    assert ("completionMode" in manifest["spec"]) == ("subdomain" in pod(manifest)) == (pods > 1)
    assert ("MASTER_ADDR" in environment(manifest)) == (pods > 1)
    assert (TEAM_LABEL in manifest["spec"]["template"]["metadata"]["labels"]) == (pods > 1)
    trains = stage == Stage.TRIAL and enabled == "true"
    assert (work.task.distributed is not None) == (trains and distributed is not None)
    shared = trains and "numProcPerNode" in (distributed or {})
    assert ("/dev/shm" in [mount["mountPath"] for mount in container(manifest)["volumeMounts"]]) == shared
    assert ("shm" in [volume["name"] for volume in pod(manifest)["volumes"]]) == shared


@pytest.mark.parametrize("name", ["j" * 40, "resnet.v2" + ".0" * 15 + "x", "3.a-b.c"])
def test_a_job_of_many_pods_has_names_that_are_labels(name: str) -> None:
    """Of the longest names: Kubernetes refuses an Indexed Job whose pods' hostnames would be longer, or have dots."""
    job, runtime = make_job(**TORCH), make_runtime(distributed={"numNodes": 10})
    metadata = job.metadata.model_copy(update={"name": name, "uid": "01234567-89ab-cdef-0123-456789abcdef"})
    job = job.model_copy(update={"metadata": metadata})
    work = plan.trial(job, runtime, 128, {}, 9)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", f"{work.name}-9")
    assert len(f"{work.name}-9") == 63 - 40 + len(name)
    service = service_manifest(work, job)
    assert service
    assert len(service["metadata"]["name"]) <= 63


def test_what_the_runtime_says_about_pods() -> None:
    manifest = made(
        runtime={
            "env": [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "TRIMTAB_TASK", "value": "mine"}],
            "envFrom": [{"secretRef": {"name": "s3"}}],
            "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "500m"}},
            "nodeSelector": {"pool": "gpu"},
            "runtimeClassName": "nvidia",
            "imagePullPolicy": "Never",
        }
    )
    assert environment(manifest)["OMP_NUM_THREADS"] == "2"
    assert environment(manifest)["TRIMTAB_TASK"] != "mine"
    assert container(manifest)["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert container(manifest)["resources"] == {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "500m"}}
    assert container(manifest)["imagePullPolicy"] == "Never"
    assert (pod(manifest)["nodeSelector"], pod(manifest)["runtimeClassName"]) == ({"pool": "gpu"}, "nvidia")
    assert "runtimeClassName" not in pod(made())


def test_nothing_is_expanded_in_a_variable() -> None:
    """$(NAME) of a variable from a Secret would show it in a pod's environment, logs and reports."""
    manifest = made(runtime={"env": [{"name": "GREETING", "value": "$(AWS_SECRET_ACCESS_KEY) $$"}]})
    assert environment(manifest)["GREETING"] == "$$(AWS_SECRET_ACCESS_KEY) $$$$"


def test_a_pod_s_labels_and_annotations_are_the_runtime_s_but_for_ours() -> None:
    given = {"cost-center": "ml", "app.kubernetes.io/name": "mine"}
    manifest = made(runtime={"podLabels": given, "podAnnotations": {"a": "b"}})
    template = manifest["spec"]["template"]["metadata"]
    assert (template["labels"]["cost-center"], template["labels"]["app.kubernetes.io/name"]) == ("ml", "trimtab")
    assert template["annotations"] == {"a": "b"}
    assert "cost-center" not in manifest["metadata"]["labels"]


QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"


@pytest.mark.parametrize(
    ("labels", "runtime", "expected"),
    [
        ({}, {}, {}),
        ({QUEUE: "mine"}, {}, {QUEUE: "mine"}),
        ({QUEUE: "mine", PRIORITY: "high"}, {}, {QUEUE: "mine", PRIORITY: "high"}),
        ({}, {"queue": {"name": "team"}}, {QUEUE: "team"}),
        ({}, {"queue": {"name": "team", "priorityClassName": "low"}}, {QUEUE: "team", PRIORITY: "low"}),
        ({QUEUE: "mine"}, {"queue": {"name": "team", "priorityClassName": "low"}}, {QUEUE: "mine", PRIORITY: "low"}),
        ({QUEUE: ""}, {"queue": {"name": "team"}}, {QUEUE: "team"}),
        ({PRIORITY: "high"}, {}, {PRIORITY: "high"}),
        ({PRIORITY: "high"}, {"queue": {"name": "team"}}, {QUEUE: "team", PRIORITY: "high"}),
        (
            {QUEUE: "mine", PRIORITY: "high"},
            {"queue": {"name": "team", "priorityClassName": "low"}},
            {QUEUE: "mine", PRIORITY: "low"},
        ),
    ],
    ids=[
        "none",
        "the job's",
        "with priority",
        "the runtime's",
        "both of it",
        "the job's first",
        "no way out",
        "alone",
        "a priority where the runtime has none",
        "no priority over the runtime's",
    ],
)
def test_the_queue_is_on_the_job_alone_which_then_waits(
    labels: dict[str, str], runtime: dict[str, Any], expected: dict[str, str]
) -> None:
    job, settings = make_job(), make_runtime(**runtime)
    labelled = job.model_copy(update={"metadata": job.metadata.model_copy(update={"labels": labels})})
    manifest = job_manifest(works(labelled, settings)[Stage.TRIAL], settings, labelled)
    found = {name: value for name, value in manifest["metadata"]["labels"].items() if "kueue" in name}
    assert found == expected
    assert manifest["spec"].get("suspend", False) is (QUEUE in expected)
    # Kueue takes pods with a queue for work of their own.
    assert not [name for name in manifest["spec"]["template"]["metadata"]["labels"] if "kueue" in name]


def test_what_the_playoff_has_instead() -> None:
    runtime: dict[str, Any] = {
        "nodeSelector": {"pool": "train"},
        "tolerations": [{"operator": "Exists"}],
        "resources": {"limits": {"cpu": "1"}},
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}],
    }
    instead = {"nodeSelector": {}, "tolerations": [], "resources": {"limits": {"cpu": "4"}}}
    same, other = (pod(made(Stage.PLAYOFF, runtime | more)) for more in ({}, {"playoff": instead}))
    assert (same["nodeSelector"], same["tolerations"]) == ({"pool": "train"}, [{"operator": "Exists"}])
    assert ("nodeSelector" in other, "tolerations" in other) == (False, False)
    (timed,) = other["containers"]
    assert timed["resources"] == {"limits": {"cpu": "4"}, "requests": {}, "claims": [{"name": "gpu"}]}
    assert pod(made(Stage.TRIAL, runtime | {"playoff": instead}))["nodeSelector"] == {"pool": "train"}


@pytest.mark.parametrize(
    ("runtime", "held"),
    [
        ({}, 0),
        ({"resources": {"limits": {"cpu": "4", "nvidia.com/gpu": "2"}}}, 2),
        ({"resources": {"limits": {"nvidia.com/mig-1g.5gb": "1", "amd.com/gpu": "1"}}}, 2),
        ({"resourceClaims": [{"name": n, "resourceClaimTemplateName": "t"} for n in ("a", "b")]}, 2),
        (
            {
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "resourceClaims": [{"name": "a", "resourceClaimTemplateName": "t"}],
            },
            2,
        ),
    ],
    ids=["none", "limits", "slices", "claims", "both"],
)
def test_how_many_gpus_a_pod_is_charged_for(runtime: dict[str, Any], held: int) -> None:
    assert gpus(made(runtime=runtime)) == held


def test_labels_find_a_job_and_its_pods_by_every_side_they_are_looked_for() -> None:
    manifest = made(Stage.TRIAL)
    labels = manifest["metadata"]["labels"]
    assert labels == manifest["spec"]["template"]["metadata"]["labels"]
    assert {
        name: labels[f"trimtab.dev/{name}"] for name in ("managed", "job-name", "stage", "trial-index", "attempt")
    } == {
        "managed": "true",
        "job-name": "m",
        "stage": "Trial",
        "trial-index": "2",
        "attempt": "1",
    }
    assert labels["trimtab.dev/job-uid"] == "0123456789ab"
    assert "trimtab.dev/trial-index" not in made(Stage.INSPECT)["metadata"]["labels"]


def test_the_owner_takes_its_jobs_with_it() -> None:
    (owner,) = made()["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "OptimizationJob",
        "name": "m",
        "uid": "0123456789ab",
        "controller": True,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("short", "short"), ("a" * 70, "a" * 63), ("a" * 62 + ".b", "a" * 62)],
    ids=["short", "long", "dot"],
)
def test_a_name_becomes_a_label(name: str, value: str) -> None:
    assert label_value(name) == value


def monitor() -> ModelMonitor:
    return ModelMonitor.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "ml", "uid": "u-1"},
            "spec": {
                "target": {"model": "digits"},
                "triggers": [{"drift": {}}],
                "jobTemplate": {"spec": make_job().spec},
            },
        }
    )


def test_a_monitor_s_job_is_its_own_and_keeps_what_the_decision_says() -> None:
    metadata = ObjectMeta(name="digits-1", namespace="ml", labels={"a": "b"}, annotations={"c": "d"})
    job = make_job().model_copy(update={"metadata": metadata})
    manifest = optimization_job_manifest(job, monitor())
    assert manifest["metadata"]["labels"]["a"] == "b"
    assert manifest["metadata"]["annotations"] == {"c": "d"}
    assert manifest["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert OptimizationJob.model_validate(manifest).spec == job.spec
    assert "status" not in manifest


def test_a_rule_is_a_file_that_prometheus_loads() -> None:
    rule = {"groups": [{"name": "trimtab/ml/digits", "rules": []}]}
    manifest = rule_manifest("trimtab-digits-rules", rule, monitor())
    assert manifest["metadata"]["name"] == "trimtab-digits-rules"
    assert manifest["metadata"]["labels"]["trimtab.dev/rules"] == "true"
    assert yaml.safe_load(manifest["data"]["ml-digits.yaml"]) == rule


def test_metadata_is_readable_when_the_rest_is_not() -> None:
    raw = {"metadata": {"name": "m", "namespace": "ml", "uid": "u", "generation": 3, "resourceVersion": "7"}, "spec": 1}
    assert metadata_of(raw).generation == 3
