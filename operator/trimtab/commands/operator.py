"""`trimtab operator`: what the operator's pod runs; with `--check`, what the pod of `helm test` runs."""

from __future__ import annotations

import argparse
import asyncio
import sys

from pydantic import ValidationError

from trimtab.api.problems import problems
from trimtab.errors import ClusterError
from trimtab.handlers import run
from trimtab.settings import Settings


def main(given: argparse.Namespace) -> int:
    try:
        settings = Settings.from_environment()
    except ValidationError as error:
        from trimtab.voice import BAD_INPUT

        sys.stderr.write("".join(f"settings: {line}\n" for line in problems(error, Settings)))
        return BAD_INPUT
    if given.check:
        return _check(settings, given.check, given.rights.split(","))
    run(settings)
    return 0


def _check(settings: Settings, host: str, rights: list[str]) -> int:
    from trimtab import selfcheck

    for right in {*rights} - {"", *selfcheck.OPTIONAL}:
        from trimtab.voice import BAD_INPUT

        sys.stderr.write(f"--rights: {right}: is none of {', '.join(selfcheck.OPTIONAL)}\n")
        return BAD_INPUT
    try:
        found = asyncio.run(selfcheck.problems(settings, host, rights))
    except ClusterError as error:
        found = [str(error)]
    sys.stdout.write("".join(f"{line}\n" for line in found or ["the operator has all that it needs"]))
    return 1 if found else 0
