"""Where the operator's CPU goes, by package: what cProfile wrote, in shares. It slows Python down and C not at all."""

from __future__ import annotations

import pstats
import re
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


def shares(file: Path) -> dict[str, float]:
    """The part of the time spent in each package's own code."""
    found: dict[str, float] = {}
    # What cProfile wrote: by file, line and name, the calls and the time, without and with what was called.
    for (path, _, name), (_, _, own, *_) in pstats.Stats(str(file)).stats.items():  # type: ignore[attr-defined]
        where = _package(f"{path} {name}")
        found[where] = found.get(where, 0.0) + own
    total = sum(found.values())
    return {name: own / total for name, own in sorted(found.items(), key=lambda item: -item[1])}


def _package(where: str) -> str:
    return next((name for name, pattern in PACKAGES.items() if re.search(pattern, where)), "other")
