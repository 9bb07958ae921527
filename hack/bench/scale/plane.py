"""etcd and the API server, real and the bench's own, with our CRDs and the bench's namespaces.

The controller manager makes the namespaces' service accounts and is then stopped, like the scheduler: with its
default of 20 calls a second the Job controller would be what is measured. `bench.scale.pods` does its part.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.scale import load
from lab import cluster, paths, processes
from trimtab.cluster import objects
from trimtab.cluster.client import Client

SERVERS = ("kube-apiserver", "etcd")


@contextmanager
def control_plane(jobs: int) -> Iterator[None]:
    """A fresh one, named by $KUBECONFIG; nothing is left of it."""
    before = {name: os.environ.get(name) for name in ("TRIMTAB_LAB", "KUBECONFIG")}
    os.environ["TRIMTAB_LAB"] = tempfile.mkdtemp(prefix="trimtab-scale-")
    try:
        os.environ["KUBECONFIG"] = str(cluster.up(with_node=False))
        cluster.kubectl("apply", "--server-side", "-f", paths.CHECKOUT / "crds")
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", paths.CHECKOUT / "crds")
        asyncio.run(_namespaces(jobs))
        for name in ("kube-controller-manager", "kube-scheduler"):
            processes.stop(name)
        yield
    finally:
        cluster.down()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def servers() -> list[int]:
    """Their processes."""
    return [running.pid for name in SERVERS if (running := processes.recorded(name))]


async def _namespaces(jobs: int) -> None:
    async with await Client.connect() as client:
        for name in sorted({load.namespace(number) for number in range(jobs)}):
            await client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
            await objects.create(client, objects.OPTIMIZATION_RUNTIMES, load.runtime(name))
            # Pods need it, and it appears a moment later.
            while not (await client.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts"))["items"]:
                await asyncio.sleep(0.05)


async def fill(client: Client, numbers: range, trials: int) -> None:
    """Create the jobs of these numbers."""
    queue = iter(numbers)

    async def some() -> None:
        for number in queue:
            await objects.create(client, objects.OPTIMIZATION_JOBS, load.job(number, trials))

    await asyncio.gather(*(some() for _ in range(16)))
