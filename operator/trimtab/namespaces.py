"""Which of the namespaces that the settings name can be served.

A namespace is deleted, and the operator's role goes with it; one is named before it exists. Neither may stop the
service for the others, so only those are served in which everything may be listed, and when that set changes the
operator begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from trimtab.cluster import objects
from trimtab.cluster.client import Client
from trimtab.errors import Forbidden, NotFound, Temporary
from trimtab.world import RESOURCES

RETRY_SECONDS = 5.0

LOOK_SECONDS = 15.0
"""An open watch outlives its role by up to five minutes, so a lost namespace is nearly always noticed here first."""

logger = logging.getLogger(__name__)


class NamespacesChanged(Exception):
    """Another set of the named namespaces can be read than when the operator began."""


async def first_readable(client: Client, named: Sequence[str]) -> list[str]:
    """Those of the named namespaces that can be read, as soon as there are any."""
    while True:
        found = await readable(client, named)
        for namespace in named:
            if namespace not in found:
                remedy = "create it with the chart's Role and RoleBinding, or remove it from the setting"
                logger.warning("settings.watchNamespaces: %s cannot be read: %s", namespace, remedy)
        if found:
            return found
        await asyncio.sleep(RETRY_SECONDS)


async def look(client: Client, named: Sequence[str], served: list[str]) -> None:
    """Raise NamespacesChanged as soon as another set of namespaces can be read."""
    while (found := await readable(client, named)) == served:
        await asyncio.sleep(LOOK_SECONDS)
    logger.warning("settings.watchNamespaces: now %s can be read", ", ".join(found) or "none")
    raise NamespacesChanged


async def readable(client: Client, named: Sequence[str]) -> list[str]:
    """The named namespaces in which all kinds of ours, and Jobs, may be listed."""
    return [namespace for namespace in named if await _may_list(client, namespace)]


async def _may_list(client: Client, namespace: str) -> bool:
    for resource in (*RESOURCES.values(), objects.JOBS):
        try:
            await client.request("GET", resource.path(namespace), [("limit", "1")])
        except Forbidden:
            return False
        except (NotFound, Temporary):
            pass  # no CRDs yet, or nobody there to ask: that says nothing about the namespace
    return True
