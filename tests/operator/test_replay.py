"""The operator killed after each call of a job's life, and of a monitor's, and started again: the end is the same.

Real processes; the whole replay is `make test-full`'s, a seeded sample of it runs in CI.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mortal
from stories import JOB, MONITOR, Life, Story, live
from trimtab.cluster.client import Client
from trimtab.settings import Settings

pytestmark = pytest.mark.e2e
logger = logging.getLogger(__name__)

SAMPLE, SEED = 3, 5
"""How many moments of each story CI tries, and which."""
FEWEST_CALLS = 45
"""Every life has as many."""
AT_ONCE = 8
"""Lives that are lived side by side: each is mostly waiting."""

TELLING = ("PATCH optimizationjobs/status", "PATCH modelmonitors/status", "POST events")


@dataclass
class Mortal:
    """An operator that dies after `lifetime` calls, never if that is 0, and is started once more."""

    lifetime: int
    log: Path
    killed: bool = False
    _settings: Settings = field(init=False)
    _running: Process = field(init=False)

    @property
    def calls(self) -> list[str]:
        """Those of the first incarnation, in the order of their answers."""
        return [line for line in self.log.read_text().splitlines() if not line.startswith(mortal.IN_FLIGHT)]

    @property
    def was_telling(self) -> bool:
        """Killed at or during one of these calls, events may be lost: the one thing that a kill may cost."""
        under_way = [line.removeprefix(mortal.IN_FLIGHT) for line in self.log.read_text().splitlines()]
        return self.killed and any(line.startswith(TELLING) for line in under_way[len(self.calls) - 1 :])

    @contextlib.asynccontextmanager
    async def operate(self, settings: Settings) -> AsyncIterator[None]:
        self._settings = settings
        await self._start(str(self.lifetime), str(self.log))
        async with asyncio.TaskGroup() as group:
            tending = group.create_task(self._tend())
            try:
                yield
            finally:
                tending.cancel()
                with contextlib.suppress(ProcessLookupError):
                    self._running.kill()
                await self._running.wait()

    async def _start(self, *words: str) -> None:
        environment = os.environ | self._settings.environment()
        command = [sys.executable, mortal.__file__, *words]
        self._running = await asyncio.create_subprocess_exec(*command, env=environment, stderr=DEVNULL)

    async def _tend(self) -> None:
        assert await self._running.wait() == -signal.SIGKILL, "it ended by itself"
        self.killed = True
        await self._start("0")
        raise AssertionError(f"the second ended by itself with {await self._running.wait()}")


async def replay(client: Client, story: Story, moments: Sequence[int], folder: Path) -> None:
    """Live once undisturbed, and once for each of these moments; without any, once for every call."""
    free = asyncio.Semaphore(AT_ONCE)

    async def killed_after(calls: int) -> tuple[Life, Mortal]:
        operator = Mortal(calls, folder / f"calls-{calls}")
        async with free:
            return await live(client, story, operator.operate, folder), operator

    first = asyncio.create_task(killed_after(0))
    chosen = moments or range(1, len((await first)[1].calls) + 1)
    (undisturbed, _), *others = await asyncio.gather(first, *map(killed_after, chosen))
    undisturbed.check(story)
    for life, operator in others:
        told = "killed after %d calls, %s" if operator.killed else "over before call %d, %s"
        logger.info(told, operator.lifetime, operator.calls[-1])
        life.check(story, undisturbed, told_all=not operator.was_telling)
    # How many calls a life has varies a little.
    assert sum(operator.killed for _, operator in others) >= 0.8 * len(others)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", [JOB, MONITOR], ids=["job", "monitor"])
def test_killed_after_every_call(story: Story, kubeconfig: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await replay(client, story, (), tmp_path)

    asyncio.run(main())


def test_killed_after_some_calls(kubeconfig: str, tmp_path: Path) -> None:
    async def main() -> None:
        chosen = random.Random(SEED)
        async with await Client.connect() as client, asyncio.TaskGroup() as group:
            for number, story in enumerate([JOB, MONITOR]):
                folder = tmp_path / str(number)
                folder.mkdir()
                group.create_task(replay(client, story, chosen.sample(range(1, FEWEST_CALLS), SAMPLE), folder))

    asyncio.run(main())
