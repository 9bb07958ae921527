"""The lines that load a winner run as they stand, on every engine and whatever the inputs are called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from trimtab.api.model import EngineName
from trimtab.loading import loading
from trimtab_jobs.onnx_model import inputs

# OpenVINO reports its use to a server unless this package is missing; see trimtab_jobs.engines.openvino.
QUIET = "import sys\nsys.modules['openvino_telemetry'] = None\n"


def model(path: Path) -> Path:
    """Two inputs of different dtypes, a free and a fixed axis, and names that want to be code."""
    first = helper.make_tensor_value_info('it\'s\n"x"', TensorProto.FLOAT, ["N", 3, "length"])
    second = helper.make_tensor_value_info("{ids}", TensorProto.INT64, ["N"])
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in (("y", 1), ("z", 7))]
    nodes = [helper.make_node("Relu", [first.name], ["y"]), helper.make_node("Neg", [second.name], ["z"])]
    graph = helper.make_graph(nodes, "two", [first, second], results)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.mark.parametrize("engine", [EngineName.ONNXRUNTIME, EngineName.OPENVINO])
def test_the_lines_run(engine: EngineName, tmp_path: Path) -> None:
    path = model(tmp_path / "it's a model.onnx")
    forms = {one.name: one.form for one in inputs(path)}
    lines = loading(engine, str(path), forms)
    said = QUIET + lines + "print([outputs[k].shape for k in range(2)])"
    shown = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=False)
    assert shown.stdout == "[(1, 3, 1), (1,)]\n", shown.stderr


def test_an_engine_that_runs_nowhere_yet_has_no_lines() -> None:
    assert loading(EngineName.TENSORRT, "model.plan", {"x": "float32[1]"}) == ""
