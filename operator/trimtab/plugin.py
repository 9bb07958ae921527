"""`kubectl trimtab`: what can be typed of a job in a cluster. kubectl finds it by its name on PATH, kubectl-trimtab.

As for `trimtab`, start-up is argparse alone, and the words are those of the local commands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab import __version__
from trimtab.cli import Commands, Parser, run

STAGES = ("Inspect", "Trial", "Playoff", "Publish")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """Everything that can be typed."""
    top = Parser(prog="kubectl trimtab", description="What became of OptimizationJobs in a cluster.")
    top.add_argument("--version", action="version", version=f"kubectl-trimtab {__version__}")
    top.set_defaults(command="kubectl", output="text")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="verb")
    _add(commands, "explain", "say why the winner won, or what a job is doing")
    report = _add(commands, "report", "write the report: report.html, report.md and report.json")
    report.add_argument("--out", type=Path, metavar="DIR", help="where it goes; default .trimtab/NAMESPACE/NAME")
    report.add_argument("--open", action="store_true", help="show the page in a browser")
    logs = _add(commands, "logs", "print what its pods said, in the order they were started")
    logs.add_argument("--stage", choices=STAGES, help="of this stage only")
    logs.add_argument("--trial", type=int, metavar="N", help="of this trial only")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what they say next")
    _add(commands, "suspend", "end its pods and start no more; what has finished is kept")
    _add(commands, "resume", "go on with a suspended job")
    return top


def _add(commands: Commands, name: str, told: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
    command.add_argument("name", metavar="NAME", help="an OptimizationJob")
    command.add_argument("-n", "--namespace", metavar="NAMESPACE", help="default: the context's")
    command.add_argument("--context", metavar="CONTEXT", help="default: the kubeconfig's current one")
    command.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, or ~/.kube/config")
    return command
