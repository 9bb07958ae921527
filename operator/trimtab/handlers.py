"""Start the operator: kopf as the watch layer, and everything else as plain tasks beside it.

kopf is used for what it is good at, following our own kinds, and for nothing else: only `on.event`, which never
retries and writes nothing; no change handlers, so no annotation and no finalizer appears on anybody's object, nor is
one taken away; no peering, no events of its own. The handlers hand an object to `feeds` and return; the queue's
workers do the rest.

A task that ends with an error ends the process: a restart is fast and loses nothing, while an operator without one of
its watches would look alive and be deaf. Where namespaces are named, one of them may be deleted, and its role with
it; then everything begins anew with those that can be read, and again when it is back.

Of several replicas one acts (`leadership`). The others differ from it only in that their queue has no workers: they
watch, answer and take alerts, so that whoever takes over knows the world already.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import kopf
import uvloop

from trimtab import logs
from trimtab.api.names import GROUP, VERSION
from trimtab.cluster.client import PAGE, Client
from trimtab.controller import Controller
from trimtab.errors import ClusterError, NotFound, Temporary
from trimtab.feeds import Feeds
from trimtab.leadership import Leadership, identity
from trimtab.metrics import Doings, Metrics
from trimtab.namespaces import RETRY_SECONDS, NamespacesChanged, first_readable, look, readable
from trimtab.queue import WorkQueue
from trimtab.server import Health, Server
from trimtab.settings import Settings
from trimtab.world import RESOURCES, Key, Kind, World

GAP_SECONDS = 1.0
"""An object's status is written at most about once a second."""

DRAIN_SECONDS = 10.0
"""What a turn that is under way gets when the process is told to stop; Kubernetes gives the pod 30."""

logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SystemExit where the cluster refuses what cannot be done without."""
    logs.configure(settings.log_level, settings.log_format)
    _collect_rarely()
    refusals: list[str] = []
    again = True
    while again and not refusals:
        again = False
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(operate(settings))
        except* NamespacesChanged:
            again = True
        except* ClusterError as errors:
            refusals = [str(error) for error in errors.exceptions]
    if refusals:  # outside, or what is raised comes as a group with a traceback
        logger.critical("%s", "; ".join(refusals))
        raise SystemExit(1)


def _collect_rarely() -> None:
    """Look for cycles after more allocations than Python does by itself: that took a seventh of all CPU here.

    Whatever was made since is looked through each time, and hardly anything of ours is a cycle.
    """
    gc.collect()
    gc.freeze()  # what was imported stays
    gc.set_threshold(10_000, 20, 50)


@dataclass(frozen=True)
class Replica:
    """What one process of the operator has of the cluster."""

    settings: Settings
    metrics: Metrics
    client: Client
    """Its writes are the leader's."""
    unfenced: Client
    """For what every replica may write: its claim to lead, and alerts that reached it."""
    leadership: Leadership | None
    """None where there is no election."""


async def operate(settings: Settings) -> None:
    """The operator as a coroutine. Raises an ExceptionGroup with what ended it, if it was not a signal."""
    async with _replica(settings) as replica:
        client, named = replica.unfenced, settings.watch_namespaces
        served = await first_readable(client, named) if named else []
        try:
            await _serve(replica, served)
        except* Exception:
            # A watch that ended first, with an error of kopf's or ours, has the same reason.
            if named and await readable(client, named) != served:
                raise NamespacesChanged from None
            raise


@contextlib.asynccontextmanager
async def _replica(settings: Settings) -> AsyncIterator[Replica]:
    metrics, lease = Metrics(), settings.lease_name
    async with await Client.connect(metrics.called) as unfenced:
        leadership = Leadership(unfenced, lease, identity()) if lease else None
        fence = (leadership.seconds_left,) if leadership else ()
        async with await Client.connect(metrics.called, *fence) as client:
            try:
                yield Replica(settings, metrics, client, unfenced, leadership)
            finally:
                if leadership:
                    await leadership.release()  # nothing of ours writes any more


async def _serve(replica: Replica, served: list[str]) -> None:
    settings, metrics, client = replica.settings, replica.metrics, replica.client
    world = World()
    queue: WorkQueue[Key] = WorkQueue(gap=GAP_SECONDS)
    namespaces: list[str | None] = [*served] or [None]
    async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as ending:
        controller = Controller(client, world, queue, settings=settings)
        feeds = Feeds(client, world, queue, controller.pods, namespaces)
        health = Health(feeds)
        token_file = Path(settings.alerts_token_file) if settings.alerts_token_file else None
        # Any replica may take an alert: it is recorded on the version that was read, and decides nothing.
        server = Server(replica.unfenced, feeds, metrics, health, token_file)
        leading = asyncio.Event()
        metrics.watch_leader(leading.is_set)
        await server.start(settings.http_port)
        ending.push_async_callback(server.stop)

        tasks = [group.create_task(health.watch_loop())]
        await _synchronize(feeds, group, tasks)
        tasks.append(group.create_task(_lead(replica.leadership, leading), name="leader"))
        tasks.append(group.create_task(_count(leading, metrics, queue, world, controller.pods.doing), name="metrics"))
        tasks += [
            group.create_task(_work(leading, queue, _timed(controller.handle, metrics)), name=f"worker {number}")
            for number in range(settings.workers)
        ]
        tasks.append(group.create_task(feeds.audit_forever(), name="audit"))
        if served:
            tasks.append(group.create_task(look(client, settings.watch_namespaces, served), name="namespaces"))
        # Tasks from before this line are none of kopf's business; those from after it are ended with kopf.
        await kopf.operator(
            registry=_registry(feeds, client, server),
            settings=_kopf_settings(),
            standalone=True,
            clusterwide=not served,
            namespaces=served,
            # Otherwise kopf asks for the user's name, and a container's user often has none.
            identity=cast(Any, "trimtab"),
        )
        if not await queue.drain(DRAIN_SECONDS):
            logger.warning("stopped in the middle of a turn; the next start takes it up")
        for task in tasks:
            task.cancel()


async def _synchronize(feeds: Feeds, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]) -> None:
    """Know everything before deciding anything: our kinds, and all Jobs."""
    while True:
        try:
            await feeds.load()
            break
        except NotFound as error:
            logger.warning("%s; are the CRDs of %s installed? Again in %.0fs", error, GROUP, RETRY_SECONDS)
        except Temporary as error:
            logger.warning("%s; again in %.0fs", error, RETRY_SECONDS)
        await asyncio.sleep(RETRY_SECONDS)
    tasks.append(group.create_task(feeds.follow_cluster_runtimes(), name="ClusterOptimizationRuntimes"))
    for namespace in feeds.namespaces:
        listed = asyncio.Event()
        tasks.append(group.create_task(feeds.follow_jobs(namespace, listed), name=f"Jobs of {namespace or 'all'}"))
        await listed.wait()
    feeds.synchronized = True


async def _lead(leadership: Leadership | None, leading: asyncio.Event) -> None:
    if leadership:
        await leadership.acquire()
    leading.set()
    if leadership:
        await leadership.keep()


async def _work(
    leading: asyncio.Event, queue: WorkQueue[Key], handle: Callable[[Key], Awaitable[float | None]]
) -> None:
    await leading.wait()
    await queue.work(handle)


async def _count(leading: asyncio.Event, metrics: Metrics, queue: WorkQueue[Key], world: World, doing: Doings) -> None:
    """Only the leader counts what all replicas see, or a sum over them would be wrong."""
    await leading.wait()
    metrics.watch_queue(lambda: len(queue))
    metrics.watch_jobs(lambda: world.all(Kind.JOB))
    metrics.watch_works(lambda: world.works, doing)


def _timed(
    handle: Callable[[Key], Awaitable[float | None]], metrics: Metrics
) -> Callable[[Key], Awaitable[float | None]]:
    async def timed(key: Key) -> float | None:
        with metrics.reconciles.labels(key.kind).time(), metrics.failing(key.kind):
            return await handle(key)

    return timed


def _registry(feeds: Feeds, client: Client, server: Server) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        # Before kopf cancels what it does not know, which would break off answers that are being given.
        await server.stop()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**await client.credentials())

    for kind, resource in RESOURCES.items():

        @kopf.on.event(GROUP, VERSION, resource.plural, registry=registry, param=kind)
        async def arrived(event: kopf.RawEvent, param: Any = None, **_: Any) -> None:
            if event["type"] == "DELETED":
                feeds.gone(param, cast(dict[str, Any], event["object"]))
            else:
                feeds.seen(param, cast(dict[str, Any], event["object"]))

    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    # Our kinds are known; looking for others would take cluster-wide rights on CRDs and namespaces.
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    # Bookmarks come once a minute: a stream without even those is dead.
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Patience()
    settings.queueing.worker_limit = None
    settings.process.ultimate_exiting_timeout = 25
    # An object's worker holds what it was last given while it waits for more: 27 kB each, and thousands after a list.
    settings.queueing.idle_timeout = 0.1
    settings.persistence.diffbase_storage = _NoDiffs()
    # kopf takes its finalizer off whatever has it and no handler that needs it: a tenant may have written its default.
    settings.persistence.finalizer = f"{GROUP}/{uuid4()}"
    return settings


class _Patience:
    """Seconds between kopf's attempts at a call, without end.

    By itself it gives up after a minute of errors (an API server that starts answers with some), and the process ends
    with it: the kubelet then starts that ever more rarely, and the operator is away for longer than the API server.
    What a role forbids is met by our own watch of Jobs, and by the audit, which end the process.
    """

    def __iter__(self) -> Iterator[float]:
        return chain((1, 1, 2, 3, 5, 8), repeat(13))


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf prepares diffs for change handlers even where there are none, by copying every object at every event."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("only change handlers store anything")
