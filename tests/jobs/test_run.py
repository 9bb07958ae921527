"""A job's four stages over one store, each in the main program, on a real model and real files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from bad_inputs import CENTERS, make_model, make_samples, sound_spec
from reports import winner
from trimtab.api.model import EngineName, Metric, ModelFormat
from trimtab.api.report import JobReport
from trimtab.api.status import Verdict, show_interval
from trimtab.api.work import MESSAGE_LIMIT, Finalist, Report, Stage, Task
from trimtab.report import so_far
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.run import failed
from trimtab_jobs.store import Store, digest_file, digest_folder

from .conftest import Ended, Lab

Succeed = Callable[[Task], Report]
Perform = Callable[[Task], Ended]
BOTH = {"engines": ["ONNXRuntime", "OpenVINO"]}


def finalist(artifact: str, trial: int = 0, engine: EngineName = EngineName.ONNXRUNTIME) -> Finalist:
    return Finalist(trial=trial, engine=engine, artifact=artifact)


def pins(report: Report) -> dict[str, str]:
    assert report.inspection
    return {**report.inspection.data_digests, "model": report.inspection.model_digest}


def worse_model(lab: Lab) -> str:
    """An artifact whose centers are somewhat wrong, so that it loses some samples."""
    model = make_model()
    centers = next(i for i in model.graph.initializer if i.name == "centers")
    shifted = np.vstack([CENTERS.T, -CENTERS.T]) + np.random.default_rng(1).normal(scale=1.0, size=(16, 3))
    centers.CopyFrom(onnx.numpy_helper.from_array(shifted.astype(np.float32), "centers"))
    folder = lab.root / "worse"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    Model(folder, ModelFormat.ONNX).save_manifest()
    return Store(lab.folder("store")).put(folder)


def test_inspect_says_what_it_found(lab: Lab, succeed: Succeed) -> None:
    report = succeed(lab.task("Inspect", target=BOTH))
    found = report.inspection
    assert found
    assert found.samples == {"calibration": 200, "evaluation": 200, "holdout": 200}
    assert found.operators == {"MatMul": 2, "Add": 1, "Relu": 1}
    assert found.inputs == {"x": "float32[N,8]"}
    assert found.data_digests["holdout"] == digest_file(lab.folder("inputs") / "holdout.npz")
    assert report.artifact == found.model_digest == digest_folder(Store(lab.folder("store")).folder(report.artifact))
    assert [m.engine for m in report.measurements] == [EngineName.ONNXRUNTIME, EngineName.OPENVINO]
    assert found.quality == Metric.ACCURACY
    named = {Metric.ACCURACY, Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.SIZE}
    assert all(m.metrics.keys() == named and m.metrics[Metric.ACCURACY] > 0.7 for m in report.measurements)
    assert report.hardware
    assert report.hardware.threads >= 1
    assert report.peak_memory > 10_000_000


def test_the_message_fits_and_the_store_has_the_full_report(lab: Lab, succeed: Succeed) -> None:
    succeed(lab.task("Inspect"))
    assert lab.message.stat().st_size <= MESSAGE_LIMIT
    full = Report.model_validate_json((lab.folder("store") / "reports/u1/Inspect-0.json").read_text())
    assert full.inspection
    assert full.inspection.operators


def test_a_trial_is_measured_on_every_engine(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    target = {"engines": ["ONNXRuntime", "OpenVINO", "TensorRT"]}
    report = succeed(lab.task("Trial", trial=1, pins=pins(inspected), target=target))
    assert report.trial == 1
    assert report.artifact == inspected.artifact
    assert [m.executed for m in report.measurements] == [True, True, False]
    assert report.measurements[0].metrics[Metric.ACCURACY] == inspected.measurements[0].metrics[Metric.ACCURACY]


def test_the_first_engine_must_run_the_input_model(lab: Lab, perform: Perform) -> None:
    ended = perform(lab.task("Inspect", target={"engines": ["TensorRT", "ONNXRuntime"]}))
    assert ended.code == 2
    assert "target.engines: the first, TensorRT," in ended.stderr


@pytest.mark.parametrize("name", ["calibration", "evaluation", "model"])
def test_what_changed_since_inspect_is_refused(lab: Lab, succeed: Succeed, perform: Perform, name: str) -> None:
    inspected = succeed(lab.task("Inspect"))
    inputs = lab.folder("inputs")
    if name == "model":
        onnx.save(make_model(activation="Abs"), inputs / "model.onnx")
    else:
        np.savez(inputs / f"{name}.npz", **make_samples(99))
    ended = perform(lab.task("Trial", trial=1, pins=pins(inspected)))
    assert ended.code == 2
    assert f"/{name}." in ended.stderr
    assert "changed since the job began: put the old content back, or create a new job" in ended.stderr


def test_a_trial_does_not_read_the_holdout(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    (lab.folder("inputs") / "holdout.npz").unlink()
    succeed(lab.task("Trial", trial=1, pins=pins(inspected)))


def test_the_playoff_times_every_finalist_against_the_baseline(
    lab: Lab, succeed: Succeed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    inspected = succeed(lab.task("Inspect"))
    worse = worse_model(lab)
    finalists = [finalist(inspected.artifact), finalist(worse, 1), finalist(worse, 1, EngineName.OPENVINO)]
    report = succeed(lab.task("Playoff", pins=pins(inspected), finalists=[f.wire() for f in finalists]))
    assert [(t.trial, t.engine) for t in report.timings] == [(f.trial, f.engine) for f in finalists]
    assert report.timings[0].ratio.estimate == "1"
    assert report.control
    for interval in [t.ratio for t in report.timings] + [report.control]:
        assert 0 < float(interval.low) <= float(interval.estimate) <= float(interval.high)
    told = f"trial 1 on OpenVINO: {show_interval(report.timings[2].ratio)} of the input model's time"
    assert told in caplog.messages


def publish_task(lab: Lab, inspected: Report, winner: str, **fields: Any) -> Task:
    given = {
        "pins": pins(inspected),
        "baseline": finalist(inspected.artifact).wire(),
        "winner": finalist(winner, 1).wire(),
        "publish": "pvc://published/digits",
        "constraints": [{"metric": "accuracy", "maxDrop": "50%"}],
    }
    return lab.task("Publish", **(given | fields))


def test_the_winner_is_published_whole(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    worse = worse_model(lab)
    report = succeed(publish_task(lab, inspected, worse))
    assert report.claim
    assert report.claim.verdict == Verdict.HOLDS
    assert float(report.claim.winner) < float(report.claim.baseline)
    name = worse.removeprefix("sha256:")[:12]
    assert report.published == f"pvc://published/digits/{name}"
    root = lab.folder("published") / "digits"
    current = json.loads((root / "current.json").read_text())
    assert {key: current[key] for key in ("digest", "path", "engine", "format")} == {
        "digest": worse,
        "path": name,
        "engine": "ONNXRuntime",
        "format": "ONNX",
    }
    assert open_model(root / name).onnx.read_bytes() == (lab.root / "worse" / "model.onnx").read_bytes()
    publication = json.loads((root / name / "publication.json").read_text())
    assert publication["claim"]["verdict"] == "Holds"
    assert publication["digests"] == pins(inspected)
    assert json.loads((root / name / "profile.json").read_text())["inputs"] == {"x": 8}
    assert not list((root / ".tmp").iterdir())


def test_the_report_is_published_with_the_claim_and_what_the_store_has(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    succeed(lab.task("Trial", trial=1, pins=pins(inspected)))
    report = succeed(publish_task(lab, inspected, worse_model(lab), report=so_far(winner()).packed()))
    folder = lab.folder("published") / "digits" / report.published.rpartition("/")[2]
    said = JobReport.model_validate_json((folder / "report.json").read_bytes())
    assert said.claim == report.claim
    assert said.winner
    assert said.winner.published
    assert said.winner.published.uri == report.published
    assert said.verdict.startswith("With 95% confidence the promise holds on 200 holdout samples")
    assert "on the holdout (95% interval" in said.headline
    assert [work.trial for work in said.work] == [1]
    assert said.ended
    assert said.headline in (folder / "report.html").read_text()
    assert said.headline in (folder / "report.md").read_text()


def test_publishing_again_changes_nothing(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    task = publish_task(lab, inspected, worse_model(lab))
    first = succeed(task)
    before = digest_folder(lab.folder("published"))
    assert succeed(task).published == first.published
    assert digest_folder(lab.folder("published")) == before


def test_the_same_model_for_new_data_gets_a_new_profile(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    winner = worse_model(lab)
    succeed(publish_task(lab, inspected, winner))
    current = lab.folder("published") / "digits" / "current.json"
    before = json.loads(current.read_text())
    samples = make_samples(50)
    np.savez(lab.folder("inputs") / "later.npz", **(samples | {"x": samples["x"] + 3}))
    data = sound_spec()["data"] | {"calibration": {"uri": "pvc://inputs/later.npz"}}
    succeed(publish_task(lab, inspected, winner, data=data, pins={}))
    after = json.loads(current.read_text())
    assert after["digest"] == before["digest"]
    assert after["profile"] != before["profile"]
    assert after["profile"] == digest_file(current.parent / after["path"] / "profile.json")


@pytest.mark.parametrize(("keep", "stays"), [("24h", False), (None, True)], ids=["a day", "for ever"])
def test_who_publishes_cleans_up(lab: Lab, succeed: Succeed, keep: str | None, stays: bool) -> None:
    """All that is in the store was made long ago; winner and input model are needed, and the reports are new."""
    inspected, winner = succeed(lab.task("Inspect")), worse_model(lab)
    loser = lab.folder("store") / "artifacts" / "0"
    loser.mkdir()
    for path in (lab.folder("store") / "artifacts").iterdir():
        os.utime(path, (0, 0))
    task = publish_task(lab, inspected, winner, keep=keep)
    succeed(task)
    assert loser.exists() == stays
    assert succeed(task).published
    assert lab.written("store/reports")


def test_a_broken_promise_publishes_nothing(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    promise = [{"metric": "accuracy", "min": "99.9%"}]
    report = succeed(publish_task(lab, inspected, worse_model(lab), constraints=promise))
    assert report.claim
    assert report.claim.verdict == Verdict.VIOLATED
    assert report.published == ""
    assert lab.written("published") == []


def test_without_an_address_the_winner_is_only_named(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    winner = worse_model(lab)
    report = succeed(publish_task(lab, inspected, winner, publish=None))
    assert (report.artifact, report.published) == (winner, "")
    assert lab.written("published") == []


def test_a_missing_artifact_is_named(lab: Lab, perform: Perform) -> None:
    ended = perform(lab.task("Playoff", finalists=[finalist("sha256:" + "0" * 64).wire()]))
    assert ended.code == 2
    assert "store: " in ended.stderr
    assert "has no artifact sha256:000" in ended.stderr


def unlabelled(lab: Lab) -> None:
    """The splits without their labels."""
    for path in lab.folder("inputs").glob("*.npz"):
        with np.load(path) as stored:
            np.savez(path, x=stored["x"])


def test_without_labels_the_original_is_the_measure(lab: Lab, succeed: Succeed) -> None:
    unlabelled(lab)
    inspected = succeed(lab.task("Inspect", target=BOTH))
    assert inspected.inspection
    assert inspected.inspection.quality == Metric.COSINE
    assert [m.metrics[Metric.COSINE] for m in inspected.measurements] == pytest.approx([1, 1], abs=1e-6)
    promise = [{"metric": "cosine", "maxDrop": "50%"}]
    report = succeed(publish_task(lab, inspected, worse_model(lab), quality="cosine", constraints=promise))
    assert report.claim
    assert (report.claim.metric, report.claim.baseline) == (Metric.COSINE, "1")
    assert float(report.claim.winner) < 1
    profile = json.loads((lab.folder("published") / "digits").glob("*/profile.json").__next__().read_text())
    assert "prediction" not in [column["name"] for column in profile["columns"]]


ASKED = ["f1", "accuracy", "mse", "latencyP99", "throughput", "peakMemory", "custom"]
CUSTOM = {"custom": {"function": "score:margin", "code": "pvc://inputs/score.py"}, "throughputBatch": 32}


def write_score(lab: Lab, body: str = "return outputs[0].max() - outputs[0].min()") -> None:
    (lab.folder("inputs") / "score.py").write_text(f"def margin(outputs, labels):\n    {body}\n")


def test_what_is_asked_for_is_measured_and_no_more(lab: Lab, succeed: Succeed) -> None:
    write_score(lab)
    asked = [name for name in ASKED if name != "mse"]
    inspected = succeed(lab.task("Inspect", measure=asked, quality="f1", metrics=CUSTOM))
    assert inspected.inspection
    assert inspected.inspection.quality == Metric.F1
    (measured,) = inspected.measurements
    assert measured.metrics.keys() == {*asked, "latencyP50", "latencyP95", "size"}
    digest = inspected.inspection.data_digests["metrics.custom.code"]
    assert digest == digest_file(lab.folder("inputs") / "score.py")


def test_a_custom_metric_may_not_change_on_the_way(lab: Lab, succeed: Succeed, perform: Perform) -> None:
    write_score(lab)
    given = {"measure": ["custom"], "quality": "custom", "metrics": CUSTOM}
    inspected = succeed(lab.task("Inspect", **given))
    write_score(lab, "return 1.0")
    ended = perform(lab.task("Trial", trial=1, pins=pins(inspected), **given))
    assert ended.code == 2
    assert "metrics.custom.code: " in ended.stderr
    assert "score.py changed since the job began" in ended.stderr


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError('no such class')", "metrics.custom.function score:margin: KeyError: 'no such class'"),
        ("return float('nan')", "metrics.custom.function score:margin returned nan on data.evaluation: check the"),
    ],
)
def test_a_custom_metric_that_fails_is_not_called_an_engine_that_does(
    lab: Lab, perform: Perform, body: str, says: str
) -> None:
    write_score(lab, body)
    ended = perform(lab.task("Inspect", measure=["custom"], quality="custom", metrics=CUSTOM))
    assert ended.code == 2
    assert says in ended.stderr
    assert "target.engines" not in ended.stderr


def test_a_candidate_that_a_custom_metric_cannot_judge_is_a_finding(lab: Lab, succeed: Succeed) -> None:
    write_score(lab)
    given = {"measure": ["custom"], "quality": "custom"}
    inspected = succeed(lab.task("Inspect", **given, metrics=CUSTOM))
    write_score(lab, "raise KeyError('no such class')")
    kept = {name: pin for name, pin in pins(inspected).items() if name != "metrics.custom.code"}
    report = succeed(lab.task("Trial", trial=1, pins=kept, **given, metrics=CUSTOM))
    (measured,) = report.measurements
    assert not measured.executed
    assert "metrics.custom.function score:margin: KeyError" in measured.note


def test_labels_that_do_not_fit_a_named_metric_are_refused(lab: Lab, perform: Perform) -> None:
    ended = perform(lab.task("Inspect", measure=["mse"], quality="mse"))
    assert ended.code == 2
    assert "labels are int64[200], and the model's first output for one sample is float32[1,3]" in ended.stderr


def test_the_playoff_times_batches_and_tails_where_they_are_asked_for(lab: Lab, succeed: Succeed) -> None:
    inspected = succeed(lab.task("Inspect"))
    finalists = [finalist(inspected.artifact).wire(), finalist(worse_model(lab), 1).wire()]
    asked = ["throughput", "latencyP99"]
    report = succeed(lab.task("Playoff", finalists=finalists, measure=asked))
    for timing in report.timings:
        assert timing.metrics.keys() == {"latencyP50", "latencyP95", *asked}
        assert timing.batch_ratio
    assert report.batch_control
    assert report.batch_control != report.control


def test_a_failure_names_a_file_of_a_claim_by_its_address() -> None:
    missing = InvalidInput("model.uri: /trimtab/volumes/models/m.onnx: there is no such file")
    error = failed(Stage.INSPECT, missing).error
    assert error
    assert error.message == "model.uri: pvc://models/m.onnx: there is no such file"
