"""An API server that refuses, fails, is silent or cuts the connection, at every kind of call: the end is the same.

The whole operator runs here, kopf included; what it calls passes a proxy (`faulty`). A life's end is compared with
that of one whose proxy was honest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import kopf
import pytest

import apiserver
from faulty import Fault, Faulty, Judge, divert, faulty, kind_of, nothing, through
from kubelet import node
from operators import Operator, adapt_kopf, answer, fetch, in_a_thread, process, published, spare_us, submit
from ports import free_port
from stories import JOB, LIFETIME, MONITOR, Life, Story, listed, live
from trimtab import handlers
from trimtab.cluster import client as client_module
from trimtab.cluster import objects
from trimtab.cluster.client import ATTEMPTS, Call, Client
from trimtab.cluster.watch import watch
from trimtab.settings import Settings
from waiting import patience

pytestmark = pytest.mark.e2e
logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long an answer is waited for here, in place of half a minute and more."""

FAULTS = {
    "409": Fault(409, reason="Conflict"),
    "429 with Retry-After": Fault(429, retry_after=1),
    "500": Fault(500),
    "500, but done": Fault(500, done=True),
    "503": Fault(503),
    "504, but done": Fault(504, done=True),
    "cut": Fault(0),
    "cut, but done": Fault(0, done=True),
    "silent": Fault(0, silent=True),
    "silent, but done": Fault(0, silent=True, done=True),
}

CALLS = [
    *(f"{verb} {kind}" for verb in ("GET", "WATCH") for kind in ("jobs", "optimizationjobs", "optimizationruntimes")),
    *(f"{verb} {kind}" for verb in ("GET", "WATCH") for kind in ("modelmonitors", "clusteroptimizationruntimes")),
    *(
        "GET discovery",
        "GET pods",
        "POST jobs",
        "POST events",
        "POST optimizationjobs",
        "DELETE jobs",
        "PATCH configmaps",
    ),
    *("PATCH optimizationjobs/status", "PATCH modelmonitors/status"),
]
"""What a monitor's life calls, with the job in it."""

AT_ONCE = 6

REPEATED = ATTEMPTS + 1
"""So often in a row that the client gives up, and the queue has to try again."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rests are short; the operator passes the proxy."""
    spare_us(monkeypatch)
    monkeypatch.setattr(handlers, "GAP_SECONDS", 0.05)
    monkeypatch.setattr(handlers, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr("trimtab.cluster.pods.PATIENCE", timedelta(hours=1))  # who is long in starting is asked about
    divert(monkeypatch)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it is waited for in vain: a busy API server needs as long for an answer that comes."""

    def change(settings: kopf.OperatorSettings) -> None:
        settings.watching.inactivity_timeout = settings.networking.request_timeout = ANSWER_SECONDS

    adapt_kopf(monkeypatch, change)
    monkeypatch.setattr("trimtab.feeds.watch", partial(watch, silence=ANSWER_SECONDS))
    monkeypatch.setattr(client_module, "REQUEST_SECONDS", ANSWER_SECONDS)


def at(call: str, fault: Fault) -> Judge:
    """The fault at the first calls of this kind."""
    left = REPEATED

    def judge(asked: Call) -> Fault | None:
        nonlocal left
        if kind_of(asked) != call or not left:
            return None
        left -= 1
        return fault

    return judge


def storm(seed: int, share: float) -> Judge:
    """Any fault at any call, for a share of the calls."""
    chance = random.Random(seed)

    def judge(asked: Call) -> Fault | None:
        fault = chance.choice([fault for fault in FAULTS.values() if not fault.silent])
        # The API server never says so to a read.
        possible = asked.writes or fault.status != 409
        return fault if possible and chance.random() < share else None

    return judge


@contextlib.asynccontextmanager
async def operating(settings: Settings, proxy: Faulty, replicas: int = 1) -> AsyncIterator[None]:
    """The operator in this process; one that ended by itself would be started again by a kubelet."""
    async with contextlib.AsyncExitStack() as running:
        with through(proxy):
            for number in range(replicas):
                await running.enter_async_context(in_a_thread(partial(_again, settings, number)))
        yield


async def _again(settings: Settings, number: int) -> None:
    own = settings.model_copy(update={"http_port": free_port()}) if number else settings
    while True:
        try:
            await handlers.operate(own)
        except Exception:
            logger.exception("the operator ended")


async def lived(client: Client, story: Story, judge: Judge, folder: Path, replicas: int = 1) -> tuple[Life, Faulty]:
    async with faulty(judge) as proxy:
        operate: Callable[..., contextlib.AbstractAsyncContextManager[None]]
        operate = partial(operating, proxy=proxy, replicas=replicas)
        return await live(client, story, operate, folder), proxy


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FAULTS)
def test_every_kind_of_call(name: str, kubeconfig: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each kind in a life of its own."""
    fault = FAULTS[name]
    if fault.silent:
        impatient(monkeypatch)
    # Of a job that ended before the monitor could say that it had started it, the monitor never says that it ended; and
    # a conflict is not tried again at once, so the second try meets one too.
    may_lose = ["POST optimizationjobs", "PATCH modelmonitors/status"] + ["POST events"] * (fault.status == 409)
    kinds = [call for call in CALLS if fault.status != 409 or call.split()[0] not in ("GET", "WATCH")]

    async def main() -> None:
        async with await Client.connect() as client:
            free = asyncio.Semaphore(AT_ONCE)

            async def one(judge: Judge) -> tuple[Life, Faulty]:
                async with free:
                    return await lived(client, MONITOR, judge, tmp_path)

            async def check(call: str) -> None:
                try:
                    life, proxy = await one(at(call, fault))
                    undisturbed, honest = await first
                    assert proxy.met == Counter({call: proxy.met[call]})
                    # How often something is read depends on how long a life lasts.
                    reads = call.startswith(("GET", "WATCH"))
                    assert proxy.met[call] >= (1 if reads else min(REPEATED, honest.seen[call]))
                    life.check(MONITOR, undisturbed, told_all=call not in may_lose)
                except AssertionError as error:
                    error.add_note(f"{name} at {call}")
                    raise

            async with asyncio.TaskGroup() as group:
                first = group.create_task(one(nothing))
                for call in kinds:
                    group.create_task(check(call), name=call)
            undisturbed, honest = first.result()
            undisturbed.check(MONITOR)
            assert set(honest.seen) == set(CALLS)

    asyncio.run(main())


def test_two_operators_in_a_storm(kubeconfig: str, tmp_path: Path) -> None:
    """Nobody elects a leader, and one call in seven goes wrong somehow."""

    async def main() -> None:
        async with await Client.connect() as client:
            (undisturbed, _), (life, proxy) = await asyncio.gather(
                lived(client, JOB, nothing, tmp_path), lived(client, JOB, storm(3, 0.15), tmp_path, replicas=2)
            )
            undisturbed.check(JOB)
            assert proxy.met.total() > 10
            life.check(JOB, undisturbed, told_all=False)

    asyncio.run(main())


def no_watch(asked: Call) -> Fault | None:
    return Fault(503) if asked.verb == "WATCH" else None


def test_watches_are_cut_while_objects_are_deleted(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No watch ever tells of what was deleted; what is new under the same names is not taken for the old."""
    monkeypatch.setattr("trimtab.feeds.AUDIT_SECONDS", 1.0)
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())

    async def gone(client: Client, resource: objects.Resource, name: str) -> None:
        await client.request("DELETE", resource.path(namespace, name))
        while await listed(client, resource, namespace):
            await asyncio.sleep(0.1)

    async def main() -> None:
        async with await Client.connect() as client, faulty() as proxy, operating(settings, proxy):
            async with patience(client, namespace, LIFETIME):
                await submit(client, namespace)
                while not (old := await listed(client, objects.JOBS, namespace)):
                    await asyncio.sleep(0.1)
                proxy.judge = no_watch
                proxy.cut()
                await gone(client, objects.OPTIMIZATION_RUNTIMES, "default")
                await gone(client, objects.OPTIMIZATION_JOBS, "m")
                while await listed(client, objects.JOBS, namespace):  # the garbage collector is about it
                    await asyncio.sleep(0.1)
                while "trimtab_jobs{" in await fetch(settings.http_port, "/metrics"):
                    await asyncio.sleep(0.1)
                proxy.judge = nothing
                async with node(client, namespace, answer()) as ran:
                    await submit(client, namespace)
                    await published(client, namespace)
            assert len(ran) == len(set(ran)) == 5
            assert old[0]["metadata"]["name"] not in ran

    asyncio.run(main())


MOMENTS = (1, 3, 6)
"""After so many of a life's Jobs: during Inspect, among the trials, in the playoff."""


@pytest.mark.full
def test_the_api_server_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times in a life. The operator outlives it."""
    with apiserver.control_plane() as plane:
        monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))

        async def break_it(client: Client, namespace: str) -> None:
            for moment in MOMENTS:
                while len(await listed(client, objects.JOBS, namespace)) < moment:
                    if await JOB.over(client, namespace):
                        return  # while the API server was still starting
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(plane.kill)
                await asyncio.sleep(2)
                await asyncio.to_thread(plane.start)

        async def outlive(running: Operator) -> None:
            raise AssertionError(f"the operator ended with {await running.process.wait()}")

        async def main() -> None:
            async with await Client.connect() as client:

                @contextlib.asynccontextmanager
                async def operate(settings: Settings) -> AsyncIterator[None]:
                    (namespace,) = settings.watch_namespaces
                    async with asyncio.TaskGroup() as group, process(settings) as running:
                        breaking = group.create_task(break_it(client, namespace))
                        outliving = group.create_task(outlive(running))
                        yield
                        await breaking
                        outliving.cancel()

                life = await live(client, JOB, operate, tmp_path)
                # One that is starting may forbid an event, which is not told again.
                life.check(JOB, told_all=False)

        asyncio.run(main())
