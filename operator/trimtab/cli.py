"""The `trimtab` command.

Start-up is kept to argparse: every command imports what it needs when it runs, so `trimtab --help` loads neither
torch nor kopf nor kubernetes, nor even pydantic.

Exit codes: 0 a winner was found (the input model may be it), 1 the job failed, 2 bad input, 3 the job ended and
nothing keeps the promises.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import __version__

if TYPE_CHECKING:
    from trimtab.api.status import OptimizationJobStatus
    from trimtab.decisions import Event

FAILED, BAD_INPUT, NOTHING_FEASIBLE = 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = given.command
    return command(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimtab", description="Keeps trained models small, fast and accurate.")
    parser.add_argument("--version", action="version", version=f"trimtab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an OptimizationJob on this machine", description=_run.__doc__)
    run.add_argument("job", type=Path, help="a YAML file with one OptimizationJob")
    run.add_argument("--out", type=Path, help="where results go; default .trimtab/NAME")
    run.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="CLAIM=DIR",
        help="the folder that stands for pvc://CLAIM/; may be repeated",
    )
    run.set_defaults(command=_run)

    validate = commands.add_parser("validate", help="check manifests", description=_validate.__doc__)
    validate.add_argument("files", type=Path, nargs="+", help="YAML files")
    validate.set_defaults(command=_validate)

    operator = commands.add_parser("operator", help="run the operator in a cluster", description=_operator.__doc__)
    operator.set_defaults(command=_operator)
    return parser


def _run(given: argparse.Namespace) -> int:
    """Run an OptimizationJob here, with processes in place of pods."""
    from trimtab.documents import Refused, read_job
    from trimtab.local import CannotRun, run_local

    try:
        job = read_job(given.job)
        volumes = _volumes(given.volume)
        folder = given.out or Path(".trimtab") / job.metadata.name
        status = run_local(job, folder, volumes, _tell)
    except (Refused, CannotRun) as refused:
        return _refuse(str(refused))
    return _conclude(status, folder)


def _volumes(given: list[str]) -> dict[str, Path]:
    from trimtab.documents import Refused

    pairs = [text.partition("=") for text in given]
    for claim, equals, folder in pairs:
        if not claim or not equals or not folder:
            raise Refused([f"--volume {claim}{equals}{folder}: write CLAIM=DIR"])
    return {claim: Path(folder) for claim, _, folder in pairs}


def _tell(event: Event) -> None:
    print(f"{event.reason}: {event.message}" if event.message else event.reason, flush=True)  # noqa: T201


def _conclude(status: OptimizationJobStatus, folder: Path) -> int:
    """Say how the job ended and return the exit code that says the same."""
    from trimtab.api.names import ConditionType, Reason
    from trimtab.conditions import find, is_true
    from trimtab.table import candidate_table

    failure = find(status.conditions, ConditionType.FAILED)
    if failure and is_true(status.conditions, ConditionType.FAILED):
        if status.inspection:
            print(f"report: {folder}/report.html")  # noqa: T201
        if failure.reason == Reason.INVALID_INPUT:
            return _refuse(failure.message)
        print(f"{failure.reason}: {failure.message}; logs are in {folder}/work", file=sys.stderr)  # noqa: T201
        return FAILED
    print(candidate_table(status))  # noqa: T201
    print(f"report: {folder}/report.html")  # noqa: T201
    if status.published:
        print(f"published: {status.published.uri}")  # noqa: T201
    return 0 if status.state not in (Reason.NO_FEASIBLE_CANDIDATE, Reason.CLAIM_VIOLATED) else NOTHING_FEASIBLE


def _validate(given: argparse.Namespace) -> int:
    """Check manifests as the API server would, and tell every problem in one line."""
    from trimtab.documents import Refused, read_documents

    lines: list[str] = []
    for path in given.files:
        try:
            read_documents(path)
        except Refused as refused:
            lines.append(str(refused))
    return _refuse("\n".join(lines)) if lines else 0


def _operator(given: argparse.Namespace) -> int:
    """Run the operator; its settings come from TRIMTAB_* variables, which the Helm chart sets."""
    from pydantic import ValidationError

    from trimtab.api.problems import problems
    from trimtab.handlers import run
    from trimtab.settings import Settings

    try:
        settings = Settings.from_environment()
    except ValidationError as error:
        return _refuse("\n".join(f"settings: {line}" for line in problems(error, Settings)))
    run(settings)
    return 0


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201
    return BAD_INPUT
