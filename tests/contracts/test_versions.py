"""An upgrade with jobs in flight: what the previous version said and stored, and what a later one might.

`recorded` is what `record.py` wrote on the previous version. If one of these tests fails, a neighbour would
misunderstand: keep the old meaning, or give the documents a new `WORK_VERSION`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from builders import World, job_dict, make_runtime
from contracts import record
from trimtab.api.job import OptimizationJob
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import Report, Task
from trimtab.cluster.records import record_of
from trimtab.decisions import ObservedWork, WorkState
from trimtab.manifests import work_of
from trimtab.pod import task_text
from trimtab.snapshot import Snapshot
from trimtab.stored import Unreadable, read

PREVIOUS = {path.stem: json.loads(path.read_text()) for path in record.RECORDED.glob("*.json")}
FLOW = PREVIOUS["flow"]
STORED = {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
JOBS = {name: job | {"metadata": job["metadata"] | STORED} for name, job in FLOW["jobs"].items()}
MOMENTS = [
    pytest.param(earlier["status"], later["started"], id=f"{number}-{'stored' if earlier is later else 'killed'}")
    for number, earlier in enumerate(FLOW["statuses"])
    for later in FLOW["statuses"][number : number + 2]
]
"""A status that the previous version wrote, and its Jobs: as it left them, or killed before the next write."""


@pytest.mark.parametrize(("status", "started"), MOMENTS)
def test_a_job_in_flight_is_finished_and_nothing_runs_twice(status: dict[str, Any], started: list[str]) -> None:
    job = OptimizationJob.model_validate(FLOW["job"] | {"status": status})
    world = World(job, works={name: succeeded(name) for name in started})
    ended = world.run()
    assert not set(world.started) & set(started)
    final = OptimizationJobStatus.model_validate(FLOW["statuses"][-1]["status"])
    assert (ended.state, ended.best, ended.trials) == (final.state, final.best, final.trials)


def succeeded(name: str) -> ObservedWork:
    return ObservedWork(
        work_of(JOBS[name]), WorkState.SUCCEEDED, Report.model_validate_json(json.dumps(FLOW["reports"][name]))
    )


@pytest.mark.parametrize("name", JOBS)
def test_a_job_of_the_previous_version_is_read_by_operator_and_image(name: str) -> None:
    from trimtab_jobs.__main__ import _task

    known, task = record_of(JOBS[name]), work_of(JOBS[name]).task
    assert (known.owner, known.stage, known.trial) == ("m", task.stage, task.trial)
    assert _task(task_text(JOBS[name])) == task


@pytest.mark.parametrize("name", JOBS)
def test_the_previous_version_reads_what_this_one_says(name: str) -> None:
    now = record.flow()
    assert sorted(now["jobs"]) == sorted(FLOW["jobs"])
    assert list(unknown(json.loads(task_text(now["jobs"][name])), "task")) == []
    assert list(unknown(now["reports"][name], "report")) == []
    assert [found for moment in now["statuses"] for found in unknown(moment["status"], "status")] == []


def unknown(document: Any, what: str) -> Iterator[str]:
    """What the previous version would refuse in a document."""
    schema = PREVIOUS["schemas"][what]
    yield from _unknown(document, schema, schema["$defs"], what)


def _unknown(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from _unknown(value, definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    elif "anyOf" in schema:
        found = [list(_unknown(value, one, definitions, path)) for one in schema["anyOf"]]
        yield from min(found, key=len)
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    elif schema.get("type") == "null" and value is not None:
        yield f"{path}: {value!r} is not null"
    elif schema.get("type") == "object" and isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value)
        if schema.get("additionalProperties") is False:
            yield from (f"{path}.{name} is not known" for name in value.keys() - known.keys())
        for name in value.keys() & known.keys():
            yield from _unknown(value[name], known[name], definitions, f"{path}.{name}")
    elif schema.get("type") == "array" and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown(item, schema["items"], definitions, f"{path}[{number}]")


def test_a_default_that_a_task_does_not_say_has_not_changed() -> None:
    """Tasks leave defaults out: an image of the other version would fill in its own."""
    now = json.loads(record.as_json(record.defaults()))
    before = PREVIOUS["defaults"]
    assert {name: {key: now[name][key] for key in settings} for name, settings in before.items()} == before


LEAVES = {"settings", "pins", "metrics", "operators", "inputs", "versions", "dataDigests", "samples"}
"""Maps: a name in them is no field."""


def extended(document: Any) -> Any:
    """The document with a field more in every object, as a later version may write it."""
    if isinstance(document, dict):
        more = {name: value if name in LEAVES else extended(value) for name, value in document.items()}
        return {"fromTheFuture": {"a": 1}} | more
    return [extended(item) for item in document] if isinstance(document, list) else document


@pytest.mark.parametrize("moment", FLOW["statuses"], ids=lambda moment: moment["status"]["state"] or "new")
def test_a_status_of_a_later_version_is_read(moment: dict[str, Any]) -> None:
    status = moment["status"]
    assert OptimizationJobStatus.model_validate(extended(status)) == OptimizationJobStatus.model_validate(status)


@pytest.mark.parametrize("name", JOBS)
def test_a_report_of_a_later_image_is_read(name: str) -> None:
    report = json.dumps(FLOW["reports"][name])
    more = extended(json.loads(report))
    for measured in [*more.get("measurements", []), *more.get("timings", [])]:
        measured["metrics"] = measured["metrics"] | {"joulesPerMillion": 1.5}
    assert Report.model_validate_json(json.dumps(more)) == Report.model_validate_json(report)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_a_later_operator_created_is_recognized(name: str) -> None:
    """After a rollback it is known what runs, setting by setting."""
    task = json.loads(task_text(JOBS[name]))
    assert Task.recorded(json.dumps(extended(task))) == Task.recorded(json.dumps(task))


def test_an_image_refuses_a_setting_that_it_does_not_know() -> None:
    from trimtab_jobs.__main__ import _task

    (name,) = [name for name in JOBS if name.endswith("trial-1-0")]
    task = json.loads(task_text(JOBS[name]))
    task["steps"][1]["quantize"]["rounding"] = ["Stochastic"]
    with pytest.raises(ValueError, match=r"steps\.1\.quantize\.rounding: this image does not know it: name one of the"):
        _task(json.dumps(task))
    task = json.loads(task_text(JOBS[name])) | {"version": "v1beta1"}
    with pytest.raises(ValueError, match="version v1beta1: this image reads v1alpha1"):
        _task(json.dumps(task))


def test_a_task_says_only_what_is_not_a_default() -> None:
    """So a setting that is added later, and left alone, is no setting that an older image must know."""
    jobs = record.flow()["jobs"]
    (trial,) = [json.loads(task_text(job)) for name, job in jobs.items() if name.endswith("trial-1-0")]
    assert trial["version"] == "v1alpha1"
    assert [sorted(step) for step in trial["steps"]] == [["optimizeGraph"], ["quantize"]]
    assert Task.asked(json.dumps(trial)) == work_of(jobs["m-01234567-trial-1-0"]).task


def test_a_stored_object_with_a_later_field_is_read_and_one_that_is_wrong_is_not() -> None:
    """CRDs are upgraded first, and a new field's default then is in every object."""
    runtime = json.loads(make_runtime().model_dump_json(by_alias=True, exclude_none=True))
    job = job_dict()
    job["metadata"] |= STORED
    runtime["metadata"] |= STORED
    job["spec"]["search"] = {"maxTrials": 3, "fromTheFuture": True}
    runtime["spec"]["store"]["fromTheFuture"] = 1
    assert read(OptimizationJob, Snapshot.of(job)).spec.search.max_trials == 3
    assert read(OptimizationRuntime, Snapshot.of(runtime)).spec == make_runtime().spec
    job["spec"]["search"]["maxTrials"] = 0
    with pytest.raises(Unreadable, match=r"spec\.search\.maxTrials: 0"):
        read(OptimizationJob, Snapshot.of(job))
    with pytest.raises(ValidationError):
        OptimizationJob.model_validate(job)
