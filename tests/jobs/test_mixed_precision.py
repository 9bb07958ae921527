"""Which layers go back to floating point: in few evaluations, and with a promise kept."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import pytest

from trimtab_jobs.mixed_precision import distance, fewest, floats


@pytest.mark.parametrize(
    ("count", "needed", "evaluations", "found"),
    [
        pytest.param(10, 0, 1, 0, id="nothing to revert"),
        pytest.param(10, 3, 12, 3, id="the least"),
        pytest.param(10, 9, 12, 9, id="all but one"),
        pytest.param(10, 10, 12, None, id="nothing would remain"),
        pytest.param(1, 1, 12, None, id="one layer, and it costs too much"),
        pytest.param(1000, 3, 12, 3, id="many layers"),
        pytest.param(1000, 3, 4, 125, id="as near as the budget allows"),
        pytest.param(1000, 900, 2, None, id="the budget ends before anything holds"),
    ],
)
def test_reverts_the_fewest(count: int, needed: int, evaluations: int, found: int | None) -> None:
    asked: list[int] = []

    def holds(reverted: int) -> bool:
        asked.append(reverted)
        return reverted >= needed

    assert fewest(count, holds, evaluations) == found
    assert len(asked) <= min(evaluations, 1 + ceil(log2(count)))
    assert found is None or found in asked
    assert count not in asked


def test_what_is_found_holds_even_where_more_reverted_loses_more() -> None:
    erratic = {0: False, 5: True, 2: False, 3: False, 4: True}
    assert fewest(10, erratic.__getitem__, 12) == 4


def test_distance_is_noise_to_signal() -> None:
    answer = [np.array([3.0, 4.0])]
    assert distance(answer, answer) == 0
    assert distance(answer, [np.array([3.0, 3.0])]) == pytest.approx(1 / 25)
    assert distance(answer, [np.array([np.nan, 4.0])]) == np.inf
    assert distance(answer, [np.array([3.0])]) == np.inf


def test_only_numbers_that_can_move_are_compared() -> None:
    kept = floats([np.ones(2, np.float16), np.arange(3)])
    assert [one.dtype for one in kept] == [np.float64]
