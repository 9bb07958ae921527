"""From a job's spec to the Tasks its pods receive. Pure, and the only place that fills in a Task.

A Task is complete: a pod needs nothing but it. Names are made of the job, its UID, the stage, the trial and the
attempt, so starting the same work twice is starting it once.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.api.job import OptimizationJob
from trimtab.api.model import QUALITY
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.work import Finalist, JobIdentity, Stage, Task
from trimtab.decisions import Work
from trimtab.recipe import pipeline
from trimtab.space import Point, fix

BASELINE_TRIAL = 0
"""The input model is a candidate like any other; Inspect measures it."""


def work_name(job: OptimizationJob, stage: Stage, trial: int | None, attempt: int) -> str:
    """Unique and at most 63 characters for a job name of at most 40, which the CRD enforces.

    A DNS label, for an Indexed Job's pods have it in their hostnames: a job's name may have dots, this has none.
    """
    number = "" if trial is None else f"-{trial}"
    return f"{job.metadata.name.replace('.', '-')}-{job.metadata.uid[:8]}-{stage.lower()}{number}-{attempt}"


def _work(job: OptimizationJob, task: Task, attempt: int) -> Work:
    return Work(work_name(job, task.stage, task.trial, attempt), task, attempt)


def _task(job: OptimizationJob, runtime: OptimizationRuntime, stage: Stage) -> Task:
    inspection = job.status.inspection
    asked = job.spec.asked()
    pins = {**inspection.data_digests, "model": inspection.model_digest} if inspection else {}
    return Task(
        stage=stage,
        job=JobIdentity(name=job.metadata.name, namespace=job.metadata.namespace, uid=job.metadata.uid),
        model=job.spec.model,
        data=job.spec.data,
        target=job.spec.target,
        store=runtime.spec.store.uri,
        seed=job.spec.search.seed,
        pins=pins,
        quality=inspection.quality if inspection else next((m for m in asked if m in QUALITY), None),
        measure=asked,
        metrics=job.spec.metrics,
    )


def inspect(job: OptimizationJob, runtime: OptimizationRuntime, attempt: int) -> Work:
    """Pin digests, check the splits, measure the input model."""
    return _work(job, _task(job, runtime, Stage.INSPECT), attempt)


def trial(job: OptimizationJob, runtime: OptimizationRuntime, index: int, point: Point, attempt: int) -> Work:
    """Make one model and measure it on every engine. Several pods are for trials that train: for others, they idle."""
    steps = fix(pipeline(job), point)
    distributed = runtime.spec.distributed if any(step.trains for step in steps) else None
    update = {"trial": index, "settings": dict(point), "steps": steps, "distributed": distributed}
    return _work(job, _task(job, runtime, Stage.TRIAL).model_copy(update=update), attempt)


def playoff(job: OptimizationJob, runtime: OptimizationRuntime, finalists: Sequence[Finalist], attempt: int) -> Work:
    """Measure the finalists interleaved with the baseline, which comes first."""
    task = _task(job, runtime, Stage.PLAYOFF).model_copy(update={"finalists": list(finalists)})
    return _work(job, task, attempt)


def publish(
    job: OptimizationJob, runtime: OptimizationRuntime, finalists: tuple[Finalist, Finalist], report: str, attempt: int
) -> Work:
    """Make the claim about the input model and the winner on the holdout split; if it is not violated, publish."""
    update = {
        "baseline": finalists[0],
        "winner": finalists[1],
        "constraints": job.spec.constraints,
        "publish": job.spec.publish.uri if job.spec.publish else None,
        "report": report,
        "keep": runtime.spec.store.keep,
    }
    return _work(job, _task(job, runtime, Stage.PUBLISH).model_copy(update=update), attempt)
