"""The operator's own HTTP server: the Alertmanager webhook, metrics, health.

The webhook only records. It writes what arrived into the monitor's status, on the version it read, and answers when
that is stored; whether an alert leads to a job is decided by the monitor's next turn, from the status. So a webhook
delivered twice, or to an operator that is killed a moment later, changes nothing about the outcome: Alertmanager
repeats what was not acknowledged, and an alert that is stored already is no news.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from trimtab import alerts
from trimtab.api.monitor import ModelMonitor
from trimtab.cluster import objects
from trimtab.cluster.client import Client
from trimtab.errors import Conflict, NotFound, Permanent, Temporary
from trimtab.feeds import Feeds
from trimtab.metrics import Metrics
from trimtab.monitoring import record
from trimtab.snapshot import Name, Snapshot
from trimtab.stored import Unreadable, read
from trimtab.world import Key, Kind

BODY_LIMIT = 1 << 20
"""A notification of Alertmanager's default 64 alerts a group has some 50 kB."""

UNAUTHORIZED = (
    "a bearer token is needed: that of alerts.token or alerts.existingSecret in the chart's values, or of the setting "
    "alertsTokenFile\n"
)

CONFLICTS = 5
LONGEST_LAG = 10.0

logger = logging.getLogger(__name__)


@dataclass
class Health:
    """Whether the process can do its work.

    A kubelet restarts one that cannot any more. One that cannot yet is left alone and is not ready: a rollout keeps the
    replica before it.
    """

    feeds: Feeds
    lag: float = 0.0
    """How long, at the last look, the event loop kept a timer waiting."""

    async def watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 1.0
            await asyncio.sleep(1.0)
            self.lag = loop.time() - due

    def problems(self) -> list[str]:
        late = [f"the event loop is {self.lag:.0f}s late"] if self.lag > LONGEST_LAG else []
        return late + self.feeds.dead

    def obstacles(self) -> list[str]:
        """What keeps it from leading if it had to, so a replica that stands by has none."""
        unknown = "what is in the cluster is not known yet: the operator's log says what it waits for"
        return self.problems() + ([] if self.feeds.synchronized else [unknown])


@dataclass
class Server:
    client: Client
    feeds: Feeds
    metrics: Metrics
    health: Health
    token_file: Path | None
    _runner: web.AppRunner = field(init=False)

    async def start(self, port: int) -> None:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.post("/alerts", self._alerts),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=port).start()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [address[:2] for address in self._runner.addresses]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _well(self.health.problems())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _well(self.health.obstacles())

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _alerts(self, request: web.Request) -> web.Response:
        if not alerts.authorized(request.headers.get("Authorization"), self._token()):
            return web.Response(status=401, text=UNAUTHORIZED)
        try:
            received = alerts.parse(await request.read())
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        # Alertmanager sends again what is answered with 503.
        if not self.feeds.synchronized:
            return web.Response(status=503, text="the operator is starting and does not know the monitors yet\n")
        problems = await self._record_all(received)
        return web.Response(status=503 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            logger.error("alertsTokenFile: %s", error)
            return None

    async def _record_all(self, received: Mapping[alerts.MonitorRef, Sequence[alerts.Alert]]) -> list[str]:
        """Each monitor for itself. Returns what another delivery may repair; repeating the rest would not help."""
        problems = []
        for about, found in received.items():
            try:
                await self._record(about, found)
            except Temporary as error:
                problems.append(str(error))
            except (Permanent, Unreadable) as error:
                logger.warning("alerts for ModelMonitor %s/%s are dropped: %s", about.namespace, about.name, error)
        return problems

    async def _record(self, about: alerts.MonitorRef, found: Sequence[alerts.Alert]) -> None:
        """Into the monitor's status, however often somebody else writes in between. Raises ClusterError, Unreadable."""
        name: Name = (about.namespace, about.name)
        shelf = self.feeds.world.shelves[Kind.MONITOR]
        for _ in range(CONFLICTS):
            monitor = read(ModelMonitor, await self._find(about))
            status = record(monitor.status, found, datetime.now(UTC))
            try:
                stored = await objects.write_status(
                    self.client, objects.MODEL_MONITORS, monitor.metadata, monitor.status, status
                )
            except Conflict:
                shelf.refresh(await objects.get(self.client, objects.MODEL_MONITORS, *name))
                continue
            if stored:
                self.metrics.alerts.inc(len(found))
                shelf.refresh(stored)
            self.feeds.queue.add(Key(Kind.MONITOR, name))
            return
        raise Conflict(f"ModelMonitor {'/'.join(name)} changes faster than alerts can be recorded")

    async def _find(self, about: alerts.MonitorRef) -> Snapshot:
        """The monitor, asked of the API server if no watch has told of it yet. Raises ClusterError."""
        name: Name = (about.namespace, about.name)
        kept = self.feeds.world.get(Kind.MONITOR, name)
        if (kept is None or kept.uid != about.uid) and self.feeds.serves(about.namespace):
            item = await objects.get(self.client, objects.MODEL_MONITORS, *name)
            self.feeds.seen(Kind.MONITOR, item)
            kept = self.feeds.world.get(Kind.MONITOR, name)
        if kept is None or kept.uid != about.uid:
            raise NotFound("it is not here; its rule outlived it")
        return kept


def _well(problems: Sequence[str]) -> web.Response:
    return web.Response(text="\n".join(problems) or "ok", status=503 if problems else 200)
