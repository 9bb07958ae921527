"""The models that the tools made, judged alike in one process: quality on both splits, then one interleaved race.

The input model in ONNX Runtime is what times are relative to, and races against itself as the control. The same race
and the same judge as a job's playoff and claim: `trimtab_jobs.timing`, `trimtab_jobs.claim`.

    python -m bench.compare FOLDER CONTESTANTS.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.problem import Problem
from bench.report import CONTROL, FP32, OURS, Range, Row
from trimtab.api.metrics import Metrics
from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.status import Interval
from trimtab_jobs.claim import Compared, bootstrap, matched, paired_drop
from trimtab_jobs.data import Split
from trimtab_jobs.engines import Session
from trimtab_jobs.evaluate import caller
from trimtab_jobs.metrics import Rows
from trimtab_jobs.model import Model
from trimtab_jobs.timing import race, ratio


class Bench:
    """A problem and the original's answers to it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.before = {split.name: self._rows(problem.original, split) for split in self._splits}

    @property
    def _splits(self) -> tuple[Split, Split]:
        return self.problem.splits.evaluation, self.problem.splits.holdout

    def _rows(self, session: Session, split: Split) -> Rows:
        return self.problem.judge.rows(session, split)[self.problem.metric]

    def judge(self, name: str, session: Session) -> Row:
        drops = [self._drop(session, split) for split in self._splits]
        return Row(name, size=session.size, drop=drops[0][0], holdout=drops[1])

    def _drop(self, session: Session, split: Split) -> Range:
        judge, metric, rows = self.problem.judge, self.problem.metric, self._rows(session, split)
        value = judge.qualities[metric].value
        pair = Compared(metric, value, Metrics(), split.labels, self.before[split.name], rows)
        boolean = rows[0].dtype == bool
        found = paired_drop(*matched(pair.baseline[0], pair.winner[0])) if boolean else bootstrap(pair, seed=0)[0]
        return _range(found)


def compare(problem: Problem, contestants: list[dict[str, Any]]) -> list[Row]:
    """Everybody's quality, and the time of everybody who answers. The last is the control."""
    bench = Bench(problem)
    sessions: dict[str, Session] = {FP32: problem.original}
    judged = {FP32: Row(FP32, size=problem.original.size)}
    for one in contestants:
        name = one["name"]
        try:
            model = Model(Path(one["folder"]), ModelFormat(one["format"]), one.get("details", {}))
            session = problem.load(model, EngineName(one["engine"]))
            judged[name] = bench.judge(name, session)
            sessions[name] = session
        except Exception as error:  # a tool's model that cannot be run is that tool's result
            judged[name] = Row(name, failure=" ".join(str(error).split())[:160])
    times, ours = timed(problem, sessions)
    named = {name: judged.get(name, Row(name)) for name in times}
    raced = {name: replace(named[name], time=times[name], ours=ours.get(name)) for name in times}
    return list((judged | raced).values())


def timed(problem: Problem, sessions: dict[str, Session]) -> tuple[dict[str, Range], dict[str, Range]]:
    """Everybody's time relative to the input model's, and ours relative to everybody's."""
    entrants = sessions | {CONTROL: problem.load(problem.model)}
    raced = race([caller(session, problem.splits.evaluation) for session in entrants.values()])
    medians = {name: raced.medians(index) for index, name in enumerate(entrants)}
    times = {name: _range(ratio(taken, medians[FP32], seed=0)) for name, taken in medians.items()}
    if OURS not in medians:
        return times, {}
    return times, {name: _range(ratio(medians[OURS], taken, seed=0)) for name, taken in medians.items()}


def _range(found: Interval) -> Range:
    return float(found.estimate), float(found.low), float(found.high)


def main(folder: Path, given: Path, result: Path) -> None:
    asked: dict[str, Any] = json.loads(given.read_text())
    problem = Problem(folder, asked["max_drop"], asked["threads"])
    judged = compare(problem, asked["contestants"])
    content = {"metric": problem.metric.value, "judged": [asdict(one) for one in judged]}
    result.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
