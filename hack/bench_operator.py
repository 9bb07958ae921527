"""The operator under thousands of jobs, beside the floor and beside the usual way: `make bench-operator`.

    python hack/bench_operator.py [--jobs 5000] [--trials 128] [--idle 60] [--workers 16] [--rivals bare,naive]
                                   [--profile]

A real etcd and API server, the real operator as a process, pods that end at once. `bench.scale` says what is what.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
from collections.abc import Callable, Coroutine
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from bench.scale import plane, race, replay
from bench.scale.page import page
from bench.scale.race import Size
from bench.scale.shares import shares

T = TypeVar("T")
RIVALS = ("bare", "naive")


def main() -> None:
    given = arguments()
    size = Size(given.jobs, given.trials, given.idle, workers=given.workers)
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as scratch:
        folder = Path(scratch)
        ours = alone(size, race.ours, folder / "ours")
        write(given.out, page(size, ours, None, None, about()))
        replay.save(ours.scripts, folder / "scripts")
        costs = {name: alone(size, getattr(race, name), folder / name, folder / "scripts") for name in given.rivals}
        found = shares(alone(size, race.profiled, folder / "profiled")) if given.profile else None
    write(given.out, page(size, ours, costs.get("bare"), costs.get("naive"), about(), found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=5000, help="OptimizationJobs")
    parser.add_argument("--trials", type=int, default=128, help="of the largest")
    parser.add_argument("--idle", type=float, default=60, help="seconds of doing nothing")
    parser.add_argument("--workers", type=int, default=Size.workers, help="of the operator")
    parser.add_argument("--rivals", type=lambda text: [name for name in text.split(",") if name], default=list(RIVALS))
    parser.add_argument("--profile", action="store_true", help="do it once more under cProfile")
    parser.add_argument("--out", type=Path, default=Path("demo/bench/operator.md"))
    return parser.parse_args()


def alone(size: Size, run: Callable[..., Coroutine[Any, Any, T]], *words: Path) -> T:
    """With a control plane of its own, so that nobody finds what another has left."""
    with plane.control_plane(size.all):
        return asyncio.run(run(size, *words))


def about() -> str:
    """When, where and how."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    known = dict(line.split(":", 1) for line in info.replace("\t", "").splitlines() if ":" in line)
    return (
        f"{date.today()}, {known.get('model name', platform.machine()).strip()}, {os.cpu_count()} cores shared with "
        f"the API server, etcd and the process that ends the pods; Python {platform.python_version()}."
    )


def write(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()
