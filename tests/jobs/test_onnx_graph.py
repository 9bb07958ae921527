"""One form for what exporters write in many."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from odd_graphs import ODD, samples, source
from trimtab_jobs.data import Split
from trimtab_jobs.model import open_model
from trimtab_jobs.onnx_graph import graphs, load, save
from trimtab_jobs.parity import disagreement


@pytest.mark.parametrize("name", ODD)
def test_every_graph_comes_to_one_form_and_answers_alike(name: str, tmp_path: Path) -> None:
    model = source(name, tmp_path / "source")
    normal = load(model.onnx)
    names = [node.name for graph in graphs(normal.graph) for node in graph.node]
    assert all(names)
    assert len(names) == len({*names})
    for graph in graphs(normal.graph):
        assert {value.name for value in graph.input}.isdisjoint(tensor.name for tensor in graph.initializer)
        outputs = {value.name for value in graph.output}
        assert all({*node.output} <= outputs for node in graph.node if node.op_type == "Constant")
    (tmp_path / "out").mkdir()
    saved = save(normal, tmp_path / "out")
    assert not disagreement(model, saved, Split("evaluation", samples(model.onnx), None), 0)


def test_many_weights_get_a_file_of_their_own(tmp_path: Path) -> None:
    model = source("opset 21", tmp_path / "source")
    (tmp_path / "out").mkdir()
    saved = save(load(model.onnx), tmp_path / "out", one_file=1000)
    assert open_model(saved.folder) == saved
    assert (saved.folder / "model.onnx.data").stat().st_size > saved.onnx.stat().st_size
    assert onnx.load(saved.onnx).graph.initializer[0].raw_data
    assert not disagreement(model, saved, Split("evaluation", samples(model.onnx), None), 0)
