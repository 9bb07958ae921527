"""Measuring a real model: accuracy is what numpy computes, and an engine that refuses is a finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bad_inputs import CENTERS, make_model, make_samples
from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.data import Split
from trimtab_jobs.engines import EngineOptions
from trimtab_jobs.evaluate import batch_size, measure
from trimtab_jobs.model import Model
from trimtab_jobs.openvino_model import openvino, save

from .conftest import one_split


@pytest.mark.parametrize(("batch", "expected"), [("N", 16), (1, 1)])
def test_accuracy_is_that_of_the_nearest_center(tmp_path: Path, batch: int | str, expected: int) -> None:
    onnx.save(make_model(batch=batch), tmp_path / "model.onnx")
    split = one_split("evaluation", make_samples(5))
    model = Model(tmp_path, ModelFormat.ONNX)
    assert batch_size(model) == expected
    nearest = ((split.inputs["x"][:, None] - CENTERS) ** 2).sum(-1).argmin(-1)
    measured = measure(EngineName.ONNXRUNTIME, model, split, EngineOptions())
    assert measured.accuracy == np.mean(nearest == split.labels)
    assert measured.executed
    assert measured.size == (tmp_path / "model.onnx").stat().st_size
    assert 0 < (measured.latency_p50 or 0) <= (measured.latency_p95 or 0)


def test_an_engine_that_refuses_is_a_finding(tmp_path: Path) -> None:
    onnx.save(make_model(activation="Mystery", domain="acme"), tmp_path / "model.onnx")
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        model = Model(tmp_path, ModelFormat.ONNX)
        measured = measure(name, model, one_split("evaluation", make_samples(5)), EngineOptions())
        assert not measured.executed
        assert measured.accuracy is None
        assert "Mystery" in measured.note
        assert "\n" not in measured.note


def test_a_plan_for_a_gpu_is_built_and_not_executed(tmp_path: Path) -> None:
    onnx.save(make_model(), tmp_path / "model.onnx")
    split: Split = one_split("evaluation", make_samples(5))
    measured = measure(EngineName.TENSORRT, Model(tmp_path, ModelFormat.ONNX), split, EngineOptions())
    assert not measured.executed
    assert (measured.size or 0) > 0
    assert "SM89" in measured.note


@pytest.mark.parametrize(("batch", "expected"), [("N", 16), (1, 1)])
def test_an_openvino_model_is_measured_where_it_runs(tmp_path: Path, batch: int | str, expected: int) -> None:
    onnx.save(make_model(batch=batch), tmp_path / "model.onnx")
    source = Model(tmp_path, ModelFormat.ONNX)
    (tmp_path / "ir").mkdir()
    model = save(openvino.Core().read_model(source.file), tmp_path / "ir")
    split = one_split("evaluation", make_samples(5))
    truth = measure(EngineName.ONNXRUNTIME, source, split, EngineOptions())
    measured = measure(EngineName.OPENVINO, model, split, EngineOptions())
    assert (batch_size(model), measured.accuracy, measured.executed) == (expected, truth.accuracy, True)
    refused = measure(EngineName.ONNXRUNTIME, model, split, EngineOptions())
    assert (refused.executed, refused.note) == (False, "model.xml: ONNXRuntime cannot run OpenVINO models")
