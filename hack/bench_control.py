"""How far a playoff finds a model from itself, by how long a turn lasts: `python hack/bench_control.py FOLDER [RACES]`.

FOLDER has `model.onnx` and `evaluation.npz`, as `python -m bench.models` makes them. Races with turns of ten calls and
with today's alternate, each between two sessions of that one file in ONNX Runtime, on one thread.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.data import read_split
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.evaluate import caller
from trimtab_jobs.hardware import hardware
from trimtab_jobs.model import Model
from trimtab_jobs.timing import Bounds, race, ratio

TURNS = {"ten calls": replace(Bounds(), least_turn_seconds=0.0), "as it is": Bounds()}


def main(folder: Path, races: int = 12) -> None:
    """A row for each length of a turn."""
    split, loader = read_split("evaluation", folder / "evaluation.npz"), engine(EngineName.ONNXRUNTIME)
    off: dict[str, list[float]] = {name: [] for name in TURNS}
    took = dict.fromkeys(TURNS, 0.0)
    for _ in range(races):
        for name, bounds in TURNS.items():
            pair = [caller(loader.load(Model(folder, ModelFormat.ONNX), EngineOptions(1)), split) for _ in range(2)]
            started = time.perf_counter()
            raced = race(pair, bounds)
            took[name] += time.perf_counter() - started
            off[name].append(abs(float(ratio(raced.medians(1), raced.medians(0), seed=0).estimate) - 1))
    print("| a turn | off by, median | at most | a race takes |\n|---|---|---|---|")
    for name, found in off.items():
        print(f"| {name} | {np.median(found):.2%} | {max(found):.2%} | {took[name] / races:.1f} s |")
    print(f"{datetime.date.today()}, {races} races each of {folder}, load {os.getloadavg()[0]:.1f}, {hardware().cpu}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
