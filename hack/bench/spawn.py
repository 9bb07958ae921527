"""One optimization in a process of its own, under the limits that hold for all: seconds, bytes, cores.

A crash or a hang stays that process's own, and the kernel counts the peak of its memory, children included.
`ru_maxrss` is kept over exec, so whoever calls this must be small itself: the bench's main program imports no engine.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer


@dataclass(frozen=True)
class Limits:
    seconds: float = 900
    memory: int = 8 * 2**30
    """Of data, per process: what calibration must not need."""
    cores: int = 1


@dataclass(frozen=True)
class Ran:
    """How a process ended. `failure` is empty if it did what it should."""

    seconds: float
    peak_memory: int
    failure: str = ""


def spawn(words: Sequence[str | Path], log: Path, limits: Limits) -> Ran:
    """Run a command to its end, its output into `log`."""

    def restrict() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: limits.cores])
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))

    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            words,
            env=os.environ | {"OMP_NUM_THREADS": str(limits.cores)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=restrict,  # noqa: PLW1509 (no threads are running here)
            start_new_session=True,
        )
    late = Timer(limits.seconds, os.killpg, (process.pid, signal.SIGKILL))
    late.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # Ctrl-C reaches this process only: the other leads a session of its own
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        late.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    return Ran(seconds, usage.ru_maxrss * 1024, _failure(process.returncode, seconds >= limits.seconds, log, limits))


def _failure(code: int, late: bool, log: Path, limits: Limits) -> str:
    if code == 0:
        return ""
    if late:
        return f"not done after {limits.seconds:.0f} s"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1][:160] if lines else 'nothing was printed'}"
