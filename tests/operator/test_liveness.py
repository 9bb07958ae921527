"""A watch that is open and says nothing: no error ever comes, so somebody has to notice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pytest

from faulty import Fault, divert, faulty, kind_of, nothing, through
from kubelet import Cuttable, cuttable
from operators import adapt_kopf, fetch, in_a_thread, says, spare_us, submit
from ports import free_port
from trimtab import handlers
from trimtab.api.names import MANAGED_LABEL
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client
from trimtab.feeds import DEAF_SECONDS
from trimtab.settings import Settings
from waiting import HANG, patience

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _spared(monkeypatch: pytest.MonkeyPatch) -> None:
    spare_us(monkeypatch)


def test_a_silent_watch_is_renewed_and_one_that_stays_silent_is_noticed(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only kopf's watches go through the proxy; what the operator calls itself is answered."""
    port = free_port()
    credentials = Client.credentials
    monkeypatch.setattr("trimtab.feeds.AUDIT_SECONDS", 0.5)
    adapt_kopf(monkeypatch, lambda settings: setattr(settings.watching, "inactivity_timeout", 3))

    async def main() -> None:
        async with await Client.connect() as client, cuttable() as (_, proxy, _calls):

            async def through_the_proxy(self: Client) -> dict[str, Any]:
                return await credentials(self) | {"server": f"https://127.0.0.1:{proxy.port}"}

            monkeypatch.setattr(Client, "credentials", through_the_proxy)
            watching = Settings(watch_namespaces=[namespace], http_port=port)
            async with in_a_thread(partial(handlers.operate, watching)):
                await connected(proxy, 3)
                await says(port, "ok")

                proxy.hush()
                await submit(client, namespace)
                await says(port, "misses changes")
                proxy.open.set()
                async with patience(client, namespace):
                    while not (await client.request("GET", objects.JOBS.path(namespace)))["items"]:
                        await asyncio.sleep(0.1)
                await says(port, "ok")

                proxy.silent = True
                path = objects.OPTIMIZATION_JOBS.path(namespace, "m")
                await client.request("PATCH", path, body={"metadata": {"labels": {"a": "b"}}}, headers=MERGE_PATCH)
                await says(port, "the watch of optimizationjobs misses changes")
                await connected(proxy, proxy.connections + 3)  # which does not help it now
                assert "misses changes" in await fetch(port, "/healthz")

    asyncio.run(main())


async def connected(proxy: Cuttable, times: int) -> None:
    async with asyncio.timeout(HANG):
        while proxy.connections < times:
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def pulse(client: Client, namespace: str) -> AsyncIterator[None]:
    """A Job with our label, and not ours, that changes twice a second."""
    container = {"name": "x", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"metadata": {"name": "pulse", "labels": {MANAGED_LABEL: "true"}}, "spec": {"template": template}}
    await client.request("POST", objects.JOBS.path(namespace), body=job)

    async def beat() -> None:
        for number in count():
            body = {"metadata": {"annotations": {"beat": str(number)}}}
            await client.request("PATCH", objects.JOBS.path(namespace, "pulse"), body=body, headers=MERGE_PATCH)
            await asyncio.sleep(0.5)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


@dataclass
class Clock:
    """Ours, by which watches are deaf. It can be put forward."""

    late: float = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.late


def test_a_watch_of_our_own_that_cannot_be_opened_any_more_is_noticed(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is answered, so no call fails but the watch's, which is tried again for ever.

    A Job that changes all the time stands for the bookmark of every minute. The other watch of our own has none here.
    """
    divert(monkeypatch)
    clock = Clock()
    monkeypatch.setattr("trimtab.feeds.time", clock)
    monkeypatch.setattr("trimtab.feeds.AUDIT_SECONDS", 0.5)
    monkeypatch.setattr("trimtab.cluster.watch.LONGEST_DELAY", 1.0)
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())
    deaf = f"the watch of jobs of {namespace} hears nothing"

    async def main() -> None:
        async with await Client.connect() as client, pulse(client, namespace), faulty() as proxy:
            with through(proxy):
                async with in_a_thread(partial(handlers.operate, settings)):
                    await says(settings.http_port, "ok", "/readyz")
                    proxy.judge = lambda call: Fault(429) if kind_of(call) == "WATCH jobs" else None
                    proxy.cut()
                    async with patience(client, namespace):
                        while deaf not in await fetch(settings.http_port, "/healthz"):
                            clock.late += DEAF_SECONDS  # again, for a word may have been on its way
                            await asyncio.sleep(1)
                    proxy.judge = nothing
                    async with patience(client, namespace):
                        while deaf in await fetch(settings.http_port, "/healthz"):
                            await asyncio.sleep(0.1)

    asyncio.run(main())
