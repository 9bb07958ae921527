"""One replica acts at a time: leader election on a Lease, and the fence that every write passes.

The rules are client-go's. The leader renews its Lease every two seconds. Whoever else sees it unchanged for
`leaseDurationSeconds`, measured on its own clock since it saw the last change, takes it over: nobody compares clocks.
The leader counts from before it *sent* its last renewal, and stops after ten seconds of the fifteen. So what it still
sends reaches the API server before anybody else may act, as long as sending takes less than the other five.

A leader may not know that it has lost: a stopped process, a sleeping machine and a blocked event loop are all late to
hear of it. So every write asks the clock right before it is sent (`seconds_left`), may take no longer than
the lease lasts, and ends the process where it has run out. Nothing is cleaned up then: the next leader does all that
is left to do, and whatever ran here would be too late.

What remains is a process that is stopped *between* that look and the kernel's sending. Its write arrives late, and
can do no harm: a status names the version it was decided on, a Job has the name of its work, and a Job whose work is
done already is deleted again, or ignored.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.cluster.objects import LEASES
from trimtab.errors import AlreadyExists, ClusterError, Conflict, NotFound, Temporary

LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 15.0, 10.0, 2.0
CALL_SECONDS = 4.0
"""One attempt's time: a connection that hangs must leave time for a second one."""

LOST_EXIT = 3
"""The exit code of a leader that could not renew in time."""

logger = logging.getLogger(__name__)


def identity() -> str:
    """Who this process is: a pod keeps its host's name when its container is restarted."""
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"


def awake() -> float:
    """Seconds on a clock that nobody sets; where the system has such a one, it goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def end(why: str) -> NoReturn:
    """End the process as it is: no handler, no buffer, no task runs any further."""
    logger.critical("%s: ending at once, for another replica may be acting", why)
    os._exit(LOST_EXIT)


class Leadership:
    """A claim to the Lease `namespace`/`name`. All methods belong to one event loop.

    `client` must be one without a fence, and is better one of its own: a renewal does not wait behind other calls.
    """

    def __init__(
        self,
        client: Client,
        name: tuple[str, str],
        who: str,
        clock: Callable[[], float] = awake,
        lost: Callable[[str], NoReturn] = end,
    ) -> None:
        self._client = client
        self._namespace, self._name = name
        self._who = who
        self._clock = clock
        self._lost = lost
        self._ours: Object | None = None
        """The Lease as our last write left it."""
        self._expires = float("-inf")
        """When others may take it, at the earliest, by our clock."""
        self._holder = ""
        """Whose it was at the last look."""
        self._seen: tuple[str, float] = ("", 0.0)
        """Somebody else's Lease: its version, and since when it is unchanged."""

    @property
    def leads(self) -> bool:
        return self._clock() < self._stops

    def seconds_left(self) -> float:
        """How long a write that begins now may take. Does not return where it must not begin."""
        if not self.leads:
            self._lost(f"the lease {self._namespace}/{self._name} was not renewed in time")
        return self._expires - self._clock()

    async def acquire(self) -> None:
        """Return as the leader, however long it takes."""
        logger.info("%s waits for the lease %s/%s", self._who, self._namespace, self._name)
        while not await self._attempt():
            await asyncio.sleep(RETRY_SECONDS * random.uniform(1.0, 1.2))  # noqa: S311
        logger.info("%s leads", self._who)

    async def keep(self) -> NoReturn:
        """Renew the Lease for ever. Ends the process where somebody else has it, or nobody answered in time."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            await self._attempt()
            if self._holder not in ("", self._who):
                self._lost(f"the lease {self._namespace}/{self._name} is held by {self._holder}")
            self.seconds_left()

    async def release(self) -> None:
        """Let the next replica begin at once. To be called when nothing here writes any more."""
        if not self.leads or self._ours is None:
            return
        self._expires = float("-inf")
        try:
            await self._write(self._ours, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except ClusterError as error:
            logger.warning("the lease was not released, and expires: %s", error)

    @property
    def _stops(self) -> float:
        return self._expires - (LEASE_SECONDS - RENEW_SECONDS)

    async def _attempt(self) -> bool:
        """Take or renew the Lease; whether it is ours now."""
        began = self._clock()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                lease = self._ours or await self._read()
                if lease is not None and not self._free(lease):
                    return False
                self._ours = await self._claim(lease)
        except (Conflict, AlreadyExists):
            self._ours = None  # somebody has written in between, perhaps we: look again
            return False
        except (Temporary, NotFound, TimeoutError) as error:
            self._ours = None
            logger.warning("lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer")
            return False
        self._holder, self._expires = self._who, began + LEASE_SECONDS
        return True

    def _free(self, lease: Object) -> bool:
        """Whether we may write it: it is ours, nobody's, or has not been renewed for its whole duration."""
        spec, version = lease["spec"], lease["metadata"]["resourceVersion"]
        self._holder = spec.get("holderIdentity") or ""
        if self._holder in ("", self._who):
            return True
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] >= float(spec.get("leaseDurationSeconds", LEASE_SECONDS))

    async def _read(self) -> Object | None:
        try:
            return await self._client.request("GET", LEASES.path(self._namespace, self._name))
        except NotFound:
            return None

    async def _claim(self, lease: Object | None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {
            "holderIdentity": self._who,
            "leaseDurationSeconds": round(LEASE_SECONDS),
            "renewTime": now,
        }
        if lease is None or lease["spec"].get("holderIdentity") != self._who:
            before = lease["spec"].get("leaseTransitions", 0) if lease else -1
            spec |= {"acquireTime": now, "leaseTransitions": before + 1}
        if lease is None:
            body = {"metadata": {"name": self._name}, "spec": spec}
            return await self._client.request("POST", LEASES.path(self._namespace), body=body)
        return await self._write(lease, spec)

    async def _write(self, lease: Object, spec: Object) -> Object:
        """On the version that was read: of two who find it free, one is refused."""
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        path = LEASES.path(self._namespace, self._name)
        return await self._client.request("PATCH", path, body=body, headers=MERGE_PATCH)
