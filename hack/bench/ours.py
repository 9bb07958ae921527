"""Our side of the bench: the zero-configuration run, as a person types it, and what its folder says afterwards.

Where a run's time went is read from the times of its files: a piece of work ends when its message is written, and
before that it was inside techniques and measurements for as long as its report says. For Inspect and a trial that is
every step (the imports of its technique included, and of a skipped trial what it took to find that there is nothing to
do) and every measurement on an engine: loading, answering the evaluation split, timing, peak memory. For the playoff
and Publish, which do nothing but time and judge, it is all but their start. What the union of those spans leaves of the
wall time is our own overhead: start-up, imports, looking at the model, reading, hashing, deciding, the report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.spawn import Limits, Ran, spawn

Span = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """A run that ended, and the same run asked for again."""

    ran: Ran
    again: Ran
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    @property
    def winner(self) -> dict[str, Any]:
        """The contestant of this run."""
        won = self.report["winner"]
        folder = self.folder / "store/artifacts" / won["artifact"].removeprefix("sha256:")
        model = json.loads((folder / "model.json").read_text())
        made = {"format": model["format"], "details": model["details"]}
        return {"name": "trimtab", "folder": str(folder), "engine": won["engine"], **made}

    @property
    def choice(self) -> str:
        """What won, in words."""
        won = self.report["winner"]["name"]
        settings = next(one["settings"] for one in self.report["candidates"] if one["name"] == won)
        return ", ".join([won, *(f"{key}={value}" for key, value in settings.items())])

    @property
    def overhead(self) -> float:
        """Seconds of the wall time that were spent outside techniques and measurements."""
        return self.ran.seconds - union(list(busy(self.folder)))


def optimize(problem: Path, out: Path, limits: Limits) -> Run:
    """`trimtab optimize` with nothing but the model and the data, and once more."""
    out.mkdir(parents=True, exist_ok=True)
    trimtab = Path(sys.executable).with_name("trimtab")
    words: list[str | Path] = [trimtab, "optimize", problem / "model/model.onnx", "--data", problem]
    words += ["--out", out / "run"]
    ran = spawn(words, out / "log", limits)
    again = ran if ran.failure else spawn(words, out / "log-again", limits)
    return Run(ran, again, out / "run")


def busy(folder: Path) -> Iterator[Span]:
    """When each piece of work was inside techniques and measurements.

    A trial that was given up has no message; it was inside its techniques until the playoff, which waits for its end.
    """
    playoff = next(folder.glob("work/*-playoff-*/task.json"), None)
    for task in folder.glob("work/*/task.json"):
        message = task.with_name("message")
        if not message.exists():
            if playoff:
                yield task.stat().st_mtime, playoff.stat().st_mtime
            continue
        report = json.loads(message.read_text())
        ended = message.stat().st_mtime
        yield ended - _working(report), ended


def _working(report: dict[str, Any]) -> float:
    if report["stage"] in ("Playoff", "Publish"):
        return float(report.get("seconds", 0.0))
    parts = [*report.get("steps", []), *report.get("measurements", [])]
    return float(sum(part.get("seconds", 0.0) for part in parts))


def union(spans: list[Span]) -> float:
    """How long at least one span lasted."""
    total, reached = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, reached))
        reached = max(reached, ended)
    return total
