"""What counts as another answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from trimtab.api.model import ModelFormat
from trimtab_jobs.data import Split
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import ONNX_FILE, Model
from trimtab_jobs.parity import difference, disagreement

INFINITE, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("expected", "found", "off"),
    [
        pytest.param([1, -4], [1, -4], 0, id="equal"),
        pytest.param([1, -4], [1.1, -4], 0.025, id="relative to the largest"),
        pytest.param([0, 0], [0, 0.5], 0.5, id="zeros"),
        pytest.param([1], [1, 1], INFINITE, id="shape"),
        pytest.param([1, NAN, INFINITE], [1, NAN, INFINITE], 0, id="not finite in both"),
        pytest.param([1, INFINITE], [1, -INFINITE], INFINITE, id="the other infinity"),
        pytest.param([1, NAN], [1, 2], INFINITE, id="finite in one"),
        pytest.param([], [], 0, id="empty"),
    ],
)
def test_difference(expected: list[float], found: list[float], off: float) -> None:
    assert difference(np.array(expected, np.float32), np.array(found, np.float32)) == pytest.approx(off)


def test_a_new_nan_is_a_difference() -> None:
    assert not difference(np.ones(2), np.array([1, NAN])) <= 1


def test_answers_that_are_no_numbers_are_compared_too() -> None:
    assert difference(np.array(["a", "b"]), np.array(["a", "b"])) == 0
    assert difference([{0: 0.5}], [{0: 0.6}]) == INFINITE


NET = '<ir_version: 8, opset_import: ["" : 15]> net (float[N,4] x) => (float[N,4] y) { y = Add (x, w) }'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NET, ""),
        (NET.replace("Add (x, w)", "Sub (x, w)"), "output 'y' differs by 1 of its largest value for a batch of 1"),
        (NET.replace("4] x", "4] z").replace("(x,", "(z,"), "its inputs are z float32[N,4] instead of x float32[N,4]"),
        (NET.replace("float[N,4] x", "float[1,4] x"), "its inputs are x float32[1,4] instead of x float32[N,4]"),
        (NET.replace("y", "q"), "its outputs are q instead of y"),
    ],
    ids=["same", "value", "input's name", "fixed batch", "output's name"],
)
def test_disagreement(text: str, words: str, tmp_path: Path) -> None:
    models = []
    for name, net in (("before", NET), ("after", text)):
        (tmp_path / name).mkdir()
        model = onnx.parser.parse_model(net)
        model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "w"))
        onnx.save(model, tmp_path / name / ONNX_FILE)
        models.append(Model(tmp_path / name, ModelFormat.ONNX))
    split = Split("evaluation", {"x": np.ones((3, 4), np.float32)}, None)
    said = disagreement(*models, split, 1e-5)
    assert said.startswith(words)
    assert bool(said) == bool(words)


def test_a_model_that_does_not_load_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(NET)  # w is missing
    onnx.save(model, tmp_path / ONNX_FILE)
    broken = Model(tmp_path, ModelFormat.ONNX)
    with pytest.raises(InvalidInput, match="ONNX Runtime refuses this model"):
        disagreement(broken, broken, Split("evaluation", {"x": np.ones((3, 4), np.float32)}, None), 1e-5)
