"""`trimtab explain`: why the winner won and what became of every candidate; of a job, what it would try."""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab.api.answer import Answer
from trimtab.documents import read_job
from trimtab.explain import explain
from trimtab.runs import STATUS, stored_run
from trimtab.voice import Said, speak


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _explain(given))


def _explain(given: argparse.Namespace) -> Said:
    what: Path = given.what / STATUS if given.what.is_dir() else given.what
    job = stored_run(what).job if what.suffix == ".json" else read_job(what)
    return Answer(command=given.command), explain(job)
