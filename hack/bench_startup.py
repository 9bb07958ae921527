"""How long `trimtab --help` takes, beside a Python that does nothing: `make bench-startup`."""

from __future__ import annotations

import datetime
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 21
TRIMTAB = Path(sys.executable).with_name("trimtab")


def seconds(*command: str | Path) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Interleave both and print medians."""
    pairs = [(seconds(TRIMTAB, "--help"), seconds(sys.executable, "-c", "pass")) for _ in range(RUNS + 1)][1:]
    ours, bare = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    print(f"trimtab --help {ours:.0f} ms, python -c pass {bare:.0f} ms, medians of {RUNS} interleaved runs")
    print(f"{datetime.date.today()}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
