"""The operator killed after each call of a job's life, and of a monitor's, and started again: the end is the same.

So it is where another version is started, the present one after the previous or the previous after it. Real processes;
the whole replay is `make test-full`'s, a seeded sample of it runs in CI.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mortal
from operators import show
from process_node import SOURCES
from stories import JOB, MONITOR, Life, Story, live
from trimtab.cluster.client import Client
from trimtab.settings import Settings
from versions import previous

pytestmark = pytest.mark.e2e
logger = logging.getLogger(__name__)

SAMPLE, SEED = 3, 5
"""How many moments of each story CI tries, and which."""
FEWEST_CALLS = 35
"""Every life has as many: one in which two trials always end at once, and are looked at by one call, had 42."""
FEWEST_OF_BOTH = 30
"""Whichever version's: the previous one made fewer."""
AT_ONCE = 8
"""Lives that are lived side by side: each is mostly waiting."""

TELLING = ("PATCH optimizationjobs/status", "PATCH modelmonitors/status", "POST events")


@dataclass
class Mortal:
    """An operator that dies after `lifetime` calls, never if that is 0, and is started once more."""

    lifetime: int
    log: Path
    code: tuple[str, str]
    """Of the first incarnation and of the second."""
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
        await self._start(self.code[0], str(self.lifetime), str(self.log))
        async with asyncio.TaskGroup() as group:
            tending = group.create_task(self._tend())
            try:
                yield
            finally:
                tending.cancel()
                with contextlib.suppress(ProcessLookupError):
                    self._running.terminate()  # politely: a turn that has written its status still tells of it
                await self._running.wait()
                show(self._said)

    @property
    def _said(self) -> Path:
        return self.log.with_suffix(".said")

    async def _start(self, code: str, *words: str) -> None:
        environment = os.environ | self._settings.environment() | {"PYTHONPATH": code}
        command = [sys.executable, mortal.__file__, *words]
        with self._said.open("ab") as said:
            self._running = await asyncio.create_subprocess_exec(*command, env=environment, stderr=said)

    async def _tend(self) -> None:
        assert await self._running.wait() == -signal.SIGKILL, "it ended by itself"
        self.killed = True
        await self._start(self.code[1], "0")
        raise AssertionError(f"the second ended by itself with {await self._running.wait()}")


async def replay(
    client: Client, story: Story, moments: Iterable[int], folder: Path, code: tuple[str, str] = (SOURCES, SOURCES)
) -> None:
    """Live once for each of these moments. All lives come to the same end, that of moment 0, which is undisturbed.

    Of two versions each words what it says in its own way: those lives come to the story's end. The previous one, where
    it comes second, loses the events that it always lost.
    """
    free = asyncio.Semaphore(AT_ONCE)

    async def killed_after(calls: int) -> tuple[Life, Mortal]:
        operator = Mortal(calls, folder / f"calls-{calls}", code)
        async with free:
            return await live(client, story, operator.operate, folder), operator

    lives = await asyncio.gather(*map(killed_after, moments))
    undisturbed = next((life for life, operator in lives if not operator.lifetime and code[0] == code[1]), None)
    for life, operator in lives:
        told = "killed after %d calls, %s" if operator.killed else "over before call %d, %s"
        logger.info(told, operator.lifetime, operator.calls[-1])
        life.check(story, undisturbed, told_all=code[1] == SOURCES and not operator.was_telling)
    # How many calls a life has varies a little.
    killed = [operator.killed for _, operator in lives if operator.lifetime]
    assert sum(killed) >= 0.8 * len(killed)


async def every_call(client: Client, story: Story, folder: Path, code: str = SOURCES) -> range:
    """How many calls an undisturbed life has, from none on."""
    operator = Mortal(0, folder / "calls", (code, code))
    await live(client, story, operator.operate, folder)
    return range(len(operator.calls) + 1)


def between(folder: Path, back: bool) -> tuple[str, str]:
    """The code of the previous version and of this one, or the other way round."""
    old = previous(folder / "previous").code
    return (SOURCES, old) if back else (old, SOURCES)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", [JOB, MONITOR], ids=["job", "monitor"])
def test_killed_after_every_call(story: Story, kubeconfig: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await replay(client, story, await every_call(client, story, tmp_path), tmp_path)

    asyncio.run(main())


def test_killed_after_some_calls(kubeconfig: str, tmp_path: Path) -> None:
    async def main() -> None:
        chosen = random.Random(SEED)
        async with await Client.connect() as client, asyncio.TaskGroup() as group:
            for number, story in enumerate([JOB, MONITOR]):
                folder = tmp_path / str(number)
                folder.mkdir()
                moments = [0, *chosen.sample(range(1, FEWEST_CALLS), SAMPLE)]
                group.create_task(replay(client, story, moments, folder))

    asyncio.run(main())


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("back", [False, True], ids=["upgrade", "rollback"])
@pytest.mark.parametrize("story", [JOB, MONITOR], ids=["job", "monitor"])
def test_changed_after_every_call(story: Story, back: bool, kubeconfig: str, tmp_path: Path) -> None:
    async def main() -> None:
        code = between(tmp_path, back)
        async with await Client.connect() as client:
            await replay(client, story, await every_call(client, story, tmp_path, code[0]), tmp_path, code)

    asyncio.run(main())


def test_changed_after_some_call(kubeconfig: str, tmp_path: Path) -> None:
    async def main() -> None:
        chosen = random.Random(SEED)
        async with await Client.connect() as client, asyncio.TaskGroup() as group:
            for story, back in itertools.product([JOB, MONITOR], [False, True]):
                folder = Path(tempfile.mkdtemp(dir=tmp_path))
                moment = chosen.randrange(1, FEWEST_OF_BOTH)
                group.create_task(replay(client, story, [moment], folder, between(folder, back)))

    asyncio.run(main())
