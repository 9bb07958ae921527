"""The three that are compared, each with a fresh control plane, the same objects and the same pods.

The clock runs from the start of the process, imports included, to the last status; the objects are there before.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from os import getloadavg
from pathlib import Path

from bench.scale import gauge, load, plane, replay
from bench.scale.gauge import Process
from bench.scale.load import Object, finished, shape
from bench.scale.observer import Observer, percentile
from trimtab.cluster import objects
from trimtab.cluster.client import Client
from trimtab.cluster.objects import EVENTS, JOBS, OPTIMIZATION_JOBS
from trimtab.settings import Settings

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Size:
    """How much there is to do, and how long is looked at what should be quiet."""

    jobs: int
    trials: int = load.TRIALS
    idle: float = 60.0
    trickle: int = 60
    """How many jobs come one by one, twice a second, to an operator that has all others in place."""
    patience: float = 3600.0
    workers: int = Settings().workers
    """Of the operator."""

    @property
    def all(self) -> int:
        """Numbers that may be used."""
        return self.jobs + 2 * self.trickle

    @property
    def works(self) -> int:
        return sum(shape(number, self.trials).jobs for number in range(self.jobs))


@dataclass(frozen=True)
class Cost:
    """What doing all of it took."""

    seconds: float
    cpu: float
    peak: int
    servers: float
    """CPU-seconds of the API server and etcd."""
    pods: float
    """CPU-seconds of what ends the pods."""
    load: float = 0.0
    """How many processes wanted a core at the end: where others were at work too, times say little."""


@dataclass(frozen=True)
class Spell:
    """What the operator did during some time."""

    seconds: float
    cpu: float
    calls: dict[str, int]
    memory: int
    delays: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The 50th and 99th percentile of seconds, by from what to what."""


@dataclass(frozen=True)
class Ours:
    """The operator's three acts: all jobs to their end, a minute in which nothing happens, a restart."""

    all: Cost
    converged: Spell
    idle: Spell
    restarted: Spell
    trickle: Spell
    scripts: dict[str, replay.Script]


@dataclass
class Arena:
    """A control plane with the objects in it, watched, and a process that ends pods."""

    size: Size
    folder: Path
    client: Client
    observer: Observer
    pods: Process

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    async def race(self, racer: Process, done: Callable[[], bool]) -> Cost:
        began, servers, pods = time.time(), gauge.cpu(plane.servers()), self.pods.cpu
        await self.until(done, racer)
        seconds = time.time() - began
        return Cost(
            seconds, racer.cpu, racer.peak, gauge.cpu(plane.servers()) - servers, self.pods.cpu - pods, getloadavg()[0]
        )

    async def until(self, done: Callable[[], bool], racer: Process) -> None:
        """Raises RuntimeError when one that is needed has ended, TimeoutError in the end."""
        async with asyncio.timeout(self.size.patience):
            while not done():
                for needed in (racer, self.pods):
                    if needed.ended and not done():
                        raise RuntimeError(f"it ended before: {needed.log.read_text()[-2000:]}")
                racer.look()
                await asyncio.sleep(LOOK_SECONDS)

    def all_done(self) -> bool:
        return len(self.observer.done) >= self.size.jobs


@contextlib.asynccontextmanager
async def arena(size: Size, folder: Path) -> AsyncIterator[Arena]:
    """To be entered within `plane.control_plane`."""
    folder.mkdir()
    kept = folder / "kept"
    kept.touch()
    async with await Client.connect() as client:
        await plane.fill(client, range(size.jobs), size.trials)
        observer = Observer(client)
        watching = asyncio.create_task(observer.run())
        with gauge.process("-m", "bench.scale.pods", kept, log=folder / "pods.log") as pods:
            await asyncio.sleep(2)  # its imports are not part of the race
            yield Arena(size, folder, client, observer, pods)
        watching.cancel()


async def naive(size: Size, folder: Path, scripts: Path) -> Cost:
    """kopf's create-handler."""
    async with arena(size, folder) as it:
        words = ("-m", "bench.scale.naive", scripts, str(size.trials))
        with gauge.process(*words, log=folder / "naive.log") as racer:
            return await it.race(racer, it.all_done)


async def bare(size: Size, folder: Path, scripts: Path) -> Cost:
    """The list-and-write loop."""
    async with arena(size, folder) as it:
        words = ("-m", "bench.scale.bare", scripts, str(size.trials))
        with gauge.process(*words, log=folder / "bare.log") as racer:
            cost = await it.race(racer, lambda: racer.ended)
            if not it.all_done():
                raise RuntimeError(f"it did not write everything: {racer.log.read_text()[-2000:]}")
            return cost


async def ours(size: Size, folder: Path) -> Ours:
    """The operator."""
    port = _free_port()
    lease = f"{load.namespace(0)}/trimtab"
    settings = Settings(http_port=port, lease=lease, workers=size.workers).environment()
    async with arena(size, folder) as it:
        with gauge.process("-m", "trimtab", "operator", log=folder / "operator.log", **settings) as racer:
            cost = await it.race(racer, it.all_done)
            converged = Spell(cost.seconds, cost.cpu, gauge.calls(gauge.metrics(port)), racer.memory, _delays(it, 0.0))
            await _quiet(port)
            idle = await _spell(it, racer, port, lambda: asyncio.sleep(size.idle))
        with gauge.process("-m", "trimtab", "operator", log=folder / "restarted.log", **settings) as racer:
            began = time.time()
            await it.until(lambda: _turned(port) >= size.jobs, racer)
            calls = gauge.calls(gauge.metrics(port))
            restarted = Spell(time.time() - began, racer.cpu, calls, racer.peak)
            await asyncio.sleep(2)
            trickle = await _spell(it, racer, port, lambda: _trickle(it, racer))
        scripts = await _scripts(it)
    return Ours(cost, converged, idle, restarted, trickle, scripts)


async def profiled(size: Size, folder: Path) -> Path:
    """What cProfile says of the operator while all jobs go to their end."""
    port, file = _free_port(), folder / "profile"
    settings = Settings(http_port=port, workers=size.workers).environment()
    words = ("-m", "bench.scale.profiled", file)
    async with arena(size, folder) as it:
        with gauge.process(*words, log=folder / "operator.log", **settings) as racer:
            await it.race(racer, it.all_done)
    return file


async def _quiet(port: int) -> None:
    """Until the last turns are over: five seconds bring no call but the lease's."""
    before: dict[str, int] = {}
    while (now := _about_objects(port)) != before:
        before = now
        await asyncio.sleep(5)


def _about_objects(port: int) -> dict[str, int]:
    return {name: count for name, count in gauge.calls(gauge.metrics(port)).items() if "leases" not in name}


async def _spell(it: Arena, racer: Process, port: int, act: Callable[[], object]) -> Spell:
    began, cpu, before = time.time(), racer.cpu, gauge.calls(gauge.metrics(port))
    await act()  # type: ignore[misc]
    after = gauge.calls(gauge.metrics(port))
    calls = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    return Spell(time.time() - began, racer.cpu - cpu, calls, racer.memory, _delays(it, began))


async def _trickle(it: Arena, racer: Process) -> None:
    numbers = _small(it.size)
    for number in numbers:
        await objects.create(it.client, OPTIMIZATION_JOBS, load.job(number, it.size.trials))
        await asyncio.sleep(0.5)
    await it.until(lambda: len(it.observer.done) >= it.size.jobs + len(numbers), racer)


def _small(size: Size) -> list[int]:
    """The next numbers of jobs without 128 trials."""
    following = range(size.jobs, size.all)
    return [number for number in following if number % load.LARGE_EVERY][: size.trickle]


def _delays(it: Arena, since: float) -> dict[str, tuple[float, float]]:
    found = {
        "object → first status": it.observer.start_delays(since),
        "Job ended → status": it.observer.harvest_delays(it.kept, since),
    }
    return {name: (percentile(values, 0.5), percentile(values, 0.99)) for name, values in found.items()}


def _turned(port: int) -> int:
    try:
        return gauge.turns(gauge.metrics(port))
    except OSError:
        return 0


async def _scripts(it: Arena) -> dict[str, replay.Script]:
    """By shape, the first object of it, with the average number of status writes of all."""
    owners: dict[str, list[Object]] = {}
    async for page in it.client.pages(OPTIMIZATION_JOBS.path()):
        for item in page["items"]:
            if load.number_of(item) < it.size.jobs and finished(item):
                owners.setdefault(shape(load.number_of(item), it.size.trials).name, []).append(item)
    return {name: await _script(it, found) for name, found in owners.items()}


async def _script(it: Arena, owners: list[Object]) -> replay.Script:
    first, where = owners[0], owners[0]["metadata"]["namespace"]
    uid = first["metadata"]["uid"]
    jobs = [item async for page in it.client.pages(JOBS.path(where)) for item in page["items"]]
    events = [item async for page in it.client.pages(EVENTS.path(where)) for item in page["items"]]
    mine = [replay.job_of(job) for job in jobs if load.mark(job).startswith(uid)]
    told = [replay.event_of(event) for event in events if event["regarding"].get("uid") == uid]
    writes = [it.observer.versions[owner["metadata"]["uid"]] - 1 for owner in owners]
    mine.sort(key=replay.order)
    return replay.Script({"metadata": first["metadata"]}, mine, told, first["status"], round(sum(writes) / len(writes)))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
