"""Outcomes and winners, from measurements alone."""

from __future__ import annotations

from typing import Any

import pytest

from builders import interval, make_job
from trimtab.api.model import EngineName, Metric
from trimtab.api.status import (
    Best,
    CandidateStatus,
    Inspection,
    OptimizationJobStatus,
    Outcome,
    TrialState,
    TrialStatus,
)
from trimtab.api.work import FINALISTS_LIMIT
from trimtab.select import finalists, score, select


def trial(
    index: int, accuracy: float, p50: float, size: int, ratio: float | None = None, engine: str = "ONNXRuntime"
) -> TrialStatus:
    entry = CandidateStatus(
        engine=EngineName(engine),
        metrics={"accuracy": str(accuracy), "latencyP50": str(p50), "latencyP95": str(p50), "size": str(size)},
        time_ratio=interval(ratio) if ratio else None,
    )
    return TrialStatus(index=index, state=TrialState.SUCCEEDED, artifact=f"sha256:{index}", candidates=[entry])


BASE = trial(0, 0.95, 0.002, 1000, 1.0)
DROP = {"metric": "accuracy", "maxDrop": "1%"}


def outcome_of(index: int, *trials: TrialStatus, control: float = 1.0, **spec) -> tuple[Outcome | None, str]:
    status = OptimizationJobStatus(trials=[BASE, *trials], control_ratio=interval(control))
    selection = select(make_job(**spec).spec, status)
    entry = next(t for t in selection.trials if t.index == index).candidates[0]
    return entry.outcome, entry.message


@pytest.mark.parametrize(
    ("candidate", "spec", "outcome", "message"),
    [
        pytest.param(trial(1, 0.95, 0.001, 500, 0.5), {}, Outcome.FEASIBLE, "the best of", id="wins"),
        pytest.param(trial(1, 0.92, 0.001, 500, 0.5), {}, Outcome.INFEASIBLE, "accuracy drops by 3%", id="drops"),
        pytest.param(trial(1, 0.94, 0.001, 500, 0.5), {}, Outcome.FEASIBLE, "the best of", id="a drop of the bound"),
        pytest.param(
            trial(1, 0.95, 0.001, 500, 0.5),
            {"constraints": [{"metric": "latencyP95", "max": "500us"}]},
            Outcome.INFEASIBLE,
            "latencyP95 is 1ms, above 500us",
            id="too slow",
        ),
        pytest.param(
            trial(1, 0.95, 0.001, 500),
            {"constraints": [{"metric": "latencyP95", "max": "500us"}]},
            Outcome.INCONCLUSIVE,
            "not measured in the playoff: others promised more",
            id="too slow only beside other trials",
        ),
        pytest.param(
            trial(1, 0.95, 0.001, 500, 0.5),
            {"constraints": [{"metric": "accuracy", "min": "97%"}]},
            Outcome.INFEASIBLE,
            "accuracy is 95%, below 97%",
            id="below the floor",
        ),
        pytest.param(
            trial(1, 0.95, 0.00198, 500, 0.99), {}, Outcome.INCONCLUSIVE, "beyond noise", id="faster within noise"
        ),
        pytest.param(
            trial(1, 0.95, 0.004, 1000, 2.0), {}, Outcome.DOMINATED, "input model on", id="slower for nothing"
        ),
        pytest.param(
            trial(1, 0.95, 0.004, 500, 2.0), {}, Outcome.FEASIBLE, "on the first objective", id="slower and smaller"
        ),
        pytest.param(
            TrialStatus(
                index=1,
                state=TrialState.SUCCEEDED,
                candidates=[CandidateStatus(engine=EngineName.TENSORRT, message="built for SM89, not executed")],
            ),
            {},
            Outcome.INCONCLUSIVE,
            "built for SM89",
            id="built, not executed",
        ),
    ],
)
def test_one_candidate_beside_the_baseline(candidate: TrialStatus, spec: dict, outcome: Outcome, message: str) -> None:
    seen, why = outcome_of(1, candidate, **spec)
    assert seen == outcome
    assert message in why


def test_the_dominated_one_names_the_better() -> None:
    better, worse = trial(1, 0.95, 0.001, 400, 0.5), trial(2, 0.945, 0.0011, 500, 0.55)
    assert outcome_of(2, better, worse) == (
        Outcome.DOMINATED,
        "trial 1 on ONNXRuntime is at least as good in everything and better in something",
    )


def test_what_an_engine_does_not_open_is_skipped_and_what_it_could_not_run_is_open() -> None:
    note = "model.xml: ONNXRuntime cannot run OpenVINO models"
    skipped = CandidateStatus(engine=EngineName.ONNXRUNTIME, outcome=Outcome.SKIPPED, message=note)
    made = trial(1, 0.95, 0.001, 500, 0.5, "OpenVINO")
    made = made.model_copy(update={"candidates": [skipped, *made.candidates]})
    assert outcome_of(1, made) == (Outcome.SKIPPED, note)
    crashed = skipped.model_copy(update={"outcome": None, "message": "RuntimeError: no"})
    assert outcome_of(1, made.model_copy(update={"candidates": [crashed]}))[0] == Outcome.INCONCLUSIVE


def test_a_trade_off_is_no_dominance() -> None:
    fast, small = trial(1, 0.95, 0.001, 900, 0.5), trial(2, 0.95, 0.0012, 300, 0.6)
    assert outcome_of(2, fast, small)[0] == Outcome.FEASIBLE


def test_one_that_is_slower_than_the_input_model_still_dominates() -> None:
    """It cannot win, and yet what it is better than in everything is not on the front."""
    small, larger = trial(1, 0.95, 0.0022, 400, 1.1), trial(2, 0.95, 0.006, 500, 3.0)
    assert outcome_of(1, small, larger)[0] == Outcome.FEASIBLE
    assert outcome_of(2, small, larger) == (
        Outcome.DOMINATED,
        "trial 1 on ONNXRuntime is at least as good in everything and better in something",
    )


def test_ties_go_to_the_next_objective_then_to_the_earlier_trial() -> None:
    spec = make_job(
        objectives=[{"metric": "latencyP50", "goal": "Minimize"}, {"metric": "accuracy", "goal": "Maximize"}]
    ).spec
    twins = [trial(1, 0.94, 0.001, 500, 0.5), trial(2, 0.95, 0.001, 500, 0.5), trial(3, 0.95, 0.001, 500, 0.5)]
    best = select(spec, OptimizationJobStatus(trials=[BASE, *twins])).best
    assert best
    assert best.trial == 2


def test_the_nearest_miss_is_the_one_with_the_smallest_worst_excess() -> None:
    spec = make_job(constraints=[{"metric": "size", "max": "100"}, {"metric": "latencyP50", "max": "1ms"}]).spec
    near, far = trial(1, 0.95, 0.0011, 115, 0.55), trial(2, 0.95, 0.0005, 400, 0.25)
    selection = select(spec, OptimizationJobStatus(trials=[BASE, near, far]))
    assert selection.best is None
    assert selection.nearest_miss == "trial 1 on ONNXRuntime: size is 115, above 100"


def test_the_playoff_leaves_out_the_hopeless_and_is_bounded() -> None:
    ruined, rivals = trial(1, 0.2, 0.001, 1), [trial(i, 0.95, round(0.001 + i * 1e-5, 5), 500) for i in range(2, 30)]
    entrants = finalists(make_job().spec, OptimizationJobStatus(trials=[BASE, ruined, *rivals]))
    assert [f.trial for f in entrants] == [0, *range(2, FINALISTS_LIMIT + 1)]


def test_the_search_learns_cost_and_violation() -> None:
    spec = make_job().spec
    assert score(spec, trial(1, 0.95, 0.001, 1), BASE) == (0.001, 0.0)
    cost, violation = score(spec, trial(1, 0.92, 0.001, 1), BASE)
    assert cost == 0.001
    assert violation == pytest.approx(2.0)


def test_the_playoffs_ratio_decides_and_not_the_medians_of_two_moments() -> None:
    slower = trial(1, 0.95, 0.00130, 500, 0.616)
    faster = trial(2, 0.95, 0.00120, 500, 0.627)
    best = select(make_job().spec, OptimizationJobStatus(trials=[BASE, slower, faster])).best
    assert best
    assert best.name == "trial-1/ONNXRuntime"


def test_a_candidate_that_the_playoff_did_not_time_cannot_win() -> None:
    """Even where the input model breaks a promise: a trial's own timing is only a hint."""
    spec = make_job(constraints=[{"metric": "size", "max": "600"}]).spec
    timed, hinted = trial(1, 0.95, 0.001, 500, 0.5), trial(2, 0.95, 0.0001, 400)
    selection = select(spec, OptimizationJobStatus(trials=[BASE, timed, hinted]))
    assert selection.best
    assert selection.best.trial == 1
    assert selection.trials[2].candidates[0].message.startswith("not measured in the playoff: ")


@pytest.mark.parametrize(
    ("candidate", "winner"),
    [
        pytest.param(trial(1, 0.95, 0.002, 500, 0.985), 1, id="as fast, as good and half the size"),
        pytest.param(trial(1, 0.95, 0.002, 950, 0.985), 0, id="hardly smaller"),
        pytest.param(trial(1, 0.949, 0.002, 500, 0.985), 0, id="not quite as good"),
        pytest.param(trial(1, 0.95, 0.002, 500, 1.03), 0, id="perhaps slower by more than the noise"),
    ],
)
def test_what_is_as_fast_as_the_input_model_wins_by_being_smaller(candidate: TrialStatus, winner: int) -> None:
    ended = select(make_job().spec, OptimizationJobStatus(trials=[BASE, candidate], control_ratio=interval(0.98)))
    assert ended.best
    assert ended.best.trial == winner


def test_no_trial_loses_its_place_in_the_playoff_to_the_worse_engine_of_another() -> None:
    """Timed beside other trials, the last one looks slower than every engine of the others."""
    base = BASE.model_copy(
        update={"candidates": [*BASE.candidates, *trial(0, 0.95, 0.003, 1000, engine="OpenVINO").candidates]}
    )
    many = [
        trial(index, 0.95, 0.001, 500).model_copy(
            update={"candidates": [trial(index, 0.95, p50, 500, engine=engine).candidates[0] for engine, p50 in timed]}
        )
        for index, timed in enumerate([(("ONNXRuntime", 0.001), ("OpenVINO", 0.002))] * 9, 1)
    ]
    late = trial(10, 0.95, 0.0035, 500, engine="OpenVINO")
    measured = finalists(make_job().spec, OptimizationJobStatus(trials=[base, *many, late]))
    places = [(f.trial, f.engine) for f in measured]
    assert len(places) == FINALISTS_LIMIT
    assert {(0, "OpenVINO"), (10, "OpenVINO")} <= {*places}


@pytest.mark.parametrize("control", [1.0, 0.95, 1.05])
def test_faster_than_the_input_model_is_beyond_the_interval_and_the_control_together(control: float) -> None:
    """0.955 [0.935, 0.975] is beyond its own interval, and within what two sessions of one file differ by here."""
    candidate = trial(1, 0.95, 0.0019, 1000, 0.955)
    expected = Outcome.FEASIBLE if control == 1.0 else Outcome.INCONCLUSIVE
    assert outcome_of(1, candidate, control=control)[0] == expected


@pytest.mark.parametrize("metric", ["latencyP95", "latencyP99"])
@pytest.mark.parametrize(("tail", "expected"), [(0.0050, 0), (0.00297, 0), (0.0020, 1)])
def test_a_faster_median_with_a_longer_tail_does_not_win_on_the_tail(metric: str, tail: float, expected: int) -> None:
    trials = measured(0, 1.0, accuracy=0.95, **{metric: 0.003}), measured(1, 0.5, accuracy=0.95, **{metric: tail})
    best, outcomes = ending("accuracy", *trials, objectives=[{"metric": metric, "goal": "Minimize"}])
    assert best
    assert best.trial == expected
    if tail == 0.0050:
        assert outcomes[1] == (
            Outcome.INCONCLUSIVE,
            f"not faster than the input model beyond noise: 0.50 [0.48, 0.52] of its time, {metric} 3ms → 5ms",
        )


FAST, SMALL = trial(1, 0.95, 0.001, 500, 0.5), trial(2, 0.95, 0.001, 400, 0.51)
BETTER = trial(3, 0.951, 0.001, 600, 0.51)
BY_SIZE = [{"metric": "size", "goal": "Minimize"}]


@pytest.mark.parametrize(
    ("rivals", "control", "spec", "winner"),
    [
        pytest.param([FAST, SMALL], 1.03, {}, 2, id="the smaller of two as fast"),
        pytest.param([FAST, SMALL, BETTER], 1.03, {}, 3, id="quality before size"),
        pytest.param([FAST, SMALL], 1.0, {}, 1, id="a quiet machine tells them apart"),
        pytest.param(
            [FAST, SMALL, BETTER],
            1.03,
            {"objectives": [{"metric": "latencyP50", "goal": "Minimize"}, {"metric": "size", "goal": "Minimize"}]},
            2,
            id="the next objective before quality",
        ),
        pytest.param([FAST, BETTER], 1.03, {"objectives": BY_SIZE}, 1, id="size has no noise"),
    ],
)
def test_what_noise_does_not_tell_apart_is_chosen_by_what_comes_next(
    rivals: list[TrialStatus], control: float, spec: dict, winner: int
) -> None:
    job = make_job(**spec).spec
    for trials in (rivals, rivals[::-1]):
        best = select(job, OptimizationJobStatus(trials=[BASE, *trials], control_ratio=interval(control))).best
        assert best
        assert best.trial == winner


def test_a_tie_is_explained_on_both_sides() -> None:
    assert outcome_of(2, FAST, SMALL, control=1.03)[1] == (
        "the best of the candidates that keep every promise; within noise as fast: trial 1 on ONNXRuntime; "
        "so accuracy, then size chose"
    )
    assert outcome_of(1, FAST, SMALL, control=1.03)[1] == (
        "keeps every promise; trial 2 on ONNXRuntime is as fast within noise, and its size is better or the same"
    )


BY_ACCURACY = [{"metric": "accuracy", "goal": "Maximize"}]


def test_candidates_of_one_value_are_told_apart_by_what_comes_next() -> None:
    """Where the first objective is no time: two that are as accurate are chosen from by size, untimed."""
    large, small, twin = trial(1, 0.95, 0.001, 500), trial(2, 0.95, 0.001, 400), trial(3, 0.95, 0.001, 400)
    spec, status = make_job(objectives=BY_ACCURACY).spec, OptimizationJobStatus(trials=[BASE, large, small, twin])
    assert [f.trial for f in finalists(spec, status)] == [0, 2]
    ended = select(spec, status)
    assert ended.best
    assert ended.best.trial == 2
    others = "input model on ONNXRuntime, trial 1 on ONNXRuntime, trial 3 on ONNXRuntime"
    messages = [trial.candidates[0].message for trial in ended.trials]
    assert messages[2].endswith(f"keep every promise; with the same accuracy: {others}; so size chose")
    assert messages[1].startswith("trial 2 on ONNXRuntime is at least as good in everything")
    assert "trial 2 on ONNXRuntime has the same accuracy" in messages[3]


def test_where_no_trial_made_a_model_nothing_was_compared() -> None:
    failed = TrialStatus(index=1, state=TrialState.FAILED, message="no layer 'nope'")
    skipped = TrialStatus(index=2, state=TrialState.SKIPPED, message="no layer to quantize")
    best = select(make_job().spec, OptimizationJobStatus(trials=[BASE, failed, skipped])).best
    assert best
    assert best.message == "no trial made a model to compare with the input model: 1 failed, 1 skipped"


def again(index: int, original: TrialStatus) -> TrialStatus:
    """A trial that made the same model."""
    return trial(index, 0.95, 0.0009, 500, 0.45).model_copy(update={"artifact": original.artifact})


@pytest.mark.parametrize(("original", "name"), [(FAST, "trial 1"), (BASE, "input model")])
def test_the_same_model_made_twice_is_one_candidate(original: TrialStatus, name: str) -> None:
    twin = again(2, original)
    entrants = finalists(make_job().spec, OptimizationJobStatus(trials=[BASE, FAST, twin]))
    assert [f.trial for f in entrants] == [0, 1]
    assert outcome_of(2, FAST, twin) == (Outcome.SKIPPED, f"the same model as {name} on ONNXRuntime")


@pytest.mark.parametrize(
    ("seconds", "spec", "entrants"),
    [
        pytest.param([0.001, 0.0039, 0.0041], {}, [0, 1, 2], id="four times as slow as the fastest"),
        pytest.param([0.015, 0.016], {}, [0, 1, 2], id="the input model was timed at another moment"),
        pytest.param(
            [0.001, 0.01],
            {"objectives": [*BY_SIZE, {"metric": "latencyP50", "goal": "Minimize"}]},
            [0, 1, 2],
            id="if time counts first",
        ),
    ],
)
def test_who_has_no_hope_by_its_own_timing_is_not_timed_again(
    seconds: list[float], spec: dict, entrants: list[int]
) -> None:
    trials = [trial(i, 0.95, p50, 500) for i, p50 in enumerate(seconds, 1)]
    found = finalists(make_job(**spec).spec, OptimizationJobStatus(trials=[BASE, *trials]))
    assert [f.trial for f in found] == entrants


@pytest.mark.parametrize(
    ("sizes", "entrants"),
    [
        pytest.param([700, 500, 600], [0, 2], id="the smallest is known without timing anybody"),
        pytest.param([700, 500, 500], [0, 2], id="of two as small the first"),
        pytest.param([1100], [0], id="the input model is the smallest"),
    ],
)
def test_where_no_time_was_asked_for_only_the_winner_is_timed(sizes: list[int], entrants: list[int]) -> None:
    spec = make_job(constraints=[DROP], objectives=[{"metric": "size", "goal": "Minimize"}]).spec
    ruined = trial(9, 0.5, 0.001, 10)
    trials = [BASE, *(trial(i, 0.95, 0.001, size) for i, size in enumerate(sizes, 1)), ruined]
    assert [f.trial for f in finalists(spec, OptimizationJobStatus(trials=trials))] == entrants
    timed = [replaced(t, 0.5) if t.index in entrants[1:] else t for t in trials]
    selection = select(spec, OptimizationJobStatus(trials=timed))
    assert selection.best
    assert selection.best.trial == entrants[-1]
    outcomes = [t.candidates[0].outcome for t in selection.trials if t.index not in (entrants[-1], 9)]
    assert set(outcomes) <= {Outcome.DOMINATED, Outcome.FEASIBLE}


def replaced(one: TrialStatus, ratio: float) -> TrialStatus:
    """The same, timed by the playoff."""
    entry = one.candidates[0].model_copy(update={"time_ratio": interval(ratio)})
    return one.model_copy(update={"candidates": [entry]})


@pytest.mark.parametrize(
    "constraint", [{"metric": "latencyP95", "max": "5ms"}, {"metric": "costPerMillion", "max": "1"}]
)
def test_a_bound_on_time_is_a_reason_to_time_everybody(constraint: dict) -> None:
    size = {"objectives": [{"metric": "size", "goal": "Minimize"}], "metrics": {"pricePerHour": "1"}}
    spec = make_job(constraints=[constraint], **size).spec
    trials = [BASE, *(trial(i, 0.95, 0.001, 500 + i) for i in (1, 2, 3))]
    assert [f.trial for f in finalists(spec, OptimizationJobStatus(trials=trials))] == [0, 1, 2, 3]


def measured(index: int, ratio: float | None = None, batch: float | None = None, **metrics: float) -> TrialStatus:
    entry = CandidateStatus(
        engine=EngineName.ONNXRUNTIME,
        metrics={name: str(value) for name, value in ({"latencyP50": 0.002, "size": 1000} | metrics).items()},
        time_ratio=interval(ratio) if ratio else None,
        batch_ratio=interval(batch) if batch else None,
    )
    return TrialStatus(index=index, state=TrialState.SUCCEEDED, artifact=f"sha256:{index}", candidates=[entry])


def ending(metric: str, *trials: TrialStatus, **spec: Any) -> tuple[Best | None, list[tuple[str | None, str]]]:
    """The winner and every candidate's outcome, where `metric` is the quality that counts."""
    status = OptimizationJobStatus(inspection=Inspection(quality=Metric(metric)), trials=list(trials))
    selection = select(make_job(**spec).spec, status)
    return selection.best, [(entry.outcome, entry.message) for trial in selection.trials for entry in trial.candidates]


@pytest.mark.parametrize(
    ("metric", "before", "after", "constraint", "message"),
    [
        ("cosine", 1, 0.98, {"maxDrop": "1%"}, "cosine drops by 2%, more than 1%"),
        ("mse", 0.2, 0.22, {"maxDrop": "5%"}, "mse rises by 10%, more than 5%"),
        ("mse", 0.2, 0.22, {"max": "0.21"}, "mse is 0.22, above 0.21"),
        ("custom", 0.5, 0.6, {"maxDrop": "5%"}, "custom rises by 20%, more than 5%"),
        ("custom", -2, -3, {"min": "-2.5"}, "custom is -3, below -2.5"),
        ("auroc", 0.95, 0.93, {"min": "94%"}, "auroc is 93%, below 94%"),
    ],
)
def test_each_metric_has_its_unit_and_its_drop(
    metric: str, before: float, after: float, constraint: dict, message: str
) -> None:
    custom = {"custom": {"function": "score:loss", "goal": "Minimize"}}
    trials = measured(0, 1.0, **{metric: before}), measured(1, 0.5, **{metric: after})
    _, outcomes = ending(metric, *trials, metrics=custom, constraints=[{"metric": metric, **constraint}])
    assert outcomes[1] == (Outcome.INFEASIBLE, message)


def test_the_winner_is_told_in_the_metric_that_counts() -> None:
    best, _ = ending("mse", measured(0, 1.0, mse=0.2), measured(1, 0.5, mse=0.21), constraints=[])
    assert best
    assert best.quality == "0.21 mse"
    assert best.message == "trial 1 on ONNXRuntime: 2.00x the speed, mse 0.2 → 0.21, size 1000 → 1000"


def test_throughput_is_compared_by_the_race_of_batches() -> None:
    objectives = [{"metric": "throughput", "goal": "Maximize"}]
    trials = (
        measured(0, 1.0, 1.0, accuracy=0.95, throughput=1000),
        measured(1, 0.5, 0.99, accuracy=0.95, throughput=3000),
        measured(2, 1.5, 0.6, accuracy=0.95, throughput=1500),
    )
    best, outcomes = ending("accuracy", *trials, objectives=objectives)
    assert best
    assert best.trial == 2
    assert outcomes[1] == (
        Outcome.INCONCLUSIVE,
        "not faster than the input model beyond noise: 0.99 [0.97, 1.01] of its time",
    )


@pytest.mark.parametrize(("control", "batch_control", "winner"), [(1.0, 1.2, 0), (1.5, 1.0, 1)])
def test_throughput_is_held_to_the_noise_of_batches_and_told_by_their_ratio(
    control: float, batch_control: float, winner: int
) -> None:
    status = OptimizationJobStatus(
        trials=[
            measured(0, 1.0, 1.0, accuracy=0.95, throughput=1000),
            measured(1, 0.9, 0.8, accuracy=0.95, throughput=1250),
        ],
        control_ratio=interval(control),
        batch_control_ratio=interval(batch_control),
    )
    best = select(make_job(objectives=[{"metric": "throughput", "goal": "Maximize"}]).spec, status).best
    assert best
    assert best.trial == winner
    if winner:
        assert best.speed_up == "1.25x"
        assert "1.25x the throughput" in best.message


@pytest.mark.parametrize(
    ("bound", "own"),
    [
        ({"metric": "throughput", "min": "1000"}, {"throughput": 120}),
        ({"metric": "latencyP50", "max": "1ms"}, {"latencyP50": 0.008}),
    ],
    ids=str,
)
def test_a_trials_own_timing_breaks_no_bound(bound: dict, own: dict[str, float]) -> None:
    """Trials run side by side: here they take 3 to 8 times as long as alone."""
    spec = make_job(constraints=[bound]).spec
    contended = measured(1, accuracy=0.95, **own)
    status = OptimizationJobStatus(trials=[measured(0, accuracy=0.95, throughput=900), contended])
    assert [f.trial for f in finalists(spec, status)] == [0, 1]
    assert score(spec, contended, status.trials[0])[1] == 0
