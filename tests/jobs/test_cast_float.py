"""FLOAT16 and bfloat16: half the bytes, the same answers, and no overflow that nobody mentions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnx
import pytest

from odd_graphs import ODD, Arrays, samples, source, workbench
from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.status import Hardware
from trimtab.api.techniques import CastFloat, CastScope, FloatPrecision, Step
from trimtab_jobs.engines import EngineOptions, NotExecutable, engine
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import PRECISION, Model, open_model
from trimtab_jobs.parity import disagreement
from trimtab_jobs.techniques import Function
from trimtab_jobs.techniques import cast_float as module
from trimtab_jobs.techniques.optimize_graph import optimize_graph
from trimtab_jobs.techniques.quantize import quantize
from trimtab_jobs.techniques.quantize_weights import quantize_weights

MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
BYTES = {"bytes": np.random.default_rng(0).integers(0, 257, (8, 2048), dtype=np.int32)}
ROUNDING = 0.1
"""Of an answer: a step of 8 bits, where the model was quantized before, makes 0.07 of it."""
TYPES = {"Weights": onnx.TensorProto.FLOAT, "All": onnx.TensorProto.FLOAT16}


class Cast:
    """What the technique makes of a model."""

    def __init__(self, folder: Path, model: Model, arrays: Arrays, scope: str) -> None:
        self.notes: list[str] = []
        bench = workbench(folder, arrays, model, self.notes)
        self.model = module.cast_float(model, CastFloat(scope=[CastScope(scope)]), bench)
        self.difference = disagreement(model, self.model, bench.splits.evaluation, ROUNDING)


@pytest.fixture
def magika_model(tmp_path: Path) -> Model:
    (tmp_path / "source").mkdir()
    shutil.copy(MAGIKA, tmp_path / "source/model.onnx")
    return Model(tmp_path / "source", ModelFormat.ONNX).save_manifest()


@pytest.mark.parametrize("scope", list(CastScope))
@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_answer_alike_or_are_left_alone(name: str, scope: str, tmp_path: Path) -> None:
    model = source(name, tmp_path / "source")
    try:
        done = Cast(tmp_path, model, samples(model.onnx), scope)
    except NotApplicable:
        assert name in {"float64", "float16", "no weights", "Resize", "trees", "Loop", "quantized"}
    else:
        assert not done.difference
        assert open_model(done.model.folder) == done.model


@pytest.mark.parametrize("scope", list(CastScope))
@pytest.mark.parametrize("name", [EngineName.ONNXRUNTIME, EngineName.OPENVINO])
def test_a_real_model_is_half_the_size(name: EngineName, scope: str, tmp_path: Path, magika_model: Model) -> None:
    done = Cast(tmp_path, magika_model, BYTES, scope)
    assert done.model.size < 0.52 * magika_model.size
    expected = engine(EngineName.ONNXRUNTIME).load(magika_model, EngineOptions()).run(BYTES)[0]
    found = engine(name).load(done.model, EngineOptions()).run(BYTES)[0]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_gpu_would_compute_in_it(tmp_path: Path, magika_model: Model) -> None:
    sizes = []
    for model in (magika_model, Cast(tmp_path, magika_model, BYTES, "All").model):
        with pytest.raises(NotExecutable) as built:
            engine(EngineName.TENSORRT).load(model, EngineOptions())
        sizes.append(built.value.size)
    assert sizes[1] < 0.8 * sizes[0]


def test_weights_that_do_not_fit_stay_and_are_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 15]> net (float[N,64] x) => (float[N,8] y) {
            h = MatMul (x, large)  g = Relu (h)  f = MatMul (g, tiny)  y = MatMul (f, fine)
        }"""
    )
    plain = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for name, weight in {"large": plain * 1e5, "tiny": plain * 1e-8, "fine": plain[:, :8]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    (tmp_path / "source").mkdir()
    onnx.save(model, tmp_path / "source/model.onnx")
    done = Cast(tmp_path, Model(tmp_path / "source", ModelFormat.ONNX), {"x": plain}, "Weights")
    assert not done.difference
    assert done.notes[0].startswith("1 weights of 0.000512M numbers in FLOAT16; left in FLOAT32, as rounding would ")
    assert "large (3" in done.notes[0]
    assert "tiny (3" in done.notes[0]


def test_values_that_do_not_fit_stay_and_are_named(tmp_path: Path) -> None:
    model = source("huge values", tmp_path / "source")
    done = Cast(tmp_path, model, samples(model.onnx), "All")
    assert done.notes == ["2 of 5 nodes compute in FLOAT16; 4 tensors are beyond 65504: big, mask, masked, scale"]


@pytest.mark.parametrize(("scope", "to"), TYPES.items())
def test_no_cast_is_left_that_nothing_needs(scope: str, to: int, tmp_path: Path) -> None:
    model = source("opset 21", tmp_path / "source")
    graph = onnx.load(Cast(tmp_path, model, samples(model.onnx), scope).model.onnx).graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == 2  # of both weights, or of the input and the output
    assert casts[0].attribute[0].i == to
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_bfloat16_needs_a_cpu_that_has_it(tmp_path: Path, magika_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench(tmp_path, BYTES, magika_model, [])
    config = CastFloat(precision=[FloatPrecision.BFLOAT16])
    monkeypatch.setattr(module, "hardware", lambda: Hardware(flags=["avx2"]))
    with pytest.raises(NotApplicable, match=r"^castFloat: this CPU has neither amx_bf16 nor avx512_bf16, and would "):
        module.cast_float(magika_model, config, bench)
    monkeypatch.setattr(module, "hardware", lambda: Hardware(flags=["avx2", "amx_bf16"]))
    hinted = open_model(module.cast_float(magika_model, config, bench).folder)
    assert hinted.onnx.read_bytes() == magika_model.onnx.read_bytes()
    found = engine(EngineName.OPENVINO).load(hinted, EngineOptions()).run(BYTES)[0]
    expected = engine(EngineName.OPENVINO).load(magika_model, EngineOptions()).run(BYTES)[0]
    np.testing.assert_allclose(found, expected, atol=0.05)
    for name in (EngineName.ONNXRUNTIME, EngineName.TENSORRT):
        with pytest.raises(InvalidInput, match=f"^model.onnx: {name} computes in what the graph says, and not in BFlo"):
            engine(name).load(hinted, EngineOptions())


@pytest.mark.parametrize(
    ("technique", "step"),
    [
        (optimize_graph, {"optimizeGraph": {"optimizer": ["Onnxslim"]}}),
        (quantize, {"quantize": {"method": ["Dynamic"], "operatorScope": ["MatMul"], "maxDrop": "50%"}}),
        (quantize_weights, {"quantizeWeights": {"bits": [8]}}),
    ],
)
def test_the_hint_outlives_the_steps_after_it(
    technique: Function, step: dict[str, Any], tmp_path: Path, magika_model: Model
) -> None:
    hinted = replace(magika_model, details={PRECISION: FloatPrecision.BFLOAT16})
    bench = workbench(tmp_path, BYTES, hinted, [])
    made = technique(hinted, Step.model_validate(step).config, bench)
    assert open_model(made.folder).details == {PRECISION: FloatPrecision.BFLOAT16}
