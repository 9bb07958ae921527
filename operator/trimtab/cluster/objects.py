"""What is done to the cluster's objects, one function per call, each safe to be made twice.

A create under a fixed name that finds the name taken by its own earlier call has succeeded; a delete of what is gone
has too; a status write names the version it was decided on, so it never overwrites what it has not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from trimtab.api.base import Record
from trimtab.api.job import ObjectMeta
from trimtab.api.names import API_VERSION, GROUP
from trimtab.cluster.client import APPLY_PATCH, MERGE_PATCH, METADATA_ONLY, Client, Object
from trimtab.decisions import Event
from trimtab.errors import AlreadyExists, Conflict, NotFound, Refused
from trimtab.manifests import controller_of

FIELD_MANAGER = "trimtab"
NOTE_LIMIT = 1024
METADATA_PAGE = 1000
"""Objects at a time where only their metadata is sent."""


@dataclass(frozen=True)
class Resource:
    """A kind of object as the API server's paths spell it."""

    api: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, part: str | None = None) -> str:
        scope = ["namespaces", namespace] if namespace else []
        return "/".join([self.api, *scope, self.plural, *([name] if name else []), *([part] if part else [])])


OPTIMIZATION_JOBS = Resource(f"/apis/{API_VERSION}", "optimizationjobs")
OPTIMIZATION_RUNTIMES = Resource(f"/apis/{API_VERSION}", "optimizationruntimes")
CLUSTER_RUNTIMES = Resource(f"/apis/{API_VERSION}", "clusteroptimizationruntimes")
MODEL_MONITORS = Resource(f"/apis/{API_VERSION}", "modelmonitors")
JOBS = Resource("/apis/batch/v1", "jobs")
PODS = Resource("/api/v1", "pods")
SERVICES = Resource("/api/v1", "services")
CONFIG_MAPS = Resource("/api/v1", "configmaps")
EVENTS = Resource("/apis/events.k8s.io/v1", "events")
LEASES = Resource("/apis/coordination.k8s.io/v1", "leases")


async def get(client: Client, resource: Resource, namespace: str, name: str) -> Object:
    """The object as it is now. Raises NotFound."""
    return await client.request("GET", resource.path(namespace, name))


async def create(client: Client, resource: Resource, manifest: Object) -> Object:
    """The object as stored, created now or by an earlier call that was cut off before its answer came.

    Raises Conflict while an object of that name is being deleted, and Refused if the name is somebody else's.
    """
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    try:
        return await client.request("POST", resource.path(namespace), body=manifest)
    except AlreadyExists as taken:
        try:
            stored = await get(client, resource, namespace, name)
        except NotFound:
            raise Conflict(f"{taken}, and then was deleted") from None
        if stored["metadata"].get("deletionTimestamp"):
            raise Conflict(f"{resource.plural} {namespace}/{name} is still being deleted") from None
        if not _same_controller(stored, manifest):
            raise Refused(f"{taken}, and belongs to somebody else: delete or rename it") from None
        return stored


async def delete(client: Client, resource: Resource, namespace: str, name: str, **preconditions: str) -> None:
    """Delete the object with that `uid`; what it owns (a Job's pods) goes in the background.

    With a `resourceVersion` too, only as it was then: raises Conflict where it has changed since, for a Job that has
    finished in the meantime holds a result.
    """
    options = {"propagationPolicy": "Background", "preconditions": preconditions}
    try:
        await client.request("DELETE", resource.path(namespace, name), body=options)
    except NotFound:
        return
    except Conflict:
        if "resourceVersion" in preconditions:
            raise
        return  # replaced by another of the same name


async def delete_all(client: Client, resource: Resource, namespace: str, selector: str) -> None:
    """Delete every object with these labels, and what it owns in the background."""
    query = [("labelSelector", selector)]
    await client.request("DELETE", resource.path(namespace), query, {"propagationPolicy": "Background"})


async def write_status(
    client: Client, resource: Resource, metadata: ObjectMeta, old: Record, new: Record
) -> Object | None:
    """Make the object's status `new`, given that the version in `metadata` holds `old`.

    The answer, or None if there is nothing to write. Raises Conflict if the object has changed since, NotFound if it
    is gone.
    """
    change = status_patch(old, new)
    if not change:
        return None
    body = {"metadata": {"resourceVersion": metadata.resource_version}, "status": change}
    path = resource.path(metadata.namespace, metadata.name, "status")
    return await client.request("PATCH", path, body=body, headers=MERGE_PATCH)


async def apply(client: Client, resource: Resource, manifest: Object) -> Object:
    """Server-side apply: the fields of `manifest` become ours and take its values; others' stay."""
    path = resource.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
    return await client.request("PATCH", path, query, manifest, APPLY_PATCH)


async def tell(client: Client, kind: str, about: ObjectMeta, event: Event) -> None:
    """Record an event about one of our objects, as it was when that was decided; whoever tells it, once."""
    with contextlib.suppress(AlreadyExists):
        await client.request("POST", EVENTS.path(about.namespace), body=event_manifest(kind, about, event))


def event_manifest(kind: str, about: ObjectMeta, event: Event) -> Object:
    """The Event of this moment, named by what it tells and the version it was decided on: no two writes have one."""
    now = datetime.now(UTC)
    told = f"{about.uid} {about.resource_version} {event.reason} {event.message}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:200]}.{sha256(told.encode()).hexdigest()[:16]}",
            "namespace": about.namespace,
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"{GROUP}/operator",
        "reportingInstance": "trimtab",
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason.value,
        "action": event.reason.value,
        "note": event.message[:NOTE_LIMIT],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": kind,
            "name": about.name,
            "namespace": about.namespace,
            "uid": about.uid,
        },
    }


async def versions(client: Client, resource: Resource, namespaces: Sequence[str | None]) -> dict[str, int]:
    """UID to version of every object, from metadata-only lists."""
    found: dict[str, int] = {}
    for namespace in namespaces:
        async for page in client.pages(resource.path(namespace), headers=METADATA_ONLY, size=METADATA_PAGE):
            found |= {m["uid"]: int(m["resourceVersion"]) for m in (item["metadata"] for item in page["items"])}
    return found


def status_patch(old: Record, new: Record) -> dict[str, Any]:
    """The merge patch that turns one status into the other. Only what differs is written out to be compared.

    Without nulls but for what is to go: inside a list, a merge patch would store them, and a schema refuses them.
    """
    changed = {name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)}
    before, after = (r.model_dump(mode="json", by_alias=True, exclude_none=True, include=changed) for r in (old, new))
    return merge_patch(before, after)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What turns `old` into `new` (RFC 7386): changed members, and null for those that are gone. Lists are values."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            if change := merge_patch(before, value):
                patch[name] = change
        elif value != before or name not in old:
            patch[name] = value
    return patch


def _same_controller(stored: Object, manifest: Object) -> bool:
    ours, theirs = controller_of(manifest["metadata"]), controller_of(stored["metadata"])
    return bool(ours and theirs and ours["uid"] == theirs["uid"])
