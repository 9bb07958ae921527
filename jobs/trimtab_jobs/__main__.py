"""A pod's main program: the Task is in the environment, the Report goes to the termination message.

Progress is told on standard output, and a failure in one line on standard error. The exit code says what to do:
0 there is a result (or the technique was skipped), 2 somebody's input is wrong, 75 try again, 1 a bug, which is also
tried again, for it may be the machine's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from trimtab.api.work import (
    INVALID_INPUT_EXIT,
    MESSAGE_VARIABLE,
    TASK_VARIABLE,
    TEMPORARY_EXIT,
    WORK_VERSION,
    ErrorKind,
    Report,
    Task,
)
from trimtab_jobs import logs
from trimtab_jobs.errors import Crashed, OutOfSpace
from trimtab_jobs.ranks import helps
from trimtab_jobs.run import failed, run

TERMINATION_LOG = Path("/dev/termination-log")
CRASH_EXIT = 1


def main() -> int:
    """Run the Task. Returns the exit code."""
    try:
        task = _task(os.environ.get(TASK_VARIABLE, ""))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return INVALID_INPUT_EXIT
    report = run(task)
    # The pods of other indices than 0 say only why they failed.
    return _told(_left(report) if report.error or not helps(task) else report)


def _set_up() -> None:
    """Standard error is for the one line that says why there is no result: libraries' warnings go with progress."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings are written by native code, past all of Python
    logs.to_stdout()
    logging.captureWarnings(True)
    signal.signal(signal.SIGTERM, _end)
    # Read when torch loads OpenMP: threads that wait for each other shall sleep. Spinning ones took 21 s in place of
    # 4 for two epochs of the digits example, on two threads of a busy two-core machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _end(_signal: int, _frame: object) -> NoReturn:
    """A container's first process has no default for SIGTERM: without this a deleted pod runs on for 30 seconds."""
    raise SystemExit(128 + signal.SIGTERM)


def _task(text: str) -> Task:
    try:
        task = Task.asked(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            remedy = "this image does not know it: name one of the operator's version in the OptimizationRuntime"
        else:
            remedy = f"{first['msg']}: set it to a Task as JSON"
        raise ValueError(f"{TASK_VARIABLE}: {where}: {remedy}") from None
    if task.version != WORK_VERSION:
        raise ValueError(f"{TASK_VARIABLE}: version {task.version}: this image reads {WORK_VERSION}: use another one")
    return task


def _left(report: Report) -> Report:
    """The report as left in the termination message, or in its place why it cannot be: that is told in the log then.

    Kubernetes mounts the default file; elsewhere it is not ours to make.
    """
    path = Path(os.environ.get(MESSAGE_VARIABLE, TERMINATION_LOG))
    if path == TERMINATION_LOG and not path.exists():
        return report
    try:
        path.write_text(report.compact())
    except OSError as error:
        with suppress(OSError):
            path.write_text("")  # Kubernetes takes the end of the log in place of an empty message, not of half a one
        told = f"{path}: the report cannot be written ({error.strerror}): free space on the node's disk"
        return report if report.error else failed(report.stage, OutOfSpace(told))
    return report


def _told(report: Report) -> int:
    if error := report.error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        code = TEMPORARY_EXIT if error.kind == ErrorKind.TEMPORARY else INVALID_INPUT_EXIT
        return CRASH_EXIT if error.reason == Crashed.reason else code
    sys.stdout.write(f"skipped: {report.skipped}\n" if report.skipped else f"done in {report.seconds:.1f} s\n")
    return 0


def _leave(code: int) -> NoReturn:
    """End without the interpreter's own end: there a native thread once aborted a pod whose report was written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _set_up()
    _leave(main())
