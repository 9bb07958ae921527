"""Write what was decided into an object's status, and tell of it in events: every change once, whatever gets lost.

An event is told only if its status was written. Where that is not known, because the answer got lost, or the client's
repetition of a write that had been carried out was refused, the object's next turn first reads what is stored; so it
does where the API server took the status and not the event. What it then tells may have been told, by another replica
that decided the same too: an event's name is made of the version that was decided on, so it is one event. What still
costs one: the operator is killed before it is told, somebody else writes the status before it is read, the API server
does not take it the second time either. No work waits for an event.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from trimtab.api.base import Record
from trimtab.api.job import ObjectMeta
from trimtab.api.monitor import ModelMonitorStatus
from trimtab.api.names import EventReason
from trimtab.api.status import OptimizationJobStatus
from trimtab.cluster import objects
from trimtab.cluster.client import Client, Object
from trimtab.decisions import Event
from trimtab.errors import ClusterError, NotFound, Temporary
from trimtab.world import RESOURCES, Key, Kind, World

logger = logging.getLogger(__name__)

Status = OptimizationJobStatus | ModelMonitorStatus
_MODELS: dict[Kind, type[OptimizationJobStatus] | type[ModelMonitorStatus]] = {
    Kind.JOB: OptimizationJobStatus,
    Kind.MONITOR: ModelMonitorStatus,
}

_ENDS = frozenset({EventReason.COMPLETE, EventReason.FAILED})
"""What is logged too: one line for each job, where trials would be thousands."""


def status_of(kind: Kind, item: Object) -> Status:
    """The stored status, without those of its fields that cannot be read: how a job ended is known all the same."""
    model, stored = _MODELS[kind], item.get("status", {})
    try:
        return model.model_validate(stored)
    except ValidationError as error:
        unknown = {problem["loc"][0] for problem in error.errors()}
        return model.model_validate({name: value for name, value in stored.items() if name not in unknown})


@dataclass
class Statuses:
    client: Client
    world: World
    _doubts: dict[Key, tuple[ObjectMeta, Record, Sequence[Event]]] = field(default_factory=dict)
    """What may have been written by the last turn, and is still to be told if it was."""

    async def write(self, key: Key, about: ObjectMeta, old: Record, new: Record, events: Sequence[Event] = ()) -> bool:
        """Write the status if it changed, and tell of it; our view is then the answer. True if it was written."""
        shelf = self.world.shelves[key.kind]
        try:
            stored = await objects.write_status(self.client, RESOURCES[key.kind], about, old, new)
        except NotFound:
            # Deleted, and no watch has told us.
            shelf.drop(key.name)
            return False
        except Temporary:
            self._doubts[key] = about, new, events
            raise
        if stored is None:
            return False
        shelf.refresh(stored)
        if untold := await self._tell(key, about, events):
            self._doubts[key] = about, new, untold  # having written, the key gets another turn at once
        return True

    async def settle(self, key: Key) -> None:
        """If it is in doubt what the last turn wrote, look, renew our view, and tell what it still had to tell."""
        if key not in self._doubts:
            return
        shelf = self.world.shelves[key.kind]
        try:
            stored = await objects.get(self.client, RESOURCES[key.kind], *key.name)
        except NotFound:
            shelf.drop(key.name)
            del self._doubts[key]
            return
        shelf.refresh(stored)
        about, status, events = self._doubts.pop(key)
        if not objects.status_patch(status_of(key.kind, stored), status):
            for event in await self._tell(key, about, events):
                logger.warning("%s: an event was lost: %s", key, event.message)

    async def _tell(self, key: Key, about: ObjectMeta, events: Sequence[Event]) -> list[Event]:
        """Returns the events that the API server would not take now."""
        untold = []
        for event in events:
            try:
                await objects.tell(self.client, key.kind, about, event)
            except Temporary:
                untold.append(event)
                continue
            except ClusterError as error:
                logger.warning("an event was lost: %s", error)
            if event.reason in _ENDS:
                logger.info("%s: %s: %s", key, event.reason, event.message)
        return untold
