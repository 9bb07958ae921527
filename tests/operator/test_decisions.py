"""Given the same recorded measurements the decisions are identical, in whatever order and pieces they arrive."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, Quality, World, broken, lost, make_job, make_runtime
from trimtab.api.job import Algorithm, OptimizationJob
from trimtab.api.model import EngineName
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import ErrorKind, Stage
from trimtab.decisions import Observed, ObservedWork, Work, WorkState
from trimtab.reconcile import reconcile

SPACE = [
    {"quantize": {"operatorScope": ["All", "Compute"], "method": ["Static", "Dynamic"], "perChannel": [True, False]}}
]
STAGES = list(Stage)
quick = settings(max_examples=20, deadline=None)


@dataclass(frozen=True)
class Fate:
    """What becomes of every pod of a job: drawn from its name alone, so that a replay draws the same."""

    seed: int

    def truth(self, point: Mapping[str, str], engine: EngineName) -> Quality:
        draw = random.Random(f"{self.seed}/{sorted(point.items())}/{engine}")
        return Quality(draw.choice([0.95, 0.945, 0.93, 0.2]), draw.uniform(0.3, 1.3), draw.randrange(100, 1000))

    def sabotage(self, work: Work) -> ObservedWork | None:
        fate = random.Random(f"{self.seed}/{work.name}").random()
        if work.task.stage != Stage.TRIAL or fate < 0.7:
            return None
        if fate < 0.85:
            return lost(work)
        report = broken(Stage.TRIAL, ErrorKind.PERMANENT, "opset 7: export it with 13", work.task.trial)
        return ObservedWork(work, WorkState.FAILED, report)


def a_job(algorithm: Algorithm, parallelism: int = 2) -> OptimizationJob:
    return make_job(
        target={"engines": ["ONNXRuntime", "OpenVINO"]},
        techniques=None if algorithm == Algorithm.RECIPE else SPACE,
        search={"algorithm": algorithm.value, "maxTrials": 6, "parallelism": parallelism},
    )


def ended(fate: Fate, job: OptimizationJob) -> World:
    world = World(job, fate.truth, sabotage=fate.sabotage)
    world.run()
    return world


def decided(status: OptimizationJobStatus) -> object:
    return status.trials, status.best, status.nearest_miss, status.claim, status.state


algorithms = st.sampled_from([Algorithm.GRID, Algorithm.RANDOM, Algorithm.RECIPE])
fates = st.builds(Fate, st.integers(0, 10_000))


@quick
@given(fates, algorithms, st.randoms(use_true_random=False))
def test_the_order_of_what_is_observed_does_not_matter(fate: Fate, algorithm: Algorithm, rng: random.Random) -> None:
    world = ended(fate, a_job(algorithm))
    works = list(world.works.values())
    shuffled = rng.sample(works, len(works))
    job = a_job(algorithm)
    seen, again = (reconcile(job, Observed(make_runtime(), tuple(some)), NOW) for some in (works, shuffled))
    assert seen == again
    assert decided(seen.status) == decided(world.job.status)


@quick
@given(fates, algorithms, st.randoms(use_true_random=False))
def test_results_may_arrive_in_pieces(fate: Fate, algorithm: Algorithm, rng: random.Random) -> None:
    """A few at a time, each piece decided on and written, in any order that respects the stages."""
    world = ended(fate, a_job(algorithm))
    works = sorted(world.works.values(), key=lambda seen: (STAGES.index(seen.work.task.stage), rng.random()))
    job = a_job(algorithm)
    for count in (*sorted(rng.sample(range(1, len(works) + 1), min(4, len(works)))), len(works)):
        status = reconcile(job, Observed(make_runtime(), tuple(works[:count])), NOW).status
        job = job.model_copy(update={"status": OptimizationJobStatus.model_validate(status.wire())})
    assert decided(job.status) == decided(world.job.status)


@quick
@given(fates, algorithms, st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_proposals_depend_on_nothing_that_trials_do(
    fate: Fate, algorithm: Algorithm, parallelism: int, rng: random.Random
) -> None:
    """Not on how many run at a time, which ends first, or how well they do."""
    world = World(a_job(algorithm, parallelism), fate.truth)
    world.sabotage = lambda work: ObservedWork(work, WorkState.ACTIVE) if work.task.stage == Stage.TRIAL else None
    while world.job.status.state != "Benchmarking" and not world.job.status.playoff_done:
        world.step()
        active = [name for name, seen in world.works.items() if seen.state == WorkState.ACTIVE]
        for name in rng.sample(active, min(1, len(active))):
            work = world.works[name].work
            world.works[name] = fate.sabotage(work) or world.succeed(work)
    proposed = [trial.settings for trial in world.job.status.trials]
    assert proposed == [trial.settings for trial in ended(Fate(0), a_job(algorithm, 1)).job.status.trials]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_two_runs_of_the_same_measurements_are_one(algorithm: Algorithm) -> None:
    first, second = (ended(Fate(1), a_job(algorithm)) for _ in range(2))
    assert first.job.status == second.job.status
    assert first.started == second.started
