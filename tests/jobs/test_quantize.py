"""Quantization of real models: what every engine makes of the result, and what becomes of odd ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import magika
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from trimtab.api.metrics import Metrics
from trimtab.api.model import EngineName, Metric, ModelFormat
from trimtab.api.techniques import CalibrateMethod, Quantize
from trimtab_jobs.calibration import BINS, entropy, percentile, thresholds
from trimtab_jobs.data import Split, Splits
from trimtab_jobs.engines import EngineOptions, NotExecutable, engine
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.evaluate import Judge
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.techniques import Bench
from trimtab_jobs.techniques.quantize import quantize

MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
CONVOLUTION = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[N,16,6,6] x) => (float[N,8,6,6] y) {{
    z = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    y = Relu (z)
}}
"""
CONSTANT_NODES = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[N,4] x) => (float[N,2] y) {
    w = Constant <value = float[4,2] {1, -2, 3, -4, 5, -6, 7, -8}> ()
    b = Constant <value = float[1,2] {0.5, -0.5}> ()
    z = MatMul (x, w)
    y = Add (z, b)
}
"""
ELEMENTWISE = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[N,4] x) => (float[N,4] y) { y = Sin (x) }
"""
ATTENTION = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[N,4,4] x) => (float[N,4,4] y) { y = MatMul (x, x) }
"""
UNCONVERTIBLE = """
<ir_version: 4, opset_import: ["" : 6]>
net (float[N,4] x) => (float[N,4] y) { z = MatMul (x, w)  y = Add <broadcast = 1, axis = 0> (z, x) }
"""


# The digits model is trained until it is good enough, not until it converges.
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


class Workbench:
    """Quantizes an ONNX file into `out` and keeps the notes."""

    def __init__(self, folder: Path, source: Path, calibration: Path) -> None:
        self.folder, self.source, self.calibration = folder, source, calibration
        self.notes: list[str] = []

    def quantize(self, name: str = "out", **config: object) -> Model:
        model = Model(self.folder / f"{name}-source", ModelFormat.ONNX)
        model.folder.mkdir()
        shutil.copy(self.source, model.onnx)
        (self.folder / name).mkdir()
        splits = Splits({"calibration": self.calibration})
        original = partial(engine(EngineName.ONNXRUNTIME).load, model.onnx, EngineOptions())
        drop = Judge([Metric.ACCURACY], Metrics(), original, splits).drop
        bench = Bench(self.folder / name, model, splits, seed=0, threads=1, note=self.notes.append, drop=drop)
        before = model.onnx.read_bytes()
        settings = {"operator_scope": "Compute"} | config
        quantized = quantize(model, Quantize(**{key: [value] for key, value in settings.items()}), bench)
        assert model.onnx.read_bytes() == before
        return quantized


def workbench(folder: Path, text: str, weights: dict[str, np.ndarray], x: np.ndarray) -> Workbench:
    """For a model written down here, with these weights, calibrated on `x`."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, folder / "written.onnx")
    np.savez(folder / "calibration.npz", x=x)
    return Workbench(folder, folder / "written.onnx", folder / "calibration.npz")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def exact(model: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the Q/DQ nodes say, computed one after the other in floating point."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options).run(None, inputs)[0]


def outputs(file: Path, inputs: dict[str, np.ndarray], name: EngineName = EngineName.ONNXRUNTIME) -> np.ndarray:
    with TemporaryDirectory() as folder:
        model = Model(Path(folder), ModelFormat.ONNX)
        shutil.copy(file, model.file)
        return engine(name).load(model, EngineOptions()).run(inputs)[0]


def scales(model: Model) -> dict[str, tuple[int, ...]]:
    return {
        tensor.name: tuple(tensor.dims)
        for tensor in onnx.load(model.onnx).graph.initializer
        if tensor.name.endswith("_scale")
    }


@pytest.mark.parametrize(
    "config",
    [
        {"operator_scope": "All"},
        {"operator_scope": "Compute"},
        {"operator_scope": "Compute", "per_channel": False},
        {"operator_scope": "All", "calibrate_method": "Entropy"},
        {"operator_scope": "All", "calibrate_method": "Percentile"},
        {"operator_scope": "All", "method": "Dynamic"},
        {"operator_scope": "Compute", "method": "Dynamic", "per_channel": False},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_a_trained_model_keeps_its_accuracy(digits: Path, tmp_path: Path, config: dict[str, object]) -> None:
    bench = Workbench(tmp_path, digits / "model.onnx", digits / "calibration.npz")
    quantized = bench.quantize(**config)
    assert open_model(quantized.folder) == quantized
    assert quantized.size < 0.4 * bench.source.stat().st_size
    with np.load(digits / "evaluation.npz") as evaluation:
        inputs, labels = {"image": evaluation["image"]}, evaluation["labels"]
    accuracy = (outputs(bench.source, inputs).argmax(1) == labels).mean()
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        assert (outputs(quantized.onnx, inputs, name).argmax(1) == labels).mean() > accuracy - 0.02


@pytest.mark.parametrize("scope", ["All", "Compute"])
def test_tensorrt_builds_what_static_makes_of_magika(tmp_path: Path, scope: str) -> None:
    np.savez(tmp_path / "calibration.npz", bytes=np.random.default_rng(0).integers(0, 257, (2, 2048), dtype=np.int32))
    bench = Workbench(tmp_path, MAGIKA, tmp_path / "calibration.npz")
    quantized = bench.quantize(operator_scope=scope)
    with pytest.raises(NotExecutable, match="built for SM89"):
        engine(EngineName.TENSORRT).load(quantized, EngineOptions())
    assert bench.notes[0].startswith(
        {"All": "10 Add, 1 Conv, 1 Gemm,", "Compute": "1 Conv, 1 Gemm, 1 MatMul in"}[scope]
    )


@pytest.mark.parametrize("opset", [11, 15])
def test_integers_do_not_saturate_on_this_cpu(tmp_path: Path, opset: int) -> None:
    """Every product has the same sign and the largest magnitude, which overflows 16 bits wherever it can."""
    x, w = 4 - 0.1 * np.abs(normal(8, 16, 6, 6)), 1 - 0.1 * np.abs(normal(8, 16, 3, 3))
    bench = workbench(tmp_path, CONVOLUTION.format(opset=opset), {"w": w, "b": normal(8)}, x)
    quantized = bench.quantize()
    assert scales(quantized)["w_scale"] == (8,)
    difference = np.abs(outputs(quantized.onnx, {"x": x}) - exact(quantized.onnx, {"x": x}))
    step = np.abs(outputs(bench.source, {"x": x})).max() / 127
    assert difference.max() < 1.5 * step


@pytest.mark.parametrize("method", ["Static", "Dynamic"])
def test_weights_in_constant_nodes_are_weights(tmp_path: Path, method: str) -> None:
    bench = workbench(tmp_path, CONSTANT_NODES, {}, normal(20, 4))
    quantized = bench.quantize(method=method)
    x = {"x": normal(20, 4)}
    np.testing.assert_allclose(outputs(quantized.onnx, x), outputs(bench.source, x), atol=0.8)
    assert bench.notes[0].startswith({"Static": "1 Gemm in INT8, of 1 ", "Dynamic": "1 MatMul in INT8, of 1 "}[method])


@pytest.mark.parametrize(
    ("text", "config", "reason"),
    [
        pytest.param(ELEMENTWISE, {}, "the model has none of Add, ArgMax, ", id="no operator"),
        pytest.param(
            ELEMENTWISE, {"operator_scope": "Compute"}, "none of Conv, ConvTranspose, Gemm, MatMul$", id="none"
        ),
        pytest.param(ATTENTION, {"method": "Dynamic"}, "left every MatMul as it was", id="no weights"),
        pytest.param(UNCONVERTIBLE, {}, "opset 6, quantization needs 13, .*: export it", id="opset"),
    ],
)
def test_says_why_it_does_not_apply(tmp_path: Path, text: str, config: dict[str, str], reason: str) -> None:
    bench = workbench(tmp_path, text, {"w": normal(4, 4)}, normal(2, 4))
    with pytest.raises(NotApplicable, match=f"^quantize: .*{reason}"):
        bench.quantize(**{"operator_scope": "All", **config})
    assert not list((tmp_path / "out").iterdir())


TWICE = """
import sys
from pathlib import Path
from test_quantize import MAGIKA, Workbench
bench = Workbench(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
bench.quantize(operator_scope="All", calibrate_method="Entropy")
"""


def test_the_same_input_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        }
        arguments = [str(folder), str(digits / "model.onnx"), str(digits / "calibration.npz")]
        subprocess.run([sys.executable, "-c", TWICE, *arguments], env=environment, check=True)
        digests.add(hashlib.sha256((folder / "out/model.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1


def identity() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> net (float[N,1000] x) => (float[N,1000] y) { y = Identity (x) }'
    )


def test_minmax_is_the_largest_finite_magnitude() -> None:
    x = normal(5, 1000)
    x[3, 7], x[4, 0] = -9, np.inf
    found = thresholds(identity(), ["x", "y"], Split("calibration", {"x": x}, None), CalibrateMethod.MINMAX, 1)
    assert found == {"x": 9, "y": 9}


@pytest.mark.parametrize("method", [CalibrateMethod.PERCENTILE, CalibrateMethod.ENTROPY])
def test_outliers_are_clipped(method: CalibrateMethod) -> None:
    """A normal distribution ends near 4.5 in a million samples; two values of a hundred would cost it 4 of 7 bits."""
    x = np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32)
    x[0, :2] = 100
    found = thresholds(identity(), ["x"], Split("calibration", {"x": x}, None), method, 1)
    assert 2.5 < found["x"] < 7


def test_a_tensor_of_zeros_has_a_threshold() -> None:
    zeros = Split("calibration", {"x": np.zeros((2, 1000), np.float32)}, None)
    for method in CalibrateMethod:
        assert thresholds(identity(), ["x"], zeros, method, 1) == {"x": 0}


def test_a_histogram_without_outliers_keeps_its_range() -> None:
    flat = np.ones(BINS, np.int64)
    assert percentile(flat) == entropy(flat) == 1


def test_memory_does_not_grow_with_the_samples() -> None:
    def peak(samples: int) -> int:
        split = Split("calibration", {"x": normal(samples, 1000)}, None)
        tracemalloc.start()
        thresholds(identity(), ["x", "y"], split, CalibrateMethod.ENTROPY, 1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(400) < 1.2 * peak(20)
