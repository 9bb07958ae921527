"""Watches the OptimizationJobs as a person would: when what became visible, and when all have ended."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.scale.load import Object, finished, marks
from trimtab.cluster import objects
from trimtab.cluster.client import Client
from trimtab.cluster.watch import Seen, watch


@dataclass
class Observer:
    """What was seen of the objects, by UID."""

    client: Client
    shown: dict[str, float] = field(default_factory=dict)
    """When each mark first showed in a status."""
    created: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    """When each first had a state."""
    versions: dict[str, int] = field(default_factory=dict)
    """How often each was written."""
    done: set[str] = field(default_factory=set)

    async def run(self) -> None:
        async for change in watch(self.client, objects.OPTIMIZATION_JOBS.path()):
            if isinstance(change, Seen):
                self._seen(change.object, time.time())

    def _seen(self, item: Object, now: float) -> None:
        uid = item["metadata"]["uid"]
        self.created.setdefault(uid, now)
        self.versions[uid] = self.versions.get(uid, 0) + 1
        if item.get("status", {}).get("state"):
            self.begun.setdefault(uid, now)
        for mark in marks(item):
            self.shown.setdefault(mark, now)
        if finished(item):
            self.done.add(uid)

    def harvest_delays(self, kept: Path, since: float = 0.0) -> list[float]:
        """Seconds from a Job's end to the status that shows it. A view of a process beside others: not below 0."""
        ends = [(mark, float(at)) for at, mark in (line.split() for line in kept.read_text().splitlines())]
        return [max(0.0, self.shown[mark] - at) for mark, at in ends if mark in self.shown and at >= since]

    def start_delays(self, since: float) -> list[float]:
        """Seconds from an object's creation to its first status."""
        return [self.begun[uid] - at for uid, at in self.created.items() if uid in self.begun and at >= since]


async def beside(observer: Observer) -> asyncio.Task[None]:
    """Start watching, and return when what is there has been seen."""
    task = asyncio.create_task(observer.run())
    await asyncio.sleep(1)
    return task


def percentile(values: list[float], share: float) -> float:
    """The value that this share does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
