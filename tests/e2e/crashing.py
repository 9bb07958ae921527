"""An operator on this machine that is killed, again and again, right after a call to the API server was answered."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mortal
from operators import show

KILLS = 10
FEWEST, MOST = 2, 7
"""The calls that one incarnation makes. A job's whole life takes some thirty."""


class CrashingOperator:
    """Starts incarnations, each with a seeded moment to die at, until `KILLS` have; the next one lives."""

    def __init__(self, namespace: str, kubeconfig: Path, seed: int, log: Path, spared: bool, **settings: str) -> None:
        self.kills = 0
        self._spared = spared
        self._moments = random.Random(seed)
        self._log = log
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "TRIMTAB_WATCH_NAMESPACES": namespace,
            **settings,
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        calls = self._moments.randint(FEWEST, MOST) if self.kills < KILLS and not self._spared else 0
        with self._log.open("ab") as log:
            command = [sys.executable, mortal.__file__, str(calls)]
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def tend(self) -> None:
        """Start the next incarnation if this one was killed."""
        ended = self._process.poll()
        if ended is None:
            return
        assert ended == -signal.SIGKILL, f"the operator ended by itself with {ended}:\n{self._log.read_text()}"
        self.kills += 1
        self._process = self._start()

    def torment(self) -> None:
        """End the incarnation that was spared so far; those that follow are not."""
        self._spared = False
        self.stop()
        self._process = self._start()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(300)


@contextmanager
def crashing_operator(
    namespace: str, kubeconfig: Path, seed: int, log: Path, spared: bool = False, **settings: str
) -> Iterator[CrashingOperator]:
    """The operator of a namespace. `spared`: it is not killed before `torment` is called."""
    operator = CrashingOperator(namespace, kubeconfig, seed, log, spared, **settings)
    try:
        yield operator
    finally:
        operator.stop()
        show(log)
