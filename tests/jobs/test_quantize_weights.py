"""Weight-only quantization of real and of odd models, on both engines that read it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from odd_graphs import ODD, Arrays, head, normal, samples, source, workbench, written
from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.techniques import QuantizeWeights
from trimtab_jobs.blockwise import quantize
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.onnx_graph import graphs
from trimtab_jobs.parity import difference
from trimtab_jobs.techniques.quantize_weights import quantize_weights

MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
BYTES = {"bytes": np.random.default_rng(0).integers(0, 257, (8, 2048), dtype=np.int32)}
LEFT_ALONE = {
    "float64": "; left alone: 1 not in FLOAT32",
    "float16": "; left alone: 1 not in FLOAT32",
    "no weights": "; left alone: 1 without constant weights",
    "ranks": "; left alone: 3 with weights of 3 axes",
    "quantized": "; left alone: 1 without constant weights",
    "Resize": "",
    "trees": "",
}


class Quantized:
    """What the technique makes of a model, with a choice per setting."""

    def __init__(self, folder: Path, model: Model, arrays: Arrays, **settings: Any) -> None:
        self.notes: list[str] = []
        self.bench = workbench(folder, arrays, model, self.notes)
        ignored = settings.pop("ignored_layers", [])
        choices = {"bits": 8, "accuracy_level": 0} | settings
        config = QuantizeWeights(**{name: [choice] for name, choice in choices.items()}, ignored_layers=ignored)
        self.model = quantize_weights(model, config, self.bench)

    def run(self, name: EngineName, arrays: Arrays) -> list[np.ndarray]:
        return engine(name).load(self.model, EngineOptions()).run(arrays)

    @property
    def operators(self) -> list[str]:
        return [node.op_type for graph in graphs(onnx.load(self.model.onnx).graph) for node in graph.node]


def saved(folder: Path, model: onnx.ModelProto) -> Model:
    (folder / "source").mkdir()
    onnx.save(model, folder / "source/model.onnx")
    return Model(folder / "source", ModelFormat.ONNX).save_manifest()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_answer_alike_or_are_left_alone(name: str, bits: int, tmp_path: Path) -> None:
    model = source(name, tmp_path / "source")
    arrays = samples(model.onnx)
    try:
        done = Quantized(tmp_path, model, arrays, bits=bits, block_size=16)
    except NotApplicable as reason:
        assert str(reason) == f"quantizeWeights: no weight to quantize{LEFT_ALONE[name]}"  # noqa: PT017
        return
    assert open_model(done.model.folder) == done.model
    one = {key: array[:1] for key, array in arrays.items()}
    expected = engine(EngineName.ONNXRUNTIME).load(model, EngineOptions()).run(one)
    found = done.run(EngineName.ONNXRUNTIME, one)
    if bits == 8:
        for truth, answer in zip(expected, found, strict=True):
            assert difference(truth, answer) < 0.03
    for answer, other in zip(found, done.run(EngineName.OPENVINO, one), strict=True):
        assert difference(answer, other) < 1e-3


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size"), [(4, 16), (4, 32), (4, 64), (8, 16), (8, 32), (8, 128)])
def test_computes_with_what_the_blocks_stand_for(bits: int, size: int, symmetric: bool, tmp_path: Path) -> None:
    """Of 70 weights a row, which no block size divides, and a table of 64 that all but one do."""
    weight, table = normal(70, 24), normal(30, 64, seed=1)
    model = written(
        head(15)
        + """ net (float[N,70] x, int64[N] i) => (float[N,24] y, float[N,64] e) {
            y = MatMul (x, w)  e = Gather (t, i)
        }""",
        w=weight, t=table,
    )  # fmt: skip
    arrays = {"x": normal(9, 70, seed=2), "i": np.arange(9)}
    done = Quantized(tmp_path, saved(tmp_path, model), arrays, bits=bits, block_size=size, symmetric=symmetric)
    rows = dequantized(weight.T, bits, size, symmetric)
    product, found = done.run(EngineName.ONNXRUNTIME, arrays)
    np.testing.assert_allclose(product, arrays["x"] @ rows.T, atol=1e-4)
    if 64 % size == 0:
        looked = dequantized(table, bits, size, symmetric or (bits == 4 and 64 // size % 2 == 1))
        np.testing.assert_allclose(found, looked[:9], atol=1e-6)
    else:
        left = f"left alone: 1 whose rows are not whole blocks of {size}"
        assert done.notes == [f"1 MatMul of 2 nodes with weights in {bits} bits; {left}"]


def dequantized(rows: np.ndarray, bits: int, size: int, symmetric: bool) -> np.ndarray:
    blocks = quantize(rows, bits, size, symmetric)
    numbers = (blocks.values.astype(np.float32) - blocks.zeros[..., None]) * blocks.scales[..., None]
    return numbers.reshape(len(rows), -1)[:, : rows.shape[1]]


def test_a_real_model_keeps_its_answers(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    shutil.copy(MAGIKA, tmp_path / "source/model.onnx")
    model = Model(tmp_path / "source", ModelFormat.ONNX).save_manifest()
    done = Quantized(tmp_path, model, BYTES, accuracy_level=4)
    assert done.notes == ["2 MatMul of 2 nodes with weights in 8 bits"]
    expected = engine(EngineName.ONNXRUNTIME).load(model, EngineOptions()).run(BYTES)[0]
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        np.testing.assert_allclose(done.run(name, BYTES)[0], expected, atol=0.03)


def test_a_weight_that_nodes_share_is_stored_once(tmp_path: Path) -> None:
    model = source("Loop", tmp_path / "source")
    twice = onnx.load(model.onnx)
    twice.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "w"], ["first"]))
    next(node for node in twice.graph.node if node.op_type == "Loop").input[2] = "first"
    onnx.save(twice, model.onnx)
    done = Quantized(tmp_path, model, samples(model.onnx), symmetric=True)
    assert done.operators.count("MatMulNBits") == 2
    names = [tensor.name for graph in graphs(onnx.load(done.model.onnx).graph) for tensor in graph.initializer]
    assert sorted(name for name in names if name.startswith("w")) == ["w_columns_scales", "w_columns_values"]


def test_layers_can_be_left_alone(tmp_path: Path) -> None:
    model = source("opset 21", tmp_path / "source")
    arrays = samples(model.onnx)
    with pytest.raises(
        InvalidInput, match=r"^quantizeWeights.ignoredLayers: the model has no layer 'last': the nearest"
    ):
        Quantized(tmp_path, model, arrays, ignored_layers=["last"])
    (tmp_path / "out").rmdir()
    done = Quantized(tmp_path, model, arrays, ignored_layers=["node_0"])
    assert done.notes == ["1 Gemm of 2 nodes with weights in 8 bits; left alone: 1 ignored"]
    assert done.operators == ["Gemm", "Relu", "MatMulNBits", "Mul", "Add"]


def test_tables_can_be_left_alone(tmp_path: Path) -> None:
    model = source("embedding", tmp_path / "source")
    done = Quantized(tmp_path, model, samples(model.onnx), embeddings=False)
    assert done.notes == ["1 MatMul of 1 nodes with weights in 8 bits"]
    assert "table" in {tensor.name for tensor in onnx.load(done.model.onnx).graph.initializer}


def test_large_tables_are_most_of_a_model(tmp_path: Path) -> None:
    model = written(head(15) + " net (int64[N] i) => (float[N,64] y) { y = Gather (t, i) }", t=normal(2000, 64))
    source_model = saved(tmp_path, model)
    done = Quantized(tmp_path, source_model, {"i": np.arange(9)}, bits=4)
    assert done.model.size < 0.18 * source_model.size  # 4 bits and 20 more for every 32: 0.145
    before = numpy_helper.to_array(model.graph.initializer[0])[:9]
    np.testing.assert_allclose(done.run(EngineName.OPENVINO, {"i": np.arange(9)})[0], before, atol=0.3)
