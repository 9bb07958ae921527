"""`trimtab optimize`: look at a model, derive the job, run it. Nothing needs to be known or written first."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import yaml

from trimtab.api.answer import Answer
from trimtab.api.model import FRACTIONS, QUALITY, WRITABLE, EngineName, Metric, is_address, is_local, scheme_of
from trimtab.api.quantities import parse_duration, parse_percent, parse_quantity
from trimtab.compose import Asked, job_name, job_text, run_command, summary
from trimtab.documents import Refused, read_job
from trimtab.local import run_held
from trimtab.looking import dealt, forget, keep, look_again
from trimtab.processes import Processes
from trimtab.runs import check_writable, hold, path_of, writable, write
from trimtab.voice import Said, ended, following, progress_stream, speak

Named = TypeVar("Named", bound=StrEnum)
QUALITIES = [metric for metric in Metric if metric in QUALITY and metric != Metric.CUSTOM]
"""A custom metric is a function, which takes a job to name."""


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _optimize(given))


def _optimize(given: argparse.Namespace) -> Said:
    asked, metric = _asked(given), given.metric and _one_of("--metric", given.metric, QUALITIES)
    _check_drop(asked.max_drop, metric)
    name = job_name(given.model)
    folder = given.out or Path(".trimtab") / name
    publish = _publish(given.publish) if given.publish else str(folder / "published")
    with hold(folder, name), writable(folder), Processes() as processes:
        seen = look_again(given.model, given.data, folder, metric, processes)
        text = job_text(given.model, seen, asked, publish)
        if given.dry_run:
            keep(given.data, folder)
            hint = f"# Written to a file: {run_command(Path('job.yaml'), folder)}\n"
            paths = {"data": str(dealt(given.data, folder))}
            return Answer(command=given.command, paths=paths, job=yaml.safe_load(text)), hint + text.rstrip()
        write(folder / "job.yaml", text)
        forget(given.data, folder)
        job = read_job(folder / "job.yaml")
        print("\n".join(summary(given.model, seen)), file=progress_stream(given), flush=True)
        with following(given, job.spec) as follower:
            status = run_held(job, folder, {}, follower, processes)
    return ended(given, job.spec, status, folder)


def _asked(given: argparse.Namespace) -> Asked:
    """The flags, each checked. Raises Refused naming the flag."""
    return Asked(
        max_drop=_checked("--max-drop", given.max_drop, parse_percent),
        max_size=given.max_size and _checked("--max-size", given.max_size, _positive(parse_quantity)),
        max_latency=given.max_latency and _checked("--max-latency", given.max_latency, _positive(parse_duration)),
        engines=_engines(given.engines or ""),
        timeout=given.timeout and _checked("--timeout", given.timeout, _positive(parse_duration)),
    )


def _publish(place: str) -> str:
    """A folder that can be written, or an address that a job may publish to. Raises Refused."""
    if is_address(place):
        _checked("--publish", place, WRITABLE.check)
        if scheme_of(place) == "pvc":
            raise Refused([f"--publish: {place} is a claim's; name a folder here, or write a job with trimtab init"])
    if is_address(place) and not is_local(place):
        return place
    check_writable(f"--publish {place}", (path_of(place, {}) if is_address(place) else Path(place)).resolve())
    return place


def _engines(text: str) -> list[EngineName]:
    engines = [_one_of("--engines", name, EngineName) for name in text.split(",") if name]
    if twice := [engine for engine, count in Counter(engines).items() if count > 1]:
        raise Refused([f"--engines: {twice[0]} is there more than once; name each engine once"])
    return engines


def _check_drop(max_drop: str, metric: Metric | None) -> None:
    """Of an error more than all of it may be lost: it may become three times as large."""
    if parse_percent(max_drop) > 1 and (metric is None or metric in FRACTIONS):
        raise Refused([f"--max-drop: {max_drop!r} is more than all quality; give 100% or less, or name --metric mse"])


def _positive(parse: Callable[[str], float]) -> Callable[[str], None]:
    """The same, refusing 0."""

    def check(text: str) -> None:
        if not parse(text) > 0:
            raise ValueError(f"{text!r} must be above 0")

    return check


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
