"""What can be chosen: each trial's model on each engine, what it is compared by, and the promises it breaks."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.api.job import OptimizationJobSpec
from trimtab.api.metrics import keeps
from trimtab.api.model import TAILS, TIMED, Metric, parse_metric, show_metric
from trimtab.api.names import ConditionType
from trimtab.api.promises import Constraint
from trimtab.api.quantities import parse_percent, show_percent
from trimtab.api.status import CandidateStatus, Interval, OptimizationJobStatus, TrialState, TrialStatus
from trimtab.api.work import Finalist
from trimtab.conditions import is_true

LEAST_NOISE = 0.01
"""A control that happens to be exact does not make a machine so."""
NO_SCALE = 0.01
"""What a miss is relative to where the bound is 0: a point, of a fraction."""


@dataclass(frozen=True)
class Candidate:
    """A trial and one of its engines."""

    trial: TrialStatus
    entry: CandidateStatus
    reference: CandidateStatus
    """The input model on the first engine."""

    @property
    def name(self) -> str:
        return candidate_name(self.trial, self.entry)

    @property
    def finalist(self) -> Finalist:
        return Finalist(trial=self.trial.index, engine=self.entry.engine, artifact=self.trial.artifact)

    @property
    def measured(self) -> bool:
        """Whether the engine ran here; a TensorRT plan without a GPU was only built."""
        return bool(self.entry.metrics.keys() & TIMED)

    @property
    def timed(self) -> bool:
        """Whether its times count: those of the playoff, and the baseline's. Trials run side by side, so that here a
        model took 3 to 8 times as long in its trial as alone."""
        return self.entry is self.reference or self.entry.time_ratio is not None

    def value(self, metric: Metric) -> float:
        """What candidates are compared by, in fractions, seconds, bytes and plain numbers.

        What the playoff timed is its ratio to the baseline's: the medians of two models differ by the noise of their
        moments too, while a ratio is paired. Tails have no ratio of their own.
        """
        ratio = self.ratio(metric)
        if ratio is None or metric in TAILS:
            return self.entry.metric(metric)
        times = float(ratio.estimate)
        return self.reference.metric(metric) * (1 / times if metric == Metric.THROUGHPUT else times)

    def ratio(self, metric: Metric) -> Interval | None:
        """The playoff's ratio of times that tells whether a metric is better beyond noise; None for other metrics."""
        return speed_ratio(self.entry, metric) if metric in TIMED else None


@dataclass(frozen=True)
class Miss:
    """A promise that is not kept. `excess` is relative to the bound, so that misses of two metrics compare."""

    text: str
    excess: float


def candidate_name(trial: TrialStatus, entry: CandidateStatus) -> str:
    model = "input model" if trial.index == 0 else f"trial {trial.index}"
    return f"{model} on {entry.engine}"


def candidates(status: OptimizationJobStatus) -> list[Candidate]:
    """Every measured or built candidate, in the order of trials and engines. The first is the baseline."""
    reference = status.trials[0].candidates[0]
    done = (t for t in status.trials if t.state == TrialState.SUCCEEDED)
    return [Candidate(trial, entry, reference) for trial in done for entry in trial.candidates]


def speed_ratio(entry: CandidateStatus, objective: Metric) -> Interval | None:
    """The playoff's ratio of times that an objective is about: of batches for throughput, else of single requests."""
    return entry.batch_ratio if objective == Metric.THROUGHPUT else entry.time_ratio


def control(status: OptimizationJobStatus, objective: Metric) -> Interval | None:
    """The baseline against itself, in the race that gave `speed_ratio`."""
    return status.batch_control_ratio if objective == Metric.THROUGHPUT else status.control_ratio


def noise(status: OptimizationJobStatus, objective: Metric) -> float:
    """What the playoff cannot tell from nothing, as a fraction of time."""
    measured = control(status, objective)
    return max(LEAST_NOISE, abs(float(measured.estimate) - 1)) if measured else LEAST_NOISE


def quality(status: OptimizationJobStatus) -> Metric:
    """The quality metric that counts."""
    return status.inspection.quality if status.inspection else Metric.ACCURACY


def baseline_is_best(status: OptimizationJobStatus) -> bool:
    """Whether the input model was chosen, on the engine it is measured on."""
    return status.best is not None and (status.best.trial, status.best.engine) == (
        0,
        status.trials[0].candidates[0].engine,
    )


def find_misses(spec: OptimizationJobSpec, c: Candidate) -> list[Miss]:
    """The promises that a measured candidate is known to break: of time, only if its times count."""
    judged = (constraint for constraint in spec.constraints if c.timed or constraint.metric not in TIMED)
    return [miss for constraint in judged if (miss := _miss(spec, constraint, c))]


def _miss(spec: OptimizationJobSpec, constraint: Constraint, c: Candidate) -> Miss | None:
    metric = constraint.metric
    value = c.entry.metric(metric)
    if constraint.max_drop is not None:
        drop, bound = spec.metrics.drop(metric, c.reference.metric(metric), value), parse_percent(constraint.max_drop)
        verb = "drops" if spec.metrics.higher_is_better(metric) else "rises"
        text = f"{metric} {verb} by {show_percent(drop)}, more than {constraint.max_drop}"
        return Miss(text, (drop - bound) / max(bound, NO_SCALE)) if not keeps(drop, bound) else None
    if constraint.max is not None:
        bound = parse_metric(metric, constraint.max)
        text = f"{metric} is {show_metric(metric, value)}, above {constraint.max}"
        return Miss(text, (value - bound) / _scale(bound)) if value > bound else None
    assert constraint.min is not None
    bound = parse_metric(metric, constraint.min)
    text = f"{metric} is {show_metric(metric, value)}, below {constraint.min}"
    return Miss(text, (bound - value) / _scale(bound)) if value < bound else None


def _scale(bound: float) -> float:
    return abs(bound) or NO_SCALE


def shown_state(status: OptimizationJobStatus, trial: TrialStatus) -> str:
    """A trial's state for people: those of a suspended job have no pod, though the status keeps them as Running."""
    if trial.state == TrialState.RUNNING and is_true(status.conditions, ConditionType.SUSPENDED):
        return ConditionType.SUSPENDED.value
    return trial.state.value
