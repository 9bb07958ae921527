"""Offline graph optimization of real and of odd models: it answers the same, or it does not come out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import magika
import numpy as np
import onnx
import pytest

from odd_graphs import ODD, Arrays, samples, source, workbench
from trimtab.api.model import ModelFormat
from trimtab.api.techniques import GraphOptimizer, OptimizeGraph
from trimtab_jobs.errors import NotApplicable, WrongResult
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.parity import disagreement
from trimtab_jobs.techniques.optimize_graph import OPTIMIZERS, optimize_graph

MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
BYTES = {"bytes": np.random.default_rng(0).integers(0, 257, (8, 2048), dtype=np.int32)}

every = pytest.mark.parametrize("optimizer", list(GraphOptimizer))


class Optimized:
    """What an optimizer makes of a model in `folder/source`."""

    def __init__(self, folder: Path, model: Model, arrays: Arrays, optimizer: GraphOptimizer) -> None:
        self.notes: list[str] = []
        bench = workbench(folder, arrays, model, self.notes)
        self.model = optimize_graph(model, OptimizeGraph(optimizer=[optimizer]), bench)
        self.difference = disagreement(model, self.model, bench.splits.evaluation, 1e-5)

    @property
    def operators(self) -> Counter[str]:
        return Counter(node.op_type for node in onnx.load(self.model.onnx).graph.node)


def magika_model(folder: Path) -> Model:
    (folder / "source").mkdir()
    shutil.copy(MAGIKA, folder / "source/model.onnx")
    return Model(folder / "source", ModelFormat.ONNX).save_manifest()


@every
@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_answer_alike_or_are_left_alone(name: str, optimizer: GraphOptimizer, tmp_path: Path) -> None:
    model = source(name, tmp_path / "source")
    try:
        done = Optimized(tmp_path, model, samples(model.onnx), optimizer)
    except NotApplicable:
        assert not list((tmp_path / "out").iterdir())
    else:
        assert not done.difference
        assert open_model(done.model.folder) == done.model


@pytest.mark.parametrize(
    ("optimizer", "standard"),
    [
        (GraphOptimizer.ONNXSLIM, True),
        (GraphOptimizer.ONNXRUNTIME_BASIC, True),
        (GraphOptimizer.ONNXRUNTIME_EXTENDED, False),
    ],
)
def test_a_real_model_gets_smaller(optimizer: GraphOptimizer, standard: bool, tmp_path: Path) -> None:
    done = Optimized(tmp_path, magika_model(tmp_path), BYTES, optimizer)
    assert not done.difference
    assert done.operators.total() < 95
    assert done.notes[0].startswith("95 nodes to ")
    if standard:
        assert {node.domain for node in onnx.load(done.model.onnx).graph.node} == {""}


def test_attention_is_fused_where_the_number_of_heads_is_not_written_down(tmp_path: Path) -> None:
    model = source("attention", tmp_path / "source")
    done = Optimized(tmp_path, model, samples(model.onnx), GraphOptimizer.TRANSFORMERS)
    assert done.operators == {"LayerNormalization": 1, "Attention": 1, "MatMul": 1, "SkipLayerNormalization": 1}
    assert done.notes == ["23 nodes to 4, new: 1 Attention, 1 SkipLayerNormalization"]


@pytest.mark.parametrize(
    ("optimizer", "name", "reason"),
    [
        (GraphOptimizer.ONNXSLIM, "opset 9", "finds nothing to optimize in 3 nodes"),
        (GraphOptimizer.ONNXRUNTIME_EXTENDED, "float16", "finds nothing to optimize in 2 nodes"),
        (GraphOptimizer.TRANSFORMERS, "LSTM", "finds no attention, GELU or layer normalization to fuse"),
    ],
)
def test_says_why_it_does_not_apply(optimizer: GraphOptimizer, name: str, reason: str, tmp_path: Path) -> None:
    model = source(name, tmp_path / "source")
    with pytest.raises(NotApplicable, match=f"^optimizeGraph: {optimizer} {reason}$"):
        Optimized(tmp_path, model, samples(model.onnx), optimizer)


def test_a_wrong_optimizer_fails_the_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forgets_the_activation(model: onnx.ModelProto) -> onnx.ModelProto:
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        model.graph.node[2].input[0] = relu.input[0]
        model.graph.node.remove(relu)
        return model

    monkeypatch.setitem(OPTIMIZERS, GraphOptimizer.ONNXSLIM, forgets_the_activation)
    model = source("opset 21", tmp_path / "source")
    with pytest.raises(WrongResult, match=r"^optimizeGraph: Onnxslim breaks this model \(output 'y' differs by "):
        Optimized(tmp_path, model, samples(model.onnx), GraphOptimizer.ONNXSLIM)


def test_none_of_it_needs_torch(tmp_path: Path) -> None:
    """Images without torch run these steps too."""
    code = f"""
import sys
sys.modules["torch"] = None
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent), *sys.path]}
from pathlib import Path
from odd_graphs import samples, source, workbench
from trimtab.api.techniques import OptimizeGraph
from trimtab_jobs.techniques.optimize_graph import optimize_graph
folder = Path({str(tmp_path)!r})
model = source("attention", folder / "source")
optimize_graph(model, OptimizeGraph(optimizer=["Transformers"]), workbench(folder, samples(model.onnx), model, []))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
