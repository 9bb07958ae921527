"""Every way a piece of work ends without a result.

    WorkFailure
    ├── InvalidInput      somebody's model, data or setting; trying again cannot help (exit code 2)
    ├── WrongResult       a library made a model that is not what it should be; trying again cannot help
    ├── NotApplicable     the technique has nothing to do here; the trial is Skipped, not Failed
    └── Temporary         the world's fault; another attempt may succeed (exit code 75)
        ├── OutOfSpace    a store or a temporary folder is full
        └── Crashed       a bug, ours or a library's; tried again, for it may be the machine (exit code 1)

The type says whether to try again; the text is one line naming the field or file, the value and the remedy.
"""

from __future__ import annotations

from trimtab.api.work import OUT_OF_SPACE


class WorkFailure(Exception):
    """The base of the tree. `reason` is CamelCase and ends up in a condition."""

    reason = "WorkFailed"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InvalidInput(WorkFailure):
    reason = "InvalidInput"


class NotOpened(InvalidInput):
    """An engine does not open models of this kind."""


def not_installed(missing: ModuleNotFoundError) -> InvalidInput:
    return InvalidInput(f"this image has no {missing.name}: name a runtime whose image has")


class WrongResult(WorkFailure):
    reason = "WrongResult"


class NotApplicable(WorkFailure):
    reason = "NotApplicable"


class Temporary(WorkFailure):
    reason = "Temporary"


class OutOfSpace(Temporary):
    reason = OUT_OF_SPACE


class Crashed(Temporary):
    reason = "Crashed"
