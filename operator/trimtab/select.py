"""Which candidates keep every promise, which of them is the best, and why the others are not.

Pure arithmetic on a status. A candidate is one trial's model on one engine; trial 0 is the input model. Every one ends
with a named outcome and a reason a person understands. Latencies are compared as ratios to the baseline from the
playoff, and a candidate that is not faster beyond its own interval does not beat the input model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.api.job import Constraint, Goal, Objective, OptimizationJobSpec
from trimtab.api.model import HIGHER_IS_BETTER, LATENCIES, Metric, parse_metric
from trimtab.api.quantities import parse_percent, show_duration, show_percent, show_quantity
from trimtab.api.status import Best, CandidateStatus, Interval, OptimizationJobStatus, Outcome, TrialState, TrialStatus
from trimtab.api.work import FINALISTS_LIMIT, Finalist

QUICK_SLACK = 1.0
"""How far a latency bound may be missed before the playoff: a trial times its model beside others, as a hint."""


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
        return Metric.ACCURACY in self.entry.metrics

    def value(self, metric: Metric) -> float:
        """What candidates are compared by, in fractions, seconds and bytes.

        A median latency is the playoff's ratio of the baseline's: the medians of two models differ by the noise of
        their moments too, while a ratio is paired.
        """
        if metric == Metric.LATENCY_P50 and self.entry.time_ratio:
            return float(self.entry.time_ratio.estimate) * self.reference.metric(metric)
        return self.entry.metric(metric)


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
    verdicts = {c.name: _verdict(spec, c, misses.get(c.name, []), contenders, winner) for c in everyone}
    return Selection(
        trials=tuple(_judged(trial, verdicts) for trial in status.trials),
        best=_best(winner, baseline) if winner else None,
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
    found = (_miss(constraint, c, slack) for constraint in spec.constraints)
    return [miss for miss in found if miss]


def _miss(constraint: Constraint, c: Candidate, slack: float) -> Miss | None:
    metric = constraint.metric
    value = c.entry.metric(metric)
    if constraint.max_drop is not None:
        drop, bound = c.reference.metric(metric) - value, parse_percent(constraint.max_drop)
        text = f"{metric} drops by {show_percent(drop)}, more than {constraint.max_drop}"
        # A bound of exactly 0 % leaves no scale to divide by; a point of accuracy stands in for it.
        return Miss(text, (drop - bound) / max(bound, 0.01)) if drop > bound + 1e-9 else None
    if constraint.max is not None:
        bound = parse_metric(metric, constraint.max)
        text = f"{metric} is {_show(metric, value)}, above {constraint.max}"
        allowed = bound * (1 + slack) if metric in LATENCIES else bound
        return Miss(text, value / bound - 1) if value > allowed else None
    assert constraint.min is not None
    bound = parse_metric(metric, constraint.min)
    text = f"{metric} is {_show(metric, value)}, below {constraint.min}"
    return Miss(text, 1 - value / bound) if value < bound else None


def _contenders(spec: OptimizationJobSpec, feasible: list[Candidate], baseline: Candidate) -> list[Candidate]:
    """Those that may win: what the playoff timed, for a trial's own timing is only a hint.

    Where the input model keeps every promise, a faster one must be faster beyond noise.
    """
    timed = [c for c in feasible if c is baseline or c.entry.time_ratio]
    if spec.objectives[0].metric not in LATENCIES or baseline not in feasible:
        return timed
    return [c for c in timed if c is baseline or (c.entry.time_ratio and float(c.entry.time_ratio.high) < 1)]


def _preference(objectives: Sequence[Objective], c: Candidate) -> tuple[float, ...]:
    """Sorts the best first: by the objectives in their order, then by trial, so that the order is total."""
    return (*(_cost(objective, c) for objective in objectives), c.trial.index)


def _cost(objective: Objective, c: Candidate) -> float:
    value = c.value(objective.metric)
    return -value if objective.goal == Goal.MAXIMIZE else value


def _verdict(
    spec: OptimizationJobSpec, c: Candidate, misses: list[Miss], contenders: list[Candidate], winner: Candidate | None
) -> tuple[Outcome, str]:
    if not c.measured:
        return Outcome.INCONCLUSIVE, c.entry.message
    if misses:
        return Outcome.INFEASIBLE, "; ".join(miss.text for miss in misses)
    if c is winner:
        return Outcome.FEASIBLE, "the best of the candidates that keep every promise"
    if c not in contenders:
        return Outcome.INCONCLUSIVE, _not_faster(c)
    better = next((o for o in contenders if _dominates(spec, o, c)), None)
    if better:
        return Outcome.DOMINATED, f"{better.name} is at least as good in everything and better in something"
    return Outcome.FEASIBLE, "keeps every promise; another does better on the first objective"


def _not_faster(c: Candidate) -> str:
    ratio = c.entry.time_ratio
    if ratio is None:
        return "not measured in the playoff"
    return f"not faster than the input model beyond noise: {_short(ratio)} of its time"


def _short(ratio: Interval) -> str:
    return f"{float(ratio.estimate):.2f} [{float(ratio.low):.2f}, {float(ratio.high):.2f}]"


def _dominates(spec: OptimizationJobSpec, a: Candidate, b: Candidate) -> bool:
    """Pareto dominance over the objectives, accuracy and size."""
    costs = [(_axis_cost(m, a), _axis_cost(m, b)) for m in _axes(spec)]
    return all(x <= y for x, y in costs) and any(x < y for x, y in costs)


def _axes(spec: OptimizationJobSpec) -> Iterator[Metric]:
    yield from dict.fromkeys((*(o.metric for o in spec.objectives), Metric.ACCURACY, Metric.SIZE))


def _axis_cost(metric: Metric, c: Candidate) -> float:
    return c.value(metric) * (-1 if metric in HIGHER_IS_BETTER else 1)


def _judged(trial: TrialStatus, verdicts: dict[str, tuple[Outcome, str]]) -> TrialStatus:
    judged = []
    for entry in trial.candidates:
        outcome, message = verdicts[candidate_name(trial, entry)]
        judged.append(entry.model_copy(update={"outcome": outcome, "message": message}))
    return trial.model_copy(update={"candidates": judged})


def _best(winner: Candidate, baseline: Candidate) -> Best:
    ratio = winner.entry.time_ratio
    speed_up = 1 / float(ratio.estimate) if ratio else 1.0
    metrics = {m: winner.entry.metric(m) for m in (Metric.ACCURACY, Metric.SIZE)}
    message = (
        "no candidate is better than the input model beyond noise"
        if winner is baseline
        else f"{winner.name}: {speed_up:.2f}x the speed, accuracy "
        f"{show_percent(baseline.entry.metric(Metric.ACCURACY))} → {show_percent(metrics[Metric.ACCURACY])}, size "
        f"{show_quantity(baseline.entry.metric(Metric.SIZE))} → {show_quantity(metrics[Metric.SIZE])}"
    )
    return Best(
        trial=winner.trial.index,
        engine=winner.entry.engine,
        artifact=winner.trial.artifact,
        name=f"trial-{winner.trial.index}/{winner.entry.engine}"
        if winner.trial.index
        else f"input/{winner.entry.engine}",
        speed_up=f"{speed_up:.2f}x",
        accuracy=show_percent(metrics[Metric.ACCURACY]),
        size=show_quantity(metrics[Metric.SIZE]),
        message=message,
    )


def _nearest_miss(everyone: list[Candidate], misses: dict[str, list[Miss]]) -> str:
    """The candidate whose worst miss is the smallest, and that miss: the binding constraint."""
    worst = {c.name: max(misses[c.name], key=lambda m: m.excess) for c in everyone if misses.get(c.name)}
    if not worst:
        return "no candidate could be measured"
    name = min(worst, key=lambda n: worst[n].excess)
    return f"{name}: {worst[name].text}"


def _show(metric: Metric, value: float) -> str:
    if metric in LATENCIES:
        return show_duration(value)
    return show_quantity(value) if metric == Metric.SIZE else show_percent(value)
