"""The queue as a table of behaviours. Time is real but nothing here asserts how long something took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from trimtab.errors import Forbidden, Unavailable
from trimtab.queue import WorkQueue

Scenario = Callable[["Bench"], Awaitable[None]]


class Bench:
    """A queue with workers; `open` lets a handler that waits at the gate go on."""

    def __init__(self, queue: WorkQueue[str]) -> None:
        self.queue = queue
        self.handled: list[str] = []
        self.at_once: dict[str, int] = {}
        self.most_at_once: dict[str, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.again: list[float | None] = []
        self.failures: list[Exception] = []

    async def handle(self, key: str) -> float | None:
        self.handled.append(key)
        self.at_once[key] = self.at_once.get(key, 0) + 1
        self.most_at_once[key] = max(self.most_at_once.get(key, 0), self.at_once[key])
        try:
            await self.gate.wait()
        finally:
            self.at_once[key] -= 1
        if self.failures:
            raise self.failures.pop(0)
        return self.again.pop(0) if self.again else None

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.handled) < count:
                await asyncio.sleep(0.001)


def run(scenario: Scenario, *, workers: int = 3, gap: float = 0.0) -> Bench:
    async def main() -> Bench:
        bench = Bench(WorkQueue(gap, backoff=(0.002, 0.02)))
        tasks = [asyncio.create_task(bench.queue.work(bench.handle)) for _ in range(workers)]
        try:
            await scenario(bench)
            await asyncio.sleep(0.03)  # long enough for a run that must not come to show itself
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return bench

    return asyncio.run(main())


async def twice_before_a_worker_looks(bench: Bench) -> None:
    bench.queue.add("a")
    bench.queue.add("a")
    await bench.until(1)


async def many_times_while_running(bench: Bench) -> None:
    bench.gate.clear()
    bench.queue.add("a")
    await bench.until(1)
    for _ in range(5):
        bench.queue.add("a")
    bench.gate.set()
    await bench.until(2)


async def two_keys(bench: Bench) -> None:
    bench.gate.clear()
    bench.queue.add("a")
    bench.queue.add("b")
    await bench.until(2)
    bench.gate.set()


async def delayed_then_at_once(bench: Bench) -> None:
    bench.queue.add("a", after=60)
    bench.queue.add("a")
    await bench.until(1)


async def later_request_changes_nothing(bench: Bench) -> None:
    bench.queue.add("a", after=0.005)
    bench.queue.add("a", after=60)
    await bench.until(1)


async def handler_asks_for_another_run(bench: Bench) -> None:
    bench.again = [0.001]
    bench.queue.add("a")
    await bench.until(2)


async def delay_asked_for_while_running(bench: Bench) -> None:
    bench.gate.clear()
    bench.queue.add("a")
    await bench.until(1)
    bench.queue.add("a", after=60)
    bench.queue.add("a", after=0.001)
    bench.gate.set()
    await bench.until(2)


async def temporary_failures(bench: Bench) -> None:
    bench.failures = [Unavailable("GET /x: 503"), Unavailable("GET /x: 503")]
    bench.queue.add("a")
    await bench.until(3)


async def refused_by_the_cluster(bench: Bench) -> None:
    bench.failures = [Forbidden("POST /x: 403 exceeded quota")]
    bench.queue.add("a")
    await bench.until(2)


async def a_bug_in_the_handler(bench: Bench) -> None:
    bench.failures = [KeyError("oops")]
    bench.queue.add("a")
    bench.queue.add("b")
    await bench.until(3)


@pytest.mark.parametrize(
    ("scenario", "handled"),
    [
        (twice_before_a_worker_looks, ["a"]),
        (many_times_while_running, ["a", "a"]),
        (two_keys, ["a", "b"]),
        (delayed_then_at_once, ["a"]),
        (later_request_changes_nothing, ["a"]),
        (handler_asks_for_another_run, ["a", "a"]),
        (delay_asked_for_while_running, ["a", "a"]),
        (temporary_failures, ["a", "a", "a"]),
        (a_bug_in_the_handler, ["a", "a", "b"]),
        (refused_by_the_cluster, ["a", "a"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_how_often_a_key_is_handled(scenario: Scenario, handled: list[str]) -> None:
    bench = run(scenario)
    assert sorted(bench.handled) == handled
    assert set(bench.most_at_once.values()) <= {1}


def test_a_burst_is_two_runs_with_a_gap_between() -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(20):
            bench.queue.add("a")
            await asyncio.sleep(0)
        await bench.until(2)

    assert run(scenario, gap=0.5).handled == ["a", "a"]


def test_the_delay_doubles_with_jitter_and_ends_with_success() -> None:
    queue: WorkQueue[str] = WorkQueue(backoff=(1.0, 60.0))
    delays = [queue._delay("a") for _ in range(12)]
    assert all(0.5 * min(60, 2**n) <= delay <= min(60, 2**n) for n, delay in enumerate(delays))

    async def scenario(bench: Bench) -> None:
        bench.failures = [Unavailable("503")]
        bench.queue.add("a")
        await bench.until(2)

    assert run(scenario).queue._failures == {}


def test_the_server_s_retry_after_is_the_least_delay(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.failures = [Unavailable("GET /x: 429 slow down", retry_after=60)]
        bench.queue.add("a")
        await bench.until(1)

    with caplog.at_level("INFO"):
        assert run(scenario).handled == ["a"]
    assert "a: GET /x: 429 slow down; again in 60.0s" in caplog.text


def test_draining_lets_running_keys_finish_and_starts_no_other() -> None:
    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        bench.queue.add("a")
        await bench.until(1)
        bench.queue.add("b")
        bench.queue.add("c", after=0.001)
        bench.queue.add("a")
        assert not await bench.queue.drain(0.001)
        bench.gate.set()
        assert await bench.queue.drain(60)

    assert run(scenario, workers=1).handled == ["a"]


def test_the_depth_counts_keys_without_a_worker() -> None:
    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        for key in "abc":
            bench.queue.add(key)
        await bench.until(1)
        assert len(bench.queue) == 2
        bench.gate.set()
        await bench.until(3)
        assert len(bench.queue) == 0

    run(scenario, workers=1)
