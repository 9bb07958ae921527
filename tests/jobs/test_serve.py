"""The model server as a process of its own, asked over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ports import free_port
from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.status import Claim, Hardware, Verdict
from trimtab.api.work import VOLUMES_VARIABLE, Finalist, JobIdentity
from trimtab_jobs.data import Array, read_split
from trimtab_jobs.drift.profile import Profile, make_profile
from trimtab_jobs.engines import RUNNABLE
from trimtab_jobs.model import Model
from trimtab_jobs.openvino_model import openvino, save
from trimtab_jobs.publish import Folder, Publication, publish
from trimtab_jobs.store import digest_folder

# The tests' model is trained for a second, not until it has converged.
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

WINDOW = 64
CAPTURE_ROWS = 100


@dataclass
class Site:
    """A claim `published`, a claim `captured`, and servers over them."""

    root: Path
    digits: Path
    servers: list[Server] = field(default_factory=list)

    def publish(
        self,
        name: str = "",
        engine: EngineName = EngineName.ONNXRUNTIME,
        seed: int = 0,
        form: ModelFormat = ModelFormat.ONNX,
    ) -> str:
        """Publish the digits model, under another digest for another `name`. Returns the digest."""
        work = self.root / f"work-{time.monotonic_ns()}"
        work.mkdir()
        if form == ModelFormat.OPENVINO:
            model = save(openvino.Core().read_model(self.digits / "model.onnx"), work)
        else:
            graph = onnx.load(self.digits / "model.onnx")
            graph.doc_string = name
            onnx.save(graph, work / "model.onnx")
            model = Model(work, form).save_manifest()
        profile = self.root / "profile.json"
        frozen(self.digits, seed).save(profile)
        digest = digest_folder(work)
        publication = Publication(
            job=JobIdentity(name="digits", namespace="ml", uid="u1"),
            winner=Finalist(trial=1, engine=engine, artifact=digest),
            claim=Claim(verdict=Verdict.HOLDS),
            digests={},
            hardware=Hardware(),
        )
        publish(Folder((self.root / "published").as_uri()), model, profile, publication, {})
        return digest

    def serve(self, *arguments: str) -> Server:
        server = Server(self, arguments)
        self.servers.append(server)
        return server

    @property
    def environment(self) -> dict[str, str]:
        volumes = {name: str(self.root / name) for name in ("published", "captured")}
        return os.environ | {VOLUMES_VARIABLE: json.dumps(volumes), "OMP_NUM_THREADS": "1"}


class Server:
    """`python -m trimtab_jobs.serve` on a free port, its log in a file."""

    def __init__(self, site: Site, arguments: tuple[str, ...]) -> None:
        port = free_port()
        fixed = ["--model-name", "digits", "--from", "pvc://published", "--window", str(WINDOW), "--threads", "1"]
        self.log = site.root / f"server-{port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "trimtab_jobs.serve",
                    *fixed,
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                    *arguments,
                ],
                env=site.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.until(lambda: self.answers("/v2/health/live"))

    def until(self, holds: Callable[[], object]) -> None:
        """Wait for something to become so; the test's own timeout ends it otherwise."""
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def answers(self, path: str) -> bool:
        try:
            return self.client.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def ready(self) -> Server:
        self.until(lambda: self.answers("/v2/health/ready"))
        return self

    def serves(self, digest: str) -> None:
        self.until(lambda: self.info().get("digest") == digest)

    def infer(self, rows: Array) -> httpx.Response:
        return self.client.post("/v2/models/digits/infer", json=request(rows))

    def metrics(self) -> dict[str, float]:
        """Samples without other labels than the model's name."""
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for sample in family.samples
            if sample.labels == {"model_name": "digits"}
        }

    def info(self) -> dict[str, str]:
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            if family.name == "trimtab_model_info":
                return dict(family.samples[0].labels)
        return {}

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(300)


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Callable[[], Site]]:
    sites: list[Site] = []

    def make() -> Site:
        root = tmp_path_factory.mktemp("site")
        (root / "published").mkdir()
        (root / "captured").mkdir()
        sites.append(Site(root, digits))
        return sites[-1]

    yield make
    for site in sites:
        for server in site.servers:
            server.stop()


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture(scope="module")
def served(make_site: Callable[[], Site]) -> Server:
    """A server of one revision, for tests that leave it as it is."""
    site = make_site()
    site.publish()
    return site.serve().ready()


@pytest.fixture(scope="module")
def images(digits: Path) -> Array:
    return read_split("holdout", digits / "holdout.npz").inputs["image"]


@cache
def frozen(digits: Path, seed: int) -> Profile:
    images = read_split("evaluation", digits / "evaluation.npz").inputs["image"]
    return make_profile({"image": images}, logits(images, digits), seed)


def logits(rows: Array, digits: Path) -> Array:
    session = onnxruntime.InferenceSession(digits / "model.onnx", providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"image": rows})[0]
    return found


def request(rows: Array, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    return {"inputs": [tensor | changes]}


def test_before_anything_is_published_it_lives_and_is_not_ready(site: Site, images: Array) -> None:
    server = site.serve()
    assert server.client.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/digits", "/v2/models/digits/ready"):
        answer = server.client.get(path)
        assert (answer.status_code, answer.json()) == (
            503,
            {"error": "model 'digits' is not ready: nothing is loaded yet"},
        )
    assert server.infer(images[:1]).status_code == 503
    assert server.client.get("/metrics").status_code == 200
    digest = site.publish()
    server.ready()
    assert server.infer(images[:1]).json()["model_version"] == digest
    assert server.log.read_text().count("waiting for") == 1
    assert server.stop() == -signal.SIGTERM  # uvicorn ends by the signal it was given, once everything is closed


@pytest.mark.parametrize("nested", [False, True])
def test_answers_are_the_models(served: Server, images: Array, digits: Path, nested: bool) -> None:
    rows = images[:7]
    changes = {"data": rows.tolist()} if nested else {}
    answer = served.client.post("/v2/models/digits/infer", json=request(rows, **changes) | {"id": "42"})
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["model_name"]) == ("42", "digits")
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [7, 10])
    assert np.allclose(np.reshape(output["data"], output["shape"]), logits(rows, digits), atol=1e-5)


def test_it_describes_itself(served: Server) -> None:
    assert served.client.get("/v2").json()["name"] == "trimtab"
    described = served.client.get("/v2/models/digits").json()
    assert described["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert described["platform"] == "onnx_onnxruntime"
    assert served.client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}


ROW = np.zeros((1, 64), np.float32)
BAD_REQUESTS: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "the body is not JSON: "),
    "no UTF-8": (b"\xff\xfe{", "the body is not JSON: "),
    "JSON too deep": (b"[" * 100_000, "the body is not JSON: "),
    "no object": (b"[]", "the body is not a JSON object"),
    "NaN": (b'{"inputs": [NaN]}', "the body is not JSON: NaN is no JSON number"),
    "no inputs": ({}, "inputs: missing: give a list of tensors"),
    "inputs no list": ({"inputs": 1}, "inputs: not a list: give a list of tensors"),
    "no tensor": ({"inputs": [1]}, "inputs[0]: it is no tensor with a name"),
    "unknown input": (request(ROW, name="x"), "inputs: x given, and the model takes image"),
    "no input": ({"inputs": []}, "inputs: nothing given, and the model takes image"),
    "unknown output": (request(ROW) | {"outputs": [{"name": "y"}]}, "outputs: there is no 'y': the model has logits"),
    "another dtype": (request(ROW, datatype="INT32"), "inputs.image.datatype: 'INT32' is not FP32"),
    "an unknown dtype": (request(ROW, datatype=None), "inputs.image.datatype: None is not FP32"),
    "shape of another rank": (request(ROW, shape=[64]), "inputs.image.shape: [64] does not fit float32[N,64]"),
    "shape of another size": (request(ROW, shape=[1, 63]), "inputs.image.shape: [1, 63] does not fit float32[N,64]"),
    "no rows": (request(ROW[:0]), "inputs.image.shape: [0, 64] is not a list of sizes above 0"),
    "negative": (request(ROW, shape=[-1, 64]), "inputs.image.shape: [-1, 64] is not a list of sizes above 0"),
    "too few": (request(ROW, data=[0.5]), "inputs.image.data: 1 values do not fill the shape [1, 64]"),
    "huge": (
        request(ROW, shape=[2**62, 64]),
        "inputs.image.data: 64 values do not fill the shape [4611686018427387904, 64]",
    ),
    "ragged": (request(ROW, data=[[1, 2], [3]]), "inputs.image.data: its lists are not of one length"),
    "text": (request(ROW, data=["a"] * 64), "inputs.image.data: it holds something else than numbers that fit FP32"),
    "null": (request(ROW, data=[None] * 64), "inputs.image.data: it holds something else than numbers that fit FP32"),
    "booleans": (
        request(ROW, data=[True] * 64),
        "inputs.image.data: it holds something else than numbers that fit FP32",
    ),
    "too large": (request(ROW, data=[1e39] * 64), "inputs.image.data: a value is out of the range of FP32"),
    "infinite": (
        json.dumps(request(ROW)).replace("[0.0", "[1e999").encode(),
        "inputs.image.data: a value is out of the range of FP32",
    ),
}


@pytest.mark.parametrize(("body", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests_are_refused_in_one_line(served: Server, body: Any, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = served.client.post("/v2/models/digits/infer", content=content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.startswith(message)
    assert "\n" not in error


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/digits/infer", 405),
    ],
)
def test_errors_are_json(served: Server, method: str, path: str, code: int) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == code
    assert answer.json()["error"]


def test_an_endless_body_is_refused(served: Server) -> None:
    answer = served.client.post("/v2/models/digits/infer", content=(b" " * (1 << 20) for _ in range(65)))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the body is larger than 67108864 bytes")


def test_metrics(site: Site, images: Array) -> None:
    site.publish()
    server = site.serve().ready()
    for _ in range(3):
        server.infer(images[:2])
    server.client.post("/v2/models/digits/infer", content=b"{")
    server.client.post("/v2/models/other/infer", content=b"{")
    samples = server.metrics()
    assert samples["trimtab_request_duration_seconds_count"] == 3
    assert samples["trimtab_inference_duration_seconds_count"] == 3
    assert samples["trimtab_request_duration_seconds_sum"] > samples["trimtab_inference_duration_seconds_sum"] > 0
    assert samples["trimtab_drift_window_rows"] == 6
    assert samples["trimtab_drift_threshold"] >= 0.1
    assert "trimtab_drift_score" not in samples
    assert "trimtab_capture_ready" not in samples
    assert not [name for name in samples if name.endswith("_created")]
    assert server.info()["engine"] == "ONNXRuntime"
    text = server.client.get("/metrics").text
    for code, count in (("200", 3), ("400", 1), ("404", 1)):
        assert f'trimtab_requests_total{{code="{code}",model_name="digits"}} {count}.0' in text
    assert 'le="0.005"' in text
    if shutil.which("promtool"):
        lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (lint.returncode, lint.stderr) == (0, ""), lint.stderr


@pytest.mark.parametrize("form", sorted(RUNNABLE))
def test_openvino_serves_what_was_published_for_it(site: Site, images: Array, digits: Path, form: ModelFormat) -> None:
    site.publish(engine=EngineName.OPENVINO, form=form)
    server = site.serve().ready()
    described = server.client.get("/v2/models/digits").json()
    assert described["platform"] == f"{form.lower()}_openvino"
    assert described["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    (output,) = server.infer(images[:5]).json()["outputs"]
    assert np.allclose(np.reshape(output["data"], output["shape"]), logits(images[:5], digits), atol=1e-4)
    assert server.info()["engine"] == "OpenVINO"


def test_a_new_revision_takes_over_under_load(site: Site, images: Array) -> None:
    """Four clients, some hundred requests: none fails, and no client sees the old model after the new one."""
    first = site.publish("first")
    server = site.serve().ready()
    seen: list[list[str]] = [[] for _ in range(4)]
    done = threading.Event()

    def ask(versions: list[str]) -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            while not done.is_set():
                answer = client.post("/v2/models/digits/infer", json=request(images[:1]))
                versions.append(answer.json()["model_version"] if answer.status_code == 200 else answer.text)

    clients = [threading.Thread(target=ask, args=(versions,)) for versions in seen]
    for client in clients:
        client.start()
    server.until(lambda: sum(map(len, seen)) > 100)
    second = site.publish("second")
    server.serves(second)
    asked = sum(map(len, seen))
    server.until(lambda: sum(map(len, seen)) > asked + 100 and all(second in versions for versions in seen))
    done.set()
    for client in clients:
        client.join()
    for versions in seen:
        change = versions.index(second)
        assert set(versions[:change]) == {first}
        assert set(versions[change:]) == {second}


def test_a_broken_revision_changes_nothing_but_the_log(site: Site, images: Array) -> None:
    first = site.publish("first")
    server = site.serve().ready()
    current = site.root / "published" / "current.json"
    pointer = json.loads(current.read_text())
    folder = current.parent / "broken"
    shutil.copytree(current.parent / pointer["path"], folder)
    (folder / "model.onnx").write_bytes(b"no model")
    current.write_text(json.dumps(pointer | {"path": "broken", "digest": "sha256:broken"}))
    server.until(lambda: "not loaded" in server.log.read_text())
    assert server.infer(images[:1]).json()["model_version"] == first
    second = site.publish("second")
    server.serves(second)


def test_drift_is_scored_captured_and_frozen_until_a_new_revision(site: Site, images: Array) -> None:
    site.publish("first")
    capture = ["--capture", "pvc://captured", "--capture-rows", str(CAPTURE_ROWS)]
    server = site.serve(*capture).ready()
    captured = site.root / "captured" / "current.npz"

    for start in range(0, 2 * WINDOW, 16):
        server.infer(images[start : start + 16])
    samples = server.metrics()
    assert samples["trimtab_drift_score"] < samples["trimtab_drift_threshold"]
    assert (samples["trimtab_capture_ready"], captured.exists()) == (0, False)

    inverted = 1 - images[:400]
    for start in range(0, 320, 16):
        server.infer(inverted[start : start + 16])
    server.until(lambda: server.metrics()["trimtab_capture_ready"] == 1)
    samples = server.metrics()
    assert samples["trimtab_drift_score"] > samples["trimtab_drift_threshold"]
    assert "most in " in server.log.read_text()

    split = read_split("calibration", captured)
    assert CAPTURE_ROWS <= len(split) < CAPTURE_ROWS + 16
    drifted = {row.tobytes() for row in inverted}
    assert all(row.tobytes() in drifted for row in split.inputs["image"])

    kept = captured.read_bytes()
    for again in (server, site.serve(*capture).ready()):
        for _ in range(4):
            again.infer(inverted[:64])
        assert again.metrics()["trimtab_capture_ready"] == 1
        assert captured.read_bytes() == kept

    second = site.publish("second")
    server.serves(second)
    samples = server.metrics()
    assert samples["trimtab_capture_ready"] == 0
    assert samples["trimtab_drift_window_rows"] == 0
    assert "trimtab_drift_score" not in samples


def test_the_same_model_for_new_data_is_a_new_revision(site: Site, images: Array) -> None:
    site.publish(seed=1)
    server = site.serve().ready()
    server.infer(images[:32])
    assert server.metrics()["trimtab_drift_window_rows"] == 32
    site.publish(seed=2)
    server.until(lambda: server.metrics()["trimtab_drift_window_rows"] == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "pvc://nowhere"], "--from: pvc://nowhere names claim 'nowhere', which is not mounted"),
        (["--capture", "pvc://published/../x"], "--capture: pvc://published/../x leaves its claim"),
        (["--model-name", "a b"], "'a b' is no model name"),
        (["--window", "100"], "invalid choice: 100 (choose from 64, 128, 256, 512, 1024, 2048)"),
    ],
)
def test_wrong_arguments_are_told_at_once(site: Site, arguments: list[str], message: str) -> None:
    fixed = ["--model-name", "digits", "--from", "pvc://published"]
    ended = subprocess.run(
        [sys.executable, "-m", "trimtab_jobs.serve", *fixed, *arguments],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert message in ended.stderr.splitlines()[-1]
