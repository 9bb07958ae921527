"""A work queue of keys: what changed is remembered, how often it changed is not.

Level-triggered control needs exactly this much of a queue (the idea is client-go's workqueue). A key is in one of
three states, and every request lands in the state it finds:

    scheduled  a timer will make it ready; an earlier request moves the timer forward, a later one changes nothing
    ready      waiting for a worker; a request changes nothing
    running    a worker has it (never two: single flight); a request is kept, and honoured when the worker is done

A handler that fails is called again after a delay that doubles per failure, with jitter so that a thousand keys
failed by one outage don't come back together. `gap` is the least rest between two runs of one key: the first event
of a burst is handled at once, and the rest of the burst by one more run.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from trimtab.errors import ClusterError, Temporary

K = TypeVar("K")
Handler = Callable[[K], Awaitable[float | None]]
"""Handles a key; returns the seconds after which to look again though nothing happens, or None."""

logger = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """See the module. All methods belong to one event loop; times are in seconds."""

    def __init__(self, gap: float = 0.0, backoff: tuple[float, float] = (0.5, 300.0)) -> None:
        self._gap = gap
        self._backoff = backoff
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._running: dict[K, float | None] = {}
        """Keys that a worker has, with the time at which another run was asked for meanwhile."""
        self._failures: dict[K, int] = {}
        self._resting: set[K] = set()
        """Keys handled less than `gap` ago."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __len__(self) -> int:
        """Keys that are ready and have no worker yet."""
        return len(self._waiting)

    def add(self, key: K, after: float = 0.0) -> None:
        """Ask for a run of `key`, not earlier than `after` seconds from now."""
        now = asyncio.get_running_loop().time()
        when = now + max(after, self._gap if key in self._resting else 0.0)
        if self._closed or key in self._waiting:
            return
        if key in self._running:
            asked = self._running[key]
            self._running[key] = when if asked is None else min(asked, when)
        elif when <= now:
            self._ripen(key)
        else:
            self._schedule(key, when)

    async def work(self, handle: Handler[K]) -> None:
        """One worker: handle ready keys one after the other until cancelled."""
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            if self._closed:
                continue
            self._running[key] = None
            self._idle.clear()
            try:
                again = await self._attempt(key, handle)
            finally:
                self._finish(key)
            if again is not None:
                self.add(key, again)

    async def drain(self, timeout: float) -> bool:
        """Start nothing more and wait for what runs; False if it still ran after `timeout` seconds."""
        self._closed = True
        for key in list(self._timers):
            self._cancel_timer(key)
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _attempt(self, key: K, handle: Handler[K]) -> float | None:
        """Call the handler; the seconds to its next run, if one is due by itself."""
        try:
            again = await handle(key)
        except Temporary as error:
            delay = max(self._delay(key), error.retry_after)
            logger.info("%s: %s; again in %.1fs", key, error, delay)
            return delay
        except ClusterError as error:
            # Somebody may change a role, a quota or the object meanwhile.
            delay = self._delay(key)
            logger.warning("%s: %s; again in %.1fs", key, error, delay)
            return delay
        except Exception:
            delay = self._delay(key)
            logger.exception("%s: failed; again in %.1fs", key, delay)
            return delay
        self._failures.pop(key, None)
        return again

    def _delay(self, key: K) -> float:
        """The back-off after one more failure: between half and all of base · 2ⁿ."""
        failures = self._failures[key] = self._failures.get(key, -1) + 1
        base, limit = self._backoff
        return min(limit, base * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)  # noqa: S311

    def _finish(self, key: K) -> None:
        loop = asyncio.get_running_loop()
        asked = self._running.pop(key)
        if not self._running:
            self._idle.set()
        if self._gap:
            self._resting.add(key)
            loop.call_later(self._gap, self._resting.discard, key)
        if asked is not None:
            self.add(key, asked - loop.time())

    def _schedule(self, key: K, when: float) -> None:
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= when:
            return
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_at(when, self._ripen, key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _ripen(self, key: K) -> None:
        self._cancel_timer(key)
        self._waiting.add(key)
        self._ready.put_nowait(key)
