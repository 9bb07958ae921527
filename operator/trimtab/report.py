"""From a job and its status to its report. Pure: the status is the truth, pods' full reports only add detail.

Here the numbers get their words. A sentence that is about doubt (a holdout too small, a machine too noisy, nothing
that keeps the promises) is as prominent as one about success: a report that only ever congratulates is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trimtab.api.job import Constraint, OptimizationJob, OptimizationJobSpec
from trimtab.api.metrics import Metrics
from trimtab.api.model import FRACTIONS, QUALITY, Metric, parse_metric
from trimtab.api.names import ConditionType, Reason
from trimtab.api.quantities import decimal, parse_percent, show_percent, show_quantity
from trimtab.api.report import Asked, Candidate, JobReport, Lineage, Promise, SplitUsed, TrialWork, Winner
from trimtab.api.status import (
    CandidateStatus,
    Claim,
    Inspection,
    Interval,
    OptimizationJobStatus,
    Outcome,
    TrialState,
    TrialStatus,
    Verdict,
)
from trimtab.api.techniques import Step
from trimtab.api.work import JobIdentity, Report
from trimtab.candidates import candidate_name, control, noise, quality, speed_ratio
from trimtab.conditions import find, is_true
from trimtab.loading import loading
from trimtab.recipe import explore
from trimtab.space import fix


def build(job: OptimizationJob, model: str = "model.onnx", pods: Iterable[Report] = ()) -> JobReport:
    """The report of a job, best once it has ended.

    `model` is the path of the winner's file as the reader will find it, and `pods` the full reports of trials.
    """
    status, objective = job.status, job.spec.objectives[0].metric
    return JobReport(
        job=JobIdentity(name=job.metadata.name, namespace=job.metadata.namespace, uid=job.metadata.uid),
        state=status.state,
        headline=headline(status, job.spec),
        started=status.start_time or "",
        ended=status.completion_time or "",
        quality=quality(status),
        asked=_asked(job),
        winner=_winner(job, model),
        nearest_miss=status.nearest_miss,
        claim=status.claim,
        verdict=_verdict(job.spec, status.claim) if status.claim else "",
        control=control(status, objective),
        noise=_noise(status, objective),
        candidates=list(_candidates(status, job.spec.metrics)),
        work=[
            TrialWork(trial=pod.trial, seconds=pod.seconds, peak_memory=pod.peak_memory, steps=pod.steps)
            for pod in pods
            if pod.trial is not None
        ],
        lineage=_lineage(status),
        cost=status.cost,
    )


def headline(status: OptimizationJobStatus, spec: OptimizationJobSpec) -> str:
    """The verdict in one sentence."""
    failure = find(status.conditions, ConditionType.FAILED)
    if failure and is_true(status.conditions, ConditionType.FAILED):
        return f"The job failed before it could choose ({failure.reason}): {failure.message}."
    if status.best is None:
        if not status.nearest_miss:
            return f"The job is under way ({status.state or Reason.PENDING})."
        return f"Nothing keeps every promise; the nearest miss is {status.nearest_miss}."
    if status.state == Reason.BASELINE_IS_BEST:
        return "Keep the input model: no candidate is better beyond noise."
    return f"{_praise(status, spec)}{_reservation(status.claim)}."


def _praise(status: OptimizationJobStatus, spec: OptimizationJobSpec) -> str:
    trial, entry = _chosen(status)
    reference = status.trials[0].candidates[0]
    name = candidate_name(trial, entry)
    metric = quality(status)
    seen = spec.metrics.drop(metric, reference.metric(metric), entry.metric(metric))
    told = [
        _speed(entry, spec.objectives[0].metric),
        _loss(spec.metrics, metric, seen, status.claim),
        _size(entry, reference),
    ]
    *most, last = [text for text in told if text]
    return f"{name[0].upper()}{name[1:]} {', '.join(most)}{' and ' if most else ''}{last}"


def _speed(entry: CandidateStatus, objective: Metric) -> str:
    ratio = speed_ratio(entry, objective)
    if ratio is None:
        return ""
    found = inverse(ratio)
    estimate, low, high = (f"{float(number):.2f}" for number in (found.estimate, found.low, found.high))
    batches = " in batches" if objective == Metric.THROUGHPUT else ""
    return f"is {estimate}x as fast{batches} as the input model (95% interval {low} to {high})"


def _loss(metrics: Metrics, metric: Metric, seen: float, claim: Claim | None) -> str:
    """The holdout's word where there is one, for the search has `seen` the drop on the evaluation split."""
    found = claim.drop if claim else None
    drop = float(found.estimate) if found else seen
    where = f"the holdout{_ends(found, gained=drop < 0)}" if found else "the evaluation split"
    if metric in FRACTIONS:
        return f"{'loses' if drop >= 0 else 'gains'} {points(abs(drop))} points of {metric} on {where}"
    lowers = metrics.higher_is_better(metric) == (drop >= 0)
    return f"{'lowers' if lowers else 'raises'} {metric} by {points(abs(drop))}% on {where}"


def _ends(drop: Interval, gained: bool) -> str:
    """A drop's interval with the sign of what is told: a gain is a drop below 0, and its ends change places."""
    low, high = float(drop.low), float(drop.high)
    low, high = (-high, -low) if gained else (low, high)
    return f" (95% interval {points(low)} to {points(high)})"


def _size(entry: CandidateStatus, reference: CandidateStatus) -> str:
    before, after = reference.metric(Metric.SIZE), entry.metric(Metric.SIZE)
    same = show_quantity(before) == show_quantity(after)
    return f"takes {show_quantity(after)}" + (" as before" if same else f" instead of {show_quantity(before)}")


def _reservation(claim: Claim | None) -> str:
    if claim and claim.verdict == Verdict.VIOLATED:
        return "; but the holdout breaks the promise, so nothing was published"
    if claim and claim.verdict == Verdict.INCONCLUSIVE:
        return f"; the holdout of {claim.samples} samples is too small to confirm the promise"
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


def points(fraction: float | str) -> str:
    """A difference of two fractions in points: `0.00333` is `0.33`, and never a negative zero."""
    return f"{100 * float(fraction):.2f}".replace("-0.00", "0.00")


def _verdict(spec: OptimizationJobSpec, claim: Claim) -> str:
    samples = f"{claim.samples} holdout samples"
    if not any(constraint.metric in QUALITY for constraint in spec.constraints):
        return f"No promise on {claim.metric} was asked for; on {samples} {claim.message}."
    told = {
        Verdict.HOLDS: f"With 95% confidence the promise holds on {samples}",
        Verdict.INCONCLUSIVE: f"{samples} are too few to say with 95% confidence whether the promise holds",
        Verdict.VIOLATED: f"With 95% confidence the promise is broken on {samples}",
    }[claim.verdict]
    return f"{told}: {claim.message}." if claim.message else f"{told}."


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
                reason=trial.message or trial.state,
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
