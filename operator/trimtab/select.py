"""Which candidates keep every promise, which of them is the best, and why the others are not.

Pure arithmetic on a status. A candidate is one trial's model on one engine; trial 0 is the input model. Every one ends
with a named outcome and a reason a person understands. Times are compared as ratios to the baseline from the playoff
(median latency, and what it costs, by the ratio of single requests, throughput by that of batches), and a candidate
that is not faster beyond its own interval does not beat the input model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.api.job import Constraint, Objective, OptimizationJobSpec
from trimtab.api.metrics import Goal
from trimtab.api.model import TIMED, Metric, parse_metric, show_metric
from trimtab.api.quantities import parse_percent, show_percent
from trimtab.api.status import Best, CandidateStatus, Interval, OptimizationJobStatus, Outcome, TrialState, TrialStatus
from trimtab.api.work import FINALISTS_LIMIT, Finalist

QUICK_SLACK = 1.0
"""How far a bound on time may be missed before the playoff: a trial times its model beside others, as a hint."""
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

    def value(self, metric: Metric) -> float:
        """What candidates are compared by, in fractions, seconds, bytes and plain numbers.

        What the playoff timed is its ratio to the baseline's: the medians of two models differ by the noise of their
        moments too, while a ratio is paired. Tails have no ratio of their own.
        """
        ratio = self.ratio(metric)
        if ratio is None or metric in (Metric.LATENCY_P95, Metric.LATENCY_P99):
            return self.entry.metric(metric)
        times = float(ratio.estimate)
        return self.reference.metric(metric) * (1 / times if metric == Metric.THROUGHPUT else times)

    def ratio(self, metric: Metric) -> Interval | None:
        """The playoff's ratio of times that tells whether a metric is better beyond noise; None for other metrics."""
        if metric not in TIMED:
            return None
        return self.entry.batch_ratio if metric == Metric.THROUGHPUT else self.entry.time_ratio


@dataclass(frozen=True)
class Miss:
    """A promise that is not kept. `excess` is relative to the bound, so that misses of two metrics compare."""

    text: str
    excess: float


@dataclass(frozen=True)
class Selection:
    """What the measurements amount to."""

    trials: tuple[TrialStatus, ...]
    """As given, with an outcome and a reason for every candidate."""
    best: Best | None
    nearest_miss: str


def candidate_name(trial: TrialStatus, entry: CandidateStatus) -> str:
    model = "input model" if trial.index == 0 else f"trial {trial.index}"
    return f"{model} on {entry.engine}"


def candidates(status: OptimizationJobStatus) -> list[Candidate]:
    """Every measured or built candidate, in the order of trials and engines. The first is the baseline."""
    reference = status.trials[0].candidates[0]
    done = (t for t in status.trials if t.state == TrialState.SUCCEEDED)
    return [Candidate(trial, entry, reference) for trial in done for entry in trial.candidates]


def quality(status: OptimizationJobStatus) -> Metric:
    """The quality metric that counts."""
    return status.inspection.quality if status.inspection else Metric.ACCURACY


def finalists(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> list[Finalist]:
    """What the playoff measures: the baseline, then the candidates that may win, the most promising first."""
    baseline, *others = candidates(status)
    hopeful = [c for c in others if c.measured and not _misses(spec, c, slack=QUICK_SLACK)]
    hopeful.sort(key=lambda c: _preference(spec.objectives, c))
    return [c.finalist for c in (baseline, *hopeful)][:FINALISTS_LIMIT]


def select(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> Selection:
    """The winner and everybody's outcome, from the playoff's measurements."""
    everyone = candidates(status)
    baseline = everyone[0]
    misses = {c.name: _misses(spec, c) for c in everyone if c.measured}
    feasible = [c for c in everyone if c.measured and not misses[c.name]]
    contenders = _contenders(spec, feasible, baseline)
    winner = min(contenders, key=lambda c: _preference(spec.objectives, c), default=None)
    field = _Field(contenders, winner, (*(o.metric for o in spec.objectives), quality(status), Metric.SIZE))
    verdicts = {c.name: _verdict(spec, c, misses.get(c.name, []), field) for c in everyone}
    return Selection(
        trials=tuple(_judged(trial, verdicts) for trial in status.trials),
        best=_best(winner, baseline, quality(status)) if winner else None,
        nearest_miss="" if winner else _nearest_miss(everyone, misses),
    )


def score(spec: OptimizationJobSpec, trial: TrialStatus, baseline: TrialStatus) -> tuple[float, float]:
    """What the search learns of a finished trial: the first objective's cost, and by how much a promise is missed.

    Of the trial's engines the best one counts. Raises ValueError where none was measured.
    """
    scored = []
    for c in (Candidate(trial, entry, baseline.candidates[0]) for entry in trial.candidates):
        if c.measured:
            excess = max((miss.excess for miss in _misses(spec, c)), default=0.0)
            scored.append((excess, _cost(spec.objectives[0], c)))
    excess, cost = min(scored)
    return cost, excess


def _misses(spec: OptimizationJobSpec, c: Candidate, slack: float = 0.0) -> list[Miss]:
    found = (_miss(spec, constraint, c, slack) for constraint in spec.constraints)
    return [miss for miss in found if miss]


def _miss(spec: OptimizationJobSpec, constraint: Constraint, c: Candidate, slack: float) -> Miss | None:
    metric = constraint.metric
    value = c.entry.metric(metric)
    leeway = 1 + slack if metric in TIMED else 1.0
    if constraint.max_drop is not None:
        drop, bound = spec.metrics.drop(metric, c.reference.metric(metric), value), parse_percent(constraint.max_drop)
        verb = "drops" if spec.metrics.higher_is_better(metric) else "rises"
        text = f"{metric} {verb} by {show_percent(drop)}, more than {constraint.max_drop}"
        return Miss(text, (drop - bound) / max(bound, NO_SCALE)) if drop > bound + 1e-9 else None
    if constraint.max is not None:
        bound = parse_metric(metric, constraint.max)
        text = f"{metric} is {show_metric(metric, value)}, above {constraint.max}"
        return Miss(text, (value - bound) / _scale(bound)) if value > bound * leeway else None
    assert constraint.min is not None
    bound = parse_metric(metric, constraint.min)
    text = f"{metric} is {show_metric(metric, value)}, below {constraint.min}"
    return Miss(text, (bound - value) / _scale(bound)) if value < bound / leeway else None


def _scale(bound: float) -> float:
    return abs(bound) or NO_SCALE


def _contenders(spec: OptimizationJobSpec, feasible: list[Candidate], baseline: Candidate) -> list[Candidate]:
    """Those that may win: what the playoff timed, for a trial's own timing is only a hint.

    Where the input model keeps every promise, a faster one must be faster beyond noise.
    """
    timed = [c for c in feasible if c is baseline or c.entry.time_ratio]
    first = spec.objectives[0].metric
    if first not in TIMED or baseline not in feasible:
        return timed
    return [c for c in timed if c is baseline or ((ratio := c.ratio(first)) and float(ratio.high) < 1)]


def _preference(objectives: Sequence[Objective], c: Candidate) -> tuple[float, ...]:
    """Sorts the best first: by the objectives in their order, then by trial, so that the order is total."""
    return (*(_cost(objective, c) for objective in objectives), c.trial.index)


def _cost(objective: Objective, c: Candidate) -> float:
    value = c.value(objective.metric)
    return -value if objective.goal == Goal.MAXIMIZE else value


@dataclass(frozen=True)
class _Field:
    """What a candidate is judged beside."""

    contenders: list[Candidate]
    winner: Candidate | None
    axes: tuple[Metric, ...]
    """Of Pareto dominance: the objectives, the quality metric that counts, and size."""


def _verdict(spec: OptimizationJobSpec, c: Candidate, misses: list[Miss], field: _Field) -> tuple[Outcome, str]:
    if not c.measured:
        return Outcome.INCONCLUSIVE, c.entry.message
    if misses:
        return Outcome.INFEASIBLE, "; ".join(miss.text for miss in misses)
    if c is field.winner:
        return Outcome.FEASIBLE, "the best of the candidates that keep every promise"
    if c not in field.contenders:
        return Outcome.INCONCLUSIVE, _not_faster(c.ratio(spec.objectives[0].metric))
    better = next((o for o in field.contenders if _dominates(spec, field.axes, o, c)), None)
    if better:
        return Outcome.DOMINATED, f"{better.name} is at least as good in everything and better in something"
    return Outcome.FEASIBLE, "keeps every promise; another does better on the first objective"


def _not_faster(ratio: Interval | None) -> str:
    if ratio is None:
        return "not measured in the playoff"
    return f"not faster than the input model beyond noise: {_short(ratio)} of its time"


def _short(ratio: Interval) -> str:
    return f"{float(ratio.estimate):.2f} [{float(ratio.low):.2f}, {float(ratio.high):.2f}]"


def _dominates(spec: OptimizationJobSpec, axes: Sequence[Metric], a: Candidate, b: Candidate) -> bool:
    costs = [(_axis_cost(spec, m, a), _axis_cost(spec, m, b)) for m in axes]
    return all(x <= y for x, y in costs) and any(x < y for x, y in costs)


def _axis_cost(spec: OptimizationJobSpec, metric: Metric, c: Candidate) -> float:
    return c.value(metric) * (-1 if spec.metrics.higher_is_better(metric) else 1)


def _judged(trial: TrialStatus, verdicts: dict[str, tuple[Outcome, str]]) -> TrialStatus:
    judged = []
    for entry in trial.candidates:
        outcome, message = verdicts[candidate_name(trial, entry)]
        judged.append(entry.model_copy(update={"outcome": outcome, "message": message}))
    return trial.model_copy(update={"candidates": judged})


def _best(winner: Candidate, baseline: Candidate, quality: Metric) -> Best:
    ratio = winner.entry.time_ratio
    speed_up = 1 / float(ratio.estimate) if ratio else 1.0
    message = (
        "no candidate is better than the input model beyond noise"
        if winner is baseline
        else f"{winner.name}: {speed_up:.2f}x the speed, "
        + ", ".join(f"{m} {_shown(baseline, m)} → {_shown(winner, m)}" for m in (quality, Metric.SIZE))
    )
    return Best(
        trial=winner.trial.index,
        engine=winner.entry.engine,
        artifact=winner.trial.artifact,
        name=f"trial-{winner.trial.index}/{winner.entry.engine}"
        if winner.trial.index
        else f"input/{winner.entry.engine}",
        speed_up=f"{speed_up:.2f}x",
        quality=f"{_shown(winner, quality)} {quality}",
        size=_shown(winner, Metric.SIZE),
        message=message,
    )


def _shown(c: Candidate, metric: Metric) -> str:
    return show_metric(metric, c.entry.metric(metric))


def _nearest_miss(everyone: list[Candidate], misses: dict[str, list[Miss]]) -> str:
    """The candidate whose worst miss is the smallest, and that miss: the binding constraint."""
    worst = {c.name: max(misses[c.name], key=lambda m: m.excess) for c in everyone if misses.get(c.name)}
    if not worst:
        return "no candidate could be measured"
    name = min(worst, key=lambda n: worst[n].excess)
    return f"{name}: {worst[name].text}"
