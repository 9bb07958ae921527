"""What every search algorithm must do, and what each adds."""

from __future__ import annotations

import pytest

from trimtab.api.job import Algorithm
from trimtab.api.techniques import Step, chosen, chosen_int, chosen_number
from trimtab.search import Exploration, propose
from trimtab.space import Point, Tried, canonical, fix, locate, space, span, words

CHAIN = [
    Step.model_validate({"optional": True, "prune": {"ratio": {"min": "0.1", "max": "0.6"}}}),
    Step.model_validate({"distill": {"epochs": {"values": [2, 4]}, "learningRate": {"values": ["0.001"]}}}),
    Step.model_validate({"quantize": {"operatorScope": ["All", "Compute"], "perChannel": [True, False]}}),
]
FINITE = [Step.model_validate({"quantize": {"operatorScope": ["All", "Compute"], "perChannel": [True, False]}})]
every_algorithm = pytest.mark.parametrize("algorithm", [Algorithm.GRID, Algorithm.RANDOM, Algorithm.BAYESIAN])


def run(
    steps: list[Step], algorithm: Algorithm, trials: int, seed: int = 0, first: tuple[Point, ...] = ()
) -> list[Point]:
    """Propose one after another, each trial finished with a cost before the next."""
    history: list[Tried] = []
    while len(history) < trials:
        point = propose(Exploration(steps, algorithm, first), seed, len(history) + 1, history)
        if point is None:
            break
        history.append(Tried(point, float(len(canonical(point)) + len(history) % 3)))
    return [tried.point for tried in history]


@every_algorithm
def test_the_same_history_gives_the_same_proposals(algorithm: Algorithm) -> None:
    assert run(CHAIN, algorithm, 8) == run(CHAIN, algorithm, 8)


@every_algorithm
def test_no_point_is_proposed_twice_and_a_finite_space_is_covered(algorithm: Algorithm) -> None:
    points = run(FINITE, algorithm, 99)
    assert len(points) == len({canonical(p) for p in points}) == 4


@every_algorithm
def test_every_proposal_can_be_fixed(algorithm: Algorithm) -> None:
    for point in run(CHAIN, algorithm, 8):
        steps = fix(CHAIN, point)
        assert [s.technique for s in steps][-2:] == ["distill", "quantize"]
        assert chosen_int(steps[-2].distill.epochs) in (2, 4)
        if steps[0].prune:
            assert 0.1 <= chosen_number(steps[0].prune.ratio) <= 0.6


@every_algorithm
def test_a_running_trial_is_not_proposed_again(algorithm: Algorithm) -> None:
    history = [Tried(point) for point in run(FINITE, algorithm, 3)]
    point = propose(Exploration(FINITE, algorithm), 0, 4, history)
    assert point is not None
    assert canonical(point) not in {canonical(t.point) for t in history}


FIRST: tuple[Point, ...] = (
    {"quantize.operatorScope": "Compute", "quantize.perChannel": "false"},
    {"quantize.operatorScope": "All", "quantize.perChannel": "false"},
)


@pytest.mark.parametrize(
    ("algorithm", "begins", "count"),
    [
        (Algorithm.RECIPE, FIRST, 2),
        (Algorithm.RANDOM, FIRST, 4),
        (Algorithm.BAYESIAN, FIRST, 4),
        (Algorithm.GRID, ({"quantize.operatorScope": "All", "quantize.perChannel": "true"},), 4),
    ],
)
def test_a_search_begins_with_the_recipes_points_and_the_recipe_ends_with_them(
    algorithm: Algorithm, begins: tuple[Point, ...], count: int
) -> None:
    points = run(FINITE, algorithm, 99, first=FIRST)
    assert points[: len(begins)] == list(begins)
    assert len(points) == count


@pytest.mark.parametrize("algorithm", [Algorithm.RANDOM, Algorithm.BAYESIAN])
def test_the_seed_matters(algorithm: Algorithm) -> None:
    assert run(CHAIN, algorithm, 6, seed=1) != run(CHAIN, algorithm, 6, seed=2)


def test_the_grid_turns_the_last_setting_fastest() -> None:
    assert [tuple(p.values()) for p in run(FINITE, Algorithm.GRID, 4)] == [
        ("All", "true"),
        ("All", "false"),
        ("Compute", "true"),
        ("Compute", "false"),
    ]


def test_bayesian_finds_a_better_half_sooner_than_random() -> None:
    """Thirty trials on a smooth bowl, over twenty seeds: TPE's best is closer to the minimum more often than not."""
    bowl = [Step.model_validate({"prune": {"ratio": {"min": "0.0", "max": "1.0"}}})]

    def best(algorithm: Algorithm, seed: int) -> float:
        history: list[Tried] = []
        for index in range(1, 16):
            point = propose(Exploration(bowl, algorithm), seed, index, history)
            assert point
            history.append(Tried(point, (float(point["prune.ratio"]) - 0.7) ** 2))
        return min(t.value for t in history if t.value is not None)

    wins = sum(best(Algorithm.BAYESIAN, seed) <= best(Algorithm.RANDOM, seed) for seed in range(20))
    assert wins >= 12


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        ([{"quantize": {"operatorScope": ["All"]}}], []),
        ([{"quantize": {}}], ["quantize.operatorScope"]),
        ([{"optional": True, "quantize": {"operatorScope": ["All"]}}], ["quantize.enabled"]),
        ([{"prune": {"ratio": {"values": ["0.2", "0.4"]}}}] * 2, ["prune.ratio", "prune2.ratio"]),
    ],
)
def test_only_what_varies_is_searched(steps: list[dict], names: list[str]) -> None:
    assert [d.name for d in space([Step.model_validate(s) for s in steps])] == names


def test_a_step_left_out_takes_its_settings_with_it() -> None:
    assert canonical({"prune.enabled": "false", "prune.ratio": "0.3", "quantize.perChannel": "true"}) == (
        ("prune.enabled", "false"),
        ("quantize.perChannel", "true"),
    )
    steps = fix(CHAIN, {"prune.enabled": "false"})
    assert [s.technique for s in steps] == ["distill", "quantize"]
    assert chosen(steps[1].quantize.per_channel) is True


@every_algorithm
def test_every_pipeline_is_found_again_in_its_space(algorithm: Algorithm) -> None:
    for point in run(CHAIN, algorithm, 8):
        assert canonical(locate(CHAIN, fix(CHAIN, point)) or {}) == canonical(point)


def steps(*given: dict) -> list[Step]:
    return [Step.model_validate(step) for step in given]


STATIC = {"quantize": {"operatorScope": ["Compute"]}}
PRUNED = {"prune": {"ratio": {"values": ["0.3"]}}}


@pytest.mark.parametrize(
    ("space_of", "pipeline", "point"),
    [
        ([{"quantize": {}}], [STATIC], {"quantize.operatorScope": "Compute"}),
        ([{"quantize": {"operatorScope": ["All"]}}], [STATIC], None),
        ([STATIC | {"optional": True}], [], {"quantize.enabled": "false"}),
        ([STATIC], [], None),
        ([STATIC], [STATIC, STATIC], None),
        ([PRUNED, STATIC], [STATIC, PRUNED], None),
        ([{"prune": {"ratio": {"min": "0.1", "max": "0.5"}}}], [PRUNED], {"prune.ratio": "0.3"}),
        ([{"prune": {"ratio": {"min": "0.4", "max": "0.5"}}}], [PRUNED], None),
        (
            [{"quantize": {"operatorScope": ["All"]}, "optional": True}, STATIC | {"optional": True}],
            [STATIC],
            {"quantize.enabled": "false", "quantize2.enabled": "true"},
        ),
    ],
)
def test_a_pipeline_lies_in_a_space_or_not(space_of: list[dict], pipeline: list[dict], point: Point | None) -> None:
    assert locate(steps(*space_of), steps(*pipeline)) == point


def test_a_span_holds_every_pipeline_it_was_made_of() -> None:
    pruned, compute, every = steps(PRUNED, STATIC, {"quantize": {"operatorScope": ["All"]}})
    dynamic = steps({"quantize": {"method": ["Dynamic"], "operatorScope": ["All"]}})[0]
    rows = [(None, compute, None), (pruned, every, None), (pruned, None, None), (None, compute, dynamic)]
    spanned = span(rows)
    assert [(step.technique, step.optional) for step in spanned] == [
        ("prune", True),
        ("quantize", True),
        ("quantize", True),
    ]
    pipelines = [[step for step in row if step] for row in rows]
    points = [locate(spanned, pipeline) for pipeline in pipelines]
    assert [None if point is None else fix(spanned, point) for point in points] == pipelines


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (
            {"quantize.operatorScope": "All", "quantize.perChannel": "true"},
            "quantize operatorScope=All perChannel=true",
        ),
        ({"prune.enabled": "false", "prune.ratio": "0.3", "distill.enabled": "true"}, "distill"),
        ({"prune.enabled": "true", "prune.ratio": "0.3", "quantize.enabled": "true"}, "prune ratio=0.3, quantize"),
        ({}, "the pipeline as given"),
    ],
)
def test_people_read_the_steps_that_are_taken(point: Point, text: str) -> None:
    assert words(point) == text
