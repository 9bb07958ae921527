"""A real API server for the operator's tests."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator

import pytest

from trimtab.cluster.client import Client
from waiting import patience


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[str]:
    """A control plane with our CRDs and no node, as $KUBECONFIG."""
    import apiserver

    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(apiserver.kubeconfig())
    apiserver.install_crds()
    yield os.environ["KUBECONFIG"]
    os.environ.pop("KUBECONFIG")
    if before is not None:
        os.environ["KUBECONFIG"] = before


@pytest.fixture
def namespace(kubeconfig: str) -> str:
    """A new namespace."""
    return new_namespace()


@pytest.fixture
def other_namespace(kubeconfig: str) -> str:
    """A second one."""
    return new_namespace()


def new_namespace() -> str:
    name = f"test-{uuid.uuid4().hex[:8]}"

    async def make() -> None:
        async with await Client.connect() as client:
            await client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
            path = f"/api/v1/namespaces/{name}/serviceaccounts"
            async with patience(client, name):  # pods need its account, which appears a moment later
                while not (await client.request("GET", path))["items"]:
                    await asyncio.sleep(0.05)

    asyncio.run(make())
    return name
