"""What the bench found, as tables: each model's contestants, and ours beside an ideal selector over the others.

A contestant is feasible if it passes the gate on the evaluation split, which it saw, and the holdout split does not
refute it. The ideal selector knows the fastest feasible peer of each model in advance, the input model in both engines
included; no tool can choose better among what the peers make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log

Range = tuple[float, float, float]
"""An estimate and its 95% interval."""
OURS, FP32, CONTROL = "trimtab", "fp32", "control"


@dataclass(frozen=True)
class Row:
    """One contestant on one model. Drops are fractions: 0.01 is a point."""

    name: str
    seconds: float = 0.0
    """What its optimization took."""
    peak_memory: int = 0
    size: int = 0
    drop: float = 0.0
    """On evaluation, which the tools saw."""
    holdout: Range = (0.0, 0.0, 0.0)
    time: Range | None = None
    """Relative to the input model in ONNX Runtime. None if it could not be run."""
    ours: Range | None = None
    """The time of our model relative to this one's, round by round in the same race."""
    failure: str = ""

    def feasible(self, max_drop: float) -> bool:
        return self.time is not None and self.drop <= max_drop and self.holdout[1] <= max_drop


@dataclass(frozen=True)
class Found:
    """One model's bench."""

    model: str
    metric: str
    max_drop: float
    rows: Sequence[Row]
    choice: str = ""
    """What our run chose."""
    overhead: float = 0.0
    """Seconds of our run outside techniques and measurements."""
    again: float = 0.0
    """Seconds of our run when asked for again."""

    def row(self, name: str) -> Row:
        return next((row for row in self.rows if row.name == name), Row(name, failure="was not run"))

    def time(self, name: str) -> float:
        """With the input model as what everybody falls back on who has nothing feasible."""
        row = self.row(name)
        return row.time[0] if row.time and row.feasible(self.max_drop) else 1.0

    @property
    def peers(self) -> list[str]:
        return [row.name for row in self.rows if row.name not in (OURS, CONTROL)]

    @property
    def selected(self) -> str:
        """The ideal selector's choice."""
        return min(self.peers, key=self.time)

    @property
    def noise(self) -> float:
        """How far the control's interval is from 1."""
        _, low, high = self.row(CONTROL).time or (1.0, 1.0, 1.0)
        return max(high - 1, 1 - low)

    @property
    def beside(self) -> Range:
        """Our time relative to the selector's choice: measured, or against the input model if ours was refused."""
        ours, chosen = self.row(OURS), self.row(self.selected)
        if ours.feasible(self.max_drop) and chosen.ours:
            return chosen.ours
        behind = 1 / self.time(self.selected)
        return behind, behind, behind

    @property
    def verdict(self) -> str:
        _, low, high = self.beside
        if low > 1 + self.noise:
            return "behind"
        return "ahead" if high < 1 - self.noise else "level"


def page(found: Sequence[Found], about: str) -> str:
    """The whole result in Markdown."""
    parts = ["# What `make bench-optimize` found", about, *summary(found)]
    for one in found:
        parts += [f"## {one.model}", *_told(one), "\n".join(table(one))]
    return "\n\n".join(parts) + "\n"


def summary(found: Sequence[Found]) -> Iterator[str]:
    head = [
        "| model | ours | ideal selector | its choice | ours to it | | overhead | again |",
        "|---|---|---|---|---|---|---|---|",
    ]
    yield "\n".join([*head, *map(_summed, found)])
    ours, ideal = (
        geomean(times) for times in zip(*((one.time(OURS), one.time(one.selected)) for one in found), strict=True)
    )
    alone = ", ".join(f"{name} {geomean([one.time(name) for one in found]):.3f}" for name in found[0].peers)
    yield (
        f"Geometric means over {len(found)} models, relative to FP32 in ONNX Runtime: {OURS} {ours:.3f}, the ideal "
        f"selector {ideal:.3f}, ours to it {ours / ideal:.3f}. Each alone, with FP32 to fall back on: {alone}."
    )


def _summed(one: Found) -> str:
    share = one.overhead / max(one.row(OURS).seconds, 1e-9)
    times = f"{one.time(OURS):.3f} | {one.time(one.selected):.3f}"
    beside = f"{_range(one.beside)} | {one.verdict}"
    return f"| {one.model} | {times} | {one.selected} | {beside} | {share:.0%} | {one.again:.1f} s |"


def table(one: Found) -> list[str]:
    head = [
        "| | time | drop, evaluation | drop, holdout | size | optimized in | peak memory | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return [*head, *(_line(row, one.max_drop) for row in one.rows)]


def _line(row: Row, max_drop: float) -> str:
    if row.time is None:
        return f"| {row.name} | | | | | {row.seconds:.0f} s | {_mega(row.peak_memory)} | {row.failure} |"
    low, high = (f"{100 * edge:+.2f}" for edge in row.holdout[1:])
    return (
        f"| {row.name} | {_range(row.time)} | {100 * row.drop:+.2f} | {100 * row.holdout[0]:+.2f} [{low}, {high}] "
        f"| {_mega(row.size)} | {row.seconds:.0f} s | {_mega(row.peak_memory)} | {_kept(row, max_drop)} |"
    )


def _kept(row: Row, max_drop: float) -> str:
    """The gate is on the evaluation split, for everybody; the holdout then says what it let through."""
    if row.name == CONTROL or row.feasible(max_drop):
        return "" if row.holdout[0] <= max_drop else "more on the holdout"
    return "loses too much"


def _told(one: Found) -> list[str]:
    return [f"Quality is {one.metric}, drops are in points. Our choice: {one.choice or 'none'}."]


def _range(found: Range) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found)


def _mega(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count else ""


def geomean(values: Sequence[float]) -> float:
    return exp(sum(map(log, values)) / len(values))
