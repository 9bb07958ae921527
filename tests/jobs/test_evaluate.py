"""Measuring a real model: accuracy is what numpy computes, and an engine that refuses is a finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bad_inputs import CENTERS, make_model, make_samples
from trimtab.api.model import EngineName
from trimtab_jobs.data import Split
from trimtab_jobs.engines import EngineOptions
from trimtab_jobs.evaluate import batch_size, measure

from .conftest import one_split


@pytest.mark.parametrize(("batch", "expected"), [("N", 16), (1, 1)])
def test_accuracy_is_that_of_the_nearest_center(tmp_path: Path, batch: int | str, expected: int) -> None:
    onnx.save(make_model(batch=batch), tmp_path / "model.onnx")
    split = one_split("evaluation", make_samples(5))
    assert batch_size(tmp_path / "model.onnx") == expected
    nearest = ((split.inputs["x"][:, None] - CENTERS) ** 2).sum(-1).argmin(-1)
    measured = measure(EngineName.ONNXRUNTIME, tmp_path / "model.onnx", split, EngineOptions())
    assert measured.accuracy == np.mean(nearest == split.labels)
    assert measured.executed
    assert measured.size == (tmp_path / "model.onnx").stat().st_size
    assert 0 < (measured.latency_p50 or 0) <= (measured.latency_p95 or 0)


def test_an_engine_that_refuses_is_a_finding(tmp_path: Path) -> None:
    onnx.save(make_model(activation="Mystery", domain="acme"), tmp_path / "model.onnx")
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        measured = measure(name, tmp_path / "model.onnx", one_split("evaluation", make_samples(5)), EngineOptions())
        assert not measured.executed
        assert measured.accuracy is None
        assert "Mystery" in measured.note
        assert "\n" not in measured.note


def test_a_plan_for_a_gpu_is_built_and_not_executed(tmp_path: Path) -> None:
    onnx.save(make_model(), tmp_path / "model.onnx")
    split: Split = one_split("evaluation", make_samples(5))
    measured = measure(EngineName.TENSORRT, tmp_path / "model.onnx", split, EngineOptions())
    assert not measured.executed
    assert (measured.size or 0) > 0
    assert "SM89" in measured.note
