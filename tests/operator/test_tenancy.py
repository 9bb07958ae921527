"""What a tenant tries through a field, and what refuses it: the API server, admission, or the pod that is made.

A tenant writes jobs and monitors in a namespace of its own. Runtimes are the namespace's administrator's, who may have
more than one kind of tenant there; what they keep (Secrets, claims, the store) is no job's. Addresses that lead out of
their claim and `file://` are in `contracts/bad_manifests.py`, links in `jobs/test_store.py`, roles in
`chart/test_chart.py`, images in `test_admission.py`, Pod Security in `test_placement.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import NOW, World, job_dict, make_job, make_runtime
from contracts.bad_manifests import JOB, MONITOR, REMOVED, RUNTIME, Manifest, changed
from operators import create_runtime, process, submit
from ports import free_port
from trimtab import plan
from trimtab.admission import admit
from trimtab.alerts import Alert
from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.names import ATTEMPT_LABEL
from trimtab.api.runtime import ClusterOptimizationRuntime, OptimizationRuntime
from trimtab.api.work import Stage
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.records import record_of
from trimtab.decisions import Refusal
from trimtab.errors import ClusterError
from trimtab.manifests import job_manifest
from trimtab.metrics import Metrics
from trimtab.monitoring import reconcile_monitor, record
from trimtab.settings import Settings
from trimtab.world import RESOURCES, Kind, Works
from waiting import patience

EXAMPLES = Path(__file__).parents[2] / "examples"
SPLITS = job_dict()["spec"]["data"]
SECRETS = {"envFrom": [{"secretRef": {"name": "bucket-of-the-team"}}]}
VENV = {"claims": [{"claim": "venv", "mountPath": "/opt/venv"}]}
BUCKET = {"store": {"uri": "s3://models/store"}}


def pytorch(factory: str, **model: str) -> dict[str, Any]:
    given = {"uri": "pvc://models/w.safetensors", "format": "PyTorch", "factory": factory} | model
    return {"model": given, "techniques": None}


def metric(function: str, **custom: str) -> dict[str, Any]:
    return {"metrics": {"custom": {"function": function} | custom}}


@dataclass(frozen=True)
class Attempt:
    """A job's fields, the runtime it names, other runtimes of the namespace and the cluster, and the answer."""

    what: str
    spec: Mapping[str, Any]
    says: str
    runtime: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] | None = None
    shared: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.what

    def answer(self, job: OptimizationJob) -> str:
        own = [make_runtime(**self.runtime)]
        if self.beside is not None:
            own.append(named(make_runtime(**self.beside), "beside"))
        cluster = [] if self.shared is None else [shared(**self.shared)]
        got = admit(job, own, cluster)
        return f"{got.reason}: {got.message}" if isinstance(got, Refusal) else "admitted"


def named(runtime: OptimizationRuntime, name: str) -> OptimizationRuntime:
    return runtime.model_copy(update={"metadata": runtime.metadata.model_copy(update={"name": name})})


def shared(**spec: Any) -> ClusterOptimizationRuntime:
    given = make_runtime().spec.wire() | {"allowedNamespaces": ["ml"]} | spec
    return ClusterOptimizationRuntime.model_validate({"metadata": {"name": "shared"}, "spec": given})


REFUSED = (
    # Somebody's Secret, through code that runs where it is in the environment.
    Attempt(
        "a metric's code",
        metric("mine:leak", code="pvc://mine/mine.py"),
        "CodeNotAllowed: spec.metrics.custom.function: 'mine:leak' is code of the job's choice, and "
        "OptimizationRuntime 'default' lets none run with the Secrets, claims and store of its pods: leave it out, or "
        "name a runtime with customCode: Allow",
        SECRETS,
    ),
    Attempt(
        "a model's code",
        pytorch("net:build", code="pvc://mine/net.py"),
        "CodeNotAllowed: spec.model.factory: 'net:build' is code of the job's choice",
        SECRETS,
    ),
    Attempt(
        "the standard library prints the environment, and viewers read the log",
        pytorch("cgi:print_environ"),
        "CodeNotAllowed: spec.model.factory: 'cgi:print_environ' is code of the job's choice",
        SECRETS,
    ),
    Attempt(
        "a function of the image",
        metric("os:system"),
        "CodeNotAllowed: spec.metrics.custom.function: 'os:system' is code",
        SECRETS,
    ),
    Attempt(
        "code that reads the store, where there are no Secrets",
        metric("mine:steal", code="pvc://mine/mine.py"),
        "CodeNotAllowed: spec.metrics.custom.function: 'mine:steal' is code",
    ),
    # Other jobs' models and reports, in the store.
    Attempt(
        "reads another's artifact",
        {"model": {"uri": "pvc://store/artifacts/0/model.onnx", "format": "ONNX"}},
        "AddressNotAllowed: spec.model.uri: pvc://store/artifacts/0/model.onnx is in the store of OptimizationRuntime "
        "'default', which no job may name: name another place",
    ),
    Attempt(
        "reads another's data, fetched into the store",
        {"data": SPLITS | {"holdout": {"uri": "pvc://store/inputs/0/holdout.npz"}}},
        "AddressNotAllowed: spec.data.holdout.uri: pvc://store/inputs/0/holdout.npz is in the store",
    ),
    Attempt(
        "publishes over another's artifact",
        {"publish": {"uri": "pvc://store/artifacts"}},
        "AddressNotAllowed: spec.publish.uri: pvc://store/artifacts is in the store",
    ),
    Attempt(
        "names another folder of the store's claim, where a link may be",
        {"publish": {"uri": "pvc://shared/models"}},
        "AddressNotAllowed: spec.publish.uri: pvc://shared/models is in the store",
        {"store": {"uri": "pvc://shared/store"}},
    ),
    Attempt(
        "takes the store for a folder of metrics, where code is allowed",
        metric("mine:error", code="pvc://store/inputs/0/mine.py"),
        "AddressNotAllowed: spec.metrics.custom.code: pvc://store/inputs/0/mine.py is in the store",
        {"customCode": "Allow"},
    ),
    Attempt(
        "the store of another runtime in the namespace",
        {"model": {"uri": "pvc://other/artifacts/0/model.onnx", "format": "ONNX"}},
        "AddressNotAllowed: spec.model.uri: pvc://other/artifacts/0/model.onnx is in the store of OptimizationRuntime "
        "'beside'",
        beside={"store": {"uri": "pvc://other"}},
    ),
    Attempt(
        "the store of the cluster's runtime, with the credentials of its own",
        {"model": {"uri": "s3://models/store/artifacts/0/model.onnx", "format": "ONNX"}},
        "AddressNotAllowed: spec.model.uri: s3://models/store/artifacts/0/model.onnx is in the store of "
        "ClusterOptimizationRuntime 'shared'",
        SECRETS,
        shared=BUCKET,
    ),
    Attempt(
        "a store in a bucket, spelt otherwise",
        {"publish": {"uri": "s3://models//st%6fre/artifacts"}},
        "AddressNotAllowed: spec.publish.uri: s3://models//st%6fre/artifacts is in the store",
        BUCKET,
    ),
    # What the runtime mounts, perhaps for reading only.
    Attempt(
        "publishes to where other pods import from",
        {"publish": {"uri": "pvc://venv/torch"}},
        "AddressNotAllowed: spec.publish.uri: pvc://venv/torch is in a claim of OptimizationRuntime 'default'",
        VENV,
    ),
    Attempt(
        "a file of the pod, stored before the API server refused it",
        {"data": SPLITS | {"evaluation": {"uri": "file:///proc/self/environ"}}},
        "AddressNotAllowed: spec.data.evaluation.uri: file:///proc/self/environ would be a file of the image",
        SECRETS,
    ),
)


@pytest.mark.parametrize("attempt", REFUSED, ids=str)
def test_a_job_is_refused(attempt: Attempt) -> None:
    assert attempt.answer(make_job(**attempt.spec)).startswith(attempt.says)


@pytest.mark.parametrize("attempt", REFUSED, ids=str)
def test_a_monitor_is_no_way_around(attempt: Attempt) -> None:
    assert attempt.answer(started_by_a_monitor(make_job(**attempt.spec).spec.wire())).startswith(attempt.says)


def test_what_a_monitor_captures_is_an_address_like_others() -> None:
    job = started_by_a_monitor(make_job().spec.wire(), action="Recalibrate", capture="pvc://store/inputs")
    attempt = Attempt(
        "", {}, "AddressNotAllowed: spec.data.calibration.uri: pvc://store/inputs/current.npz is in the st"
    )
    assert attempt.answer(job).startswith(attempt.says)


def started_by_a_monitor(spec: Mapping[str, Any], **given: Any) -> OptimizationJob:
    """The job that an alert leads to."""
    watched = {"target": {"model": "m"}, "triggers": [{"drift": {}}], "jobTemplate": {"spec": spec}} | given
    metadata = {"name": "m", "namespace": "ml", "uid": "u"}
    monitor = ModelMonitor.model_validate({"metadata": metadata, "spec": watched})
    alert = Alert("ModelDriftDetected", "f", NOW, None)
    fired = monitor.model_copy(update={"status": record(monitor.status, [alert], NOW)})
    job = reconcile_monitor(fired, [], NOW, "https://runbooks").create
    assert job
    return job


ADMITTED = (
    Attempt("no code, with Secrets", {}, "", SECRETS | VENV | BUCKET),
    Attempt("code, where its owner lets it in", pytorch("net:build"), "", SECRETS | {"customCode": "Allow"}),
    Attempt("beside a store in a bucket", {"publish": {"uri": "s3://models/store-of-mine"}}, "", BUCKET),
    Attempt("above a store in a bucket", {"publish": {"uri": "s3://models"}}, "", BUCKET),
    Attempt("another bucket", {"publish": {"uri": "s3://mine/store"}}, "", BUCKET),
    Attempt("another cloud", {"publish": {"uri": "gs://models/store"}}, "", BUCKET),
    Attempt("a claim called alike", {"publish": {"uri": "pvc://store-2/store"}}, ""),
    Attempt("elsewhere's runtime", {}, "", shared={"allowedNamespaces": ["other"], "store": {"uri": "pvc://models"}}),
)


@pytest.mark.parametrize("attempt", ADMITTED, ids=str)
def test_what_a_tenant_may_do(attempt: Attempt) -> None:
    assert attempt.answer(make_job(**attempt.spec)) == "admitted"


def test_the_examples_are_admitted() -> None:
    """All in one namespace, as their pages have them applied."""
    found = [item for path in EXAMPLES.glob("*/*.yaml") for item in yaml.safe_load_all(path.read_text())]
    runtimes = [OptimizationRuntime.model_validate(item) for item in found if item["kind"] == "OptimizationRuntime"]
    monitors = [ModelMonitor.model_validate(item) for item in found if item["kind"] == "ModelMonitor"]
    jobs = [OptimizationJob.model_validate(item) for item in found if item["kind"] == "OptimizationJob"]
    jobs += [OptimizationJob(metadata=m.metadata, spec=m.spec.job_template.spec) for m in monitors]
    assert (len(runtimes) > 1, len(jobs) > 5) == (True, True)
    assert [got for job in jobs if isinstance(got := admit(job, runtimes, ()), Refusal)] == []


def test_it_is_asked_at_every_turn() -> None:
    """A runtime that is tightened, whose job then waits, and goes on when it is loosened again."""
    allowed = make_runtime(customCode="Allow", **SECRETS)
    world = World(make_job(**metric("mine:error")), runtime=allowed)
    world.step()
    begun = list(world.started)
    world.runtime = make_runtime(**SECRETS)
    assert world.run().state == "CodeNotAllowed"
    assert world.condition("Accepted")[:2] == ("False", "CodeNotAllowed")
    assert world.started == begun
    world.runtime = allowed
    assert world.run().state == "Published"


POD_FIELDS = {
    *(
        "restartPolicy",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "securityContext",
        "containers",
        "volumes",
    ),
    *("nodeSelector", "tolerations", "affinity", "priorityClassName", "schedulerName", "runtimeClassName"),
    *("imagePullSecrets", "resourceClaims"),
}
CONTAINER_FIELDS = {
    *("name", "image", "imagePullPolicy", "command", "env", "envFrom", "resources", "volumeMounts", "securityContext"),
    *("terminationMessagePath", "terminationMessagePolicy"),
}


def test_no_field_of_a_runtime_reaches_further_into_a_pod() -> None:
    """Of a runtime that says all that one can say: no host, no account, no other container, no other volume."""
    runtime = OptimizationRuntime.model_validate(RUNTIME)
    job = make_job()
    pod = job_manifest(plan.inspect(job, runtime, 0), runtime, job)["spec"]["template"]["spec"]
    assert set(pod) == POD_FIELDS
    assert [set(container) for container in pod["containers"]] == [CONTAINER_FIELDS]
    assert {kind for volume in pod["volumes"] for kind in volume} == {"name", "emptyDir", "persistentVolumeClaim"}


def test_a_variable_of_a_runtime_quotes_no_secret_and_replaces_none_of_ours() -> None:
    runtime = make_runtime(env=[{"name": "A", "value": "$(PASSWORD)"}, {"name": "TRIMTAB_CONFINED", "value": ""}])
    job = make_job()
    pod = job_manifest(plan.inspect(job, runtime, 0), runtime, job)["spec"]["template"]["spec"]
    variables = {v["name"]: v["value"] for v in pod["containers"][0]["env"]}
    assert (variables["A"], variables["TRIMTAB_CONFINED"]) == ("$$(PASSWORD)", "pvc://store")


def test_a_job_of_a_namespace_is_no_result_in_another() -> None:
    """Whoever may create Jobs can write anybody's UID into an owner reference, and all our labels."""
    job, runtime = make_job(), make_runtime()
    forged = job_manifest(plan.inspect(job, runtime, 0), runtime, job)
    stored = {"uid": "forged", "resourceVersion": "9", "creationTimestamp": "2026-01-01T00:00:00Z"}
    forged["metadata"] |= {"namespace": "intruder"} | stored
    works = Works()
    assert works.put(record_of(forged))
    assert works.of("ml", job.metadata.uid) == ()


UNKNOWN: tuple[tuple[Manifest, str, Any], ...] = (
    # Another namespace, another image, another account.
    (JOB, "spec.namespace", "other"),
    (JOB, "spec.image", "evil"),
    (JOB, "spec.store", {"uri": "pvc://mine"}),
    (JOB, "spec.envFrom", [{"secretRef": {"name": "theirs"}}]),
    (JOB, "spec.serviceAccountName", "admin"),
    (JOB, "spec.podTemplate", {"spec": {"hostNetwork": True}}),
    (JOB, "spec.customCode", "Allow"),
    (JOB, "spec.target.runtimeRef.namespace", "other"),
    (JOB, "spec.model.secretRef", {"name": "theirs"}),
    (JOB, "spec.data.holdout.namespace", "other"),
    (JOB, "spec.publish.secretRef", {"name": "theirs"}),
    (MONITOR, "spec.namespace", "other"),
    (MONITOR, "spec.target.namespace", "other"),
    (MONITOR, "spec.jobTemplate.metadata", {"namespace": "other"}),
    (MONITOR, "spec.jobTemplate.spec.image", "evil"),
    (RUNTIME, "spec.serviceAccountName", "admin"),
    (RUNTIME, "spec.automountServiceAccountToken", True),
    (RUNTIME, "spec.hostNetwork", True),
    (RUNTIME, "spec.hostPID", True),
    (RUNTIME, "spec.hostAliases", [{"ip": "127.0.0.1"}]),
    (RUNTIME, "spec.securityContext", {"privileged": True}),
    (RUNTIME, "spec.volumes", [{"name": "host", "hostPath": {"path": "/"}}]),
    (RUNTIME, "spec.initContainers", [{"name": "root", "image": "evil"}]),
    (RUNTIME, "spec.containers", [{"name": "work", "securityContext": {"privileged": True}}]),
    (RUNTIME, "spec.command", ["sh"]),
    (RUNTIME, "spec.env.0.valueFrom", {"secretKeyRef": {"name": "theirs", "key": "k"}}),
    (RUNTIME, "spec.envFrom.0.secretRef.namespace", "other"),
    (RUNTIME, "spec.claims.0.namespace", "other"),
    (RUNTIME, "spec.claims.0.hostPath", "/"),
    (RUNTIME, "spec.claims.0.subPath", ".."),
    (RUNTIME, "spec.affinity.hostNetwork", True),
)


FAILED: Object = {
    "startTime": "2026-01-01T00:00:00Z",
    "conditions": [
        {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "lastTransitionTime": "2026-01-01T00:00:01Z"}
    ],
}
EDITS: dict[str, Manifest] = {
    "a failed Job loses its deadline": {"spec.activeDeadlineSeconds": REMOVED, "status": FAILED},
    "no Task": {"spec.template.spec.containers.0.env": []},
    "a Task that is none": {"task": "{"},
    "a Task that is a list": {"task": "[]"},
    "a stage that is a number": {"task": '{"stage": 5}'},
    "a stage that is a list": {"task": '{"stage": ["x"]}'},
    "a stage of one's own": {"task": '{"stage": "anything a tenant likes"}'},
    "a trial that is a list": {"task": '{"stage": "Trial", "trial": [1]}'},
    "a Task without an end": {"task": "[" * 100_000},
    "an attempt that is no number": {"metadata.labels": {ATTEMPT_LABEL: "x"}},
    "none of our labels": {"metadata.labels": {}},
    "GPUs by the thousand": {"spec.template.spec.containers.0.resources": {"limits": {"nvidia.com/gpu": "1k"}}},
    "no pods at a time": {"spec.parallelism": 0},
}
"""What whoever may edit Jobs writes into one of ours, or into one that only looks so."""


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_job_is_that_job_s_loss_alone(edit: Manifest) -> None:
    """It is read or passed over, never an error that would end a watch, and no label of a metric grows by it."""
    job = make_job()
    manifest = job_manifest(plan.inspect(job, make_runtime(), 0), make_runtime(), job)
    manifest["metadata"] |= {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    changes = dict(edit)
    if "task" in changes:
        changes["spec.template.spec.containers.0.env"] = [{"name": "TRIMTAB_TASK", "value": changes.pop("task")}]
    works = Works()
    with contextlib.suppress(ValueError):
        works.put(record_of(changed(manifest, changes)))
    metrics = Metrics()
    metrics.watch_works(lambda: works)
    stages = set(re.findall(r'stage="(.*?)"', metrics.text().decode()))
    assert stages <= {"", *Stage}


@pytest.mark.e2e
def test_a_failed_job_that_loses_its_deadline_stops_nobody(namespace: str, other_namespace: str) -> None:
    """Kubernetes lets it be edited when it has ended, and every operator that starts later lists it."""

    async def main() -> None:
        async with await Client.connect() as client:
            await create_runtime(client, namespace)
            await submit(client, namespace)
            owner = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m")
            job = OptimizationJob.model_validate(owner)
            late = job_manifest(plan.inspect(job, make_runtime(activeDeadline="1s"), 0), make_runtime(), job)
            late = changed(late, {"metadata.name": "late", "spec.activeDeadlineSeconds": 1})
            path = objects.JOBS.path(namespace, "late")
            await objects.create(client, objects.JOBS, late)
            async with patience(client, namespace):
                while not any(c["reason"] == "DeadlineExceeded" for c in await conditions(client, path)):
                    await asyncio.sleep(0.1)
            body = {"spec": {"activeDeadlineSeconds": None}}
            await client.request("PATCH", path, body=body, headers=MERGE_PATCH)
            await create_runtime(client, other_namespace)
            await submit(client, other_namespace)
            settings = Settings(http_port=free_port(), watch_namespaces=[namespace, other_namespace])
            async with process(settings) as operator, patience(client, other_namespace):
                while not (await client.request("GET", objects.JOBS.path(other_namespace)))["items"]:
                    assert operator.process.returncode is None
                    await asyncio.sleep(0.1)

    asyncio.run(main())


async def conditions(client: Client, path: str) -> list[Object]:
    found: list[Object] = (await client.request("GET", path)).get("status", {}).get("conditions", [])
    return found


@pytest.mark.e2e
def test_there_is_no_such_field(namespace: str) -> None:
    """Refused where fields are checked, and where they are not, dropped before anybody sees them."""

    async def main() -> None:
        async with await Client.connect() as client:
            for good, path, value in UNKNOWN:
                attempt = changed(good, {path: value})
                with pytest.raises(ClusterError, match=re.escape(f'unknown field "{spelt(path)}"')):
                    await create(client, namespace, attempt, "Strict")
                stored = await create(client, namespace, attempt, "Ignore")
                assert stored["spec"] == (await create(client, namespace, good, "Strict"))["spec"], path

    asyncio.run(main())


@pytest.mark.e2e
def test_nobody_says_how_a_job_ended_by_creating_it(namespace: str) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            ended = {"status": {"state": "Published", "conditions": [{"type": "Complete", "status": "True"}]}}
            assert "status" not in await create(client, namespace, JOB | ended, "Strict")

    asyncio.run(main())


async def create(client: Client, namespace: str, manifest: Manifest, validation: str) -> Object:
    """What the API server would store."""
    path = RESOURCES[Kind(manifest["kind"])].path(namespace)
    body = changed(manifest, {"metadata": {"name": "attempt", "namespace": namespace}})
    return await client.request("POST", path, [("dryRun", "All"), ("fieldValidation", validation)], body)


def spelt(path: str) -> str:
    """`spec.env.0.valueFrom` as the API server writes it."""
    first, *rest = path.split(".")
    return first + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
