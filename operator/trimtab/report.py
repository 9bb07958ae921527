"""From a job and its status to its report. Pure: the status is the truth, pods' full reports only add detail.

Here the numbers get their words, but for those about the winner and the claim, which are `wording`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trimtab.api.job import OptimizationJob
from trimtab.api.metrics import Metrics
from trimtab.api.model import Metric, parse_metric
from trimtab.api.names import ConditionType, Reason
from trimtab.api.promises import Constraint
from trimtab.api.quantities import decimal, parse_percent, show_percent
from trimtab.api.report import Asked, Candidate, JobReport, Lineage, Promise, SplitUsed, Winner, trial_work
from trimtab.api.status import (
    CandidateStatus,
    Inspection,
    Interval,
    OptimizationJobStatus,
    Outcome,
    TrialState,
    TrialStatus,
)
from trimtab.api.techniques import Step
from trimtab.api.work import JobIdentity, Report
from trimtab.candidates import baseline_is_best, candidate_name, control, noise, quality, shown_state, speed_ratio
from trimtab.conditions import find, is_true
from trimtab.loading import loading
from trimtab.recipe import explore
from trimtab.space import fix
from trimtab.wording import concluded


def build(job: OptimizationJob, model: str = "model.onnx", pods: Iterable[Report] = ()) -> JobReport:
    """The report of a job, best once it has ended.

    `model` is the path of the winner's file as the reader will find it, and `pods` the full reports of trials.
    """
    status, objective = job.status, job.spec.objectives[0].metric
    report = JobReport(
        job=JobIdentity(name=job.metadata.name, namespace=job.metadata.namespace, uid=job.metadata.uid),
        state=status.state,
        headline=_headline(status),
        started=status.start_time or "",
        ended=status.completion_time or "",
        quality=quality(status),
        higher_is_better=job.spec.metrics.higher_is_better(quality(status)),
        asked=_asked(job),
        warnings=status.inspection.warnings if status.inspection else [],
        winner=_winner(job, model),
        nearest_miss=status.nearest_miss,
        claim=status.claim,
        batches=objective == Metric.THROUGHPUT,
        control=control(status, objective),
        noise=_noise(status, objective),
        candidates=list(_candidates(status, job.spec.metrics)),
        work=trial_work(pods),
        lineage=_lineage(status),
        cost=status.cost,
    )
    return report if report.headline else concluded(report)


def so_far(job: OptimizationJob) -> JobReport:
    """The report of a job that has selected: as it will be once it has published, but for what only that pod finds."""
    status = job.status
    reason = Reason.BASELINE_IS_BEST if baseline_is_best(status) else Reason.PUBLISHED
    return build(job.model_copy(update={"status": status.model_copy(update={"state": reason})}))


def _headline(status: OptimizationJobStatus) -> str:
    """The verdict in one sentence where there is no winner to speak of."""
    failure = find(status.conditions, ConditionType.FAILED)
    if failure and is_true(status.conditions, ConditionType.FAILED):
        return f"The job failed before it could choose ({failure.reason}): {failure.message}."
    if status.best is None:
        if not status.nearest_miss:
            return f"The job is under way ({status.state or Reason.PENDING})."
        return f"Nothing keeps every promise; the nearest miss is {status.nearest_miss}."
    return ""


def _chosen(status: OptimizationJobStatus) -> tuple[TrialStatus, CandidateStatus]:
    best = status.best
    assert best
    trial = next(trial for trial in status.trials if trial.index == best.trial)
    return trial, next(entry for entry in trial.candidates if entry.engine == best.engine)


def inverse(ratio: Interval) -> Interval:
    """A speed-up from a time ratio."""
    return Interval(
        estimate=decimal(1 / float(ratio.estimate)),
        low=decimal(1 / float(ratio.high)),
        high=decimal(1 / float(ratio.low)),
    )


def _noise(status: OptimizationJobStatus, objective: Metric) -> str:
    """What the control says, and the noise that the selection took from it."""
    found = control(status, objective)
    if found is None:
        return ""
    estimate, low, high = (float(number) for number in (found.estimate, found.low, found.high))
    measured = f"The input model took {estimate:.2f} times as long as itself [{low:.2f}, {high:.2f}]"
    told = f"differences within {show_percent(noise(status, objective))} are noise"
    if not low <= 1 <= high:
        return f"{measured}, where 1.00 is the truth: this machine was noisier than the intervals say, and {told}."
    return f"{measured}: {told}."


def _asked(job: OptimizationJob) -> Asked:
    spec, status, exploration = job.spec, job.status, explore(job)
    inspection = status.inspection or Inspection()
    search, tried = spec.search, max(0, len(status.trials) - 1)
    return Asked(
        model=spec.model.uri,
        format=spec.model.format,
        data=[
            SplitUsed(
                name=name,
                uri=split.uri,
                samples=inspection.samples.get(name, 0),
                digest=inspection.data_digests.get(name, ""),
            )
            for name, split in spec.data.named().items()
        ],
        promises=[_promise(constraint, spec.metrics, status) for constraint in spec.constraints],
        objectives=[f"{objective.goal} {objective.metric}" for objective in spec.objectives],
        engines=spec.target.engines,
        device=spec.target.device,
        techniques=[_technique(step) for step in exploration.steps],
        derived=spec.techniques is None,
        search=f"{exploration.algorithm}: {tried} trials of at most {search.max_trials}, "
        f"{search.parallelism} at a time, seed {search.seed}",
    )


def _promise(constraint: Constraint, metrics: Metrics, status: OptimizationJobStatus) -> Promise:
    metric = constraint.metric
    if constraint.max_drop is None:
        bound = constraint.max or constraint.min or ""
        text = f"{metric} is at {'most' if constraint.max else 'least'} {bound}"
        limit = parse_metric(metric, bound)
        return Promise(metric=metric, text=text, limit=decimal(limit), drop=_drop(status, metrics, metric, limit))
    verb = "drops" if metrics.higher_is_better(metric) else "rises"
    text = f"{metric} {verb} by at most {constraint.max_drop}"
    return Promise(metric=metric, text=text, drop=decimal(parse_percent(constraint.max_drop)))


def _drop(status: OptimizationJobStatus, metrics: Metrics, metric: Metric, value: float) -> str | None:
    """By how much a value is worse than the input model's, where that is the quality that counts."""
    reference = next((entry for trial in status.trials[:1] for entry in trial.candidates[:1]), None)
    if metric != quality(status) or reference is None:
        return None
    return decimal(metrics.drop(metric, reference.metric(metric), value))


def _technique(step: Step) -> str:
    settings = "; ".join(f"{name} {_space(value)}" for name, value in step.config.wire().items() if value != [])
    return f"{step.technique}{' (optional)' if step.optional else ''}: {settings}"


def _space(value: Any) -> str:
    """A setting's space in words: `All or Compute`, `0.1 to 0.6`."""
    match value:
        case list():
            return " or ".join(map(_space, value))
        case {"values": list(values)}:
            return _space(values)
        case {"min": low, "max": high}:
            return f"{low} to {high}"
        case bool():
            return str(value).lower()
    return str(value)


def _winner(job: OptimizationJob, model: str) -> Winner | None:
    status = job.status
    if status.best is None:
        return None
    trial, entry = _chosen(status)
    inspection = status.inspection or Inspection()
    ratio = speed_ratio(entry, job.spec.objectives[0].metric)
    steps = fix(explore(job).steps, trial.settings) if trial.index else []
    return Winner(
        name=candidate_name(trial, entry),
        trial=trial.index,
        engine=entry.engine,
        artifact=status.best.artifact,
        speed_up=inverse(ratio) if ratio else None,
        batches=job.spec.objectives[0].metric == Metric.THROUGHPUT,
        published=status.published,
        load=loading(entry.engine, model, inspection.inputs, steps),
    )


def _candidates(status: OptimizationJobStatus, metrics: Metrics) -> Iterator[Candidate]:
    metric = quality(status)
    for trial in status.trials:
        for entry in trial.candidates:
            yield Candidate(
                name=candidate_name(trial, entry),
                trial=trial.index,
                engine=entry.engine,
                settings=trial.settings,
                outcome=entry.outcome,
                reason=entry.message or "not judged",
                note=trial.message,
                metrics=entry.metrics,
                drop=_drop(status, metrics, metric, entry.metric(metric)) if metric in entry.metrics else None,
                time_ratio=entry.time_ratio,
                batch_ratio=entry.batch_ratio,
            )
        if not trial.candidates:
            outcome = _ENDS.get(trial.state)
            yield Candidate(
                name=f"trial {trial.index}",
                trial=trial.index,
                settings=trial.settings,
                outcome=outcome,
                reason=trial.message or shown_state(status, trial),
            )


_ENDS: Mapping[TrialState, Outcome] = {TrialState.SKIPPED: Outcome.SKIPPED, TrialState.FAILED: Outcome.FAILED}
"""How a trial ends that made no model."""


def _lineage(status: OptimizationJobStatus) -> Lineage:
    inspection = status.inspection or Inspection()
    return Lineage(
        model=inspection.model_digest,
        hardware=status.hardware,
        operators=inspection.operators,
        inputs=inspection.inputs,
    )
