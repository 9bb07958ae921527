"""An operator's writes, kept from its own run so that others can do the same: JSON, by shape of job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.scale.load import Object
from trimtab.api.names import JOB_UID_LABEL, STAGE_LABEL, TRIAL_LABEL

_OURS = ("name", "namespace", "labels")


@dataclass(frozen=True)
class Script:
    """What is written for one OptimizationJob: Jobs and events as they were, and how often its status."""

    owner: Object
    jobs: list[Object]
    events: list[Object]
    status: Object
    statuses: int

    def job(self, owner: Object, index: int) -> Object:
        """The Job of that index, for another owner of the same shape."""
        was = self.jobs[index]
        job: Object = _renamed(was, self.owner, owner)
        job["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"] = {
            **was["metadata"]["labels"],
            JOB_UID_LABEL: owner["metadata"]["uid"],
        }
        return job

    def index(self, job: Mapping[str, Any]) -> int:
        """Which one a stored Job is."""
        stage, trial = order({"metadata": job})
        return next(i for i, one in enumerate(self.jobs) if order(one) == (stage, trial))

    def event(self, owner: Object, index: int) -> Object:
        event: Object = _renamed(self.events[index], self.owner, owner)
        return event

    def status_after(self, index: int) -> Object:
        """The status when so many Jobs have ended: it grows, and the last is the whole."""
        if index >= len(self.jobs):
            return self.status
        young = {name: value for name, value in self.status.items() if name in ("state", "inspection", "cost")}
        return {**young, "trials": self.status["trials"][:index]}

    def statuses_after(self, index: int) -> int:
        """How many of its status writes belong to the Job of that index."""
        return len(_share(range(self.statuses), index, len(self.jobs)))

    def events_after(self, index: int) -> Sequence[Object]:
        """The events that belong to the Job of that index."""
        return _share(self.events, index, len(self.jobs))


T = TypeVar("T")


def _share(things: Sequence[T], index: int, of: int) -> Sequence[T]:
    """An even part of them."""
    return things[len(things) * index // of : len(things) * (index + 1) // of]


def _renamed(item: Object, was: Object, now: Object) -> Any:
    """With the other owner's name, namespace and UID wherever the first one's stood."""
    old, new = was["metadata"], now["metadata"]
    text = json.dumps(item).replace(old["uid"], new["uid"]).replace(old["uid"][:8], new["uid"][:8])
    for name in ("name", "namespace"):
        # A name with a hyphen behind it begins a Job's name; job-1 must not become part of job-12.
        text = re.sub(rf'"{re.escape(old[name])}(?=[".-])', f'"{new[name]}', text)
    return json.loads(text)


STAGES = ("Inspect", "Trial", "Playoff", "Publish")


def order(job: Object) -> tuple[int, int]:
    """As they follow one another."""
    labels = job["metadata"]["labels"]
    return STAGES.index(labels[STAGE_LABEL]), int(labels.get(TRIAL_LABEL, 0))


def job_of(stored: Object) -> Object:
    """A stored Job as it was sent."""
    metadata = {name: stored["metadata"][name] for name in (*_OURS, "ownerReferences")}
    spec = {name: value for name, value in stored["spec"].items() if name not in ("selector", "managedBy")}
    template = spec["template"]
    labels = {
        name: value
        for name, value in template["metadata"]["labels"].items()
        if "batch.kubernetes.io" not in name and name not in ("job-name", "controller-uid")
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {**spec, "template": {**template, "metadata": {"labels": labels}}},
    }


def event_of(stored: Object) -> Object:
    """A stored event as it was sent."""
    metadata = {name: stored["metadata"][name] for name in ("name", "namespace")}
    return {
        **{name: value for name, value in stored.items() if not name.startswith("deprecated")},
        "metadata": metadata,
    }


def save(scripts: Mapping[str, Script], file: Path) -> None:
    file.write_text(json.dumps({name: asdict(script) for name, script in scripts.items()}))


def load(file: Path) -> dict[str, Script]:
    return {name: Script(**script) for name, script in json.loads(file.read_text()).items()}


def calls(script: Script, owner: Object) -> Iterator[tuple[str, str, Object]]:
    """Every write for this owner: verb, kind and body."""
    for index in range(len(script.jobs)):
        yield "POST", "jobs", script.job(owner, index)
        for _ in range(script.statuses_after(index)):
            yield "PATCH", "status", {"status": script.status_after(index + 1)}
    for index in range(len(script.events)):
        yield "POST", "events", script.event(owner, index)
