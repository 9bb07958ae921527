"""Stored objects as our models, and the runtime that each job gets of them.

A stored object was let in by the CRDs of some version, which need not be this one: what we don't know of it is ignored,
for CRDs are upgraded before the operator and their defaults then appear in every object at once, and what does not fit
is one object's problem, told in its status.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trimtab.admission import admit
from trimtab.api.job import OptimizationJob
from trimtab.api.names import Reason
from trimtab.api.problems import problems
from trimtab.api.runtime import ClusterOptimizationRuntime, OptimizationRuntime
from trimtab.decisions import Refusal
from trimtab.snapshot import Snapshot
from trimtab.world import World

M = TypeVar("M", bound=BaseModel)
REMEMBERED = 4096
"""Runtimes that are remembered as read."""


class Unreadable(Exception):
    """A stored object that does not fit our models: an older CRD let it in, or a newer operator wrote it."""


def read(model: type[M], kept: Snapshot) -> M:
    """A stored object. Raises Unreadable with its first problem, in one line that names the object if it is another."""
    try:
        return model.model_validate_json(kept.json, extra="ignore")
    except ValidationError as error:
        where = "/".join(kept.name).lstrip("/")
        raise Unreadable(f"{model.__name__} {where}: {problems(error, model)[0]}") from None


class Runtimes:
    """Which runtime a job gets, by what is known now."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._read: dict[str, tuple[int, Any]] = {}
        """The version and what was read, by UID."""

    def of(self, job: OptimizationJob) -> OptimizationRuntime | Refusal:
        """One runtime that cannot be read may be what bounds the others, so while it is there none is given."""
        try:
            return self._admitted(job)
        except Unreadable as error:
            return Refusal(Reason.INVALID_INPUT, str(error))

    def _admitted(self, job: OptimizationJob) -> OptimizationRuntime | Refusal:
        own = [self._once(OptimizationRuntime, kept) for kept in self._world.runtimes_in(job.metadata.namespace)]
        shelf = self._world.cluster_runtimes
        shared = None if shelf is None else [self._once(ClusterOptimizationRuntime, kept) for kept in shelf]
        return admit(job, own, shared)

    def _once(self, model: type[M], kept: Snapshot) -> M:
        """`read`, once for each version of an object: every turn of every job asks for its runtime."""
        known = self._read.get(kept.uid)
        if known is None or known[0] != kept.version:
            if len(self._read) >= REMEMBERED:
                self._read.clear()  # most of them have been deleted
            known = self._read[kept.uid] = kept.version, read(model, kept)
        found: M = known[1]
        return found
