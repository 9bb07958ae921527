"""Where the operator's CPU goes, by package: what cProfile wrote, in shares. It slows Python down and C not at all."""

from __future__ import annotations

import pstats
import re
from collections import Counter
from pathlib import Path

PACKAGES = {
    "kopf": r"/kopf/",
    "HTTP (aiohttp, yarl, multidict)": r"/(aiohttp|aiohappyeyeballs|yarl|multidict|frozenlist|propcache)/|kubernetes/",
    "event loop, TLS, sockets": r"uvloop|/asyncio/|/ssl\.py|_ssl|socket|method 'run' of|select\.",
    "pydantic, JSON": r"pydantic|/json/|_json|from_json|to_json",
    "prometheus-client": r"/prometheus_client/",
    "trimtab": r"/trimtab/",
    "imports": r"importlib|marshal|exec_module|compile|_imp\.",
}
OTHER = "other"


Function = tuple[str, int, str]
"""A file, or `~` for what is written in C, a line and a name: as pstats has them."""


def shares(file: Path) -> dict[str, float]:
    """The part of the time spent in each package's own code; what is built into Python counts as its caller's."""
    found: Counter[str] = Counter()
    # What cProfile wrote: by function, the calls and the time, without and with what was called; the same by caller.
    for function, (_, _, own, _, callers) in pstats.Stats(str(file)).stats.items():  # type: ignore[attr-defined]
        if _package(function) == OTHER and function[0] == "~":
            for caller, (_, _, within, _) in callers.items():
                found[_package(caller)] += within
        else:
            found[_package(function)] += own
    return {name: own / found.total() for name, own in found.most_common()}


def _package(function: Function) -> str:
    path, _, name = function
    return next((package for package, pattern in PACKAGES.items() if re.search(pattern, f"{path} {name}")), OTHER)
