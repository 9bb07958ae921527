"""The `trimtab` command: what can be typed.

Start-up is kept to argparse: each command is a module of `trimtab.commands`, imported when it is run, so `trimtab
--help` loads neither torch nor kopf nor kubernetes, nor even pydantic.

Exit codes: 0 a winner was found (the input model may be it), 1 the job failed, 2 bad input, 3 the job ended and
nothing keeps the promises, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TypeAlias

from trimtab import __version__

INTERRUPTED = 130
SHELLS = ("bash", "zsh")
Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = import_module(f"trimtab.commands.{given.command}").main
        return command(given)
    except KeyboardInterrupt:  # before the command was there to say more
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Everything that can be typed; shell completion is made from it too."""
    top = _Parser(prog="trimtab", description="Keeps trained models small, fast and accurate.")
    top.add_argument("--version", action="version", version=f"trimtab {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (_run, _explain, _validate, _completion, _operator):
        add(commands)
    return top


class _Parser(argparse.ArgumentParser):
    """Bad arguments get one line, as bad input does; argparse would print the whole usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help says more\n")


def _run(commands: Commands) -> None:
    run = commands.add_parser(
        "run",
        help="run an OptimizationJob on this machine",
        description="Run an OptimizationJob here, with processes in place of pods.",
    )
    run.add_argument("job", type=Path, help="a YAML file with one OptimizationJob")
    run.add_argument("--out", type=Path, metavar="DIR", help="where results go; default .trimtab/NAME")
    run.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="CLAIM=DIR",
        help="the folder that stands for pvc://CLAIM/; may be repeated",
    )
    _add_output(run)


def _explain(commands: Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="say why the winner won, or what a job would try",
        description="Say why the winner won and what became of every candidate; of a job, what would be tried.",
    )
    explain.set_defaults(output="text")
    explain.add_argument("what", type=Path, metavar="DIR|FILE", help="a run's folder, its status.json, or a job.yaml")


def _validate(commands: Commands) -> None:
    validate = commands.add_parser(
        "validate",
        help="check manifests",
        description="Check manifests as the API server would, and tell every problem in one line.",
    )
    validate.add_argument("files", type=Path, nargs="+", metavar="FILE", help="YAML files")
    _add_output(validate)


def _completion(commands: Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a shell's completion script",
        description='Print a completion script: `eval "$(trimtab completion bash)"`, or for zsh a file in $fpath.',
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(parser=parser)


def _operator(commands: Commands) -> None:
    commands.add_parser(
        "operator",
        help="run the operator in a cluster",
        description="Run the operator; its settings come from TRIMTAB_* variables, which the Helm chart sets.",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", choices=("text", "json"), default="text", help="json: one document at the end")
