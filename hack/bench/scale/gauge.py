"""What a process cost, as the kernel counts it, and what the operator says of its calls."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
HACK = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """A program of the bench, and the most memory it was seen with."""

    popen: subprocess.Popen[bytes]
    log: Path
    peak: int = 0

    @property
    def cpu(self) -> float:
        return cpu([self.popen.pid])

    @property
    def ended(self) -> bool:
        """It is not reaped before `cpu` was asked: a zombie still has its times."""
        return _stat(self.popen.pid)[0] == "Z"

    def look(self) -> None:
        """Note its memory; the kernel's own peak goes with the process."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+)", status):
            self.peak = int(found[1]) * 1024

    @property
    def memory(self) -> int:
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu(pids: Sequence[int]) -> float:
    """User and system seconds of these processes so far."""
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:13]) / TICKS


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextmanager
def process(*words: str | Path, log: Path, **variables: str) -> Iterator[Process]:
    """A Python program beside this one, asked to end in the end. It inherits $KUBECONFIG."""
    paths = [str(HACK), str(HACK.parent / "operator"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | variables
    with log.open("ab") as file:
        running = subprocess.Popen([sys.executable, *words], env=environment, stdout=file, stderr=file)
    try:
        yield Process(running, log)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(40)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def metrics(port: int) -> dict[str, float]:
    """The operator's own, by series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def calls(found: Mapping[str, float]) -> dict[str, int]:
    """Answers of the API server by what was asked, such as `PATCH optimizationjobs/status`."""
    counted: dict[str, int] = {}
    for series, value in found.items():
        if match := re.match(r'trimtab_api_requests_total{code="\d+",resource="(.+)",verb="(.+)"}', series):
            name = f"{match[2]} {match[1]}"
            counted[name] = counted.get(name, 0) + int(value)
    return counted


def turns(found: Mapping[str, float]) -> int:
    return int(found.get('trimtab_reconcile_duration_seconds_count{kind="OptimizationJob"}', 0))
