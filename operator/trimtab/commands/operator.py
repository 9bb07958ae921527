"""`trimtab operator`: what the operator's pod runs."""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from trimtab.api.problems import problems
from trimtab.handlers import run
from trimtab.settings import Settings
from trimtab.voice import BAD_INPUT


def main(given: argparse.Namespace) -> int:
    try:
        settings = Settings.from_environment()
    except ValidationError as error:
        sys.stderr.write("".join(f"settings: {line}\n" for line in problems(error, Settings)))
        return BAD_INPUT
    run(settings)
    return 0
