"""`trimtab validate`: what the API server would say of manifests, every problem in one line."""

from __future__ import annotations

import argparse

from trimtab.api.answer import Answer
from trimtab.documents import Refused, read_documents
from trimtab.voice import Said, speak


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _validate(given))


def _validate(given: argparse.Namespace) -> Said:
    lines: list[str] = []
    for path in given.files:
        try:
            read_documents(path)
        except Refused as refused:
            lines += str(refused).splitlines()
    if lines:
        raise Refused(lines)
    return Answer(command=given.command, paths={str(path): "valid" for path in given.files}), ""
