"""A job in words for a terminal: why the winner won, or, before it has run, what it would try. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from trimtab.api.job import OptimizationJob
from trimtab.api.names import ConditionType
from trimtab.api.report import JobReport
from trimtab.conditions import find, is_finished, is_true
from trimtab.recipe import explore
from trimtab.report import build
from trimtab.space import space
from trimtab.table import candidate_table


def explain(job: OptimizationJob) -> str:
    """What was asked, what came of it and why, and every candidate."""
    report = build(job)
    begun, failed = bool(job.status.trials), is_true(job.status.conditions, ConditionType.FAILED)
    found = _findings(report) if begun else _plan(job, report)
    facts = [*_asked(report), *_techniques(job, report), *found, *_under_way(job)]
    width = max(len(name) for name, _ in facts)
    lines = [f"{job.metadata.name}: {report.headline if begun or failed else 'not run yet.'}"]
    lines += [f"  {name.ljust(width)}  {text}" for name, text in facts if text]
    return "\n".join([*lines, "", candidate_table(job.status, job.spec.objectives[0].metric)] if begun else lines)


def _asked(report: JobReport) -> Iterator[tuple[str, str]]:
    asked = report.asked
    yield "promised", "; ".join(promise.text for promise in asked.promises) or "nothing"
    yield "preferred", ", then ".join(asked.objectives)
    yield "engines", ", ".join(asked.engines)


def _techniques(job: OptimizationJob, report: JobReport) -> Iterator[tuple[str, str]]:
    if job.spec.techniques or job.status.inspection:
        yield from (("technique", text) for text in report.asked.techniques)
    else:
        yield "technique", "a recipe, once the model's operators and the CPU have been seen"


def _findings(report: JobReport) -> Iterator[tuple[str, str]]:
    yield "search", report.asked.search
    yield from (("warning", text) for text in report.warnings)
    yield "holdout", report.verdict
    yield "noise", report.noise
    if report.lineage.hardware:
        hardware = report.lineage.hardware
        yield "machine", f"{hardware.cpu}, {hardware.threads} threads, {' '.join(hardware.flags)}"
    if report.winner and report.winner.published:
        yield "published", report.winner.published.uri


def _under_way(job: OptimizationJob) -> Iterator[tuple[str, str]]:
    """What a job in a cluster is doing, or waits for."""
    complete = find(job.status.conditions, ConditionType.COMPLETE)
    if complete and not is_finished(job.status.conditions):
        yield "now", f"{complete.reason}: {complete.message}" if complete.message else complete.reason


def _plan(job: OptimizationJob, report: JobReport) -> Iterator[tuple[str, str]]:
    exploration, search = explore(job), job.spec.search
    within = f", as far as {search.timeout} allow" if search.timeout else ""
    if job.spec.techniques is None:
        yield "search", f"{exploration.algorithm}: at most {search.max_trials} trials{within}"
        return
    points = prod(len(d.grid()) for d in space(exploration.steps))
    trials, engines = min(points, search.max_trials), len(report.asked.engines)
    size = (
        f"{trials} trials of {points} points, {search.parallelism} at a time, on {engines} engine{'s' * (engines > 1)}"
    )
    yield (
        "search",
        f"{exploration.algorithm}: {size}: {trials * engines} candidates beside the input model{within}",
    )
