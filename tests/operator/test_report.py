"""What a report says of jobs that ended in every way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from builders import Quality, World, broken, interval, lost, make_job
from reports import ENDINGS, MANY, ended, scattered
from trimtab.api.model import Metric
from trimtab.api.report import REPORT_VERSION, JobReport
from trimtab.api.schema.kinds import document_schema
from trimtab.api.status import Outcome
from trimtab.api.work import ErrorKind, Stage
from trimtab.decisions import ObservedWork, Work, WorkState
from trimtab.explain import explain
from trimtab.page import files, html, markdown
from trimtab.report import build, inverse, so_far
from trimtab.table import candidate_table
from trimtab.wording import concluded

HEADLINES = {
    "winner": "Trial 2 on ONNXRuntime is 1.49x as fast as the input model (95% interval 1.45 to 1.54), loses 0.20 "
    "points of accuracy on the holdout (95% interval -0.20 to 0.60) and takes 320 instead of 1000.",
    "regression": "Trial 1 on ONNXRuntime is 2.00x as fast as the input model (95% interval 1.92 to 2.08), raises mse "
    "by 2.00% on the holdout (95% interval 1.00 to 3.00) and takes 1000 as before.",
    "inconclusive": "; the holdout of 200 samples is too small to confirm the promise.",
    "violated": "; but the holdout breaks the promise, so nothing was published.",
    "nothing feasible": "Nothing keeps every promise; the nearest miss is trial 2 on ONNXRuntime: accuracy is 95.1%, "
    "below 99%.",
    "baseline is best": "Keep the input model: no candidate is better beyond noise.",
    "failed": "The job failed before it could choose (WorkFailed): Playoff failed 3 times, at last with: OOMKilled.",
}
VERDICTS = {
    "winner": "With 95% confidence the promise holds on 200 holdout samples: the drop is 0.2%.",
    "inconclusive": "200 holdout samples are too few to say with 95% confidence whether the promise holds: about 900 "
    "would tell.",
    "violated": "With 95% confidence the promise is broken on 200 holdout samples: the drop is 3%.",
    "nothing feasible": "",
}


def no_model(work: Work) -> ObservedWork:
    report = broken(Stage.INSPECT, ErrorKind.PERMANENT, "spec.model.uri: no such file")
    return ObservedWork(work, WorkState.FAILED, report)


@pytest.mark.parametrize("ending", HEADLINES)
def test_the_headline_says_how_it_ended(ending: str) -> None:
    assert build(ENDINGS[ending]()).headline.endswith(HEADLINES[ending])


@pytest.mark.parametrize(
    ("control", "noise"), [("1", "1%"), ("1.015", "1.5%"), ("0.95", "noisier than the intervals say, and differences")]
)
def test_the_noise_that_is_told_is_what_the_selection_took(control: str, noise: str) -> None:
    job = ENDINGS["winner"]()
    status = job.status.model_copy(update={"control_ratio": interval(float(control))})
    assert noise in build(job.model_copy(update={"status": status})).noise


def test_a_throughput_objective_is_told_by_the_race_of_batches() -> None:
    job = ENDINGS["winner"]()
    spec = make_job(objectives=[{"metric": "throughput", "goal": "Maximize"}]).spec
    trials = [
        t.model_copy(update={"candidates": [c.model_copy(update={"batch_ratio": interval(0.8)}) for c in t.candidates]})
        for t in job.status.trials
    ]
    update = {"trials": trials, "batch_control_ratio": interval(1.02, 0.03)}
    report = build(job.model_copy(update={"spec": spec, "status": job.status.model_copy(update=update)}))
    assert "is 1.25x as fast in batches as the input model" in report.headline
    assert report.winner
    assert report.winner.speed_up
    assert report.winner.speed_up.estimate == "1.25"
    assert report.noise.endswith("took 1.02 times as long as itself [0.99, 1.05]: differences within 2% are noise.")
    assert report.batches
    shown = candidate_table(job.status.model_copy(update=update), Metric.THROUGHPUT)
    for text in (html(report), markdown(report), shown):
        assert "0.80 " in text
        assert "atch ratio" in text
        assert "ime ratio" not in text


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("winner", "gains 0.50 points of accuracy on the holdout (95% interval -0.10 to 1.10)"),
        ("regression", "lowers mse by 0.50% on the holdout (95% interval -0.10 to 1.10)"),
    ],
)
def test_a_gain_and_its_interval_have_one_sign(ending: str, told: str) -> None:
    job = ENDINGS[ending]()
    assert job.status.claim
    claim = job.status.claim.model_copy(update={"drop": interval(-0.005, 0.006)})
    assert told in build(job.model_copy(update={"status": job.status.model_copy(update={"claim": claim})})).headline


@pytest.mark.parametrize("ending", VERDICTS)
def test_the_claim_is_said_in_words(ending: str) -> None:
    assert build(ENDINGS[ending]()).verdict == VERDICTS[ending]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_trial_and_engine_is_a_candidate_with_a_reason(ending: str) -> None:
    job = ENDINGS[ending]()
    report = build(job)
    expected = [(t.index, c.engine if c else None) for t in job.status.trials for c in t.candidates or [None]]
    assert [(c.trial, c.engine) for c in report.candidates] == expected
    assert all(c.reason for c in report.candidates)


def test_trials_that_made_no_model_are_named_with_their_outcome() -> None:
    found = {c.trial: (c.outcome, c.reason) for c in build(ENDINGS["crowded"]()).candidates if c.engine is None}
    assert found[3] == (Outcome.SKIPPED, "the model has no Conv to quantize")
    assert found[5] == (Outcome.FAILED, "Trial failed 3 times, at last with: OOMKilled")
    assert found[7][0] == Outcome.FAILED


def test_a_promise_knows_its_bound_in_the_unit_of_its_metric() -> None:
    promises = build(ENDINGS["crowded"]()).asked.promises
    assert [(p.text, p.limit, p.drop) for p in promises] == [
        ("accuracy drops by at most 1%", None, "0.01"),
        ("latencyP50 is at most 2.5ms", "0.0025", None),
    ]
    promises = build(ENDINGS["regression"]()).asked.promises
    assert [(p.text, p.limit, p.drop) for p in promises] == [
        ("mse rises by at most 5%", None, "0.05"),
        ("mse is at most 0.25", "0.25", "0.25"),
    ]
    (floor,) = build(ENDINGS["nothing feasible"]()).asked.promises
    assert (floor.text, floor.limit, floor.drop) == ("accuracy is at least 99%", "0.99", "-0.04")


def test_techniques_are_told_as_spaces() -> None:
    techniques = [{"prune": {"ratio": {"min": "0.1", "max": "0.6"}}, "optional": True}, {"distill": {}}]
    model = {"uri": "pvc://m/w.safetensors", "format": "PyTorch", "factory": "m:build"}
    data = make_job().spec.data.wire() | {"train": {"uri": "pvc://data/train.npz"}}
    asked = build(make_job(techniques=techniques, model=model, data=data)).asked
    assert asked.techniques[0] == "prune (optional): granularity Channel; ratio 0.1 to 0.6"
    assert asked.techniques[1].startswith("distill: epochs 5; temperature 4; ")


def test_a_speed_up_is_the_inverse_of_a_time_ratio_and_its_ends_change_places() -> None:
    assert inverse(interval(0.5, 0.1)).wire() == {"estimate": "2", "low": "1.66667", "high": "2.5"}


@pytest.mark.parametrize(("precision", "hint"), [("Float16", "f32"), ("BFloat16", "bf16")])
def test_the_winner_is_loaded_in_the_precision_it_was_measured_in(precision: str, hint: str) -> None:
    techniques = [{"castFloat": {"precision": ["Float16", "BFloat16"]}}]
    job = make_job(techniques=techniques, target={"engines": ["OpenVINO"]})
    report = build(ended(World(job, lambda settings, _: Quality(ratio=0.5 if precision in settings.values() else 1))))
    assert report.winner
    assert report.candidates[report.winner.trial].settings == {"castFloat.precision": precision}
    assert f'"INFERENCE_PRECISION_HINT": "{hint}"' in report.winner.load


@pytest.mark.parametrize("ending", ["winner", "inconclusive", "violated", "regression", "baseline is best"])
def test_what_the_pod_adds_to_the_report_makes_it_that_of_the_status(ending: str) -> None:
    """Publish gets the report before the claim is known, packed; with the claim it says what the status will."""
    job = ENDINGS[ending]()
    known = {"claim": None, "published": None, "state": "Publishing", "completion_time": None}
    before = job.model_copy(update={"status": job.status.model_copy(update=known)})
    whole, carried = build(job), JobReport.unpacked(so_far(before).packed())
    added = {"claim": whole.claim, "winner": whole.winner, "ended": whole.ended, "state": whole.state}
    assert concluded(carried.model_copy(update=added)) == whole
    assert carried.state == (whole.state if ending == "baseline is best" else "Published")


def test_the_largest_report_fits_into_a_variable() -> None:
    """Linux refuses to start a process with a variable of more than 128 KiB, and the Task is one."""
    engines = ["ONNXRuntime", "OpenVINO", "TensorRT"]
    casts = {"castFloat": {"precision": ["Float16", "BFloat16"]}, "optional": True}
    search, techniques = {"algorithm": "Random", "maxTrials": 128}, [*MANY["techniques"], casts]
    world = World(
        make_job(**MANY | {"target": {"engines": engines}, "search": search, "techniques": techniques}), scattered
    )
    world.run(200)
    (task,) = (seen.work.task for seen in world.works.values() if seen.work.task.stage == Stage.PUBLISH)
    assert len(JobReport.unpacked(task.report).candidates) > 200
    assert len(task.model_dump_json()) < 64 * 1024


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (lost, "(WorkFailed): Inspect failed 3 times, at last with: OOMKilled."),
        (no_model, "(InvalidInput): spec.model.uri: no such file."),
    ],
)
def test_a_job_that_failed_before_its_first_trial_says_so(left: Callable[[Work], ObservedWork], told: str) -> None:
    text = explain(ended(World(make_job(), sabotage=left)))
    assert text.splitlines()[0] == f"m: The job failed before it could choose {told}"
    assert "  promised   accuracy" in text


@pytest.mark.parametrize(("suspend", "shown"), [(False, "Running"), (True, "Suspended")])
def test_a_trial_of_a_suspended_job_is_not_shown_as_running(suspend: bool, shown: str) -> None:
    world = World(make_job())
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.trial else None
    world.run()
    world.job = world.job.model_copy(update={"spec": world.job.spec.model_copy(update={"suspend": suspend})})
    world.run()
    _, first, second = explain(world.job).splitlines()[-3:]
    assert (first.split()[-1], second.split()[-1]) == (shown, shown)
    assert [c.reason for c in build(world.job).candidates if c.trial] == [shown, shown]
    assert {trial.state for trial in world.job.status.trials[1:]} == {"Running"}


def test_a_job_under_way_can_be_reported() -> None:
    assert build(make_job()).headline == "The job is under way (Pending)."


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_document_keeps_its_published_schema(ending: str) -> None:
    document = json.loads(files(build(ENDINGS[ending]()))["report.json"])
    schema = document_schema(JobReport, REPORT_VERSION)
    assert list(violations(document, schema, schema["$defs"], "report")) == []
    assert JobReport.model_validate(document) == build(ENDINGS[ending]())


def test_the_schema_refuses_what_is_no_report() -> None:
    document = build(ENDINGS["winner"]()).wire()
    schema = document_schema(JobReport, REPORT_VERSION)
    for wrong in ({"version": "v2"}, {"headline": 3}, {"candidates": [{"name": "x"}]}, {"quality": "speed"}):
        assert list(violations(document | wrong, schema, schema["$defs"], "report")), wrong


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def violations(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Any:
    """Where a document breaks a schema, for the keywords that ours use."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        yield f"{path}: {value!r} is no {schema['type']}"
    elif "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema["items"], definitions, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name in set(schema.get("required", [])) - set(value):
            yield f"{path}.{name} is missing"
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name) or schema["additionalProperties"]
            yield from violations(item, inner, definitions, f"{path}.{name}")
