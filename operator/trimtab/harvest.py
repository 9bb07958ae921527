"""Fold finished work into the status: the status is the memory, a pod's report only its source.

A result that is in the status already is not read again. A trial found running that the status does not know was
started just before the operator died: its Job is the record of the proposal, and the trial is adopted.
Numbers are rounded to the status's six digits here, so what is decided later never depends on who remembers more.
What a million requests cost follows from the median latency and the price in the Task, so no pod reports it.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.api.metrics import Metrics
from trimtab.api.model import BYTES, EngineName, Metric
from trimtab.api.names import ConditionType
from trimtab.api.quantities import decimal
from trimtab.api.status import CandidateStatus, OptimizationJobStatus, Outcome, Published, TrialState, TrialStatus
from trimtab.api.work import Measurement, Report, Stage, Timing
from trimtab.conditions import is_finished, is_true
from trimtab.decisions import Observed, ObservedWork, WorkState
from trimtab.plan import BASELINE_TRIAL


def fold(status: OptimizationJobStatus, observed: Observed) -> OptimizationJobStatus:
    """The status with everything that finished work reports.

    In the order of the flow: after a lost write a playoff may be seen together with the trials it timed.
    """
    before = status
    for seen in sorted(observed.works, key=_order):
        status = _adopt(status, seen)
        report = seen.report
        if seen.state == WorkState.SUCCEEDED and report and not report.error:
            status = _FOLDERS[report.stage](status, report, seen.work.task.metrics)
    # Of a suspended job all that ran has been charged, and what ends before it is deleted is not charged again.
    return status if is_true(before.conditions, ConditionType.SUSPENDED) else settle(before, status, observed)


def settle(before: OptimizationJobStatus, after: OptimizationJobStatus, observed: Observed) -> OptimizationJobStatus:
    """`after`, charged with the GPUs of all work that it has the outcome of and `before` has not, every attempt's.

    Of an attempt that still runs too: it is deleted, as nobody waits for it any more.
    """
    held = [(s.gpu_seconds, (s.work.task.stage, s.work.task.trial)) for s in observed.works if s.gpu_seconds]
    if not held:
        return after
    known, new = Outcomes(before), Outcomes(after)
    return _spent(after, sum(seconds for seconds, work in held if work in new and work not in known))


def suspended(status: OptimizationJobStatus, observed: Observed) -> OptimizationJobStatus:
    """The status of a job whose work is deleted while it runs, charged with it; once, when it becomes so."""
    if is_true(status.conditions, ConditionType.SUSPENDED):
        return status
    return _spent(status, sum(seen.gpu_seconds for seen in observed.works if seen.state == WorkState.ACTIVE))


def _spent(status: OptimizationJobStatus, gpu_seconds: float) -> OptimizationJobStatus:
    if not gpu_seconds:
        return status
    total = decimal(float(status.cost.gpu_seconds) + gpu_seconds)
    return status.model_copy(update={"cost": status.cost.model_copy(update={"gpu_seconds": total})})


class Outcomes:
    """The work, by stage and trial, whose outcome a status has: no attempt at it that has ended is looked at again."""

    def __init__(self, status: OptimizationJobStatus) -> None:
        self._all = is_finished(status.conditions)
        self._stages = {
            Stage.INSPECT.value: status.inspection is not None,
            Stage.PLAYOFF.value: status.playoff_done,
            Stage.PUBLISH.value: status.claim is not None,
        }
        self._trials = frozenset(t.index for t in status.trials if t.state != TrialState.RUNNING)

    def __contains__(self, work: tuple[str, int | None]) -> bool:
        stage, trial = work
        return self._all or self._stages.get(stage, stage == Stage.TRIAL and trial in self._trials)


def _order(seen: ObservedWork) -> tuple[int, int, int]:
    task = seen.work.task
    return list(_FOLDERS).index(task.stage), task.trial or 0, seen.work.attempt


def _adopt(status: OptimizationJobStatus, seen: ObservedWork) -> OptimizationJobStatus:
    task = seen.work.task
    if task.stage != Stage.TRIAL or any(t.index == task.trial for t in status.trials):
        return status
    adopted = TrialStatus(index=task.trial or 0, state=TrialState.RUNNING, settings=task.settings)
    return _with_trial(status, adopted)


def _with_trial(status: OptimizationJobStatus, trial: TrialStatus) -> OptimizationJobStatus:
    others = [t for t in status.trials if t.index != trial.index]
    return status.model_copy(update={"trials": sorted([*others, trial], key=lambda t: t.index)})


def _charge(status: OptimizationJobStatus, report: Report) -> OptimizationJobStatus:
    spent = float(status.cost.pod_seconds) + report.seconds
    return status.model_copy(update={"cost": status.cost.model_copy(update={"pod_seconds": decimal(spent)})})


def _inspected(status: OptimizationJobStatus, report: Report, settings: Metrics) -> OptimizationJobStatus:
    if status.inspection or not report.inspection:
        return status
    baseline = TrialStatus(
        index=BASELINE_TRIAL,
        state=TrialState.SUCCEEDED,
        artifact=report.artifact,
        candidates=[_candidate(m, settings) for m in report.measurements],
    )
    status = _charge(_with_trial(status, baseline), report)
    return status.model_copy(update={"inspection": report.inspection, "hardware": report.hardware})


def _tried(status: OptimizationJobStatus, report: Report, settings: Metrics) -> OptimizationJobStatus:
    trial = next(t for t in status.trials if t.index == report.trial)
    if trial.state != TrialState.RUNNING:
        return status
    update = {
        "state": TrialState.SKIPPED if report.skipped else TrialState.SUCCEEDED,
        "artifact": report.artifact,
        "candidates": [_candidate(m, settings) for m in report.measurements],
        "message": report.skipped or "; ".join(step.note for step in report.steps if step.note)[:1024],
    }
    return _charge(_with_trial(status, trial.model_copy(update=update)), report)


def _candidate(m: Measurement, settings: Metrics) -> CandidateStatus:
    skipped = None if m.opened else Outcome.SKIPPED
    return CandidateStatus(engine=m.engine, metrics=_rounded(m.metrics, settings), outcome=skipped, message=m.note)


def _rounded(measured: Mapping[Metric, float], settings: Metrics) -> dict[str, str]:
    """Metrics as the status has them, the cost that follows from them included."""
    metrics = {m.value: decimal(round(value) if m in BYTES else value) for m, value in measured.items()}
    p50 = measured.get(Metric.LATENCY_P50)
    cost = None if p50 is None else settings.cost_per_million(p50)
    return metrics if cost is None else metrics | {Metric.COST_PER_MILLION.value: decimal(cost)}


def _measured(status: OptimizationJobStatus, report: Report, settings: Metrics) -> OptimizationJobStatus:
    if status.playoff_done:
        return status
    timings = {(t.trial, t.engine): t for t in report.timings}
    trials = [
        trial.model_copy(update={"candidates": [_timed(trial.index, c, timings, settings) for c in trial.candidates]})
        for trial in status.trials
    ]
    update = {
        "trials": trials,
        "playoff_done": True,
        "control_ratio": report.control,
        "batch_control_ratio": report.batch_control,
    }
    return _charge(status.model_copy(update=update), report)


def _timed(
    trial: int, candidate: CandidateStatus, timings: dict[tuple[int, EngineName], Timing], settings: Metrics
) -> CandidateStatus:
    timing = timings.get((trial, candidate.engine))
    if timing is None:
        return candidate
    metrics = candidate.metrics | _rounded(timing.metrics, settings)
    update = {"metrics": metrics, "time_ratio": timing.ratio, "batch_ratio": timing.batch_ratio}
    return candidate.model_copy(update=update)


def _published(status: OptimizationJobStatus, report: Report, _settings: Metrics) -> OptimizationJobStatus:
    if status.claim or not report.claim:
        return status
    published = Published(uri=report.published, digest=report.artifact) if report.published else None
    return _charge(status.model_copy(update={"claim": report.claim, "published": published}), report)


_FOLDERS = {
    Stage.INSPECT: _inspected,
    Stage.TRIAL: _tried,
    Stage.PLAYOFF: _measured,
    Stage.PUBLISH: _published,
}
