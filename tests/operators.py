"""The operator as a process or a thread of its own, and a job for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import aiohttp
import kopf
import pytest

from builders import job_dict, make_runtime, report_for, scopes
from trimtab import handlers
from trimtab.api.work import Report, Task
from trimtab.cluster import objects
from trimtab.cluster.client import Client, Object
from trimtab.settings import Settings
from waiting import HANG, patience

SOURCES = Path(__file__).parents[1] / "operator"
SHOWN = 8192
"""Bytes of the end of a log."""


@dataclass(frozen=True)
class Operator:
    """A process of it, and the file that it says everything to: it would wait for who reads a pipe."""

    process: Process
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    async def ended(self) -> int:
        """The exit code, once it has ended."""
        async with asyncio.timeout(HANG):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def process(settings: Settings, **variables: str) -> AsyncIterator[Operator]:
    """`trimtab operator` with these settings; killed in the end if it still runs."""
    environment = os.environ | settings.environment() | {"PYTHONPATH": str(SOURCES)} | variables
    command = [sys.executable, "-m", "trimtab", "operator"]
    with NamedTemporaryFile("ab", prefix="operator-") as log:
        running = await asyncio.create_subprocess_exec(*command, env=environment, stderr=log)
        try:
            yield Operator(running, Path(log.name))
        finally:
            if running.returncode is None:
                running.kill()
            await running.wait()
            show(Path(log.name))


def show(log: Path) -> None:
    """Its end, where pytest shows it if the test fails."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - SHOWN))
        sys.stderr.write(f"\n{log.name} ends with\n{file.read().decode(errors='replace')}")


@contextlib.asynccontextmanager
async def in_a_thread(operator: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """An operator of this process, in an event loop of its own, cancelled in the end; what it raised is raised here.

    kopf ends by cancelling whatever task of its loop is younger than itself: the test's, and other operators'.
    """
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    told, task = asyncio.get_running_loop(), loop.create_task(operator())

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(asyncio.wait([task]))
        told.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself, and its loop is closed
            loop.call_soon_threadsafe(task.cancel)
        await ended.wait()
        thread.join()
    if not task.cancelled():
        task.result()


def spare_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else kopf kills this process when it takes long to end, or some time after its end."""
    adapt_kopf(monkeypatch, lambda settings: setattr(settings.process, "ultimate_exiting_timeout", None))


def adapt_kopf(monkeypatch: pytest.MonkeyPatch, change: Callable[[kopf.OperatorSettings], None]) -> None:
    """Change what kopf is told in operators of this process."""
    settings = handlers._kopf_settings

    def changed() -> kopf.OperatorSettings:
        made = settings()
        change(made)
        return made

    monkeypatch.setattr(handlers, "_kopf_settings", changed)


async def fetch(port: int, path: str) -> str:
    """What the operator answers, once it does."""
    async with asyncio.timeout(HANG), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    return await response.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def says(port: int, words: str, path: str = "/healthz") -> None:
    """Wait until the operator answers with these words."""
    async with asyncio.timeout(HANG):
        while words not in await fetch(port, path):
            await asyncio.sleep(0.1)


def answer() -> Any:
    settings: dict[int, Any] = {}

    def report(task: Task) -> Report:
        settings[task.trial or 0] = task.settings
        return report_for(task, scopes, settings)

    return report


async def create_runtime(client: Client, namespace: str, **spec: Any) -> None:
    """The default one; keyword arguments replace spec fields."""
    runtime = {"metadata": {"name": "default", "namespace": namespace}, "spec": make_runtime(**spec).spec.wire()}
    header = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "OptimizationRuntime"}
    await objects.apply(client, objects.OPTIMIZATION_RUNTIMES, header | runtime)


async def submit(client: Client, namespace: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
    """The job `m` with labels, and its runtime, with these fields of the runtime's spec."""
    await create_runtime(client, namespace, **spec)
    manifest = job_dict()
    manifest["metadata"] = {"name": "m", "namespace": namespace, "labels": labels or {}}
    await objects.create(client, objects.OPTIMIZATION_JOBS, manifest)


async def published(client: Client, namespace: str) -> Object:
    async with patience(client, namespace):
        while True:
            job = await objects.get(client, objects.OPTIMIZATION_JOBS, namespace, "m")
            if job.get("status", {}).get("state") == "Published":
                return job
            await asyncio.sleep(0.2)
