"""NNCF as a guest in a pod: it brings no torch, writes nothing to the log, and keeps to the pod's CPUs.

`import nncf` imports torch where there is one, only to register functions for its tensors. Hiding torch from it, unless
it is loaded anyway, makes that 0.7 s of CPU time instead of 4, and 43 MB instead of 530.

NNCF compiles models itself and passes no thread count on, so OpenVINO starts a thread for each CPU of the affinity
mask, whatever the quota. The mask is narrowed instead, which works because OpenVINO counts CPUs once, when it first
compiles in a process, and a trial's steps come before its measurements.

Progress bars and messages go nowhere; what is worth telling, a technique says in its note. There is no telemetry,
because `openvino_model` was imported first.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from trimtab_jobs.errors import NotApplicable, WorkFailure
from trimtab_jobs.openvino_model import cause

SILENT = 100
"""Above every level of `logging`."""


@contextmanager
def nncf(title: str, threads: int) -> Iterator[Any]:
    """The module `nncf`, for use inside the context only.

    What it cannot do with a model it says in errors of many kinds: each becomes NotApplicable, begun with `title`.
    """
    with _without("torch"), _affinity(threads), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        import nncf as module

        module.set_log_level(SILENT)
        try:
            yield module
        except (WorkFailure, MemoryError):
            raise
        except Exception as error:
            raise NotApplicable(f"{title}: NNCF gives up on this model: {cause(error)}") from error


@contextmanager
def _without(package: str) -> Iterator[None]:
    """As if the package were not installed. One that is loaded stays."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def _affinity(threads: int) -> Iterator[None]:
    """Keep this thread, and those it starts, to so many CPUs: any, or all pods of a node would meet on the first."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, random.sample(sorted(allowed), min(threads, len(allowed))))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
