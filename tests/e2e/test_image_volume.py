"""A winner published to an OCI registry is mounted by a pod as an image volume, and the model server serves it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from bad_inputs import write_inputs
from e2e.support import Namespace, condition, get, kubectl, make_namespace, wait_for
from jobs.conftest import Lab
from jobs.test_run import finalist
from lab import containerd
from lab.containerd import PAUSE_IMAGE
from lab.shell import run
from ports import free_port
from registry import Registry, registry
from trimtab.api.work import Report

pytestmark = pytest.mark.e2e
NAMESPACE = "e2e-image-volume"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """On this machine's loopback, where the node's containerd finds it too, and asks it without TLS."""
    with registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def home(cluster: None, tmp_path: Path) -> Iterator[Namespace]:
    """A namespace on the bare cluster: nothing of ours is in it but a pod."""
    make_namespace(NAMESPACE)
    yield Namespace(NAMESPACE, tmp_path)
    kubectl("delete", "namespace", NAMESPACE, "--timeout=300s")


def publish(folder: Path, hub: Registry) -> Report:
    """The input model, by the two pods' programs that pin and publish it."""
    lab = Lab(folder)
    for claim in ("inputs", "store"):
        lab.folder(claim).mkdir()
    write_inputs(lab.folder("inputs"))
    inspected = lab.run(lab.task("Inspect")).report
    assert inspected
    assert inspected.inspection
    baseline = finalist(inspected.artifact).wire()
    task = lab.task(
        "Publish", publish=f"oci://{hub.host}/models/digits:stable", baseline=baseline, winner=baseline,
        pins=inspected.inspection.data_digests | {"model": inspected.inspection.model_digest},
    )  # fmt: skip
    ended = lab.run(task)
    assert ended.report, ended.stderr
    return ended.report


def pod(reference: str) -> dict[str, Any]:
    """As the restricted standard wants it. It only waits, in the lab's own image; its one volume is the model."""
    container = {
        "name": "pause",
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "volumeMounts": [{"name": "model", "mountPath": "/model"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "digits"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "model", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}],
        },
    }


def test_a_published_image_is_mounted_and_served(home: Namespace, hub: Registry, tmp_path: Path) -> None:
    report = publish(tmp_path, hub)
    home.apply(pod(report.published.removeprefix("oci://")))
    try:
        running = wait_for("the pod is ready", lambda: ready(home), 300)
        mounted = Path(f"/proc/{process_of(running)}/root/model")
        assert (mounted / "model.onnx").read_bytes() == (artifact(tmp_path, report) / "model.onnx").read_bytes()
        with pytest.raises(OSError, match="Read-only file system"):
            (mounted / "model.onnx").write_bytes(b"")
        assert answered(mounted) == report.artifact
    except AssertionError as wrong:
        raise AssertionError(f"{wrong}\n{home.story()}") from None


def ready(home: Namespace) -> Any:
    found = get(home.name, "pods", "digits")
    return found if condition(found, "Ready") == "True" else None


def process_of(running: Any) -> int:
    """The container's process, as containerd knows it."""
    (status,) = running["status"]["containerStatuses"]
    tasks = run(*containerd.ctr(), "task", "list")
    name = status["containerID"].removeprefix("containerd://")
    return next(int(line.split()[1]) for line in tasks.splitlines() if line.startswith(name))


def artifact(folder: Path, report: Report) -> Path:
    return folder / "store" / "artifacts" / report.artifact.removeprefix("sha256:")


def answered(mounted: Path) -> str:
    """The digest of the model that a server on the mounted folder answers with."""
    port = free_port()
    command = [sys.executable, "-m", "trimtab_jobs.serve", "--model-name", "digits", "--from", mounted.as_uri()]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        wait_for("the server is ready", lambda: is_ready(f"http://127.0.0.1:{port}"), 300)
        row = {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": [0.0] * 8}
        answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/digits/infer", json={"inputs": [row]})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model_version"])
    finally:
        process.terminate()
        process.wait()


def is_ready(server: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{server}/v2/health/ready").status_code == 200
    return False
