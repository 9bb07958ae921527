"""Waits for what a cluster comes to: as long as a busy machine takes, and a wait in vain shows what is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from trimtab.cluster import objects
from trimtab.cluster.client import Client
from trimtab.errors import ClusterError

HANG = 300.0
"""Seconds after which a wait is one. It measures nothing: on a core with four others, seconds became minutes."""
SHOWN = (objects.OPTIMIZATION_JOBS, objects.MODEL_MONITORS, objects.JOBS, objects.PODS)


@contextlib.asynccontextmanager
async def patience(client: Client, namespace: str, seconds: float = HANG) -> AsyncIterator[None]:
    """So long may take what is waited for in here."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as late:
        if not limit.expired():
            raise
        found = await there(client, namespace)
        raise TimeoutError(f"in vain for {seconds:g} s; in {namespace} there is\n{found}") from late


async def there(client: Client, namespace: str) -> str:
    """What the namespace holds, a line for each object and its status."""
    lines: list[str] = []
    try:
        for kind in SHOWN:
            for item in (await client.request("GET", kind.path(namespace)))["items"]:
                lines.append(f"{kind.plural} {item['metadata']['name']}: {json.dumps(item.get('status'))}")
    except ClusterError as error:
        lines.append(str(error))
    return "\n".join(lines) or "nothing"
