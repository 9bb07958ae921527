"""The `trimtab` command: what can be typed.

Start-up is kept to argparse: each command is a module of `trimtab.commands`, imported when it is run, so `trimtab
--help` loads neither torch nor kopf nor kubernetes, nor even pydantic.

Exit codes: 0 a winner was found (the input model may be it), 1 the job failed, 2 bad input, 3 the job ended and
nothing keeps the promises, 130 it was interrupted, 141 nobody reads what it says any more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TypeAlias

from trimtab import __version__

INTERRUPTED, UNHEARD = 130, 141
"""What a shell reports of a process that SIGINT or SIGPIPE ended."""
SHELLS = ("bash", "zsh")
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(parser(), arguments)


def run(parser: argparse.ArgumentParser, arguments: list[str] | None) -> int:
    """Read the arguments and run the command they name."""
    given = parser.parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = import_module(f"trimtab.commands.{given.command}").main
        code = command(given)
        sys.stdout.flush()
    except KeyboardInterrupt:  # before the command was there to say more
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; the interpreter's own flush at the end would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNHEARD
    return code


def parser() -> argparse.ArgumentParser:
    """Everything that can be typed; shell completion is made from it too."""
    top = Parser(prog="trimtab", description="Keeps trained models small, fast and accurate.")
    top.add_argument("--version", action="version", version=f"trimtab {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (_optimize, _init, _run, _explain, _validate, _completion, _operator):
        add(commands)
    return top


class Parser(argparse.ArgumentParser):
    """Bad arguments get one line, as bad input does; argparse would print the whole usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help says more\n")


MAX_DROP = "1%"
"""What is promised where nothing is said."""


def _optimize(commands: Commands) -> None:
    optimize = commands.add_parser(
        "optimize",
        help="find the smallest, fastest model that keeps its quality",
        description="Look at a model and its data, derive a job, and run it on this machine.",
    )
    _add_model(optimize)
    asked = optimize.add_argument_group("what must hold")
    asked.add_argument(
        "--max-drop", default=MAX_DROP, metavar="PERCENT", help="of quality, at most; default %(default)s"
    )
    asked.add_argument("--metric", metavar="NAME", help="of quality; default: what fits the labels")
    asked.add_argument("--max-size", metavar="BYTES", help="such as 20Mi")
    asked.add_argument("--max-latency", metavar="TIME", help="at the 95th percentile, such as 5ms")
    optimize.add_argument("--engines", metavar="A,B", help="default: every engine that is installed here")
    optimize.add_argument(
        "--timeout", metavar="TIME", help="for the search; default: 150s, and 2s more for each MiB of the model"
    )
    optimize.add_argument(
        "--publish",
        metavar="DIR",
        help="where the winner goes, or an address such as s3://models/magika; default OUT/published",
    )
    optimize.add_argument("--dry-run", action="store_true", help="print the job that would run, for `trimtab run`")
    _add_output(optimize)


def _init(commands: Commands) -> None:
    init = commands.add_parser(
        "init",
        help="write a commented job for a model",
        description="Look at a model and its data, and write an OptimizationJob to edit and run.",
    )
    _add_model(init)
    init.add_argument("-o", "--job", type=Path, default=Path("job.yaml"), metavar="FILE", help="default %(default)s")
    init.add_argument("--force", action="store_true", help="replace the file if it is there")
    init.set_defaults(output="text", max_drop=MAX_DROP)


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
    operator = commands.add_parser(
        "operator",
        help="run the operator in a cluster",
        description="Run the operator; its settings come from TRIMTAB_* variables, which the Helm chart sets.",
    )
    operator.add_argument(
        "--check",
        metavar="HOST",
        help="run nothing; ask the API server for all that the operator needs, and the operator at HOST for its health",
    )
    operator.add_argument(
        "--rights",
        default="monitors,distributed",
        metavar="LIST",
        help="with --check: of the rights that the chart can leave out, those that were given; default: %(default)s",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="an .onnx file, or its address such as s3://models/a.onnx")
    command.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="an .npz file of arrays by input name and `labels`, or a folder with evaluation.npz "
        "and, if you have them, calibration.npz and holdout.npz; here, or at an address such as s3://data/digits",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="where results go; default .trimtab/MODEL")


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", choices=("text", "json"), default="text", help="json: one document at the end")
