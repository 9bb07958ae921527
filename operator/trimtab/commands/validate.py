"""`trimtab validate`: what the API server would say of manifests, every problem in one line."""

from __future__ import annotations

import argparse

from trimtab.api.answer import Answer
from trimtab.documents import Refused, read_documents
from trimtab.voice import BAD_INPUT, Said, speak


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _validate(given))


def _validate(given: argparse.Namespace) -> Said:
    lines: list[str] = []
    valid: dict[str, str] = {}
    for path in given.files:
        try:
            read_documents(path)
            valid[str(path)] = "valid"
        except Refused as refused:
            lines += str(refused).splitlines()
    return Answer(command=given.command, exit_code=BAD_INPUT if lines else 0, problems=lines, paths=valid), ""
