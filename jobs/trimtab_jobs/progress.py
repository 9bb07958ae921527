"""How far this process is, told in its log in the one form that the operator reads (`trimtab.api.doing`).

A process carries out one Task, so there is one place where it is: a step, and a part of it. A step is told as it
begins; of its parts, which may follow each other in microseconds, one every ten seconds.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from trimtab.api.doing import Doing

log = logging.getLogger(__name__)

TOLD_SECONDS = 10.0


@dataclass
class _Place:
    step: int = 0
    steps: int = 0
    what: str = ""
    told: float = -math.inf


_here = _Place()


def begin(step: int, steps: int, what: str) -> None:
    """A step of the Task begins."""
    global _here  # noqa: PLW0603
    _here = _Place(step, steps, what)
    _tell("")


def part(text: str) -> None:
    """How far the step is, such as `epoch 3 of 10`."""
    if time.monotonic() - _here.told >= TOLD_SECONDS:
        _tell(text)


def _tell(text: str) -> None:
    _here.told = time.monotonic()
    said = ": ".join(words for words in (_here.what, text) if words)
    # The training loop is used outside of Tasks, too.
    log.info("%s", Doing(step=_here.step, steps=_here.steps, what=said).line if _here.steps else said)
