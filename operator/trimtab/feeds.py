"""What arrives from the cluster, and whom it concerns.

    our kinds   kopf's watches            → the object, and the objects that depend on it
    runtimes of the cluster   one watch of our own, where it is allowed
    Jobs        one watch by label        → the OptimizationJob that owns it
    audits      metadata-only lists       → what the watches missed

kopf's watches have died silently before (kopf#787, #955, #957, #1276), and its relisting never tells of objects
deleted during a gap. So every few minutes an audit compares what exists with what is known. What does not exist any
more is forgotten. What is newer than our view, and still is one audit later, means a dead watch: the health check
says so, and the kubelet restarts us. Our own watches forget what a list lacks, and of thousands of Jobs no audit asks:
one of these is dead if it has heard nothing, not a bookmark and not a new stream, while the audit was answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trimtab.api.names import MANAGED_LABEL
from trimtab.cluster import objects
from trimtab.cluster.client import Client, Object
from trimtab.cluster.pods import Pods
from trimtab.cluster.records import JobRecord, record_of
from trimtab.cluster.watch import Gone, Listed, Seen, listing, watch
from trimtab.errors import Forbidden, NotFound, Temporary
from trimtab.manifests import owner_of
from trimtab.queue import WorkQueue
from trimtab.snapshot import name_of
from trimtab.world import RESOURCES, Key, Kind, Shelf, World

AUDIT_SECONDS = 120.0
DEAF_SECONDS = 300.0
"""An idle watch hears a bookmark a minute, and one that finds its stream silent opens another after 90 s."""

logger = logging.getLogger(__name__)


@dataclass
class Feeds:
    """Puts what arrives into the world and queues the keys that it concerns."""

    client: Client
    world: World
    queue: WorkQueue[Key]
    pods: Pods
    namespaces: Sequence[str | None]
    """None alone for all namespaces."""
    missed: dict[str, int] = field(default_factory=dict)
    """Versions, by UID, that the last audit saw and no watch had brought."""
    dead: list[str] = field(default_factory=list)
    """Watches that the last audit found dead, in words."""
    heard: dict[str, float] = field(default_factory=dict)
    """When each watch of our own last heard from the API server, by what it watches."""
    synchronized: bool = False
    """Whether the world is known; before that, what is not in it may well exist."""

    async def load(self) -> None:
        """Fill the world with our kinds as they are. Decisions made before that would be made on half a view."""
        for kind, resource in RESOURCES.items():
            for namespace in self.namespaces:
                async for change in listing(self.client, resource.path(namespace)):
                    if isinstance(change, Seen):
                        self.seen(kind, change.object)
        await self._load_cluster_runtimes()

    async def _load_cluster_runtimes(self) -> None:
        shelf = Shelf()
        try:
            async for change in listing(self.client, objects.CLUSTER_RUNTIMES.path()):
                if isinstance(change, Seen):
                    shelf.put(change.object)
        except Forbidden as error:
            if None in self.namespaces:
                raise
            logger.warning("ClusterOptimizationRuntimes are not used, nor are their allowedImages kept: %s", error)
            return
        self.world.cluster_runtimes = shelf

    async def follow_cluster_runtimes(self) -> None:
        """The watch of ClusterOptimizationRuntimes, for ever; at once over where they may not be read."""
        if (shelf := self.world.cluster_runtimes) is None:
            return
        heard = self._ear(objects.CLUSTER_RUNTIMES.plural)
        async for change in watch(self.client, objects.CLUSTER_RUNTIMES.path(), heard=heard):
            match change:
                case Seen(item):
                    news = shelf.put(item)
                case Gone(item):
                    shelf.remove(item)
                    news = True
                case Listed(uids, _):
                    news = bool(shelf.prune(shelf.uids(), dict.fromkeys(uids, 0)))
            # One may bound the images of any namespace. They change a few times a year.
            for name in self.world.unfinished_jobs() if news else ():
                self.queue.add(Key(Kind.JOB, name))

    def _ear(self, name: str) -> Callable[[], None]:
        """For a watch that begins now."""

        def heard() -> None:
            self.heard[name] = time.monotonic()

        heard()
        return heard

    def serves(self, namespace: str) -> bool:
        return None in self.namespaces or namespace in self.namespaces

    def seen(self, kind: Kind, item: Object) -> None:
        """An object of our kinds was created, changed or listed."""
        if self.world.shelves[kind].put(item):
            self._concern(kind, item)

    def gone(self, kind: Kind, item: Object) -> None:
        """An object of our kinds was deleted."""
        self.world.shelves[kind].remove(item)
        self._concern(kind, item)

    def _concern(self, kind: Kind, item: Object) -> None:
        if kind == Kind.RUNTIME:
            # It may be another job's too: what one runtime keeps, no job of the namespace may name.
            for name in self.world.jobs_in(item["metadata"]["namespace"]):
                self.queue.add(Key(Kind.JOB, name))
            return
        self.queue.add(Key(kind, name_of(item)))
        if kind == Kind.JOB and (owner := owner_of(item["metadata"], Kind.MONITOR)):
            self.queue.add(Key(Kind.MONITOR, (item["metadata"]["namespace"], owner["name"])))

    async def follow_jobs(self, namespace: str | None, listed: asyncio.Event) -> None:
        """The Jobs watch, for ever. Sets `listed` once all Jobs are known."""
        query = [("labelSelector", f"{MANAGED_LABEL}=true")]
        heard = self._ear(f"{objects.JOBS.plural} of {namespace or 'all namespaces'}")
        async for change in watch(self.client, objects.JOBS.path(namespace), query, heard=heard):
            match change:
                case Seen(item):
                    self._job_seen(item)
                case Gone(item):
                    self._job_seen(item, gone=True)
                case Listed(uids, version):
                    for ghost in self.world.works.prune(namespace, uids, version):
                        self._job_gone(ghost)
                    listed.set()

    def _job_seen(self, item: Object, gone: bool = False) -> None:
        try:
            record = record_of(item)
        except ValueError as error:
            logger.warning("%s; remove its label %s", error, MANAGED_LABEL)
            self.world.stranger_seen(item)
            return
        if gone or item["metadata"].get("deletionTimestamp"):
            self._job_gone(record)
        elif self.world.works.put(record):
            self.queue.add(Key(Kind.JOB, (record.namespace, record.owner)))

    def _job_gone(self, record: JobRecord) -> None:
        self.world.works.remove(record)
        self.pods.forget(record.uid)
        self.queue.add(Key(Kind.JOB, (record.namespace, record.owner)))

    async def audit_forever(self) -> None:
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            try:
                await self.audit()
            except (Temporary, NotFound) as error:
                # Nothing can be said about the watches while the API server cannot be asked. What it forbids ends us.
                logger.warning("audit: %s", error)

    async def audit(self) -> None:
        """Compare what exists with what is known, once. Raises ClusterError."""
        before, self.missed, dead = self.missed, {}, []
        for kind, shelf in self.world.shelves.items():
            known = shelf.uids()
            found = await objects.versions(self.client, RESOURCES[kind], self.namespaces)
            for name in shelf.prune(known, found):
                logger.info("%s %s was deleted while nobody watched", kind, "/".join(name))
                self.queue.add(Key(kind, name))
            known = shelf.uids()
            self.missed |= {uid: version for uid, version in found.items() if known.get(uid, 0) < version}
            if any(known.get(uid, 0) < version for uid, version in before.items() if uid in found):
                dead.append(f"the watch of {RESOURCES[kind].plural} misses changes")
        late = time.monotonic() - DEAF_SECONDS
        deaf = [name for name, last in self.heard.items() if last < late]
        self.dead = dead + [f"the watch of {name} hears nothing" for name in deaf]
