"""The newest known state of everything the operator looks at, and whether an arrival is news.

Three sources write here in no order: kopf's watches, the Jobs watch, and the answers to our own writes. The
resourceVersion decides between them, so a view is never older than our last write, and the echo of a write, which
arrives later through the watch, is no news and wakes nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from trimtab.api.names import JOB_UID_LABEL
from trimtab.cluster import objects
from trimtab.cluster.client import Object
from trimtab.cluster.records import JobRecord
from trimtab.snapshot import Name, Snapshot, name_of, version_of


class Kind(StrEnum):
    """Our own kinds."""

    JOB = "OptimizationJob"
    RUNTIME = "OptimizationRuntime"
    MONITOR = "ModelMonitor"


RESOURCES = {
    Kind.JOB: objects.OPTIMIZATION_JOBS,
    Kind.RUNTIME: objects.OPTIMIZATION_RUNTIMES,
    Kind.MONITOR: objects.MODEL_MONITORS,
}


class Key(NamedTuple):
    """What is queued: an object by its name, since what it looks like is only asked when its turn comes."""

    kind: Kind
    name: Name

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(self.name)}"


@dataclass
class Shelf:
    """The objects of one of our kinds."""

    homes: dict[str, dict[str, Snapshot]] = field(default_factory=dict)
    """By namespace, for every turn asks for what else is in its own, and then by name."""

    def get(self, name: Name) -> Snapshot | None:
        return self.of(name[0]).get(name[1])

    def of(self, namespace: str) -> Mapping[str, Snapshot]:
        return self.homes.get(namespace, {})

    def __iter__(self) -> Iterator[Snapshot]:
        return (kept for home in self.homes.values() for kept in home.values())

    def put(self, item: Object) -> bool:
        """Take an object from a watch or a list; True if it is news."""
        namespace, name = name_of(item)
        known = self.of(namespace).get(name)
        if known is not None and known.version >= version_of(item):
            return False
        self.homes.setdefault(namespace, {})[name] = Snapshot.of(item)
        return True

    def refresh(self, item: Object) -> None:
        """Take the answer to a write. It brings no object back that was deleted meanwhile."""
        known = self.get(name_of(item))
        if known is not None and known.uid == item["metadata"]["uid"]:
            self.put(item)

    def remove(self, item: Object) -> None:
        """Forget a deleted object, unless another of its name has already taken its place."""
        known = self.get(name_of(item))
        if known is not None and known.version <= version_of(item):
            self.drop(name_of(item))

    def drop(self, name: Name) -> None:
        """Forget what is there, if anything, for it is known to be gone."""
        namespace, short = name
        home = self.homes.get(namespace, {})
        home.pop(short, None)
        if not home:
            self.homes.pop(namespace, None)

    def prune(self, known: Iterable[str], found: Mapping[str, int]) -> list[Name]:
        """Forget the objects whose UIDs were `known` when a list began and that the list did not find."""
        lost = {uid for uid in known if uid not in found}
        ghosts = [kept.name for kept in self if kept.uid in lost]
        for name in ghosts:
            self.drop(name)
        return ghosts

    def uids(self) -> dict[str, int]:
        """The version of each object by its UID."""
        return {kept.uid: kept.version for kept in self}


@dataclass
class Works:
    """The Jobs of all OptimizationJobs, by the namespace and UID of their owner.

    By the namespace too, for a tenant may write anybody's UID into an owner reference, and what its pod reports would
    become another tenant's result.
    """

    by_owner: dict[tuple[str, str], dict[str, JobRecord]] = field(default_factory=dict)

    def of(self, namespace: str, owner_uid: str) -> tuple[JobRecord, ...]:
        return tuple(self.by_owner.get((namespace, owner_uid), {}).values())

    def put(self, job: JobRecord) -> bool:
        jobs = self.by_owner.setdefault((job.namespace, job.owner_uid), {})
        known = jobs.get(job.name)
        if known is not None and known.version >= job.version:
            return False
        jobs[job.name] = job
        return True

    def remove(self, job: JobRecord) -> None:
        jobs = self.by_owner.get((job.namespace, job.owner_uid), {})
        if job.name in jobs and jobs[job.name].version <= job.version:
            del jobs[job.name]
        if not jobs:
            self.by_owner.pop((job.namespace, job.owner_uid), None)

    def prune(self, namespace: str | None, uids: frozenset[str], version: int) -> list[JobRecord]:
        """Forget the Jobs (of one namespace, or all) that a list as of `version` did not find."""
        ghosts = [
            job for job in self if job.uid not in uids and job.version <= version and namespace in (None, job.namespace)
        ]
        for job in ghosts:
            self.remove(job)
        return ghosts

    def __iter__(self) -> Iterator[JobRecord]:
        return (job for jobs in self.by_owner.values() for job in jobs.values())


@dataclass
class World:
    shelves: dict[Kind, Shelf] = field(default_factory=lambda: {kind: Shelf() for kind in Kind})
    works: Works = field(default_factory=Works)
    cluster_runtimes: Shelf | None = None
    """None where they may not be read."""
    disguised: set[tuple[str, str]] = field(default_factory=set)
    """Namespaces and UIDs of OptimizationJobs whose label a Job wears that is not theirs: a selector finds it too."""

    def stranger_seen(self, job: Object) -> None:
        """A Job has our labels and is not ours."""
        metadata = job["metadata"]
        self.disguised.add((metadata["namespace"], metadata["labels"].get(JOB_UID_LABEL, "")))

    def get(self, kind: Kind, name: Name) -> Snapshot | None:
        return self.shelves[kind].get(name)

    def all(self, kind: Kind) -> Iterable[Snapshot]:
        return self.shelves[kind]

    def owned_jobs(self, namespace: str, monitor_uid: str) -> Iterator[Snapshot]:
        """The OptimizationJobs that a monitor of this namespace started; elsewhere nobody has it for an owner."""
        return (kept for kept in self.shelves[Kind.JOB].of(namespace).values() if kept.monitor == monitor_uid)

    def unfinished_jobs(self) -> Iterator[Name]:
        """The OptimizationJobs that may still do something."""
        for kept in self.shelves[Kind.JOB]:
            if not kept.object().get("status", {}).get("completionTime"):
                yield kept.name

    def jobs_in(self, namespace: str) -> list[Name]:
        """The OptimizationJobs of a namespace."""
        return [(namespace, name) for name in self.shelves[Kind.JOB].of(namespace)]

    def runtimes_in(self, namespace: str) -> list[Snapshot]:
        """The OptimizationRuntimes of a namespace."""
        return list(self.shelves[Kind.RUNTIME].of(namespace).values())
