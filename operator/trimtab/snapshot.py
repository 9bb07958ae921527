"""An object of our kinds as it is remembered: its JSON, beside the little that is asked of all at once.

As dicts thousands of jobs take several times the memory, and the garbage collector looks through each of their members.
What a turn needs of one is read anew, for the models read JSON as fast as dicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from trimtab.manifests import owner_of

OWNER = "ModelMonitor"
Name = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of an object."""

    name: Name
    uid: str
    version: int
    leaving: bool
    """Whether it is being deleted."""
    monitor: str
    """The UID of the ModelMonitor that started it, if one did."""
    json: bytes

    @staticmethod
    def of(item: Mapping[str, Any]) -> Snapshot:
        """As the API server gave it, but for managedFields, which are half of an object and nobody's business here."""
        metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
        owner = owner_of(metadata, OWNER)
        return Snapshot(
            name=name_of(item),
            uid=metadata["uid"],
            version=version_of(item),
            leaving="deletionTimestamp" in metadata,
            monitor=owner["uid"] if owner else "",
            json=to_json({**item, "metadata": metadata}),
        )

    def object(self) -> dict[str, Any]:
        """The whole of it, which is the caller's to change."""
        found: dict[str, Any] = from_json(self.json)
        return found


def name_of(item: Mapping[str, Any]) -> Name:
    """Without a namespace, that of an object of the whole cluster is empty."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def version_of(item: Mapping[str, Any]) -> int:
    """Versions grow with every write to an object, and Kubernetes has them compared as numbers."""
    return int(item["metadata"]["resourceVersion"])
