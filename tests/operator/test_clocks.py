"""The operator's clock is an hour ahead of the API server's, or behind: nothing comes early, late or twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from kubelet import node
from stories import ended, listed, new_namespace
from trimtab.api.job import OptimizationJob
from trimtab.cluster import objects
from trimtab.cluster.client import Client
from waiting import patience

from .test_controller import (
    Life,
    Simulated,
    add_runtime,
    at_rest,
    edit,
    job_where,
    jobs_of,
    message,
    operator,
    shorten,
    submit,
    taken_away,
)

pytestmark = pytest.mark.e2e

HOUR = timedelta(hours=1)
SKEWS = (HOUR, -HOUR)
Scenario = Callable[[Client, str, timedelta], Awaitable[None]]


def run(scenario: Scenario) -> None:
    """With both skews, side by side."""

    async def main() -> None:
        async with await Client.connect() as client, asyncio.TaskGroup() as group:
            for skew in SKEWS:
                group.create_task(scenario(client, await new_namespace(client), skew))

    asyncio.run(main())


@contextlib.asynccontextmanager
async def given(client: Client, namespace: str, ttl: int, skew: timedelta) -> AsyncIterator[Life]:
    async with operator(namespace, skew) as life:
        await add_runtime(client, namespace, ttlSecondsAfterFinished=ttl)
        yield life


async def the_end(client: Client, namespace: str) -> OptimizationJob:
    async with patience(client, namespace):
        while True:
            (job,) = await listed(client, objects.OPTIMIZATION_JOBS, namespace)
            if ended(job):
                return OptimizationJob.model_validate(job)
            await asyncio.sleep(0.1)


def test_a_life_ends_as_ever_and_its_jobs_are_kept_as_long_as_they_should(kubeconfig: str) -> None:
    async def scenario(client: Client, namespace: str, skew: timedelta) -> None:
        async with node(client, namespace, Simulated()) as ran, given(client, namespace, 1800, skew) as life:
            await submit(client, namespace)
            job = await the_end(client, namespace)
            assert (job.status.state, job.status.best and job.status.best.trial) == ("Published", 2)
            await at_rest(life)  # if they were to go at once, they would have gone
            assert sorted(ran) == sorted(await jobs_of(client, namespace))
            await shorten(client, namespace, ttlSecondsAfterFinished=1)
            await taken_away(client, namespace)
            assert len(ran) == 5

    run(scenario)


def test_a_deadline_passes_when_it_should(kubeconfig: str) -> None:
    """One of half an hour does not pass though the clocks differ by more, one of seconds does."""

    async def scenario(client: Client, namespace: str, skew: timedelta) -> None:
        async with given(client, namespace, 1800, skew) as life:
            await submit(client, namespace, budget={"deadline": "30m"})
            await job_where(client, namespace, Complete="Inspecting")
            await at_rest(life)
            (job,) = await listed(client, objects.OPTIMIZATION_JOBS, namespace)
            assert not ended(job)
            await edit(client, namespace, budget={"deadline": "3s"})
            ends = await the_end(client, namespace)
            assert message(ends.status, "Failed") == "spec.budget.deadline: 3s have passed"
            await taken_away(client, namespace)

    run(scenario)
