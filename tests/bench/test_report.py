"""The bench's arithmetic: who is feasible, what the ideal selector chooses, how far ours is from it."""

from __future__ import annotations

import pytest

from bench.ours import union
from bench.report import CONTROL, FP32, OURS, Found, Row, page

SAME = (1.0, 1.0, 1.0)


def row(name: str, time: float, drop: float = 0.0, holdout: float = 0.0, ours: float = 1.0) -> Row:
    around = (holdout, holdout - 0.002, holdout + 0.002)
    return Row(name, 1.0, 0, 0, drop, around, (time, time - 0.01, time + 0.01), (ours, ours - 0.01, ours + 0.01))


def found(*rows: Row) -> Found:
    control = Row(CONTROL, time=(1.0, 0.98, 1.01))
    return Found("m", "accuracy", 0.01, [Row(FP32, time=SAME, ours=SAME), control, *rows], overhead=0.05)


@pytest.mark.parametrize(
    ("rows", "selected", "verdict"),
    [
        ([row(OURS, 0.5), row("a", 0.6, ours=0.8), row("b", 0.4, drop=0.02)], "a", "ahead"),
        ([row(OURS, 0.5), row("a", 0.6, ours=0.8), row("b", 0.4, holdout=0.02, ours=1.2)], "a", "ahead"),
        ([row(OURS, 0.5), row("a", 0.4, holdout=0.011, ours=1.25)], "a", "behind"),
        ([row(OURS, 0.5), row("a", 0.49, ours=1.02)], "a", "level"),
        ([row(OURS, 0.5, drop=0.3), row("a", 0.6, ours=0.8)], "a", "behind"),
        ([row(OURS, 1.0), Row("a", failure="crashed")], FP32, "level"),
        ([Row(OURS, failure="crashed"), row("a", 0.7)], "a", "behind"),
    ],
    ids=["ahead", "refuted", "not refuted", "within noise", "ours refused", "nothing gained", "ours crashed"],
)
def test_ours_beside_an_ideal_selector(rows: list[Row], selected: str, verdict: str) -> None:
    one = found(*rows)
    assert (one.selected, one.verdict) == (selected, verdict)


def test_a_page_says_what_failed_and_what_was_refused() -> None:
    told = page([found(row(OURS, 0.5), row("a", 0.4, drop=0.2), Row("b", failure="not done after 900 s"))], "here")
    assert "| b | | | | | 0 s |  | not done after 900 s |" in told
    assert "trimtab 0.500, the ideal selector 1.000, ours to it 0.500" in told
    assert told.count("loses too much") == 1


def test_time_at_work_is_counted_once_where_pieces_overlap() -> None:
    assert union([(0, 2), (1, 3), (5, 6), (5.5, 5.6)]) == 4
    assert union([]) == 0
