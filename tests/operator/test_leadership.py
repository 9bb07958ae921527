"""One replica acts at a time: claims to a Lease on a real API server, and operators that are stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import NoReturn

import pytest

from builders import job_dict, make_runtime
from kubelet import node
from operators import answer, fetch, process, published, submit
from ports import free_port
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.leadership import LEASE_SECONDS, LOST_EXIT, RENEW_SECONDS, Leadership
from trimtab.settings import Settings

pytestmark = pytest.mark.e2e


class Lost(Exception):
    """Stands for the end of a process."""


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Replica:
    """A claimant with a clock of its own, and a client whose writes pass its fence."""

    leadership: Leadership
    clock: Clock
    client: Client
    name: str

    async def claims(self) -> bool:
        return await self.leadership._attempt()

    async def renews(self, seconds: float = 0.5) -> None:
        """A few rounds of `keep`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.leadership.keep()


def lost(why: str) -> NoReturn:
    raise Lost(why)


@dataclass
class Replicas:
    namespace: str
    client: Client
    made: list[Client] = field(default_factory=list)

    async def __call__(self, name: str) -> Replica:
        clock = Clock()
        leadership = Leadership(self.client, (self.namespace, "trimtab"), name, clock, lost)
        fenced = await Client.connect(fence=leadership.seconds_left)
        self.made.append(fenced)
        return Replica(leadership, clock, fenced, name)

    async def lease(self) -> Object:
        return await objects.get(self.client, objects.LEASES, self.namespace, "trimtab")


@contextlib.asynccontextmanager
async def replicas(namespace: str) -> AsyncIterator[Replicas]:
    async with await Client.connect() as client:
        made = Replicas(namespace, client)
        try:
            yield made
        finally:
            for each in made.made:
                await each.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds follow at once; the clock is the test's."""
    monkeypatch.setattr("trimtab.leadership.RETRY_SECONDS", 0.05)


def test_of_two_who_find_it_free_one_gets_it(namespace: str) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            both = [await make("a"), await make("b")]
            got = await asyncio.gather(*(each.claims() for each in both))
            assert sorted(got) == [False, True]
            (leader,) = [each for each, won in zip(both, got, strict=True) if won]
            assert [each.leadership.leads for each in both] == got
            spec = (await make.lease())["spec"]
            assert (spec["holderIdentity"], spec["leaseTransitions"]) == (leader.name, 0)

    asyncio.run(main())


def test_it_is_taken_over_when_it_was_not_renewed_for_its_whole_duration(namespace: str) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            a, b = await make("a"), await make("b")
            assert await a.claims()
            b.clock.now += 1000  # what another clock says is nothing to it
            assert not await b.claims()
            b.clock.now += LEASE_SECONDS - 1
            assert not await b.claims()
            await a.claims()
            b.clock.now += 1
            assert not await b.claims(), "it was renewed meanwhile"
            b.clock.now += LEASE_SECONDS
            assert await b.claims()
            spec = (await make.lease())["spec"]
            assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)
            with pytest.raises(Lost, match="held by b"):
                await a.renews()

    asyncio.run(main())


def test_a_late_leader_writes_nothing(namespace: str) -> None:
    """It may not even know that there is another: the clock alone stops it."""

    async def main() -> None:
        async with replicas(namespace) as make:
            a = await make("a")
            assert await a.claims()
            runtime = {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "OptimizationRuntime",
                "metadata": {"name": "default", "namespace": namespace},
                "spec": make_runtime().spec.wire(),
            }
            await objects.create(a.client, objects.OPTIMIZATION_RUNTIMES, runtime)
            a.clock.now += RENEW_SECONDS
            manifest = job_dict() | {"metadata": {"name": "m", "namespace": namespace}}
            for write in (
                objects.create(a.client, objects.OPTIMIZATION_JOBS, manifest),
                objects.delete(a.client, objects.OPTIMIZATION_RUNTIMES, namespace, "default"),
            ):
                with pytest.raises(Lost, match="not renewed in time"):
                    await write
            assert (await objects.get(a.client, objects.OPTIMIZATION_RUNTIMES, namespace, "default"))["spec"]
            jobs = await make.client.request("GET", objects.OPTIMIZATION_JOBS.path(namespace))
            assert jobs["items"] == []

    asyncio.run(main())


def test_a_write_may_take_no_longer_than_the_lease(namespace: str) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            a = await make("a")
            assert await a.claims()
            a.clock.now += RENEW_SECONDS - 1
            assert a.leadership.seconds_left() == LEASE_SECONDS - RENEW_SECONDS + 1

    asyncio.run(main())


async def _deleted(make: Replicas) -> None:
    await make.client.request("DELETE", objects.LEASES.path(make.namespace, "trimtab"))


async def _touched(make: Replicas) -> None:
    path = objects.LEASES.path(make.namespace, "trimtab")
    await make.client.request("PATCH", path, body={"metadata": {"labels": {"a": "b"}}}, headers=MERGE_PATCH)


@pytest.mark.parametrize("change", [_deleted, _touched], ids=["deleted", "touched"])
def test_a_leader_keeps_a_lease_that_somebody_meddled_with(
    namespace: str, change: Callable[[Replicas], asyncio.Future[None]]
) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            a = await make("a")
            assert await a.claims()
            await change(make)
            await a.renews()
            assert (await make.lease())["spec"]["holderIdentity"] == "a"

    asyncio.run(main())


def test_a_leader_that_cannot_renew_ends_before_the_lease_does(namespace: str) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            a = await make("a")
            assert await a.claims()
            make.client._api.configuration.host = "https://127.0.0.1:1"  # nobody answers from now on
            await a.renews()
            a.clock.now += RENEW_SECONDS
            with pytest.raises(Lost, match="not renewed in time"):
                await a.renews(30)  # the attempt itself may take four

    asyncio.run(main())


def test_who_lets_go_is_followed_at_once(namespace: str) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            a, b = await make("a"), await make("b")
            assert await a.claims()
            await a.leadership.release()
            with pytest.raises(Lost):
                a.leadership.seconds_left()
            assert await b.claims()
            await a.leadership.release()
            assert (await make.lease())["spec"]["holderIdentity"] == "b"

    asyncio.run(main())


async def leads(settings: Settings) -> bool:
    return "trimtab_leader 1.0" in await fetch(settings.http_port, "/metrics")


async def leader(settings: dict[Process, Settings]) -> Process:
    """The one that leads, as soon as one does."""
    async with asyncio.timeout(60):
        while True:
            found = [running for running, its in settings.items() if await leads(its)]
            if found:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.2)


def test_operators_at_once_one_stopped_and_continued_one_killed(namespace: str) -> None:
    """Three replicas; the leader sleeps through its lease, the next is killed, the last one ends the job politely."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(await Client.connect())
            replicas: dict[Process, Settings] = {}
            for _ in range(3):
                settings = Settings(
                    watch_namespaces=[namespace], http_port=free_port(), lease=f"{namespace}/trimtab", log_format="JSON"
                )
                replicas[await stack.enter_async_context(process(settings))] = settings
            first = await leader(replicas)
            assert [await fetch(each.http_port, "/healthz") for each in replicas.values()] == ["ok"] * 3
            await submit(client, namespace)
            while not (await client.request("GET", objects.JOBS.path(namespace)))["items"]:
                await asyncio.sleep(0.1)

            first.send_signal(signal.SIGSTOP)
            others = {each: its for each, its in replicas.items() if each is not first}
            second = await leader(others)
            async with node(client, namespace, answer()) as ran:
                while len(ran) < 3:
                    await asyncio.sleep(0.05)
                first.send_signal(signal.SIGCONT)
                _, log = await asyncio.wait_for(first.communicate(), 30)
                assert first.returncode == LOST_EXIT
                assert "ending at once" in log.decode()

                second.kill()
                await second.wait()
                (third,) = {each for each in others if each is not second}
                job = await published(client, namespace)
                assert await leads(others[third])
            assert len(ran) == len(set(ran)) == 5
            assert job["status"]["best"]["trial"] == 2

            third.send_signal(signal.SIGTERM)
            await asyncio.wait_for(third.communicate(), 30)
            assert third.returncode == 0
            lease = await objects.get(client, objects.LEASES, namespace, "trimtab")
            assert lease["spec"].get("holderIdentity", "") == ""
            assert lease["spec"]["leaseTransitions"] == 2

    asyncio.run(main())
