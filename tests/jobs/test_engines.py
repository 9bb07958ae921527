"""One suite for every engine: what ONNX Runtime computes is the truth, and a behaviour is a test.

A new engine joins by a line in `EXECUTED` for each format it opens, or in `BUILT` if it only builds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnx
import onnx.parser
import pytest

from trimtab.api.model import ComputeCapability, EngineName, ModelFormat
from trimtab_jobs.engines import ENGINES, RUNNABLE, EngineOptions, NotExecutable, Session, engine
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import Model
from trimtab_jobs.openvino_model import openvino, save

EXECUTED = [
    (EngineName.ONNXRUNTIME, ModelFormat.ONNX),
    (EngineName.OPENVINO, ModelFormat.ONNX),
    (EngineName.OPENVINO, ModelFormat.OPENVINO),
]
BUILT = [EngineName.TENSORRT]
MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
BYTES = {"bytes": np.random.default_rng(0).integers(0, 257, (3, 2048), dtype=np.int32)}

executed = pytest.mark.parametrize(("name", "form"), EXECUTED, ids=lambda value: value.name)
every = pytest.mark.parametrize("name", list(EngineName))

TWO_INPUTS = """
<ir_version: 8, opset_import: ["" : 15]>
two (float[N,4] a, int32[N,4] b) => (float[N,2] scaled, float[N,4] sum) {
    weights = Constant <value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}> ()
    asfloat = Cast <to = 1> (b)
    sum = Add (a, asfloat)
    scaled = MatMul (sum, weights)
}
"""
UNKNOWN_OPERATOR = """
<ir_version: 8, opset_import: ["" : 15, "acme" : 1]>
unknown (float[N,4] x) => (float[N,4] y) { y = acme.Mystery (x) }
"""


def saved(folder: Path, text: str) -> Model:
    """Weights in Constant nodes, dynamic axes and several inputs are in these texts, as exporters write them."""
    model = Model(folder, ModelFormat.ONNX)
    onnx.save(onnx.parser.parse_model(text), model.file)
    return model


@pytest.fixture
def magika_model(tmp_path: Path) -> Model:
    model = Model(tmp_path, ModelFormat.ONNX)
    shutil.copy(MAGIKA, model.file)
    return model


def load(name: EngineName, model: Model, form: ModelFormat = ModelFormat.ONNX, **options: Any) -> Session:
    """The ONNX model on the engine, in the format `form`."""
    return engine(name).load(in_format(model, form), EngineOptions(**options))


def in_format(model: Model, form: ModelFormat) -> Model:
    if form == model.format:
        return model
    folder = model.folder / form
    folder.mkdir()
    return save(openvino.Core().read_model(model.file), folder)


def test_every_engine_is_in_the_suite() -> None:
    assert {*dict(EXECUTED), *BUILT} == set(ENGINES) == set(EngineName)
    assert {form for _, form in EXECUTED} == RUNNABLE


@executed
def test_computes_what_onnx_runtime_computes(name: EngineName, form: ModelFormat, magika_model: Model) -> None:
    truth = load(EngineName.ONNXRUNTIME, magika_model).run(BYTES)
    outputs = load(name, magika_model, form).run(BYTES)
    np.testing.assert_allclose(outputs[0], truth[0], atol=1e-5)


@executed
def test_takes_any_batch_and_keeps_earlier_outputs(name: EngineName, form: ModelFormat, magika_model: Model) -> None:
    session = load(name, magika_model, form)
    whole = session.run(BYTES)[0]
    before = whole.copy()
    for start in range(3):
        part = session.run({"bytes": BYTES["bytes"][start : start + 1]})[0]
        np.testing.assert_allclose(part, whole[start : start + 1], atol=1e-5)
    np.testing.assert_array_equal(whole, before)


@executed
def test_feeds_inputs_by_name_and_returns_outputs_in_order(name: EngineName, form: ModelFormat, tmp_path: Path) -> None:
    session = load(name, saved(tmp_path, TWO_INPUTS), form)
    a, b = np.ones((2, 4), np.float32), np.arange(8, dtype=np.int32).reshape(2, 4)
    scaled, total = session.run({"b": b, "a": a})
    np.testing.assert_allclose(total, a + b)
    np.testing.assert_allclose(scaled, (a + b) @ np.arange(1, 9, dtype=np.float32).reshape(4, 2))


@executed
@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({}, id="missing"),
        pytest.param({**BYTES, "more": BYTES["bytes"]}, id="unknown"),
        pytest.param({"bytes": BYTES["bytes"].astype(np.float32)}, id="dtype"),
        pytest.param({"bytes": BYTES["bytes"][:, :100]}, id="shape"),
        pytest.param({"bytes": BYTES["bytes"][0]}, id="rank"),
    ],
)
def test_refuses_wrong_inputs(
    name: EngineName, form: ModelFormat, magika_model: Model, inputs: dict[str, np.ndarray]
) -> None:
    session = load(name, magika_model, form)
    session.run(BYTES)
    with pytest.raises(InvalidInput, match="refuses the inputs: "):
        session.run(inputs)


@every
@pytest.mark.parametrize("content", [b"", b"no protobuf", MAGIKA.read_bytes()[:100_000]])
def test_refuses_a_broken_file(name: EngineName, tmp_path: Path, content: bytes) -> None:
    model = Model(tmp_path, ModelFormat.ONNX)
    model.file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"^model.onnx: .* (refuses|cannot build) this model: ."):
        load(name, model)


@pytest.mark.parametrize("file", ["model.xml", "model.bin"])
def test_refuses_half_an_openvino_model(magika_model: Model, file: str) -> None:
    model = in_format(magika_model, ModelFormat.OPENVINO)
    content = (model.folder / file).read_bytes()
    (model.folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match=r"^model.xml: OpenVINO refuses this model: ."):
        load(EngineName.OPENVINO, model, model.format)


@pytest.mark.parametrize("name", [*dict(EXECUTED), *BUILT])
@pytest.mark.parametrize("form", list(ModelFormat))
def test_says_which_formats_it_does_not_open(name: EngineName, form: ModelFormat, tmp_path: Path) -> None:
    if (name, form) in EXECUTED or form == ModelFormat.ONNX:
        return
    with pytest.raises(InvalidInput, match=f"{name} cannot run {form} models"):
        load(name, Model(tmp_path, form), form)


@every
def test_names_an_operator_it_does_not_know(name: EngineName, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Mystery"):
        load(name, saved(tmp_path, UNKNOWN_OPERATOR))


@executed
def test_size_counts_external_data(name: EngineName, form: ModelFormat, tmp_path: Path) -> None:
    source = Model(tmp_path, ModelFormat.ONNX)
    onnx.save(onnx.load(MAGIKA), source.file, save_as_external_data=True, location="weights.bin")
    model = in_format(source, form)
    session = engine(name).load(model, EngineOptions())
    files = [path for path in model.folder.iterdir() if path.name != "model.json"]
    assert session.size == sum(path.stat().st_size for path in files) > 3_000_000
    session.run(BYTES)


RUNS = 100
"""On a busy machine, a thread that is late finds the work of a run done."""


def busy_threads() -> dict[int, int]:
    """Nanoseconds of CPU by thread of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) for task in tasks}


@executed
@pytest.mark.parametrize("threads", [1, 2])
def test_computes_on_as_many_threads_as_told(
    name: EngineName, form: ModelFormat, threads: int, magika_model: Model
) -> None:
    session = load(name, magika_model, form, threads=threads)
    batch = {"bytes": np.tile(BYTES["bytes"], (8, 1))}
    session.run(batch)
    before, told = busy_threads(), min(threads, os.cpu_count() or 1)
    for _ in range(RUNS):
        session.run(batch)
        spent = {thread: time - before.get(thread, 0) for thread, time in busy_threads().items()}
        if (busy := sum(time > 5_000_000 for time in spent.values())) >= told:
            break
    assert busy == told


@pytest.mark.parametrize("capability", list(ComputeCapability))
def test_tensorrt_builds_for_a_gpu_that_is_not_here(capability: ComputeCapability, magika_model: Model) -> None:
    with pytest.raises(NotExecutable, match=f"built for {capability.value} as a plan of [0-9]+ bytes") as raised:
        load(EngineName.TENSORRT, magika_model, compute_capability=capability)
    assert raised.value.size > 1_000_000


def test_tensorrt_names_an_axis_it_would_have_to_guess(tmp_path: Path) -> None:
    model = saved(tmp_path, TWO_INPUTS.replace("float[N,4] a", "float[N,L] a"))
    with pytest.raises(InvalidInput, match=r"input 'a' has the shape \[-1, -1\]"):
        load(EngineName.TENSORRT, model)


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    """Its telemetry would leave an identifier in the home folder before it sends anything."""
    code = "import sys, trimtab_jobs.engines.openvino; print([m for m in sys.modules if 'openvino_telemetry.' in m])"
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("CI", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())
