"""The Report's way through the 4,096 bytes of a termination message, and Tasks between two versions."""

from __future__ import annotations

import json

import pytest

from trimtab.api.model import EngineName, Metric
from trimtab.api.status import DECISIVE_OPERATORS, Claim, Hardware, Inspection, Interval, Verdict
from trimtab.api.work import (
    FINALISTS_LIMIT,
    MESSAGE_LIMIT,
    ErrorKind,
    Measurement,
    Report,
    Stage,
    StepReport,
    Task,
    Timing,
    WorkError,
)

RATIO = Interval(estimate="0.123456", low="0.111111", high="0.135790")
HARDWARE = Hardware(
    cpu="A Long Processor Name @ 2.60GHz",
    flags=["avx2", "avx512f", "avx512_vnni", "amx_int8"],
    threads=64,
    versions={f"library-{i}": "1.2.3.post4" for i in range(60)},
)
EVERYTHING = dict.fromkeys(Metric, 0.1234567891)
TIMES = dict.fromkeys((Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.LATENCY_P99, Metric.THROUGHPUT), 0.0001234567891)
LARGEST = {
    "inspect": Report(
        stage=Stage.INSPECT,
        artifact="sha256:" + "0" * 64,
        inspection=Inspection(
            model_digest="sha256:" + "1" * 64,
            data_digests=dict.fromkeys(("calibration", "train", "evaluation", "holdout"), "sha256:" + "2" * 64),
            operators={f"Operator{i}": i for i in range(300)} | dict.fromkeys(sorted(DECISIVE_OPERATORS), 1),
            inputs={f"input_{i}": "float32[N,3,224,224]" for i in range(50)},
        ),
        measurements=[Measurement(engine=engine, metrics=EVERYTHING, note="n" * 400) for engine in EngineName],
        hardware=HARDWARE,
    ),
    "trial": Report(
        stage=Stage.TRIAL,
        trial=127,
        artifact="sha256:" + "0" * 64,
        steps=[StepReport(technique="quantize", artifact="sha256:" + "3" * 64, note="x" * 700) for _ in range(8)],
        measurements=[Measurement(engine=engine, metrics=EVERYTHING) for engine in EngineName],
        hardware=HARDWARE,
    ),
    "playoff": Report(
        stage=Stage.PLAYOFF,
        timings=[
            Timing(trial=127, engine=EngineName.ONNXRUNTIME, ratio=RATIO, batch_ratio=RATIO, metrics=TIMES)
            for _ in range(FINALISTS_LIMIT)
        ],
        control=RATIO,
        batch_control=RATIO,
        hardware=HARDWARE,
    ),
    "publish": Report(
        stage=Stage.PUBLISH,
        claim=Claim(verdict=Verdict.HOLDS, drop=RATIO, message="m" * 500),
        published="pvc://" + "p" * 1000,
    ),
    "failure": Report(
        stage=Stage.TRIAL, error=WorkError(kind=ErrorKind.TEMPORARY, reason="Crashed", message="e" * 9000)
    ),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_report_of_each_stage_fits_and_keeps_what_decisions_read(name: str) -> None:
    report = LARGEST[name]
    text = report.compact()
    assert len(text.encode()) <= MESSAGE_LIMIT
    read = Report.model_validate_json(text)
    assert (read.stage, read.trial, read.artifact) == (report.stage, report.trial, report.artifact)
    assert read.timings == report.timings
    assert read.claim == report.claim
    assert [(m.engine, m.metrics) for m in read.measurements] == [(m.engine, m.metrics) for m in report.measurements]
    if report.inspection and read.inspection:
        assert read.inspection.data_digests == report.inspection.data_digests
        assert read.inspection.operators.keys() >= DECISIVE_OPERATORS
    assert (read == report) == (not read.truncated)


def test_a_small_report_is_whole() -> None:
    report = Report(stage=Stage.TRIAL, trial=1, steps=[StepReport(technique="quantize", note="12 nodes")])
    assert Report.model_validate_json(report.compact()) == report


def test_what_is_left_out_is_named() -> None:
    assert Report.model_validate_json(LARGEST["inspect"].compact()).truncated[0] == "operators"


def test_a_report_that_cannot_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit 4096"):
        Report(stage=Stage.PUBLISH, published="p" * 5000).compact()


def test_an_older_reader_ignores_a_newer_field_at_any_depth() -> None:
    text = json.dumps({"stage": "Trial", "newer": 1, "measurements": [{"engine": "OpenVINO", "newer": {"a": 1}}]})
    assert Report.model_validate_json(text).measurements[0].engine == EngineName.OPENVINO


def test_a_task_survives_its_json() -> None:
    task = Task.model_validate(
        {
            "stage": "Trial",
            "job": {"name": "j", "namespace": "n", "uid": "u"},
            "model": {"uri": "file:///m.onnx", "format": "ONNX"},
            "data": {"evaluation": {"uri": "file:///e.npz"}, "holdout": {"uri": "file:///h.npz"}},
            "target": {},
            "store": "file:///store",
            "steps": [{"quantize": {"operatorScope": ["Compute"]}}],
        }
    )
    assert Task.model_validate_json(task.model_dump_json(by_alias=True, exclude_none=True)) == task
