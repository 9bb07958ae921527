"""What became of a Job: its Report where its pod left one, otherwise a reason that people understand.

Pods are not watched. A Job's own status says when it has ended and whether its pod is ready, so pods are listed when
there is something to learn: once for the Jobs that ended since the last look (the result is kept per Job UID), and
now and then for a Job whose pod is long in starting. A Job that is suspended has no pod, and says itself in which queue
it is. One call asks for all of them, also for those of other turns that come while the namespace's call before is under
way: under load, that is one call for several Jobs. What the Jobs and pods mean is read in `records` and `endings`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from pydantic import ValidationError

from trimtab.api.doing import Doing
from trimtab.api.names import Reason
from trimtab.api.work import Task
from trimtab.cluster.client import Client, Object
from trimtab.cluster.endings import LOST, PATIENCE, held, held_so_far, left_by, waiting_reason
from trimtab.cluster.objects import EVENTS, PODS
from trimtab.cluster.records import JOB_NAME_LABEL, TOO_LATE, JobRecord
from trimtab.cluster.refusals import NoPod, no_pod
from trimtab.cluster.tails import Tails
from trimtab.conditions import timestamp
from trimtab.decisions import ObservedWork, Work, WorkState
from trimtab.errors import ClusterError

logger = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=60)
"""A pod that is not ready after PATIENCE is looked at, and then again every INTERVAL."""
TERMINATION = timedelta(seconds=120)
"""A Job that has failed waits for its pods to end, for which they have 30 s. A lost node never tells of that."""
LONG = timedelta(seconds=60)
"""What runs for longer is told of: most work is over by then, and costs no status write."""
MOMENT = timedelta(seconds=2)
"""A Job that is held back for longer is told of: a queue with quota to give takes less, and costs no status write."""

JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
EVENTS_READ = 100
"""Of one Job: it has a dozen an hour at most, for those that say the same are counted in one."""


class Wait(NamedTuple):
    """A Job that waits, as the last look found it."""

    looked: datetime
    why: str = ""
    refused: Reason | None = None
    without_pod: int = 0
    """The Job's version, if it had no pod: its next version may have one."""


class Pods:
    """Turns Jobs into observed work. Remembers what it learned until told to forget."""

    def __init__(self, client: Client, tails: Tails | None = None) -> None:
        """Without `tails` no log is read."""
        self._client = client
        self._tails = tails
        self._ended: dict[str, ObservedWork] = {}
        self._waiting: dict[str, Wait] = {}
        self._since: dict[str, tuple[datetime, datetime]] = {}
        """By UID, since when a Job waits or is held by the API server's clock, and since when by ours."""
        self._failing: dict[str, datetime] = {}
        """By UID, since when a failed Job waits for its pods to end."""
        self._turns: dict[str, asyncio.Lock] = {}
        self._batches: dict[str, tuple[list[str], asyncio.Task[dict[str, list[Object]]]]] = {}
        """By namespace, the Jobs that the next call asks for, and its answer."""

    async def observe(self, jobs: Sequence[JobRecord], now: datetime) -> tuple[ObservedWork, ...]:
        """The Jobs of one namespace as work. None of them may be `unreadable`.

        At most one call, and another where one has waited in vain for its pod to be created.
        """
        asked = [job for job in jobs if self._worth_a_look(job, now)]
        if asked:
            found = await self._list(asked)
            refusals = await self._refusals([job for job in asked if job.uid not in found])
            for job in asked:
                self._learn(job, found.get(job.uid, []), refusals.get(job.uid), now)
        if self._tails and (longest := self._longest(jobs, now)):
            self._tails.look(longest, now)
        return tuple(self._ended.get(job.uid) or self._active(job, now) for job in jobs)

    async def spent(self, jobs: Sequence[JobRecord], now: datetime) -> dict[str, float]:
        """The GPU-seconds of Jobs that still run, by name; for those that are to be deleted. At most one call."""
        asked = [job for job in jobs if job.gpus]
        found = await self._list(asked) if asked else {}
        return {job.name: job.gpus * held_so_far(found.get(job.uid, []), now) for job in asked}

    def next_look(self, jobs: Iterable[JobRecord], now: datetime) -> float | None:
        """Seconds after which `observe` may tell something new though no Job has changed."""
        open_jobs = [job for job in jobs if job.uid not in self._ended]
        dues = [self._due(job, now) for job in open_jobs]
        told = [self._begun(job, job.held_since, now) + MOMENT for job in open_jobs if job.held_since]
        told += [self._begun(job, job.running_since, now) + LONG for job in open_jobs if job.running_since]
        if self._tails and (longest := self._longest(open_jobs, now)):
            dues.append(self._tails.due(longest, now))
        waits = [(due - now).total_seconds() for due in (*dues, *(due for due in told if due > now)) if due is not None]
        return max(0.0, min(waits)) if waits else None

    def forget(self, uid: str) -> None:
        for known in (self._ended, self._waiting, self._since, self._failing):
            known.pop(uid, None)
        if self._tails:
            self._tails.forget(uid)

    def doing(self, uid: str) -> Doing | None:
        """What the pod of a Job has said last, if it runs for long."""
        return self._tails.told(uid) if self._tails else None

    def _worth_a_look(self, job: JobRecord, now: datetime) -> bool:
        if job.uid in self._ended:
            return False
        due = self._due(job, now)
        return job.state != WorkState.ACTIVE or (due is not None and due <= now)

    def _due(self, job: JobRecord, now: datetime) -> datetime | None:
        if job.starting_since is None:
            return None
        if wait := self._waiting.get(job.uid):
            return now if 0 < wait.without_pod < job.version else wait.looked + INTERVAL
        return self._begun(job, job.starting_since, now) + PATIENCE

    def _begun(self, job: JobRecord, since: datetime, now: datetime) -> datetime:
        """When that began, by the clock that says so first: with ours behind, the other's moment would be to come."""
        if self._since.get(job.uid, (None, now))[0] != since:
            self._since[job.uid] = since, now
        return min(self._since[job.uid])

    def _is_lost(self, job: JobRecord, now: datetime) -> bool:
        """Whether it has failed, and its pods should have ended long ago: nothing more is to be expected of it."""
        return bool(job.reason) and self._failing.setdefault(job.uid, now) + TERMINATION <= now

    def _learn(self, job: JobRecord, pods: Sequence[Object], refusal: NoPod | None, now: datetime) -> None:
        if job.state == WorkState.ACTIVE and not self._is_lost(job, now):
            self._waiting[job.uid] = self._found(job, pods, refusal, now)
            return
        report, message = left_by(job, pods)
        waited = self._waiting.get(job.uid, Wait(now)).why
        self.forget(job.uid)
        if waited and message.startswith(TOO_LATE):
            message = f"{message}; its pod was waiting: {waited}"
        # A pod that was waiting when it was deleted had no node, and so no GPUs.
        spent = 0.0 if waited and not pods else job.gpus * held(job, pods)
        state = WorkState.FAILED if job.state == WorkState.ACTIVE else job.state
        self._ended[job.uid] = ObservedWork(_work(job), state, report, message, gpu_seconds=spent)

    def _found(self, job: JobRecord, pods: Sequence[Object], refusal: NoPod | None, now: datetime) -> Wait:
        """Why it waits now."""
        if pods:
            return Wait(now, waiting_reason(pods, now))
        if refusal:
            return Wait(now, *refusal, without_pod=job.version)
        # A Job past its deadline deletes its pods before it says so: why they waited is known by then.
        known = self._waiting.get(job.uid)
        if known and known.why:
            return known._replace(looked=now, without_pod=job.version)
        return Wait(now, f"no pod was created: kubectl describe job {job.name} says why", without_pod=job.version)

    def _active(self, job: JobRecord, now: datetime) -> ObservedWork:
        if job.starting_since is None:
            self._waiting.pop(job.uid, None)
        if job.running_since is None and self._tails:
            self._tails.forget(job.uid)  # its pod may be replaced
        if job.held_since is not None and self._begun(job, job.held_since, now) + MOMENT <= now:
            message = "" if job.queue else f"it is suspended: kubectl describe job {job.name} says by whom"
            return ObservedWork(_work(job), WorkState.ACTIVE, None, message, job.queue)
        wait = self._waiting.get(job.uid, Wait(now))
        return ObservedWork(
            _work(job),
            WorkState.ACTIVE,
            message=wait.why,
            refused=wait.refused,
            edition=job.edition if self._can_be_made_anew(job, wait) else "",
            since=self._long(job, now),
            doing=self.doing(job.uid),
        )

    def _can_be_made_anew(self, job: JobRecord, wait: Wait) -> bool:
        """Whether its pod has not run: one of several may, one of a lost node may still, one of a failed Job has."""
        return bool(wait.why) and LOST not in wait.why and not job.reason and job.pods == 1

    def _long(self, job: JobRecord, now: datetime) -> str:
        """Since when it runs, by the API server's clock, if that is long."""
        since = job.running_since
        return timestamp(since) if since and self._begun(job, since, now) + LONG <= now else ""

    def _longest(self, jobs: Iterable[JobRecord], now: datetime) -> JobRecord | None:
        """The one that has run the longest, if that is long: of no other it is told how far it is."""
        long = [(since, job.name, job) for job in jobs if (since := self._long(job, now))]
        return min(long)[2] if long else None

    async def _refusals(self, jobs: Sequence[JobRecord]) -> dict[str, NoPod]:
        """By the Job's UID, why those that should have a pod have none, as far as that can be known.

        The oldest is asked about, for all: they have one runtime, and each call reads all events of the namespace.
        """
        waiting = [job for job in jobs if job.starting_since and not job.reason]
        if not waiting:
            return {}
        oldest = min(waiting, key=lambda job: (job.starting_since, job.name))
        refusal = await self._refusal(oldest)
        return {job.uid: refusal for job in waiting} if refusal else {}

    async def _refusal(self, job: JobRecord) -> NoPod | None:
        query = [("fieldSelector", f"regarding.uid={job.uid}"), ("limit", str(EVENTS_READ))]
        try:
            return no_pod((await self._client.request("GET", EVENTS.path(job.namespace), query))["items"])
        except ClusterError as error:  # without the words of the API server, the Job is told to have no pod
            logger.warning("why Job %s/%s has no pod is not known: %s", job.namespace, job.name, error)
            return None

    async def _list(self, jobs: Sequence[JobRecord]) -> dict[str, list[Object]]:
        """Pods by the UID of their Job."""
        namespace = jobs[0].namespace
        if namespace not in self._batches:
            names: list[str] = []
            self._batches[namespace] = names, asyncio.create_task(self._ask(namespace, names))
        names, answer = self._batches[namespace]
        names += [job.name for job in jobs]
        return await asyncio.shield(answer)  # a turn that is cancelled takes no other's answer with it

    async def _ask(self, namespace: str, names: Sequence[str]) -> dict[str, list[Object]]:
        """Ask once, when the call before has been answered; `names` grows until then."""
        async with self._turns.setdefault(namespace, asyncio.Lock()):
            del self._batches[namespace]
            selector = f"{JOB_NAME_LABEL} in ({','.join(names)})"
            found: dict[str, list[Object]] = {}
            async for page in self._client.pages(PODS.path(namespace), [("labelSelector", selector)]):
                for pod in page["items"]:
                    found.setdefault(pod["metadata"]["labels"].get(JOB_UID_LABEL, ""), []).append(pod)
            return found


def unreadable(job: JobRecord) -> str:
    """Why nobody here can say what the Job is about, or nothing: a newer operator may have started it."""
    try:
        _task(job.task)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return (
            f"Job {job.name}: its Task cannot be read: {field}: {first['msg']}; run the version of Trimtab that "
            "started it, or delete the Job"
        )
    return ""


def _work(job: JobRecord) -> Work:
    return Work(job.name, _task(job.task), job.attempt)


@lru_cache(maxsize=32)
def _task(text: str) -> Task:
    """Tasks are frozen, and one turn reads the same few several times. Each takes 13 kB."""
    return Task.recorded(text)
