"""`trimtab init`: a commented job for a model, to read, edit and run."""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab.api.answer import Answer
from trimtab.compose import Asked, job_name, job_text, run_command
from trimtab.documents import Refused
from trimtab.looking import keep, look
from trimtab.processes import Processes
from trimtab.runs import hold, writable, write
from trimtab.voice import Said, speak


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _init(given))


def _init(given: argparse.Namespace) -> Said:
    if given.job.exists() and not given.force:
        raise Refused([f"--job {given.job}: it is there already; name another file, or add --force to replace it"])
    folder = given.out or Path(".trimtab") / job_name(given.model)
    with hold(folder, job_name(given.model)), Processes() as processes:
        seen = look(given.model, given.data, folder, None, processes)
        keep(given.data, folder)
    text = job_text(given.model, seen, Asked(given.max_drop), str(folder / "published"))
    with writable(given.job):
        write(given.job, text)
    return Answer(command=given.command, paths={"job": str(given.job)}), f"run it with {run_command(given.job, folder)}"
