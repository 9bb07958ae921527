"""`trimtab optimize`: look at a model, derive the job, run it. Nothing needs to be known or written first."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from trimtab.api.answer import Answer
from trimtab.api.model import QUALITY, EngineName, Metric
from trimtab.api.quantities import DURATION, PERCENT, QUANTITY
from trimtab.compose import Asked, job_name, job_text, summary
from trimtab.documents import Refused, read_job
from trimtab.local import run_held
from trimtab.looking import dealt, look_again
from trimtab.runs import hold, writable, write
from trimtab.voice import Said, ended, following, progress_stream, speak

Named = TypeVar("Named", bound=StrEnum)
QUALITIES = [metric for metric in Metric if metric in QUALITY and metric != Metric.CUSTOM]
"""A custom metric is a function, which takes a job to name."""


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _optimize(given))


def _optimize(given: argparse.Namespace) -> Said:
    asked, metric = _asked(given), given.metric and _one_of("--metric", given.metric, QUALITIES)
    folder = given.out or Path(".trimtab") / job_name(given.model)
    with hold(folder), writable(folder):
        seen = look_again(given.model, given.data, folder, metric)
        text = job_text(given.model, seen, asked, given.publish or folder / "published")
        if given.dry_run:
            return Answer(command=given.command, paths={"data": str(dealt(given.data, folder))}), text.rstrip()
        write(folder / "job.yaml", text)
        job = read_job(folder / "job.yaml")
        print("\n".join(summary(given.model, seen)), file=progress_stream(given), flush=True)
        with following(given, job.spec) as follower:
            status = run_held(job, folder, {}, follower)
    return ended(given, status, folder)


def _asked(given: argparse.Namespace) -> Asked:
    """The flags, each checked. Raises Refused naming the flag."""
    return Asked(
        max_drop=_checked("--max-drop", given.max_drop, PERCENT.check),
        max_size=given.max_size and _checked("--max-size", given.max_size, QUANTITY.check),
        max_latency=given.max_latency and _checked("--max-latency", given.max_latency, DURATION.check),
        engines=[_one_of("--engines", name, EngineName) for name in (given.engines or "").split(",") if name],
        timeout=_checked("--timeout", given.timeout, DURATION.check),
    )


def _checked(flag: str, text: str, check: Callable[[str], object]) -> str:
    try:
        check(text)
    except ValueError as error:
        raise Refused([f"{flag}: {error}"]) from None
    return text


def _one_of(flag: str, text: str, names: Iterable[Named]) -> Named:
    """The one that is meant; nobody has to remember how it is capitalized."""
    known = {name.lower(): name for name in names}
    if text.lower() in known:
        return known[text.lower()]
    close = [f"; did you mean {known[name]}?" for name in get_close_matches(text.lower(), known, n=1)]
    raise Refused([f"{flag}: {text!r} is none of {', '.join(known.values())}{''.join(close)}"])
