"""One replica acts at a time: claims to a Lease on a real API server, and operators that are stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import NoReturn

import pytest

from builders import job_dict, make_runtime
from kubelet import Kubelet, played
from operators import Operator, answer, fetch, process, published, says, submit
from ports import free_port
from trimtab.api.work import Stage
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.errors import NotFound
from trimtab.leadership import LEASE_SECONDS, LOST_EXIT, RENEW_SECONDS, Leadership
from trimtab.manifests import work_of
from trimtab.settings import Settings
from waiting import HANG, patience

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

    async def keeps(self) -> NoReturn:
        """Renews for as long as it does."""
        async with asyncio.timeout(HANG):
            await self.leadership.keep()
        raise AssertionError("it never ends")


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

    async def renewed(self) -> None:
        """Until the lease is written again, whether or not it is there now."""
        before = await self._version()
        async with asyncio.timeout(HANG):
            while await self._version() in ("", before):
                await asyncio.sleep(0.05)

    async def _version(self) -> str:
        with contextlib.suppress(NotFound):
            return str((await self.lease())["metadata"]["resourceVersion"])
        return ""


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
    """Rounds follow at once, and each has the time it takes; the clock is the test's."""
    monkeypatch.setattr("trimtab.leadership.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("trimtab.leadership.CALL_SECONDS", HANG)


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
                await a.keeps()

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
            keeping = asyncio.create_task(a.keeps())
            await make.renewed()
            keeping.cancel()
            assert (await make.lease())["spec"]["holderIdentity"] == "a"
            assert a.leadership.leads

    asyncio.run(main())


def test_a_leader_that_cannot_renew_ends_before_the_lease_does(namespace: str) -> None:
    async def main() -> None:
        async with replicas(namespace) as make:
            a = await make("a")
            assert await a.claims()
            make.client._api.configuration.host = "https://127.0.0.1:1"  # nobody answers from now on
            assert not await a.claims()
            assert a.leadership.leads
            a.clock.now += RENEW_SECONDS
            with pytest.raises(Lost, match="not renewed in time"):
                await a.keeps()

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


async def leader(settings: dict[Operator, Settings]) -> Operator:
    """The one that leads, as soon as one does."""
    async with asyncio.timeout(HANG):
        while True:
            found = [running for running, its in settings.items() if await leads(its)]
            if found:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.2)


def test_operators_at_once_one_stopped_and_continued_one_killed(namespace: str) -> None:
    """Three replicas; the leader sleeps through its lease, the next is killed, the last one ends the job politely."""
    report, killed = answer(), asyncio.Event()

    async def play(kubelet: Kubelet, job: Object) -> None:
        """The playoff is still to be ended when the third comes to lead."""
        task = work_of(job).task
        if task.stage == Stage.PLAYOFF:
            await killed.wait()
        await kubelet.leave(job, report(task))

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(await Client.connect())
            replicas: dict[Operator, Settings] = {}
            for _ in range(3):
                settings = Settings(
                    watch_namespaces=[namespace], http_port=free_port(), lease=f"{namespace}/trimtab", log_format="JSON"
                )
                replicas[await stack.enter_async_context(process(settings))] = settings
            first = await leader(replicas)
            for each in replicas.values():
                await says(each.http_port, "ok")
            await submit(client, namespace)
            async with patience(client, namespace):
                while not (await client.request("GET", objects.JOBS.path(namespace)))["items"]:
                    await asyncio.sleep(0.1)

            first.process.send_signal(signal.SIGSTOP)
            others = {each: its for each, its in replicas.items() if each is not first}
            second = await leader(others)
            async with played(client, namespace, play) as ran:
                async with patience(client, namespace):
                    while len(ran) < 3:
                        await asyncio.sleep(0.05)
                first.process.send_signal(signal.SIGCONT)
                assert await first.ended() == LOST_EXIT
                assert "ending at once" in first.said()

                second.process.kill()
                await second.ended()
                killed.set()
                (third,) = {each for each in others if each is not second}
                job = await published(client, namespace)
                assert await leads(others[third])
            assert len(ran) == len(set(ran)) == 5
            assert job["status"]["best"]["trial"] == 2

            third.process.send_signal(signal.SIGTERM)
            assert await third.ended() == 0
            lease = await objects.get(client, objects.LEASES, namespace, "trimtab")
            assert lease["spec"].get("holderIdentity", "") == ""
            assert lease["spec"]["leaseTransitions"] == 2

    asyncio.run(main())
