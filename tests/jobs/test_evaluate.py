"""Measuring a real model: quality is what numpy computes, and an engine that refuses is a finding."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bad_inputs import CENTERS, make_model, make_samples
from trimtab.api.metrics import Metrics
from trimtab.api.model import EngineName, Metric, ModelFormat
from trimtab.api.techniques import FloatPrecision
from trimtab.api.work import Measurement
from trimtab_jobs.data import Split, Splits
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput, Temporary
from trimtab_jobs.evaluate import Judge, batch_size, measure
from trimtab_jobs.memory import loaded_memory
from trimtab_jobs.model import PRECISION, Model
from trimtab_jobs.openvino_model import openvino, save

from .conftest import one_split

COSTS = [Metric.LATENCY_P99, Metric.THROUGHPUT, Metric.PEAK_MEMORY]


def write(folder: Path, **changes: Any) -> Model:
    onnx.save(make_model(**changes), folder / "model.onnx")
    return Model(folder, ModelFormat.ONNX).save_manifest()


def measured(name: EngineName, model: Model, *metrics: Metric) -> Measurement:
    original = partial(engine(EngineName.ONNXRUNTIME).load, model, EngineOptions())
    judge = Judge([Metric.ACCURACY, *metrics], Metrics(), original, Splits({}))
    return measure(name, model, samples(), EngineOptions(), judge)


def samples() -> Split:
    return one_split("evaluation", make_samples(5))


@pytest.mark.parametrize(("batch", "expected"), [("N", 16), (1, 1)])
def test_accuracy_is_that_of_the_nearest_center(tmp_path: Path, batch: int | str, expected: int) -> None:
    model, split = write(tmp_path, batch=batch), samples()
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        assert batch_size(engine(name).load(model, EngineOptions()), split) == expected
    nearest = ((split.inputs["x"][:, None] - CENTERS) ** 2).sum(-1).argmin(-1)
    found = measured(EngineName.ONNXRUNTIME, model)
    assert found.executed
    assert found.metrics.keys() == {Metric.ACCURACY, Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.SIZE}
    assert found.metrics[Metric.ACCURACY] == np.mean(nearest == split.labels)
    assert found.metrics[Metric.SIZE] == model.size
    assert 0 < found.metrics[Metric.LATENCY_P50] <= found.metrics[Metric.LATENCY_P95]


@pytest.mark.parametrize("batch", ["N", 1])
def test_what_costs_more_to_measure_is_measured_where_it_is_asked_for(tmp_path: Path, batch: int | str) -> None:
    found = measured(EngineName.OPENVINO, write(tmp_path, batch=batch), *COSTS).metrics
    assert found[Metric.LATENCY_P99] >= found[Metric.LATENCY_P95]
    assert found[Metric.THROUGHPUT] > 0
    assert found[Metric.PEAK_MEMORY] > 10_000_000


def test_peak_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    ballast = np.ones(2**26)  # half a gigabyte of this process
    found = measured(EngineName.ONNXRUNTIME, write(tmp_path), Metric.PEAK_MEMORY).metrics
    assert found[Metric.PEAK_MEMORY] < ballast.nbytes


def test_peak_memory_is_that_of_the_precision_it_computes_in(tmp_path: Path) -> None:
    write(tmp_path)
    model = Model(tmp_path, ModelFormat.ONNX, {PRECISION: FloatPrecision.BFLOAT16}).save_manifest()
    assert loaded_memory(EngineName.OPENVINO, model, samples(), EngineOptions()) > 10_000_000
    with pytest.raises(
        InvalidInput, match=r"^peakMemory: .* ONNXRuntime failed: .*computes in .*, and not in BFloat16"
    ):
        loaded_memory(EngineName.ONNXRUNTIME, model, samples(), EngineOptions())


def end_new_processes(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs this module as it starts."""
    (folder / "sitecustomize.py").write_text(f"import os, signal, sys\n{how}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def test_an_engine_that_crashes_in_a_process_of_its_own_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_new_processes("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path, monkeypatch)
    found = measured(EngineName.ONNXRUNTIME, write(tmp_path), Metric.PEAK_MEMORY)
    assert not found.executed
    assert found.note == "peakMemory: the process that loads the model in ONNXRuntime failed: it ended by SIGSEGV"


KILLED = {
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "MemoryError": "sys.stderr.write('MemoryError\\n'); sys.stderr.flush(); os._exit(1)",
    "bad_alloc": "sys.stderr.write('std::bad_alloc\\n'); sys.stderr.flush(); os.abort()",
}


@pytest.mark.parametrize("how", KILLED.values(), ids=KILLED.keys())
def test_a_process_without_memory_is_tried_again(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_new_processes(how, tmp_path, monkeypatch)
    with pytest.raises(Temporary, match=r"raise the memory limit$"):
        measured(EngineName.ONNXRUNTIME, write(tmp_path), Metric.PEAK_MEMORY)


def test_an_engine_that_refuses_is_a_finding(tmp_path: Path) -> None:
    model = write(tmp_path, activation="Mystery", domain="acme")
    for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        found = measured(name, model)
        assert not found.executed
        assert found.metrics == {}
        assert "Mystery" in found.note
        assert "\n" not in found.note


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # makes the import fail as it does where it is not installed
    monkeypatch.delitem(sys.modules, "trimtab_jobs.engines.tensorrt", raising=False)
    found = measured(EngineName.TENSORRT, write(tmp_path))
    assert (found.executed, found.opened) == (False, False)
    assert found.note == "this image has no tensorrt_rtx: name a runtime whose image has"


def test_a_plan_for_a_gpu_is_built_and_not_executed(tmp_path: Path) -> None:
    found = measured(EngineName.TENSORRT, write(tmp_path))
    assert not found.executed
    assert found.metrics[Metric.SIZE] > 0
    assert "SM89" in found.note


@pytest.mark.parametrize(("batch", "expected"), [("N", 16), (1, 1)])
def test_an_openvino_model_is_measured_where_it_runs(tmp_path: Path, batch: int | str, expected: int) -> None:
    source = write(tmp_path, batch=batch)
    (tmp_path / "ir").mkdir()
    model = save(openvino.Core().read_model(source.file), tmp_path / "ir")
    truth = measured(EngineName.ONNXRUNTIME, source)
    judge = Judge([Metric.ACCURACY, Metric.PEAK_MEMORY], Metrics(), lambda: None, Splits({}))
    found = measure(EngineName.OPENVINO, model, samples(), EngineOptions(), judge)
    assert batch_size(engine(EngineName.OPENVINO).load(model, EngineOptions()), samples()) == expected
    assert found.metrics[Metric.ACCURACY] == truth.metrics[Metric.ACCURACY]
    assert found.metrics[Metric.PEAK_MEMORY] > 10_000_000
    refused = measured(EngineName.ONNXRUNTIME, model)
    assert (refused.executed, refused.opened) == (False, False)
    assert refused.note == "model.xml: ONNXRuntime cannot run OpenVINO models"
