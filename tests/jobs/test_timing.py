"""The playoff's loop and statistics, with a clock whose time is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from trimtab_jobs.timing import Bounds, Race, race, ratio


@dataclass
class Machine:
    """A clock that models advance: each call takes its model's seconds, times how busy the machine is then."""

    busy: Callable[[float], float] = lambda now: 1.0
    now: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def model(self, name: str, seconds: float) -> Callable[[int], None]:
        def call(sample: int) -> None:
            self.calls.append((name, sample))
            self.now += seconds * self.busy(self.now)

        return call


QUICK = Bounds(rounds=12, calls_per_turn=3, least_turn_seconds=0.0, warm_up_calls=2)


def test_turns_go_there_and_back_and_see_the_same_samples() -> None:
    machine = Machine()
    race([machine.model(name, 0.001) for name in "ABC"], QUICK, machine.clock)
    warm_up, first_round = machine.calls[:9], machine.calls[9:33]
    assert "".join(name for name, _ in warm_up) == "AAABBBCCC"
    assert "".join(name for name, _ in first_round) == "AAAABBBBCCCCCCCCBBBBAAAA"
    assert {name: [s for n, s in first_round if n == name] for name in "ABC"} == dict.fromkeys("ABC", [0, 0, 1, 2] * 2)


@pytest.mark.parametrize(
    ("fast", "expected"),
    [
        pytest.param(0.00001, 1000, id="turns of the fastest last ten milliseconds"),
        pytest.param(0.0009, 12, id="and a whole number of calls"),
        pytest.param(0.002, 10, id="a slow model has its calls"),
    ],
)
def test_a_turn_is_long_enough_and_has_the_same_calls_for_all(fast: float, expected: int) -> None:
    machine = Machine()
    bounds = Bounds(rounds=2, calls_per_turn=10, turn_seconds=10.0)
    raced = race([machine.model("slow", 3 * fast), machine.model("fast", fast)], bounds, machine.clock)
    assert [[len(calls) for calls in rounds] for rounds in raced.times] == [[2 * expected] * 2] * 2


@pytest.mark.parametrize(
    "busy",
    [
        lambda now: 1.0,
        lambda now: 1.0 + now,  # ever slower, as a machine that gets hot
        lambda now: 1.0 + (now % 0.3 > 0.2),  # a neighbour that comes and goes
        lambda now: 3.0 if now > 0.4 else 1.0,  # a step
    ],
)
def test_the_ratio_is_the_models_whatever_the_machine_does(busy: Callable[[float], float]) -> None:
    machine = Machine(busy)
    raced = race([machine.model("base", 0.002), machine.model("half", 0.001)], QUICK, machine.clock)
    found = ratio(raced.medians(1), raced.medians(0), seed=1)
    assert float(found.estimate) == pytest.approx(0.5, rel=0.05)
    assert float(found.low) <= float(found.estimate) <= float(found.high)


def test_the_interval_covers_the_true_ratio() -> None:
    rng = np.random.default_rng(3)
    times = rng.lognormal(0, 0.1, size=(2, 500, 40)) * np.array([1.0, 0.9])[:, None, None]
    found = [ratio(times[1, run], times[0, run], seed=run) for run in range(500)]
    covered = np.mean([float(interval.low) <= 0.9 <= float(interval.high) for interval in found])
    assert 0.92 <= covered <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    times = np.random.default_rng(0).lognormal(size=(2, 30))
    assert ratio(times[0], times[1], seed=5) == ratio(times[0], times[1], seed=5)


def test_time_runs_out_only_after_enough_rounds() -> None:
    bounds = Bounds(rounds=40, min_rounds=10, calls_per_turn=10, turn_seconds=0.1, seconds=1.0)
    machine = Machine()
    slow = race([machine.model("slow", 1.0), machine.model("slower", 2.0)], bounds, machine.clock)
    assert [len(rounds) for rounds in slow.times] == [10, 10]
    assert all(len(calls) == 2 for calls in slow.times[0])
    machine = Machine()
    quick = race([machine.model("quick", 0.0001)], bounds, machine.clock)
    assert [len(rounds) for rounds in quick.times] == [40]


def rounds(raced: Race) -> list[int]:
    return [len(times) for times in raced.times]


def test_who_is_clearly_slower_leaves_after_the_least_rounds_and_keeps_its_ratio() -> None:
    machine = Machine(lambda now: 1.0 + (now % 0.3 > 0.2))
    models = [machine.model(name, seconds) for name, seconds in (("base", 0.002), ("half", 0.001), ("slow", 0.003))]
    raced = race(models, Bounds(rounds=40, min_rounds=10, calls_per_turn=3), machine.clock, droppable={1, 2})
    assert rounds(raced) == [40, 40, 10]
    assert float(ratio(raced.medians(2), raced.medians(0), seed=1).estimate) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "droppable", "expected"),
    [
        pytest.param([0.002, 0.001, 0.00101], {1, 2}, [40, 40, 40], id="two that noise does not tell apart"),
        pytest.param([0.001, 0.002, 0.003], {1, 2}, [10, 10, 10], id="all but the baseline leave, and it is over"),
        pytest.param([0.002, 0.001, 0.003], {1}, [40, 40, 40], id="the control stays however slow"),
        pytest.param([0.002, 0.001, 0.003], (), [40, 40, 40], id="nobody may be dropped"),
    ],
)
def test_who_stays(seconds: list[float], droppable: set[int], expected: list[int]) -> None:
    rng = np.random.default_rng(1)
    machine = Machine(lambda now: rng.lognormal(0, 0.05))
    models = [machine.model("m", each) for each in seconds]
    bounds = Bounds(rounds=40, min_rounds=10, calls_per_turn=3, least_turn_seconds=0.0)
    assert rounds(race(models, bounds, machine.clock, droppable)) == expected


def test_the_interval_of_a_dropped_one_still_covers() -> None:
    """Dropping looks at the times it judges; the interval must not have become narrower than it claims."""
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(30):
        machine = Machine(lambda now: rng.lognormal(0, 0.1))
        models = [machine.model("base", 0.001), machine.model("slow", 0.0012), machine.model("fast", 0.0008)]
        raced = race(models, Bounds(rounds=20, min_rounds=10, calls_per_turn=1), machine.clock, {1, 2})
        found = ratio(raced.medians(1), raced.medians(0), seed=0)
        covered.append(float(found.low) <= 1.2 <= float(found.high))
    assert np.mean(covered) >= 0.8


def test_percentiles_are_over_all_calls() -> None:
    machine = Machine(lambda now: 1.0 if now < 0.05 else 10.0)
    raced = race([machine.model("m", 0.001)], QUICK, machine.clock)
    assert raced.percentile(0, 50) == pytest.approx(0.01)
    assert raced.percentile(0, 5) == pytest.approx(0.001)
