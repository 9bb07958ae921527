"""The playoff's loop and statistics, with a clock whose time is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from trimtab_jobs.timing import Bounds, race, ratio


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


QUICK = Bounds(rounds=12, calls_per_turn=3, warm_up_calls=2)


def test_turns_go_there_and_back_and_see_the_same_samples() -> None:
    machine = Machine()
    race([machine.model(name, 0.001) for name in "ABC"], QUICK, machine.clock)
    warm_up, first_round = machine.calls[:9], machine.calls[9:33]
    assert "".join(name for name, _ in warm_up) == "AAABBBCCC"
    assert "".join(name for name, _ in first_round) == "AAAABBBBCCCCCCCCBBBBAAAA"
    assert {name: [s for n, s in first_round if n == name] for name in "ABC"} == dict.fromkeys("ABC", [0, 0, 1, 2] * 2)


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


def test_percentiles_are_over_all_calls() -> None:
    machine = Machine(lambda now: 1.0 if now < 0.05 else 10.0)
    raced = race([machine.model("m", 0.001)], QUICK, machine.clock)
    assert raced.percentile(0, 50) == pytest.approx(0.01)
    assert raced.percentile(0, 5) == pytest.approx(0.001)
