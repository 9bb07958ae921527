"""What a tool makes of a small real model is judged and raced; what cannot be run is that tool's failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.compare import CONTROL, FP32, compare
from bench.peers import PEERS
from bench.problem import Problem
from bench_optimize import lay_out


@pytest.fixture
def problem(digits: Path, tmp_path: Path) -> Problem:
    return Problem(lay_out(digits / "model.onnx", digits, tmp_path / "problem"))


def test_everybody_is_judged_and_raced(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made = PEERS["ort-static-tuned"].make(problem, tmp_path / "out")
    tuned = {"name": "tuned", "folder": str(made.folder), "format": "ONNX", "engine": "ONNXRuntime"}
    missing = tuned | {"name": "missing", "folder": str(tmp_path / "nowhere")}
    judged = {one.name: one for one in compare(problem, [tuned, missing])}
    assert problem.metric == "accuracy"
    assert judged["tuned"].drop < 0.05
    assert judged["tuned"].size < judged[FP32].size / 2
    assert judged["tuned"].time
    assert judged[FP32].time == (1.0, 1.0, 1.0)
    assert judged[CONTROL].time
    assert judged["missing"].failure
    assert judged["missing"].time is None
