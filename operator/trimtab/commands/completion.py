"""`trimtab completion`: a shell's completion script, made from the parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

_FOLDERS, _FILES = {"DIR"}, {"MODEL", "DATA"}
"""What may also be an address, so that its type says nothing."""


def main(given: argparse.Namespace) -> int:
    parser: argparse.ArgumentParser = given.parser()
    for action in _actions(parser):
        if action.type is Path or action.metavar in _FOLDERS | _FILES:
            action.complete = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, given.shell) + "\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument, those of subcommands included."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
