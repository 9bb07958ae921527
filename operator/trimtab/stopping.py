"""Why no further trial is started: a limit of trials, time or GPUs, or trials that no longer bring anything better.

Everything is decided from the spec and the recorded trials, in the order of their proposal: a trial that ends out of
turn waits for those before it, so the same measurements always stop the search at the same trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from trimtab.api.job import OptimizationJob, OptimizationJobSpec
from trimtab.api.quantities import parse_duration
from trimtab.api.status import OptimizationJobStatus, TrialState, TrialStatus
from trimtab.candidates import LEAST_NOISE
from trimtab.conditions import parse_timestamp
from trimtab.select import score

PATIENCE = 1.5
"""A guard on a big model takes minutes, and whoever gave a limit in minutes does not wait for ever."""


def why_stopped(job: OptimizationJob, trials: Sequence[TrialStatus], now: datetime) -> str:
    """The limit that was reached, by its field, or nothing. `trials` begin with the input model."""
    spec, status = job.spec, job.status
    return (
        _tried_enough(spec, trials) or _late(spec, status, now) or _spent(spec, status) or _nothing_better(spec, trials)
    )


def _tried_enough(spec: OptimizationJobSpec, trials: Sequence[TrialStatus]) -> str:
    limit = spec.search.max_trials
    return f"spec.search.maxTrials: {limit} may be tried" if len(trials) > limit else ""


def _late(spec: OptimizationJobSpec, status: OptimizationJobStatus, now: datetime) -> str:
    left = _time_left(spec, status, now)
    return f"spec.search.timeout: {spec.search.timeout} have passed" if left is not None and left <= 0 else ""


def _time_left(
    spec: OptimizationJobSpec, status: OptimizationJobStatus, now: datetime, factor: float = 1
) -> float | None:
    """Seconds until `factor` times the search's time has passed, if it has a limit and has begun."""
    if spec.search.timeout is None or status.start_time is None:
        return None
    due = parse_timestamp(status.start_time) + timedelta(seconds=factor * parse_duration(spec.search.timeout))
    return (due - now).total_seconds()


def patience(job: OptimizationJob, trials: Sequence[TrialStatus], now: datetime) -> float | None:
    """Seconds for which trials that still run are waited for, or None for as long as they take.

    They were begun in time, so they get half as long again, unless nothing else has come of the search.
    """
    if not any(trial.state == TrialState.SUCCEEDED for trial in trials[1:]):
        return None
    return _time_left(job.spec, job.status, now, PATIENCE)


def given_up(trial: TrialStatus, job: OptimizationJob) -> TrialStatus:
    """A trial that was not waited for."""
    told = f"spec.search.timeout: still running when {PATIENCE:g} times {job.spec.search.timeout} had passed"
    return trial.model_copy(update={"state": TrialState.FAILED, "message": told})


def _spent(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> str:
    limit, spent = spec.budget.gpu_seconds, float(status.cost.gpu_seconds)
    if limit is None or spent < limit:
        return ""
    return f"spec.budget.gpuSeconds: {spent:.0f} of {limit} are spent"


def _nothing_better(spec: OptimizationJobSpec, trials: Sequence[TrialStatus]) -> str:
    if spec.search.early_stopping is None:
        return ""
    enough, idle = spec.search.early_stopping.patience, _idle(spec, trials)
    if idle < enough:
        return ""
    return f"spec.search.earlyStopping: trials in a row that brought nothing better: {idle}"


def _idle(spec: OptimizationJobSpec, trials: Sequence[TrialStatus]) -> int:
    """How many trials have ended since the best one, or since the first if none could be measured."""
    baseline, *tried = trials
    best: tuple[float, float] | None = None
    idle = 0
    for trial in tried:
        if trial.state == TrialState.RUNNING:
            break
        found = _rank(spec, trial, baseline)
        if found and (best is None or _better(found, best)):
            best, idle = found, 0
        else:
            idle += 1
    return idle


def _rank(spec: OptimizationJobSpec, trial: TrialStatus, baseline: TrialStatus) -> tuple[float, float] | None:
    """By how much a promise is missed, and what the first objective costs."""
    if not any(candidate.metrics for candidate in trial.candidates):
        return None
    cost, excess = score(spec, trial, baseline)
    return excess, cost


def _better(found: tuple[float, float], best: tuple[float, float]) -> bool:
    """A trial's own timing wavers by more than a hair."""
    (excess, cost), (least, cheapest) = found, best
    return excess < least or (excess == least and cost < cheapest - LEAST_NOISE * abs(cheapest))
