"""Outcomes and winners, from measurements alone."""

from __future__ import annotations

import pytest

from builders import interval, make_job
from trimtab.api.model import EngineName
from trimtab.api.status import CandidateStatus, OptimizationJobStatus, Outcome, TrialState, TrialStatus
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


def outcome_of(index: int, *trials: TrialStatus, **spec) -> tuple[Outcome | None, str]:
    selection = select(make_job(**spec).spec, OptimizationJobStatus(trials=[BASE, *trials]))
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


def test_a_trade_off_is_no_dominance() -> None:
    fast, small = trial(1, 0.95, 0.001, 900, 0.5), trial(2, 0.95, 0.0012, 300, 0.6)
    assert outcome_of(2, fast, small)[0] == Outcome.FEASIBLE


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
    ruined, rivals = trial(1, 0.2, 0.001, 1), [trial(i, 0.95, 0.001 * i, 500) for i in range(2, 30)]
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
    assert selection.trials[2].candidates[0].message == "not measured in the playoff"
