"""Follow a collection of objects: a list, then a watch, for ever, whatever happens to the connection.

What can go wrong with a watch, and what is done about it:

    the connection ends or breaks        go on from the last version seen, bookmarks included
    the API server is away               the same, with jittered back-off
    it is silent (a dead peer, a lost    the server sends a bookmark about once a minute, so 90 s without a line
    route): no error ever comes          ends the connection
    the version is too old (410)         list anew
    objects were deleted meanwhile       every list ends with `Listed`, which names all that exist: prune the rest

kopf does the first four for our own kinds, but not the last: its relisting never tells of deletions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from trimtab.cluster.client import Client, Object, Query
from trimtab.errors import Expired, Temporary, Unavailable

SILENCE = 90.0
STREAM_SECONDS = 300
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """The object exists and looks like this."""

    object: Object


@dataclass(frozen=True)
class Gone:
    """The object was deleted; this was its last state."""

    object: Object


@dataclass(frozen=True)
class Listed:
    """A list is complete: what is not among these UIDs, and not newer than `version`, does not exist."""

    uids: frozenset[str]
    version: int


Change = Seen | Gone | Listed
Heard = Callable[[], None]
"""Told whenever the API server gave a list, opened a stream, or said a line on it, if only a bookmark."""


async def watch(
    client: Client, path: str, query: Query = (), silence: float = SILENCE, heard: Heard = lambda: None
) -> AsyncIterator[Change]:
    """Every change of the collection at `path`, without end. Raises Permanent where it may not be read."""
    delays = _Backoff()
    while True:
        try:
            version = 0
            async for seen in listing(client, path, query):
                yield seen
                version = seen.version if isinstance(seen, Listed) else version
            delays.reset()
            heard()
            async for change in _follow(Collection(client, path, query), version, silence, heard):
                yield change
        except Expired as error:
            logger.info("%s; listing anew", error)
        except Temporary as error:
            await delays.wait(str(error))


async def listing(client: Client, path: str, query: Query = ()) -> AsyncIterator[Seen | Listed]:
    """Every object of the collection, in pages, then `Listed`."""
    uids: set[str] = set()
    version = 0
    async for page in client.pages(path, query):
        # Every page of one list has the version of its first.
        version = int(page["metadata"]["resourceVersion"])
        items = page["items"]
        items.reverse()
        while items:  # none is kept while the next page is asked for: as stored, an object takes tens of kB
            item = items.pop()
            uids.add(item["metadata"]["uid"])
            yield Seen(item)
    yield Listed(frozenset(uids), version)


@dataclass(frozen=True)
class Collection:
    """What a watch is about, and who asks."""

    client: Client
    path: str
    query: Query = ()


async def _follow(what: Collection, version: int, silence: float, heard: Heard = lambda: None) -> AsyncIterator[Change]:
    """Changes after `version`, over as many connections as it takes. Raises Expired when the version is too old."""
    delays = _Backoff()
    while True:
        options = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", str(version))]
        # Operators restarted together would reconnect together for ever.
        lifetime = ("timeoutSeconds", str(round(STREAM_SECONDS * random.uniform(0.8, 1.2))))  # noqa: S311
        try:
            async with what.client.stream(what.path, [*what.query, *options, lifetime], silence) as lines:
                heard()
                async for line in lines:
                    version = _version_of(line, what.path)
                    heard()
                    delays.reset()
                    if line["type"] != "BOOKMARK":
                        yield Gone(line["object"]) if line["type"] == "DELETED" else Seen(line["object"])
        except Unavailable as error:
            await delays.wait(str(error))
        else:
            # A server that ends every stream at once must not be hammered either.
            await delays.wait("")


def _version_of(line: dict[str, Any], path: str) -> int:
    item = line["object"]
    if line["type"] != "ERROR":
        return int(item["metadata"]["resourceVersion"])
    text = f"WATCH {path}: {item.get('code')} {item.get('message', '')}"
    raise Expired(text) if item.get("code") == 410 else Unavailable(text)


class _Backoff:
    """Waits twice as long each time until reset; the first wait is next to nothing."""

    def __init__(self) -> None:
        self._delay = 0.0

    def reset(self) -> None:
        self._delay = 0.0

    async def wait(self, why: str) -> None:
        if why:
            logger.warning("%s; again in %.1fs at most", why, self._delay)
        await asyncio.sleep(self._delay * random.random())  # noqa: S311
        self._delay = min(LONGEST_DELAY, max(FIRST_DELAY, 2 * self._delay))
