"""The operator's HTTP server, and what a webhook leads to, with a real API server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from builders import job_dict
from stories import use_up
from trimtab.api.monitor import ModelMonitor
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client, Object
from trimtab.controller import RULE_AGE, Controller
from trimtab.errors import NotFound, Waits
from trimtab.feeds import Feeds
from trimtab.metrics import Metrics
from trimtab.queue import WorkQueue
from trimtab.server import BODY_LIMIT, LONGEST_LAG, Health, Server
from trimtab.world import Key, Kind, World
from waiting import patience

pytestmark = pytest.mark.e2e

TOKEN = {"Authorization": "Bearer s3cret"}


@dataclass
class Clock:
    """Time stands still but for what the test adds."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Served:
    """A server on a free port, and turns of the monitor `digits` that the test gives by hand."""

    client: Client
    namespace: str
    token_file: Path
    world: World = field(default_factory=World)
    queue: WorkQueue[Key] = field(default_factory=WorkQueue)
    metrics: Metrics = field(default_factory=Metrics)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.controller = Controller(self.client, self.world, self.queue, self.clock)
        self.feeds = Feeds(self.client, self.world, self.queue, self.controller.pods, [self.namespace])
        self.health = Health(self.feeds)
        self.server = Server(self.client, self.feeds, self.metrics, self.health, self.token_file)

    async def request(self, verb: str, path: str, **options: Any) -> tuple[int, str]:
        port = dict(self.server.addresses)["0.0.0.0"]
        async with (
            aiohttp.ClientSession() as session,
            session.request(verb, f"http://127.0.0.1:{port}{path}", **options) as response,
        ):
            return response.status, await response.text()

    async def turn(self) -> float | None:
        return await self.controller.handle(Key(Kind.MONITOR, (self.namespace, "digits")))

    async def monitor(self) -> ModelMonitor:
        found = await objects.get(self.client, objects.MODEL_MONITORS, self.namespace, "digits")
        return ModelMonitor.model_validate(found)

    async def jobs(self) -> list[Object]:
        path = objects.OPTIMIZATION_JOBS.path(self.namespace)
        return list((await self.client.request("GET", path))["items"])

    def notification(self, monitor: ModelMonitor, status: str = "firing", **labels: str) -> Object:
        """What Alertmanager sends of a drift alert."""
        alert = {
            "status": status,
            "labels": {
                "alertname": "ModelDriftDetected",
                "namespace": self.namespace,
                "modelmonitor": "digits",
                "modelmonitor_uid": monitor.metadata.uid,
                **labels,
            },
            "startsAt": "2026-01-01T00:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-01-01T01:00:00Z",
            "fingerprint": "d1",
        }
        return {"version": "4", "status": status, "alerts": [alert]}


@contextlib.asynccontextmanager
async def served(namespace: str, folder: Path) -> AsyncIterator[Served]:
    token_file = folder / "token"
    token_file.write_text("s3cret\n")
    async with await Client.connect() as client:
        manifest = {
            "apiVersion": "trimtab.dev/v1alpha1",
            "kind": "ModelMonitor",
            "metadata": {"name": "digits", "namespace": namespace},
            "spec": {
                "target": {"model": "digits"},
                "triggers": [{"drift": {"sustained": "1m"}}],
                "cooldown": "10m",
                "jobTemplate": {"spec": job_dict()["spec"]},
            },
        }
        await objects.create(client, objects.MODEL_MONITORS, manifest)
        it = Served(client, namespace, token_file)
        await it.feeds.load()
        it.feeds.synchronized = True
        await it.server.start(0)
        try:
            yield it
        finally:
            await it.server.stop()


def test_an_alert_leads_to_one_job_however_often_it_is_delivered(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            await it.turn()
            firing = it.notification(await it.monitor())
            for _ in range(3):
                assert await it.request("POST", "/alerts", headers=TOKEN, json=firing) == (200, "ok\n")
                await it.turn()
            (job,) = await it.jobs()
            monitor = await it.monitor()
            assert [t.job for t in monitor.status.triggers] == [job["metadata"]["name"]]
            assert job["metadata"]["ownerReferences"][0]["uid"] == monitor.metadata.uid

            resolved = it.notification(monitor, "resolved")
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=resolved))[0] == 200
            await it.turn()
            assert [t.state for t in (await it.monitor()).status.triggers] == ["Resolved"]
            assert len(await it.jobs()) == 1
            value = it.metrics.registry.get_sample_value("trimtab_alerts_received_total")
            assert value == 2  # repetitions are no news

    asyncio.run(main())


def test_the_job_of_a_trigger_is_created_once_if_the_status_was_not_written(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            firing = it.notification(await it.monitor())
            await it.request("POST", "/alerts", headers=TOKEN, json=firing)

            class Killed(BaseException):
                pass

            async def cut_off(*_: Any) -> None:
                raise Killed

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(objects, "write_status", cut_off)
                with pytest.raises(Killed):
                    await it.turn()
            (job,) = await it.jobs()
            await it.turn()
            assert [j["metadata"]["uid"] for j in await it.jobs()] == [job["metadata"]["uid"]]
            assert (await it.monitor()).status.last_job == job["metadata"]["name"]

    asyncio.run(main())


def test_alerts_are_recorded_on_a_stale_view_too(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            monitor = await it.monitor()
            path = objects.MODEL_MONITORS.path(namespace, "digits")
            await it.client.request("PATCH", path, body={"metadata": {"labels": {"a": "b"}}}, headers=MERGE_PATCH)
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=it.notification(monitor)))[0] == 200
            assert len((await it.monitor()).status.triggers) == 1

    asyncio.run(main())


def test_alerts_of_a_monitor_that_is_not_here_change_nothing(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            monitor = await it.monitor()
            for labels in (
                {"modelmonitor_uid": "an-earlier-one"},
                {"modelmonitor": "gone"},
                {"namespace": "elsewhere"},
            ):
                strange = it.notification(monitor, **labels)
                assert (await it.request("POST", "/alerts", headers=TOKEN, json=strange))[0] == 200
            assert (await it.monitor()).metadata.resource_version == monitor.metadata.resource_version

    asyncio.run(main())


def test_alerts_before_the_world_is_known_are_to_be_sent_again(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            firing = it.notification(await it.monitor())
            it.feeds.synchronized = False
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=firing))[0] == 503
            it.feeds.synchronized = True
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=firing))[0] == 200
            assert len((await it.monitor()).status.triggers) == 1

    asyncio.run(main())


def test_a_monitor_that_no_watch_has_told_of_is_asked_for(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            firing = it.notification(await it.monitor())
            it.world.shelves[Kind.MONITOR].homes.clear()
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=firing))[0] == 200
            assert len((await it.monitor()).status.triggers) == 1

    asyncio.run(main())


@pytest.mark.parametrize("trouble", ["unreadable", "deleted"])
def test_one_monitor_does_not_hold_up_the_alerts_of_others(namespace: str, tmp_path: Path, trouble: str) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            monitor = await it.monitor()
            shelf = it.world.shelves[Kind.MONITOR]
            (kept,) = shelf
            stored = kept.object()
            other = {**stored, "metadata": {**stored["metadata"], "name": "other", "uid": "u-2"}}
            shelf.put(other if trouble == "deleted" else {**other, "spec": {}})
            labels = {"modelmonitor": "other", "modelmonitor_uid": "u-2"}
            first, second = it.notification(monitor, **labels), it.notification(monitor)
            both = {**first, "alerts": first["alerts"] + second["alerts"]}
            assert await it.request("POST", "/alerts", headers=TOKEN, json=both) == (200, "ok\n")
            assert len((await it.monitor()).status.triggers) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "body", "code", "says"),
    [
        ({}, "{}", 401, "a bearer token is needed: that of alerts.token or alerts.existingSecret"),
        ({"Authorization": "Bearer wrong"}, "{}", 401, "a bearer token is needed"),
        (TOKEN, "{", 400, "not an Alertmanager notification of version 4"),
        (TOKEN, json.dumps({"version": "3", "alerts": []}), 400, "version"),
        (TOKEN, "x" * (BODY_LIMIT + 1), 413, "exceeded"),
    ],
    ids=["no token", "wrong token", "no JSON", "other version", "too long"],
)
def test_what_the_webhook_refuses(
    namespace: str, tmp_path: Path, headers: dict[str, str], body: str, code: int, says: str
) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            status, text = await it.request("POST", "/alerts", headers=headers, data=io.BytesIO(body.encode()))
            assert status == code
            assert says in text

    asyncio.run(main())


def test_a_token_is_read_anew_and_without_one_nobody_is_let_in(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            body = {"version": "4", "alerts": []}
            rotated = {"Authorization": "Bearer other"}
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=body))[0] == 200
            it.token_file.write_text("other")
            assert (await it.request("POST", "/alerts", headers=TOKEN, json=body))[0] == 401
            assert (await it.request("POST", "/alerts", headers=rotated, json=body))[0] == 200
            it.token_file.unlink()
            assert (await it.request("POST", "/alerts", headers=rotated, json=body))[0] == 401

    asyncio.run(main())


def test_the_rule_is_kept_in_a_config_map_and_put_right(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            await it.turn()
            name = (await it.monitor()).status.rule
            stored = await objects.get(it.client, objects.CONFIG_MAPS, namespace, name)
            (text,) = stored["data"].values()
            (group,) = yaml.safe_load(text)["groups"]
            assert group["rules"][0]["alert"] == "ModelDriftDetected"

            await it.client.request("DELETE", objects.CONFIG_MAPS.path(namespace, name))
            await it.turn()
            with pytest.raises(NotFound):
                await objects.get(it.client, objects.CONFIG_MAPS, namespace, name)
            it.clock.now += RULE_AGE
            await it.turn()
            assert (await objects.get(it.client, objects.CONFIG_MAPS, namespace, name))["data"] == stored["data"]

    asyncio.run(main())


def test_health_tells_of_a_late_loop_and_of_dead_watches(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            assert await it.request("GET", "/healthz") == (200, "ok")
            it.health.lag = LONGEST_LAG + 5
            it.feeds.dead = ["the watch of optimizationjobs misses changes"]
            assert await it.request("GET", "/healthz") == (
                503,
                "the event loop is 15s late\nthe watch of optimizationjobs misses changes",
            )
            assert await it.request("GET", "/readyz") == await it.request("GET", "/healthz")

    asyncio.run(main())


def test_until_the_cluster_is_known_it_is_well_and_not_ready(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            assert await it.request("GET", "/readyz") == (200, "ok")
            it.feeds.synchronized = False
            assert await it.request("GET", "/healthz") == (200, "ok")
            status, text = await it.request("GET", "/readyz")
            assert (status, text.startswith("what is in the cluster is not known yet")) == (503, True)

    asyncio.run(main())


def test_metrics_are_what_prometheus_reads(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            it.metrics.called("GET", "pods", 200)
            status, text = await it.request("GET", "/metrics")
            assert status == 200
            assert 'trimtab_api_requests_total{code="200",resource="pods",verb="GET"} 1.0' in text

    asyncio.run(main())


def test_the_cooldown_ends_with_a_turn_of_its_own(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            monitor = await it.monitor()
            recent = it.clock.now.isoformat()
            body = {"status": {"lastJobTime": recent, "lastJob": "earlier"}}
            path = objects.MODEL_MONITORS.path(namespace, "digits", "status")
            it.feeds.seen(Kind.MONITOR, await it.client.request("PATCH", path, body=body, headers=MERGE_PATCH))
            await it.request("POST", "/alerts", headers=TOKEN, json=it.notification(monitor))
            wait = await it.turn()
            assert wait is not None
            assert 500 < wait <= 600
            assert (await it.monitor()).status.state == "CoolingDown"
            assert await it.jobs() == []

    asyncio.run(main())


def test_a_job_that_may_not_be_created_is_named_and_waited_for(namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(namespace, tmp_path) as it:
            quota = await use_up(it.client, namespace, "count/optimizationjobs.trimtab.dev")
            await it.request("POST", "/alerts", headers=TOKEN, json=it.notification(await it.monitor()))
            for _ in range(2):
                with pytest.raises(Waits):
                    await it.turn()
            waiting = (await it.monitor()).status
            assert waiting.state == "QuotaExceeded"
            assert "exceeded quota: q" in waiting.triggers[0].message
            assert await it.jobs() == []
            told = (await it.client.request("GET", objects.EVENTS.path(namespace)))["items"]
            assert [event["reason"] for event in told if event["regarding"]["name"] == "digits"] == ["Suppressed"]
            await it.client.request("DELETE", quota)
            async with patience(it.client, namespace):
                while not await it.jobs():
                    with contextlib.suppress(Waits):
                        await it.turn()
            assert (await it.monitor()).status.state == "Reoptimizing"

    asyncio.run(main())
