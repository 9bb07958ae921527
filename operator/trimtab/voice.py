"""How a command speaks: text for people, or one JSON document for programs, and an exit code either way.

In JSON the document is all that standard output gets; what happens on the way goes to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from trimtab.api.answer import Answer
from trimtab.api.job import OptimizationJobSpec
from trimtab.api.names import ConditionType, Reason
from trimtab.api.report import JobReport
from trimtab.api.status import OptimizationJobStatus
from trimtab.conditions import find, is_true
from trimtab.documents import Refused
from trimtab.local import Follower
from trimtab.page import REPORT_FILES
from trimtab.progress import Lines
from trimtab.runs import STATUS, CannotRun
from trimtab.table import candidate_table

FAILED, BAD_INPUT, NOTHING_FEASIBLE, INTERRUPTED = 1, 2, 3, 130
Said = tuple[Answer, str]
"""The document, and the same for people."""


def speak(given: argparse.Namespace, work: Callable[[], Said]) -> int:
    """Do a command's work, say how it ended, and return the exit code."""
    try:
        answer, text = work()
    except (Refused, CannotRun) as refused:
        answer, text = Answer(command=given.command, exit_code=BAD_INPUT, problems=str(refused).splitlines()), ""
    except KeyboardInterrupt:
        kept = "interrupted: what has finished is kept, and the same command goes on from there"
        answer, text = Answer(command=given.command, exit_code=INTERRUPTED, problems=[kept]), ""
    if given.output == "json":
        _print(answer.model_dump_json(by_alias=True, exclude_none=True, indent=1), sys.stdout)
    elif text:
        _print(text, sys.stdout)
    for line in answer.problems:
        _print(line, sys.stderr)
    return answer.exit_code


@contextmanager
def following(given: argparse.Namespace, spec: OptimizationJobSpec) -> Iterator[Follower]:
    """Who tells what a run is doing: in the way that suits where it is told."""
    stream = progress_stream(given)
    if not stream.isatty():
        yield Lines(stream)
        return
    from trimtab.terminal import Terminal

    with Terminal(spec, stream) as terminal:
        yield terminal


def progress_stream(given: argparse.Namespace) -> TextIO:
    return sys.stderr if given.output == "json" else sys.stdout


def ended(given: argparse.Namespace, spec: OptimizationJobSpec, status: OptimizationJobStatus, folder: Path) -> Said:
    """What there is to say of a run that came to an end."""
    page, _, document = (folder / name for name in REPORT_FILES)
    paths = {"out": folder, "status": folder / STATUS, "report": page}
    code, problems = _verdict(status, folder)
    answer = Answer(
        command=given.command,
        exit_code=code,
        problems=problems,
        report=JobReport.model_validate_json(document.read_bytes()) if document.exists() else None,
        paths={name: str(path.resolve()) for name, path in paths.items() if path.exists()},
    )
    lines = [] if problems else [candidate_table(status, spec.objectives[0].metric)]
    lines += [f"report: {page}"] if page.exists() else []
    lines += [f"published: {status.published.uri}"] if status.published else []
    return answer, "\n".join(lines)


def _verdict(status: OptimizationJobStatus, folder: Path) -> tuple[int, list[str]]:
    failure = find(status.conditions, ConditionType.FAILED)
    if failure and is_true(status.conditions, ConditionType.FAILED):
        if failure.reason == Reason.INVALID_INPUT:
            return BAD_INPUT, [failure.message]
        return FAILED, [f"{failure.reason}: {failure.message}; logs are in {folder}/work"]
    feasible = status.state not in (Reason.NO_FEASIBLE_CANDIDATE, Reason.CLAIM_VIOLATED)
    return 0 if feasible else NOTHING_FEASIBLE, []


def _print(text: str, stream: TextIO) -> None:
    """A value that was repeated back may hold what the terminal cannot show: a lone surrogate from YAML, say."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
