"""How much memory a process and all its descendants hold, from /proc.

A limit on a trial's memory is kept by looking and not by setrlimit: RLIMIT_AS counts address space, of which a
session of OpenVINO or torch reserves many times what it touches, and an allocation that RLIMIT_DATA refuses ends a
C++ library with an abort that names no limit. What is looked at a few times a second can overshoot in between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def resident(pid: int) -> int:
    """Bytes of resident memory of the process and its descendants; pages they share count for each. 0 if it ended."""
    return sum(_resident(process) for process in _tree(pid))


def kill_tree(pid: int) -> None:
    """SIGKILL the process and its descendants."""
    for process in list(_tree(pid)):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in PROC.glob(f"{pid}/task/*/children"):
        for child in _read(children).split():
            yield from _tree(int(child))


def _resident(pid: int) -> int:
    lines = _read(PROC / str(pid) / "status").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process ended meanwhile
        return ""
