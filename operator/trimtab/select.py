"""Which candidates keep every promise, which of them is the best, and why the others are not.

Pure arithmetic on a status: every candidate ends with a named outcome and a reason a person understands. Times are
compared as ratios to the baseline from the playoff (median latency, and what it costs, by the ratio of single
requests, throughput by that of batches).

A bootstrap interval says how much a ratio would vary over the rounds of one playoff, and not what two sessions of one
file differ by: here such a pair measured 0.97 and 1.02. That is what the control, the baseline against itself, shows:
its distance from 1 is this playoff's noise. A candidate beats the input model only beyond its own interval and
the noise together, and candidates that are closer to the fastest than the noise are as fast as it: the next objective,
the quality and the size choose among them, in this order. So one that is clearly smaller may replace the input model
where it is as fast, as certainly as the noise allows, and loses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.api.job import OptimizationJobSpec
from trimtab.api.metrics import Goal
from trimtab.api.model import TAILS, TIMED, Metric, show_metric
from trimtab.api.promises import Objective
from trimtab.api.status import Best, OptimizationJobStatus, Outcome, TrialStatus, show_interval
from trimtab.api.work import FINALISTS_LIMIT, Finalist
from trimtab.candidates import Candidate, Miss, candidate_name, candidates, find_misses, noise, quality, speed_ratio

HOPELESS = 4.0
"""How many times worse than the best trial's a trial's own timing may be for the playoff to look again.

Trials run side by side and the input model was timed alone, by Inspect: on a busy machine of two cores magika's trials
took 48 to 134 ms, the input model 16. So trials are compared with trials only, and loosely, and with no bound on time.
"""

SMALLER = 0.9
"""Of the input model's size, what is worth another model that is only as fast."""


@dataclass(frozen=True)
class Selection:
    """What the measurements amount to."""

    trials: tuple[TrialStatus, ...]
    """As given, with an outcome and a reason for every candidate."""
    best: Best | None
    nearest_miss: str


def finalists(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> list[Finalist]:
    """What the playoff measures: the baseline, then the candidates that may win, the most promising first.

    Where nothing that was asked for is a time, the winner is known without it and is timed for the report alone.
    """
    everyone = candidates(status)
    twins = _twins(everyone)
    baseline, *others = [c for c in everyone if c.measured and c.name not in twins]
    hopeful = [c for c in others if not find_misses(spec, c)]
    hopeful.sort(key=lambda c: _preference(spec.objectives, c))
    best = next((c for c in hopeful if c.trial.index), None)
    hopeful = [c for c in hopeful if best is None or _near(spec.objectives[0], c, best, HOPELESS)]
    if not _time_decides(spec):
        able = [c for c in (baseline, *hopeful) if not find_misses(spec, c)]
        ranked = [spec.objectives[0], *_tie_breakers(spec, status)]
        leader = min(able, key=lambda c: _preference(ranked, c), default=baseline)
        hopeful = [leader] if leader is not baseline else []
    return [c.finalist for c in (baseline, *_seeded(hopeful)[: FINALISTS_LIMIT - 1])]


def _seeded(hopeful: Sequence[Candidate]) -> list[Candidate]:
    """Before all others, the input model on its other engines and every trial on the better of its engines.

    A trial's engines were timed in one pod, one after the other, but trials beside others: a model that takes 0.73 of
    the input model's time was thirteenth by its own timing, after both engines of slower ones.
    """
    better = {c.trial.index: c.name for c in reversed(hopeful)}
    return sorted(hopeful, key=lambda c: c.trial.index != 0 and better[c.trial.index] != c.name)


def select(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> Selection:
    """The winner and everybody's outcome, from the playoff's measurements."""
    everyone = candidates(status)
    baseline, twins, objective = everyone[0], _twins(everyone), spec.objectives[0].metric
    unsure = noise(status, objective)
    misses = {c.name: find_misses(spec, c) for c in everyone if c.measured and c.name not in twins}
    timed = [c for c in everyone if misses.get(c.name) == [] and (c.timed or not _time_decides(spec))]
    field = _field(spec, status, timed, _contenders(spec, timed, baseline, unsure))
    verdicts = {
        c.name: _same_model(twins[c.name]) if c.name in twins else _verdict(spec, c, misses.get(c.name, []), field)
        for c in everyone
    }
    return Selection(
        trials=tuple(_judged(trial, verdicts) for trial in status.trials),
        best=_best(field.winner, everyone, objective, status) if field.winner else None,
        nearest_miss="" if field.winner else _nearest_miss(everyone, misses),
    )


def score(spec: OptimizationJobSpec, trial: TrialStatus, baseline: TrialStatus) -> tuple[float, float]:
    """What the search learns of a finished trial: the first objective's cost, and by how much a promise is missed.

    Bounds on time are the playoff's to judge. Of the trial's engines the best one counts. Raises ValueError where none
    was measured.
    """
    scored = []
    for c in (Candidate(trial, entry, baseline.candidates[0]) for entry in trial.candidates):
        if c.measured:
            excess = max((miss.excess for miss in find_misses(spec, c)), default=0.0)
            scored.append((excess, _cost(spec.objectives[0], c)))
    excess, cost = min(scored)
    return cost, excess


def _twins(everyone: Sequence[Candidate]) -> dict[str, Candidate]:
    """The candidates that are an earlier one again, the same artifact on the same engine: by name, the earlier one."""
    first: dict[tuple[str, str], Candidate] = {}
    known = {c.name: first.setdefault((c.trial.artifact, c.entry.engine), c) for c in everyone}
    return {name: original for name, original in known.items() if original.name != name}


def _contenders(
    spec: OptimizationJobSpec, timed: list[Candidate], baseline: Candidate, unsure: float
) -> list[Candidate]:
    """Those that may win.

    Where the input model keeps every promise, a faster one must be faster beyond noise: by its ratio, which is that of
    the median, and in a tail by its own value too. Or clearly smaller, and not slower by more than the noise.
    """
    first = spec.objectives[0].metric
    if first not in TIMED or baseline not in timed:
        return timed
    return [c for c in timed if c is baseline or _within(c, first, 1 - unsure) or _smaller(c, first, unsure)]


def _time_decides(spec: OptimizationJobSpec) -> bool:
    return not TIMED.isdisjoint(spec.asked())


def _within(c: Candidate, metric: Metric, times: float) -> bool:
    """Whether a time is certainly less than so many times the input model's."""
    ratio = c.ratio(metric)
    certain = ratio is not None and float(ratio.high) < times
    return certain and (metric not in TAILS or c.value(metric) < c.reference.metric(metric) * times)


def _smaller(c: Candidate, metric: Metric, unsure: float) -> bool:
    """Whether it is clearly smaller than the input model, and as fast."""
    smaller = c.entry.metric(Metric.SIZE) <= SMALLER * c.reference.metric(Metric.SIZE)
    return smaller and _within(c, metric, 1 + unsure)


def _slower(c: Candidate, metric: Metric) -> bool:
    """Whether it is certain that the input model is faster: there is nothing inconclusive about it then."""
    ratio = c.ratio(metric)
    return ratio is not None and metric not in TAILS and float(ratio.low) > 1


def _preference(objectives: Sequence[Objective], c: Candidate) -> tuple[float, ...]:
    """Sorts the best first: by the objectives in their order, then by trial, so that the order is total."""
    return (*(_cost(objective, c) for objective in objectives), c.trial.index)


def _cost(objective: Objective, c: Candidate) -> float:
    value = c.value(objective.metric)
    return -value if objective.goal == Goal.MAXIMIZE else value


def _as_good(objective: Objective, c: Candidate, best: Candidate, times: float) -> bool:
    """Whether the objective does not tell a candidate from the best one on it."""
    if c is best or objective.metric not in TIMED:
        return c.value(objective.metric) == best.value(objective.metric)
    return _near(objective, c, best, times)


def _near(objective: Objective, c: Candidate, best: Candidate, times: float) -> bool:
    """Whether a time is at most so many times worse than the best one. Of other metrics it says nothing."""
    if objective.metric not in TIMED:
        return True
    mine, other = c.value(objective.metric), best.value(objective.metric)
    return mine * times >= other if objective.goal == Goal.MAXIMIZE else mine <= other * times


@dataclass(frozen=True)
class _Field:
    """What a candidate is judged beside."""

    timed: list[Candidate]
    """Those that keep every promise and whose numbers count, of which the Pareto front is made: where time decides,
    what the playoff timed, for a trial's own timing is only a hint."""
    contenders: list[Candidate]
    winner: Candidate | None
    equals: list[Candidate]
    """The best on the first objective, and those as good: noise does not tell their times from its, if it is a time."""
    first: Metric
    """What they are as good at."""
    ties: tuple[Metric, ...]
    """What chooses among equals."""
    axes: tuple[Metric, ...]
    """Of Pareto dominance: the objectives, the quality metric that counts, and size."""


def _field(
    spec: OptimizationJobSpec, status: OptimizationJobStatus, timed: list[Candidate], contenders: list[Candidate]
) -> _Field:
    first, better = spec.objectives[0], _tie_breakers(spec, status)
    leader = min(contenders, key=lambda c: _preference(spec.objectives, c), default=None)
    unsure = 1 + noise(status, first.metric)
    equals = [c for c in contenders if leader and _as_good(first, c, leader, unsure)]
    return _Field(
        timed,
        contenders,
        min(equals, key=lambda c: _preference([*better, first], c), default=None),
        equals,
        first.metric,
        tuple(objective.metric for objective in better if objective.metric != first.metric),
        tuple(dict.fromkeys((first.metric, *(objective.metric for objective in better)))),
    )


def _tie_breakers(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> list[Objective]:
    """What chooses among those that are as good on the first objective."""
    goodness = Goal.MAXIMIZE if spec.metrics.higher_is_better(quality(status)) else Goal.MINIMIZE
    return [
        *spec.objectives[1:],
        Objective(metric=quality(status), goal=goodness),
        Objective(metric=Metric.SIZE, goal=Goal.MINIMIZE),
    ]


def _verdict(spec: OptimizationJobSpec, c: Candidate, misses: list[Miss], field: _Field) -> tuple[Outcome, str]:
    if not c.measured:
        return c.entry.outcome or Outcome.INCONCLUSIVE, c.entry.message
    if misses:
        return Outcome.INFEASIBLE, "; ".join(miss.text for miss in misses)
    if c is field.winner:
        return Outcome.FEASIBLE, "the best of the candidates that keep every promise" + _tied(field)
    if c not in field.contenders and not _slower(c, spec.objectives[0].metric):
        return Outcome.INCONCLUSIVE, _not_faster(c, spec.objectives[0].metric)
    rivals = (*field.contenders, *field.timed)  # whoever may win is named first
    better = next((o for o in rivals if _dominates(spec, field.axes, o, c)), None)
    if better:
        return Outcome.DOMINATED, f"{better.name} is at least as good in everything and better in something"
    return Outcome.FEASIBLE, f"keeps every promise; {_beaten(field, c)}"


def _same_model(original: Candidate) -> tuple[Outcome, str]:
    return Outcome.SKIPPED, f"the same model as {original.name}"


def _tied(field: _Field) -> str:
    """Why the winner won where others are as fast."""
    others = ", ".join(c.name for c in field.equals if c is not field.winner)
    alike = "within noise as fast" if field.first in TIMED else f"with the same {field.first}"
    return f"; {alike}: {others}; so {', then '.join(field.ties)} chose" if others else ""


def _beaten(field: _Field, c: Candidate) -> str:
    if c not in field.equals or field.winner is None:
        return "another does better on the first objective"
    alike = "is as fast within noise" if field.first in TIMED else f"has the same {field.first}"
    metric = next((m for m in field.ties if c.value(m) != field.winner.value(m)), "everything else")
    return f"{field.winner.name} {alike}, and its {metric} is better or the same"


def _not_faster(c: Candidate, metric: Metric) -> str:
    ratio = c.ratio(metric)
    if ratio is None:
        return "not measured in the playoff: others promised more by their trials' own timing"
    told = f"not faster than the input model beyond noise: {show_interval(ratio)} of its time"
    if metric not in TAILS:
        return told
    before, after = (show_metric(metric, value) for value in (c.reference.metric(metric), c.value(metric)))
    return f"{told}, {metric} {before} → {after}"


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


def _best(winner: Candidate, everyone: list[Candidate], objective: Metric, status: OptimizationJobStatus) -> Best:
    baseline, counts = everyone[0], quality(status)
    ratio = speed_ratio(winner.entry, objective)
    speed = "throughput" if objective == Metric.THROUGHPUT else "speed"
    speed_up = 1 / float(ratio.estimate) if ratio else 1.0
    message = (
        _kept(everyone, status.trials[1:])
        if winner is baseline
        else f"{winner.name}: {speed_up:.2f}x the {speed}, "
        + ", ".join(f"{m} {_shown(baseline, m)} → {_shown(winner, m)}" for m in (counts, Metric.SIZE))
    )
    return Best(
        trial=winner.trial.index,
        engine=winner.entry.engine,
        artifact=winner.trial.artifact,
        name=f"trial-{winner.trial.index}/{winner.entry.engine}"
        if winner.trial.index
        else f"input/{winner.entry.engine}",
        speed_up=f"{speed_up:.2f}x",
        quality=f"{_shown(winner, counts)} {counts}",
        size=_shown(winner, Metric.SIZE),
        message=message,
    )


def _kept(everyone: list[Candidate], trials: Sequence[TrialStatus]) -> str:
    """Why the input model stays. That nothing else came of the job must not read like a comparison."""
    if not any(c.measured for c in everyone[1:]):
        ended = (f"{count} {state.lower()}" for state, count in Counter(trial.state for trial in trials).items())
        return f"no trial made a model to compare with the input model: {', '.join(ended)}"
    return "no candidate is better than the input model beyond noise"


def _shown(c: Candidate, metric: Metric) -> str:
    return show_metric(metric, c.entry.metric(metric))


def _nearest_miss(everyone: list[Candidate], misses: dict[str, list[Miss]]) -> str:
    """The candidate whose worst miss is the smallest, and that miss: the binding constraint."""
    worst = {c.name: max(misses[c.name], key=lambda m: m.excess) for c in everyone if misses.get(c.name)}
    if not worst:
        return "no candidate could be measured"
    name = min(worst, key=lambda n: worst[n].excess)
    return f"{name}: {worst[name].text}"
