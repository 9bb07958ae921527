"""How far pods are that run for long: the end of their logs, read once a minute at most.

A read takes as long as a node takes to answer, so no turn waits for one: it goes on beside them, a few at a time, and a
job whose pod says something new gets another turn. Whatever goes wrong (no right to read logs, no way to the node, no
such pod any more) is no trouble of the job: how far it is, is then not known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from trimtab.api.doing import Doing, last_told
from trimtab.cluster.client import Client
from trimtab.cluster.endings import teller
from trimtab.cluster.objects import PODS
from trimtab.cluster.records import JOB_NAME_LABEL, JobRecord
from trimtab.errors import ClusterError, Forbidden, NotFound
from trimtab.pod import CONTAINER

logger = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=60)
REFUSED = timedelta(hours=1)
"""In a namespace whose role lacks the right, logs are asked for again after this long."""
READS = 4
"""At the same time: where no node can be reached, each takes SECONDS."""
SECONDS = 10.0
LINES, BYTES = 50, 2**15
"""A pod tells every ten seconds how far it is; libraries may warn in between."""


class Tails:
    """Remembers what the log of each Job's pod said last, until told to forget."""

    def __init__(self, client: Client, wake: Callable[[JobRecord], None]) -> None:
        """`wake` is told of a Job whose pod has said something new."""
        self._client = client
        self._wake = wake
        self._told: dict[str, Doing] = {}
        self._looked: dict[str, datetime] = {}
        self._pods: dict[str, str] = {}
        """By the UID of the Job, the name of the pod whose log it is."""
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(READS)
        self._refused: dict[str, datetime] = {}
        """By namespace, when we were last refused."""

    def told(self, uid: str) -> Doing | None:
        return self._told.get(uid)

    def due(self, job: JobRecord, now: datetime) -> datetime:
        """When its log is to be read next."""
        if job.uid in self._reading:
            return now + INTERVAL  # it may have to wait for others that no node answers
        dues = [self._looked[job.uid] + INTERVAL] if job.uid in self._looked else []
        dues += [self._refused[job.namespace] + REFUSED] if job.namespace in self._refused else []
        return max(dues, default=now)

    def look(self, job: JobRecord, now: datetime) -> None:
        """Begin to read its log, if that is due."""
        if self.due(job, now) > now:
            return
        self._looked[job.uid] = now
        self._reading[job.uid] = asyncio.create_task(self._read(job, now))
        self._reading[job.uid].add_done_callback(lambda _: self._reading.pop(job.uid))

    def forget(self, uid: str) -> None:
        for known in (self._told, self._looked, self._pods):
            known.pop(uid, None)

    async def _read(self, job: JobRecord, now: datetime) -> None:
        try:
            async with self._free:
                doing = last_told(await self._tail(job))
        except NotFound:
            self._pods.pop(job.uid, None)  # another may have taken its place
        except Forbidden as error:
            if not self._refused:
                logger.warning("how far pods are is not known: %s; settings.readLogs: false asks no more", error)
            self._refused[job.namespace] = now
        except ClusterError as error:
            logger.debug("how far Job %s/%s is, is not known: %s", job.namespace, job.name, error)
        else:
            self._learn(job, doing)

    def _learn(self, job: JobRecord, doing: Doing | None) -> None:
        # Forgotten meanwhile, it has ended.
        if doing and doing != self._told.get(job.uid) and job.uid in self._looked:
            self._told[job.uid] = doing
            self._wake(job)

    async def _tail(self, job: JobRecord) -> str:
        if job.uid not in self._pods:
            query = [("labelSelector", f"{JOB_NAME_LABEL}={job.name}")]
            pods = (await self._client.request("GET", PODS.path(job.namespace), query))["items"]
            self._pods[job.uid] = teller(pods)
        path = PODS.path(job.namespace, self._pods[job.uid], "log")
        query = [("container", CONTAINER), ("tailLines", str(LINES)), ("limitBytes", str(BYTES))]
        return await self._client.text(path, query, SECONDS, BYTES)
