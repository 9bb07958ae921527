"""What a pod is doing, as a line of its log: the pod writes it, and the operator looks for it at the log's end.

A log is a tenant's text, so a line counts only if all of it has this form, in printable ASCII, and no more than its
first characters are kept. Nothing else of a log goes anywhere.
"""

from __future__ import annotations

import re

from pydantic import Field

from trimtab.api.base import Record

PREFIX = "progress: "
LONGEST = 120
"""Characters of `what`: more than any image of ours writes."""
_LINE = re.compile(rf"{PREFIX}step ([1-9][0-9]{{0,2}}) of ([1-9][0-9]{{0,2}}), ([!-~][ -~]*)")


class Doing(Record):
    """Which step a pod is at, of those its Task takes, and how far that is."""

    step: int = Field(description="The first is 1.")
    steps: int
    what: str = Field(description="The step, and how far it is, such as `distill: epoch 3 of 10`.")

    def __str__(self) -> str:
        return f"step {self.step} of {self.steps}, {self.what}"

    @property
    def line(self) -> str:
        """For the log."""
        return f"{PREFIX}{self}"

    @property
    def done(self) -> float:
        """The fraction of the steps that is behind it."""
        return (self.step - 1) / self.steps


def last_told(log: str) -> Doing | None:
    """What the last line of this form says, if there is one."""
    found = (_read(line) for line in reversed(log.split("\n")))
    return next((doing for doing in found if doing), None)


def _read(line: str) -> Doing | None:
    parts = _LINE.fullmatch(line.rstrip("\r"))
    if parts is None or int(parts[1]) > int(parts[2]):
        return None
    return Doing(step=int(parts[1]), steps=int(parts[2]), what=parts[3][:LONGEST].rstrip())
