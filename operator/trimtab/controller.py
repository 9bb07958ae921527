"""Carry out decisions in a cluster: what one turn of the queue does for one object.

    the newest view of the object and its work → reconcile (pure) → the calls that make the decision true

The order of the calls makes being killed between any two of them harmless:

1. *Create* what is to run (and before it, where its pods must find each other, the Service that they do so by). A
   Job's name stands for its work and its template carries the Task, so a turn that starts over finds the Job, not a
   gap: the same create has then succeeded, and the proposal is read back from the Job.
2. *Write the status*, once, on the version it was decided on. It never claims work that does not exist (that was
   created before), and until it is written every result can still be read from the Jobs.
3. *Tell* of it in events, only if the status was written (`statuses`): a lost event is the one thing a kill may cost,
   and a repeated one cannot happen, since the next turn finds nothing changed.
4. *Delete* what is no longer needed. Only now, because a deleted Job takes its result with it, and only as it was
   when that was decided: one that has finished since is looked at again. Were the operator killed here, the next
   turn would see the same status and the same Jobs, and decide the same deletes. All Jobs of a job that has ended are
   deleted by one call, when they have been kept for as long as their runtime says.

Having changed something, an object gets another turn at once: the flow goes on until there is nothing to do, and does
not depend on an event that may or may not come. An object that is being deleted is left alone; owner references take
its Jobs with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.names import JOB_UID_LABEL, MANAGED_LABEL, ConditionType, MonitorConditionType, Reason
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.status import Condition, OptimizationJobStatus
from trimtab.cluster import objects
from trimtab.cluster.client import Client, Object
from trimtab.cluster.pods import Pods, unreadable
from trimtab.cluster.records import JobRecord, record_of
from trimtab.cluster.tails import Tails
from trimtab.conditions import is_finished, with_condition
from trimtab.decisions import Decision, Observed, Refusal, Unwatched, Work, WorkState
from trimtab.errors import Forbidden, OverQuota, Refused, Waits
from trimtab.harvest import Outcomes
from trimtab.manifests import (
    job_manifest,
    metadata_of,
    optimization_job_manifest,
    rule_manifest,
    service_manifest,
)
from trimtab.monitoring import reconcile_monitor
from trimtab.queue import WorkQueue
from trimtab.reconcile import reconcile
from trimtab.settings import Settings
from trimtab.snapshot import Snapshot, name_of
from trimtab.statuses import Statuses, status_of
from trimtab.stored import Runtimes, Unreadable, read
from trimtab.world import Key, Kind, World

logger = logging.getLogger(__name__)

DEFAULTS = Settings()
RULE_AGE = timedelta(minutes=15)
"""ConfigMaps are not watched: a rule that was deleted or edited by hand is put right after this long."""


class Controller:
    """Handles keys of the queue. `handle` is the queue's handler, and is never run twice at once for one key."""

    def __init__(
        self,
        client: Client,
        world: World,
        queue: WorkQueue[Key],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        settings: Settings = DEFAULTS,
    ) -> None:
        self._client = client
        self._world = world
        self._queue = queue
        self._clock = clock
        self._runbooks = settings.runbooks
        self._statuses = Statuses(client, world)
        self.pods = Pods(client, Tails(client, self._wake) if settings.read_logs else None)
        self._runtimes = Runtimes(world)
        self._rules: dict[Key, tuple[Object, datetime]] = {}
        """The ConfigMap last applied for each monitor, and when."""

    def _wake(self, record: JobRecord) -> None:
        self._queue.add(Key(Kind.JOB, (record.namespace, record.owner)))

    async def handle(self, key: Key) -> float | None:
        """One turn. Returns the seconds to the next if nothing happens, or None. Raises ClusterError."""
        await self._statuses.settle(key)
        kept = self._world.get(key.kind, key.name)
        if kept is None or kept.leaving:
            self._rules.pop(key, None)
            return None
        try:
            return await (self._job(key, kept) if key.kind == Kind.JOB else self._monitor(key, kept))
        except Unreadable as error:
            await self._refuse(key, kept.object(), str(error))
            return None

    async def _job(self, key: Key, kept: Snapshot) -> float | None:
        job = read(OptimizationJob, kept)
        now = self._clock()
        decision, forbidden = await self._decide(job, now)
        written = await self._statuses.write(key, job.metadata, job.status, decision.status, decision.events)
        if written:
            self._forget(job.metadata, decision.status)
        deleted = [
            record
            for record in self._world.works.of(job.metadata.namespace, job.metadata.uid)
            if record.name in decision.delete
        ]
        for record in deleted:
            as_seen = {"uid": record.uid, "resourceVersion": str(record.version)}
            await objects.delete(self._client, objects.JOBS, record.namespace, record.name, **as_seen)
            self._world.works.remove(record)
        await self._retire(key, job, decision)
        if forbidden:  # once the status is written; the queue tries again, ever more rarely, and at the deadline
            if decision.requeue_after is not None:
                self._queue.add(key, decision.requeue_after)
            raise Waits(forbidden.message)
        if decision.create or written or deleted:
            self._queue.add(key)
        return _soonest(decision.requeue_after, self._next_look(job, now))

    async def _decide(self, job: OptimizationJob, now: datetime) -> tuple[Decision, Refusal | None]:
        """What to do, with the work started that is to run, and why some of it could not be.

        That is in the status of the same turn: were it told by the next one, an operator that starts anew would take it
        back only to find it again.
        """
        observed = await self._observe(job, now)
        decision = await self._reconcile(job, observed, now)
        forbidden = await self._start_all(job, observed.runtime, decision.create)
        if forbidden:
            observed = replace(await self._observe(job, now), forbidden=forbidden)
            decision = await self._reconcile(job, observed, now)
        return decision, forbidden

    async def _reconcile(self, job: OptimizationJob, observed: Observed, now: datetime) -> Decision:
        """Decide; where running work is to be deleted, once more with what it has spent, which is asked only then."""
        decision = reconcile(job, observed, now)
        records = self._world.works.of(job.metadata.namespace, job.metadata.uid)
        spent = await self.pods.spent([record for record in records if record.name in decision.delete], now)
        if not spent:
            return decision
        works = (replace(seen, gpu_seconds=spent.get(seen.work.name, seen.gpu_seconds)) for seen in observed.works)
        return reconcile(job, replace(observed, works=tuple(works)), now)

    async def _retire(self, key: Key, job: OptimizationJob, decision: Decision) -> None:
        """Take away an ended job's Jobs, or the job itself, when they have been kept for long enough."""
        namespace, uid = job.metadata.namespace, job.metadata.uid
        records = self._world.works.of(namespace, uid)
        if decision.expire:
            as_seen = {"uid": uid, "resourceVersion": job.metadata.resource_version}
            await objects.delete(self._client, objects.OPTIMIZATION_JOBS, namespace, job.metadata.name, **as_seen)
            self._world.shelves[key.kind].drop(key.name)
        elif decision.sweep and records:
            await self._sweep(namespace, uid, records)
            for record in records:
                self._world.works.remove(record)

    async def _sweep(self, namespace: str, uid: str, records: Sequence[JobRecord]) -> None:
        """One call for all its Jobs, unless a Job that is somebody else's has their label."""
        if (namespace, uid) not in self._world.disguised:
            await objects.delete_all(
                self._client, objects.JOBS, namespace, f"{JOB_UID_LABEL}={uid},{MANAGED_LABEL}=true"
            )
            return
        for record in records:
            await objects.delete(self._client, objects.JOBS, namespace, record.name, uid=record.uid)

    async def _monitor(self, key: Key, kept: Snapshot) -> float | None:
        """The same for a monitor. The OptimizationJob it creates is named by its trigger, so it too is created once."""
        monitor = read(ModelMonitor, kept)
        jobs = [
            read(OptimizationJob, owned)
            for owned in self._world.owned_jobs(monitor.metadata.namespace, monitor.metadata.uid)
        ]
        decide = partial(reconcile_monitor, monitor, jobs, self._clock(), self._runbooks)
        decision = decide()
        unwatched = await self._apply_rule(key, rule_manifest(decision.status.rule, decision.rule, monitor))
        forbidden = unwatched or await self._start_job(monitor, decision.create)
        if forbidden:
            decision = decide(forbidden)
        written = await self._statuses.write(key, monitor.metadata, monitor.status, decision.status, decision.events)
        if forbidden:
            raise Waits(forbidden.message)
        if decision.create or written:
            self._queue.add(key)
        return _soonest(decision.requeue_after, RULE_AGE.total_seconds())

    async def _start_job(self, monitor: ModelMonitor, job: OptimizationJob | None) -> Refusal | None:
        """Create the OptimizationJob that a monitor asks for, if it does, and say why the API server did not let it."""
        if job is None:
            return None
        try:
            manifest = optimization_job_manifest(job, monitor)
            stored = await objects.create(self._client, objects.OPTIMIZATION_JOBS, manifest)
        except (Forbidden, Refused) as error:
            return _refusal(error)
        self._world.shelves[Kind.JOB].put(stored)
        self._queue.add(Key(Kind.JOB, name_of(stored)))
        return None

    async def _observe(self, job: OptimizationJob, now: datetime) -> Observed:
        """The world around a job. Next to work that nobody here understands, nothing is started."""
        over = set(self._forget(job.metadata, job.status))
        of_this = self._world.works.of(job.metadata.namespace, job.metadata.uid)
        puzzles = {record: unreadable(record) for record in of_this if record.uid not in over}
        works = await self.pods.observe([record for record, puzzle in puzzles.items() if not puzzle], now)
        strange = next(filter(None, puzzles.values()), "")
        runtime = Refusal(Reason.INVALID_INPUT, strange) if strange else self._runtimes.of(job)
        return Observed(runtime, tuple(works))

    def _next_look(self, job: OptimizationJob, now: datetime) -> float | None:
        records = self._world.works.of(job.metadata.namespace, job.metadata.uid)
        active = [record for record in records if record.state == WorkState.ACTIVE and not unreadable(record)]
        return self.pods.next_look(active, now)

    def _forget(self, about: ObjectMeta, status: OptimizationJobStatus) -> list[str]:
        """Forget what became of Jobs whose outcome is in the status: 13 kB each, of thousands. Returns their UIDs."""
        known = Outcomes(status)
        ended = (r for r in self._world.works.of(about.namespace, about.uid) if r.state != WorkState.ACTIVE)
        over = [record.uid for record in ended if (record.stage, record.trial) in known]
        for uid in over:
            self.pods.forget(uid)
        return over

    async def _start_all(
        self, job: OptimizationJob, runtime: OptimizationRuntime | Refusal, works: Sequence[Work]
    ) -> Refusal | None:
        """Start work, up to what the API server forbids: it would say the same of the rest.

        What it finds invalid may be one Job alone, and is of the runtime's making, which may be mended.
        """
        refused = None
        for work in works:
            assert not isinstance(runtime, Refusal)
            try:
                await self._start(job, runtime, work)
            except Forbidden as error:
                return _refusal(error)
            except Refused as error:
                refused = Refusal(Reason.JOB_REFUSED, f"{runtime.kind} {runtime.metadata.name!r}: {error}")
        return refused

    async def _start(self, job: OptimizationJob, runtime: OptimizationRuntime, work: Work) -> None:
        if service := service_manifest(work, job):
            await objects.create(self._client, objects.SERVICES, service)
        stored = await objects.create(self._client, objects.JOBS, job_manifest(work, runtime, job))
        self._world.works.put(record_of(stored))

    async def _apply_rule(self, key: Key, manifest: Object) -> Unwatched | None:
        """Have the rule in its ConfigMap, and say why the API server did not let it be written."""
        applied, when = self._rules.get(key, (None, self._clock()))
        if applied == manifest and self._clock() - when < RULE_AGE:
            return None
        try:
            await objects.apply(self._client, objects.CONFIG_MAPS, manifest)
        except Forbidden as error:
            refusal = _refusal(error)
            return Unwatched(refusal.reason, refusal.message)
        self._rules[key] = (manifest, self._clock())
        return None

    async def _refuse(self, key: Key, item: Object, message: str) -> None:
        about, old = metadata_of(item), status_of(key.kind, item)
        if isinstance(old, OptimizationJobStatus) and is_finished(old.conditions):
            return  # how it ended is not ours to take back: an operator of another version understood it
        condition = Condition(
            type=_UNDERSTOOD[key.kind],
            status="False",
            observed_generation=about.generation,
            reason=Reason.INVALID_INPUT.value,
            message=message,
        )
        update = {
            "conditions": with_condition(old.conditions, condition, self._clock()),
            "state": Reason.INVALID_INPUT.value,
            "observed_generation": about.generation,
        }
        await self._statuses.write(key, about, old, old.model_copy(update=update))


_UNDERSTOOD = {Kind.JOB: ConditionType.ACCEPTED.value, Kind.MONITOR: MonitorConditionType.READY.value}
"""The condition in which each kind says that it was not."""


def _refusal(error: Forbidden | Refused) -> Refusal:
    if isinstance(error, Refused):
        return Refusal(Reason.INVALID_INPUT, str(error))
    return Refusal(Reason.QUOTA_EXCEEDED if isinstance(error, OverQuota) else Reason.FORBIDDEN, str(error))


def _soonest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)
