"""Quantization of real models: what every engine makes of the result, and what becomes of odd ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import magika
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.status import Hardware
from trimtab.api.techniques import Quantize
from trimtab_jobs.data import Splits
from trimtab_jobs.engines import EngineOptions, NotExecutable, Session, engine
from trimtab_jobs.engines.onnxruntime import session_options
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.techniques import Bench
from trimtab_jobs.techniques import quantize as module
from trimtab_jobs.techniques.quantize import quantize

PLAIN = {"calibration_samples", "ignored_layers", "max_drop", "max_evaluations"}
"""The settings that are no choice."""
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
        self.floats: list[str] = []
        self.drop: Callable[[Session], float] = lambda session: 0.0

    def quantize(self, name: str = "out", **config: object) -> Model:
        model = Model(self.folder / f"{name}-source", ModelFormat.ONNX)
        model.folder.mkdir()
        shutil.copy(self.source, model.onnx)
        (self.folder / name).mkdir()
        splits = Splits({"calibration": self.calibration, "evaluation": self.calibration})
        bench = Bench(self.folder / name, model, splits, 0, 1, self.notes.append, self.drop, self.floats)
        before = model.onnx.read_bytes()
        settings = {"operator_scope": "Compute"} | config
        quantized = quantize(model, Quantize(**{k: v if k in PLAIN else [v] for k, v in settings.items()}), bench)
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
        {"operator_scope": "MatMul", "activation_type": "Int8"},
        {"operator_scope": "All", "activation_type": "Int8", "reduce_range": "Always"},
        {"operator_scope": "Compute", "weight_type": "UInt8"},
        {"operator_scope": "All", "weight_type": "UInt8", "per_channel": False, "reduce_range": "Never"},
        {"operator_scope": "All", "calibrate_method": "Entropy"},
        {"operator_scope": "All", "calibrate_method": "Percentile"},
        {"operator_scope": "All", "method": "Dynamic"},
        {"operator_scope": "Compute", "method": "Dynamic", "per_channel": False},
        {"operator_scope": "MatMul", "method": "Dynamic", "weight_type": "UInt8"},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_a_trained_model_keeps_its_accuracy(digits: Path, tmp_path: Path, config: dict[str, object]) -> None:
    bench = Workbench(tmp_path, digits / "model.onnx", digits / "calibration.npz")
    quantized = bench.quantize(**config)
    assert open_model(quantized.folder) == quantized
    assert quantized.size < 0.42 * bench.source.stat().st_size
    with np.load(digits / "evaluation.npz") as evaluation:
        inputs, labels = {"image": evaluation["image"]}, evaluation["labels"]
    accuracy = (outputs(bench.source, inputs).argmax(1) == labels).mean()
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        assert (outputs(quantized.onnx, inputs, name).argmax(1) == labels).mean() > accuracy - 0.02


@pytest.mark.parametrize("scope", ["All", "Compute"])
def test_tensorrt_builds_what_static_makes_of_magika(tmp_path: Path, scope: str) -> None:
    np.savez(tmp_path / "calibration.npz", bytes=np.random.default_rng(0).integers(0, 257, (2, 2048), dtype=np.int32))
    bench = Workbench(tmp_path, MAGIKA, tmp_path / "calibration.npz")
    quantized = bench.quantize(operator_scope=scope, activation_type="Int8")
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
@pytest.mark.parametrize(
    ("flags", "config", "reduced"),
    [
        (["avx2"], {}, True),
        (["avx2", "avx512f"], {}, True),
        (["avx2", "avx_vnni"], {}, False),
        (["avx2", "avx512f", "avx512_vnni"], {}, False),
        (["asimddp"], {}, False),
        (["avx2"], {"weight_type": "UInt8"}, False),
        (["avx2"], {"reduce_range": "Never"}, False),
        (["avx2", "avx_vnni"], {"reduce_range": "Always"}, True),
    ],
    ids=str,
)
def test_the_cpus_flags_decide_how_many_bits_weights_have(
    tmp_path: Path,
    method: str,
    flags: list[str],
    config: dict[str, str],
    reduced: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "hardware", lambda: Hardware(flags=flags))
    product = '<ir_version: 8, opset_import: ["" : 15]> net (float[N,16] x) => (float[N,16] y) { y = MatMul (x, w) }'
    bench = workbench(tmp_path, product, {"w": normal(16, 16)}, normal(20, 16))
    quantized = onnx.load(bench.quantize(method=method, per_channel=False, **config).onnx)
    (weights,) = (numpy_helper.to_array(one) for one in quantized.graph.initializer if one.name == "w_quantized")
    assert (np.ptp(weights.astype(int)) <= 2**7) == reduced
    assert ("weights of 7 bits" in bench.notes[0]) == reduced
    assert ("as this CPU has no VNNI" in bench.notes[0]) == (reduced and not config)


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
        pytest.param(ELEMENTWISE, {}, "the model has none of Add, AveragePool, ", id="no operator"),
        pytest.param(ELEMENTWISE, {"operator_scope": "Conv"}, "none of Conv, ConvTranspose that can be", id="scope"),
        pytest.param(ATTENTION, {}, "the model has none of .*MatMul, .* that can be quantized$", id="no weights"),
        pytest.param(ATTENTION, {"method": "Dynamic"}, "has none of .*MatMul, .* that can be", id="none for Dynamic"),
        pytest.param(ATTENTION, {"method": "Dynamic", "activation_type": "Int8"}, "leave Int8 to Static$", id="types"),
        pytest.param(
            ATTENTION, {"activation_type": "Int8", "weight_type": "UInt8"}, "no engine has kernels", id="kernels"
        ),
        pytest.param(UNCONVERTIBLE, {}, "opset 6, quantization needs 13, .*: export it", id="opset"),
    ],
)
def test_says_why_it_does_not_apply(tmp_path: Path, text: str, config: dict[str, str], reason: str) -> None:
    bench = workbench(tmp_path, text, {"w": normal(4, 4)}, normal(2, 4))
    with pytest.raises(NotApplicable, match=f"^quantize: .*{reason}"):
        bench.quantize(**{"operator_scope": "All", **config})
    assert not list((tmp_path / "out").iterdir())


RESIDUAL = """
<ir_version: 3, opset_import: ["" : 9]>
net (float[N,8,6,6] x, float[8,8,3,3] w1, float[8,8,3,3] w2, float[8,8,3,3] w3) => (float[N,8,4,4] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (b, w2)
    d = Sum (b, c)
    e = Relu (d)
    f = MaxPool <kernel_shape = [3, 3], strides = [1, 1]> (e)
    y = Conv <pads = [1, 1, 1, 1]> (f, w3)
}
"""


def test_a_residual_block_is_integer_throughout(tmp_path: Path) -> None:
    """Also: weights that are inputs as well, an old opset, nodes without names."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8 for name in ("w1", "w2", "w3")}
    bench = workbench(tmp_path, RESIDUAL, weights, normal(20, 8, 6, 6))
    quantized = bench.quantize()
    options = session_options(threads=1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(quantized.onnx, options)
    fused = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert fused["QLinearConv"] == 3
    assert fused["QLinearAdd"] == 1
    assert not {"Conv", "Add", "Relu"} & fused.keys()
    assert fused["QuantizeLinear"] == fused["DequantizeLinear"] == 1  # at the input and at the output
    x = {"x": normal(20, 8, 6, 6)}
    expected = outputs(bench.source, x)
    np.testing.assert_allclose(outputs(quantized.onnx, x), expected, atol=0.04 * np.abs(expected).max())


BRANCHES = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[N,4] x, bool[1] cold) => (float[N,4] y) {
    z = MatMul (x, w)
    y = If (cold) <
        then_branch = kept () => (float[N,4] k) { k = MatMul (x, w) },
        else_branch = shifted () => (float[N,4] s) { s = Add (z, b) }
    >
}
"""


@pytest.mark.parametrize("cold", [True, False])
def test_branches_keep_what_they_read(tmp_path: Path, cold: bool) -> None:
    bench = workbench(tmp_path, BRANCHES, {"w": normal(4, 4), "b": normal(4)}, normal(20, 4))
    np.savez(bench.calibration, x=normal(20, 4), cold=np.array([cold] * 20))
    quantized = bench.quantize()
    x = {"x": normal(20, 4), "cold": np.array([cold])}
    np.testing.assert_allclose(outputs(quantized.onnx, x), outputs(bench.source, x), atol=0.1)


RECURRENCES = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[5,1,8] x) => (float[5,1,1,8] y) {
    a, = LSTM <hidden_size = 8> (x, w4, r4)
    b = Squeeze (a, one)
    y, = GRU <hidden_size = 8> (b, w3, r3)
}
"""


def test_says_which_recurrences_became_integer(tmp_path: Path) -> None:
    weights = {f"{kind}{gates}": 0.1 * normal(1, gates * 8, 8) for kind in "wr" for gates in (3, 4)}
    bench = workbench(tmp_path, RECURRENCES, weights | {"one": np.array([1])}, normal(5, 1, 8))
    quantized = bench.quantize(method="Dynamic")
    assert bench.notes[0].startswith("1 LSTM in INT8, of 1 nodes in scope")
    assert bench.notes[1] == "1 GRU in floating point: Dynamic has no integer form of it"
    x = {"x": normal(5, 1, 8)}
    np.testing.assert_allclose(outputs(quantized.onnx, x), outputs(bench.source, x), atol=0.02)


FRAGILE = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[N,16] x) => (float[N,16] y) {
    [first] a = MatMul (x, w1)
    [fragile] b = MatMul (a, w2)
    [last] y = MatMul (b, w3)
}
"""


def fragile(folder: Path) -> Workbench:
    """With one scale per tensor, the one large weight of `fragile`, multiplied by zeros, leaves the others no steps."""
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("w1", "w2", "w3")}
    weights["w1"][:, 0], weights["w2"][0, 0] = 0, 1e4
    bench = workbench(folder, FRAGILE, weights, normal(300, 16))
    expected = outputs(bench.source, {"x": normal(300, 16)}).argmax(1)

    def drop(session: Session) -> float:
        return float((session.run({"x": normal(300, 16)})[0].argmax(1) != expected).mean())

    bench.drop = drop
    return bench


@pytest.mark.parametrize("method", ["Static", "Dynamic"])
def test_layers_that_cost_too_much_stay_float(tmp_path: Path, method: str) -> None:
    bench = fragile(tmp_path)
    quantized = bench.quantize(method=method, per_channel=False, max_drop="10%")
    assert bench.floats == ["fragile"]
    assert bench.notes[0].startswith("2 MatMul in INT8, of 3 nodes in scope; 1 of them left in floating point to")
    assert bench.drop(engine(EngineName.ONNXRUNTIME).load(quantized, EngineOptions())) <= 0.1
    # No pair is left around the layer that went back; the weights of the other two have a DequantizeLinear each.
    pairs = Counter(node.op_type for node in onnx.load(quantized.onnx).graph.node)
    assert (pairs["QuantizeLinear"], pairs["DequantizeLinear"]) == ((2, 4) if method == "Static" else (0, 0))


def test_a_drop_of_exactly_the_promise_keeps_it(tmp_path: Path) -> None:
    bench = fragile(tmp_path)
    bench.drop = lambda session: 0.95 - 0.94
    bench.quantize(max_drop="1%")
    assert bench.floats == []


def test_a_promise_that_no_choice_keeps_does_not_apply(tmp_path: Path) -> None:
    bench = fragile(tmp_path)
    bench.drop = lambda session: 0.5
    with pytest.raises(NotApplicable, match=r"^quantize: in 2 evaluations no choice of layers .* at most 1%"):
        bench.quantize(max_drop="1%", max_evaluations=2)


def test_ignored_layers_stay_float(tmp_path: Path) -> None:
    bench = fragile(tmp_path)
    bench.quantize(ignored_layers=["first", "last"])
    assert bench.notes[0].startswith("1 MatMul in INT8, of 1 nodes in scope")
    with pytest.raises(InvalidInput, match=r"ignoredLayers: the model has no layer 'lats': the nearest .* last, "):
        bench.quantize("other", ignored_layers=["lats"])


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
