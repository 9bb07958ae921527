"""All Kubernetes I/O against a real API server: writes made twice, stale views, cut and silent watches, dead pods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builders import broken, job_dict, make_runtime
from faulty import Fault, faulty
from kubelet import Kubelet, container_status, cuttable, ended
from stories import refused, use_up
from trimtab import plan
from trimtab.api.job import OptimizationJob
from trimtab.api.names import EventReason, Reason
from trimtab.api.status import Inspection
from trimtab.api.work import ErrorKind, Report, Stage
from trimtab.cluster import client as client_module
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Call, Client, Object
from trimtab.cluster.endings import PATIENCE
from trimtab.cluster.pods import INTERVAL, LONG, TERMINATION, Pods, unreadable
from trimtab.cluster.records import JobRecord, record_of
from trimtab.cluster.watch import Collection, Gone, Listed, Seen, _follow, watch
from trimtab.decisions import Event, ObservedWork, WorkState
from trimtab.errors import Conflict, Expired, Forbidden, NotFound, Refused
from trimtab.manifests import job_manifest, metadata_of, owner_reference
from waiting import HANG, patience

pytestmark = pytest.mark.e2e


Scenario = Callable[[Client], Awaitable[None]]


def run(scenario: Scenario) -> None:
    async def main() -> None:
        async with await Client.connect() as client:
            await scenario(client)

    asyncio.run(main())


async def submit(client: Client, namespace: str, name: str = "m", **spec: Any) -> OptimizationJob:
    manifest = job_dict(**spec)
    manifest["metadata"] = {"name": name, "namespace": namespace}
    return OptimizationJob.model_validate(await objects.create(client, objects.OPTIMIZATION_JOBS, manifest))


def inspect_manifest(job: OptimizationJob, **runtime: Any) -> Object:
    settings = make_runtime(**runtime)
    return job_manifest(plan.inspect(job, settings, 0), settings, job)


def without_scheduler(manifest: Object) -> Object:
    """The Job, whose pods are not the scheduler's: it finds no node, and contradicts what a kubelet says of one."""
    manifest["spec"]["template"]["spec"]["schedulerName"] = "nobody"
    return manifest


def config_map(namespace: str, owner: OptimizationJob, **data: str) -> Object:
    metadata = {"name": "c", "namespace": namespace, "ownerReferences": [owner_reference(owner)]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_creating_twice_is_creating_once(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace))
        first = await objects.create(client, objects.JOBS, manifest)
        second = await objects.create(client, objects.JOBS, manifest)
        assert first["metadata"]["uid"] == second["metadata"]["uid"]

    run(scenario)


def test_a_create_whose_answer_was_lost_has_succeeded(namespace: str) -> None:
    calls: list[tuple[str, str, int]] = []
    losses = [Fault(0, done=True)]

    def lose_one(call: Call) -> Fault | None:
        return losses.pop() if call.verb == "POST" and losses else None

    async def scenario(direct: Client) -> None:
        manifest = inspect_manifest(await submit(direct, namespace))
        async with faulty(lose_one) as proxy, await Client.connect(lambda *call: calls.append(call)) as client:
            client._api.configuration.host = proxy.url
            stored = await objects.create(client, objects.JOBS, manifest)
        assert stored["metadata"]["uid"]
        assert calls == [("POST", "jobs", 0), ("POST", "jobs", 409), ("GET", "jobs", 200)]

    run(scenario)


def test_a_name_that_is_somebody_else_s_is_refused(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        mine, other = await submit(client, namespace), await submit(client, namespace, "other")
        await objects.create(client, objects.CONFIG_MAPS, config_map(namespace, other))
        with pytest.raises(Refused, match="belongs to somebody else"):
            await objects.create(client, objects.CONFIG_MAPS, config_map(namespace, mine))

    run(scenario)


def test_a_name_that_is_being_deleted_is_asked_for_again_later(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        manifest = config_map(namespace, await submit(client, namespace))
        manifest["metadata"]["finalizers"] = ["example.com/hold"]
        stored = await objects.create(client, objects.CONFIG_MAPS, manifest)
        await objects.delete(client, objects.CONFIG_MAPS, namespace, "c", uid=stored["metadata"]["uid"])
        with pytest.raises(Conflict, match="still being deleted"):
            await objects.create(client, objects.CONFIG_MAPS, manifest)

    run(scenario)


def test_what_the_api_server_finds_invalid_is_refused_in_its_words(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace))
        manifest["spec"]["template"]["spec"]["restartPolicy"] = "Always"
        with pytest.raises(Refused, match=r"POST .*/jobs: 422 .*restartPolicy"):
            await objects.create(client, objects.JOBS, manifest)

    run(scenario)


def test_deleting_is_about_one_object_and_not_its_name(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace))
        name, uid = (
            manifest["metadata"]["name"],
            (await objects.create(client, objects.JOBS, manifest))["metadata"]["uid"],
        )
        await objects.delete(client, objects.JOBS, namespace, name, uid="00000000-0000-0000-0000-000000000000")
        assert (await objects.get(client, objects.JOBS, namespace, name))["metadata"]["uid"] == uid
        await objects.delete(client, objects.JOBS, namespace, name, uid=uid)
        await objects.delete(client, objects.JOBS, namespace, name, uid=uid)
        with pytest.raises(NotFound):
            await objects.get(client, objects.JOBS, namespace, name)

    run(scenario)


def test_a_status_is_written_on_the_version_it_was_decided_on_and_only_if_it_changed(namespace: str) -> None:
    async def scenario(_: Client) -> None:
        async with cuttable() as (client, _proxy, calls):
            job = await submit(client, namespace)
            kind, old = objects.OPTIMIZATION_JOBS, job.status
            new = old.model_copy(update={"state": "Inspecting", "inspection": Inspection(samples={"holdout": 3})})
            stored = await objects.write_status(client, kind, job.metadata, old, new)
            assert stored is not None
            assert stored["status"]["inspection"]["samples"] == {"holdout": 3}
            with pytest.raises(Conflict):
                await objects.write_status(client, kind, job.metadata, old, new)

            calls.clear()
            about = metadata_of(stored)
            assert await objects.write_status(client, kind, about, new, new) is None
            assert calls == []

            cleared = await objects.write_status(client, kind, about, new, old)
            assert cleared is not None
            assert "inspection" not in cleared["status"]

            await objects.delete(client, kind, namespace, "m", uid=job.metadata.uid)
            with pytest.raises(NotFound):
                await objects.write_status(client, kind, metadata_of(cleared), old, new)

    run(scenario)


def test_applying_owns_our_fields_and_leaves_others(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        owner = await submit(client, namespace)
        first = await objects.apply(client, objects.CONFIG_MAPS, config_map(namespace, owner, rule="a"))
        again = await objects.apply(client, objects.CONFIG_MAPS, config_map(namespace, owner, rule="a"))
        assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
        path = objects.CONFIG_MAPS.path(namespace, "c")
        theirs = {"data": {"rule": "edited", "more": "x"}}
        await client.request("PATCH", path, body=theirs, headers=client_module.MERGE_PATCH)
        ours = await objects.apply(client, objects.CONFIG_MAPS, config_map(namespace, owner, rule="b"))
        assert ours["data"] == {"rule": "b", "more": "x"}

    run(scenario)


def test_an_event_is_about_the_object_and_told_once_for_a_version(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        job = await submit(client, namespace)
        event = Event(EventReason.TRIAL_FAILED, "trial 3: OOMKilled " + "x" * 2000, warning=True)
        later = job.metadata.model_copy(update={"resource_version": "9"})
        for about in (job.metadata, job.metadata, later):
            await objects.tell(client, "OptimizationJob", about, event)
        found = (await client.request("GET", objects.EVENTS.path(namespace)))["items"]
        assert [(e["reason"], e["type"], e["regarding"]["uid"], len(e["note"])) for e in found] == [
            ("TrialFailed", "Warning", job.metadata.uid, objects.NOTE_LIMIT)
        ] * 2

    run(scenario)


async def next_of(changes: Any, kind: type) -> Any:
    """The next change of a kind; bookmarks and others are passed over."""
    async with asyncio.timeout(HANG):
        async for change in changes:
            if isinstance(change, kind):
                return change
    raise AssertionError("a watch never ends")


def test_a_watch_survives_cuts_and_tells_of_what_was_deleted_meanwhile(namespace: str) -> None:
    async def scenario(direct: Client) -> None:
        first, second = await submit(direct, namespace, "a"), await submit(direct, namespace, "b")
        async with cuttable() as (client, proxy, calls):
            changes = watch(client, objects.OPTIMIZATION_JOBS.path(namespace))
            listed = await next_of(changes, Listed)
            assert listed.uids == {first.metadata.uid, second.metadata.uid}

            await submit(direct, namespace, "c")
            assert (await next_of(changes, Seen)).object["metadata"]["name"] == "c"

            proxy.cut()
            await objects.delete(direct, objects.OPTIMIZATION_JOBS, namespace, "a", uid=first.metadata.uid)
            assert (await next_of(changes, Gone)).object["metadata"]["name"] == "a"
            assert [call for call in calls if call[0] == "GET"] == [("GET", "optimizationjobs", 200)]
            await changes.aclose()

    run(scenario)


def test_a_watch_that_has_gone_silent_is_noticed(namespace: str) -> None:
    async def scenario(direct: Client) -> None:
        async with cuttable() as (client, proxy, _calls):
            changes = watch(client, objects.OPTIMIZATION_JOBS.path(namespace), silence=0.5)
            await next_of(changes, Listed)
            waiting = asyncio.create_task(next_of(changes, Seen))
            proxy.silent = True
            await submit(direct, namespace, "a")
            async with asyncio.timeout(HANG):
                before = proxy.connections
                while proxy.connections < before + 2:  # it has been noticed, twice
                    await asyncio.sleep(0.05)
            assert not waiting.done()
            proxy.silent = False
            assert (await waiting).object["metadata"]["name"] == "a"
            await changes.aclose()

    run(scenario)


def test_a_version_that_is_too_old_leads_to_a_new_list(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(client: Client) -> None:
        path = objects.OPTIMIZATION_JOBS.path(namespace)
        with pytest.raises(Expired):
            await anext(_follow(Collection(client, path), 1, 5.0))

        # The same inside `watch`: its list is reported as of version 1, so the watch after it is refused.
        pages, versions = client.pages, iter(["1"])

        async def outdated(*arguments: Any) -> Any:
            async for page in pages(*arguments):
                page["metadata"]["resourceVersion"] = next(versions, page["metadata"]["resourceVersion"])
                yield page

        monkeypatch.setattr(client, "pages", outdated)
        changes = watch(client, path)
        assert (await next_of(changes, Listed)).version == 1
        assert (await next_of(changes, Listed)).version > 1
        await submit(client, namespace, "a")
        assert (await next_of(changes, Seen)).object["metadata"]["name"] == "a"
        await changes.aclose()

    run(scenario)


Ending = Callable[[Kubelet, Object], Awaitable[None]]
REPORT = Report(stage=Stage.INSPECT, artifact="sha256:base", seconds=1)
WRONG = broken(Stage.INSPECT, ErrorKind.PERMANENT, "data.holdout: no such file")


def leaves(report: Report) -> Ending:
    return lambda kubelet, job: kubelet.leave(job, report)


def dies(code: int, message: str = "", **terminated: Any) -> Ending:
    return lambda kubelet, job: kubelet.terminate(job, code, message, **terminated)


def evicted(kubelet: Kubelet, job: Object) -> Awaitable[None]:
    return kubelet.report(job, "Failed", {"reason": "Evicted", "message": "The node was low on resource: memory."})


async def outlives_its_deadline(_: Kubelet, __: Object) -> None:
    """The pod never starts; activeDeadlineSeconds passes, and the Job controller deletes it."""


@pytest.mark.parametrize(
    ("ending", "state", "report", "message"),
    [
        (leaves(REPORT), WorkState.SUCCEEDED, REPORT, ""),
        (leaves(WRONG), WorkState.FAILED, WRONG, ""),
        (dies(0), WorkState.SUCCEEDED, None, "left no report that can be read: its termination message is empty"),
        (dies(0, "{"), WorkState.SUCCEEDED, None, "left no report that can be read: {"),
        (
            dies(1, "Traceback\nModuleNotFoundError: No module named 'torch'\n"),
            WorkState.FAILED,
            None,
            "exit code 1: ModuleNotFoundError: No module named 'torch'",
        ),
        (
            dies(137, reason="OOMKilled"),
            WorkState.FAILED,
            None,
            "OOMKilled: the pod needed more memory than 64Mi: raise the runtime's memory limit",
        ),
        (evicted, WorkState.FAILED, None, "Evicted: The node was low on resource: memory."),
        (
            outlives_its_deadline,
            WorkState.FAILED,
            None,
            "DeadlineExceeded: it took longer than the runtime's activeDeadline, 2s",
        ),
    ],
    ids=["report", "error", "empty", "unreadable", "traceback", "oom", "evicted", "deadline"],
)
def test_how_a_pod_s_end_is_told(
    namespace: str, ending: Ending, state: WorkState, report: Report | None, message: str
) -> None:
    async def scenario(client: Client) -> None:
        runtime = {
            "resources": {"limits": {"memory": "64Mi"}},
            "activeDeadline": "2s" if ending is outlives_its_deadline else "1h",
        }
        manifest = inspect_manifest(await submit(client, namespace), **runtime)
        job = await objects.create(client, objects.JOBS, manifest)
        if ending is not outlives_its_deadline:
            await ending(Kubelet(client), job)
        record = record_of(await ended(client, job))
        seen = (await Pods(client).observe([record], datetime.now(UTC)))[0]
        assert (seen.state, seen.report) == (state, report)
        assert message in seen.message
        assert "\n" not in seen.message

    run(scenario)


async def held_for_a_minute(kubelet: Kubelet, job: Object) -> None:
    """It got its node at 11:59:00, its container started at 11:59:30, and ended at noon."""
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T11:59:00Z"}
    terminated = {"exitCode": 0, "startedAt": "2026-01-01T11:59:30Z", "finishedAt": "2026-01-01T12:00:00Z"}
    status = {"conditions": [placed], "containerStatuses": [container_status({"terminated": terminated})]}
    await kubelet.report(job, "Succeeded", status)


@pytest.mark.parametrize(
    ("limits", "ending", "least", "most"),
    [
        ({"memory": "64Mi"}, held_for_a_minute, 0, 0),
        ({"nvidia.com/gpu": "2", "memory": "64Mi"}, held_for_a_minute, 120, 120),
        ({"nvidia.com/mig-1g.5gb": "1"}, held_for_a_minute, 60, 60),
        ({"nvidia.com/gpu": "1"}, outlives_its_deadline, 2, HANG),
    ],
    ids=["none", "two", "a slice of one", "its pod is gone: as long as the Job was active"],
)
def test_what_a_job_spent_on_gpus(
    namespace: str, limits: dict[str, str], ending: Ending, least: float, most: float
) -> None:
    async def scenario(client: Client) -> None:
        runtime = {
            "resources": {"limits": limits},
            "activeDeadline": "2s" if ending is outlives_its_deadline else "1h",
        }
        manifest = inspect_manifest(await submit(client, namespace), **runtime)
        job = await objects.create(client, objects.JOBS, without_scheduler(manifest))
        await ending(Kubelet(client), job)
        record = record_of(await ended(client, job))
        (seen,) = await Pods(client).observe([record], datetime.now(UTC))
        assert least <= seen.gpu_seconds <= most

    run(scenario)


def test_pods_are_listed_once_for_all_jobs_that_ended(namespace: str) -> None:
    async def scenario(_: Client) -> None:
        async with cuttable() as (client, _proxy, calls):
            owner = await submit(client, namespace)
            works = [plan.trial(owner, make_runtime(), number, {}, 0) for number in (1, 2)]
            jobs = [await objects.create(client, objects.JOBS, job_manifest(w, make_runtime(), owner)) for w in works]
            for number, job in enumerate(jobs, start=1):
                await Kubelet(client).leave(job, Report(stage=Stage.TRIAL, trial=number))
            records = [record_of(await ended(client, job)) for job in jobs]

            calls.clear()
            pods, now = Pods(client), datetime.now(UTC)
            seen = await pods.observe(records, now)
            assert [s.report and s.report.trial for s in seen] == [1, 2]
            assert [s.work for s in seen] == works
            assert await pods.observe(records, now) == seen
            assert calls == [("GET", "pods", 200)]

            calls.clear()
            pods = Pods(client)
            both = await asyncio.gather(*(pods.observe([record], now) for record in records))
            assert [s for (s,) in both] == list(seen)
            assert calls == [("GET", "pods", 200)]

            await client.request("DELETE", objects.PODS.path(namespace))
            pods.forget(records[0].uid)
            again = await pods.observe(records, now)
            assert [s.report is None for s in again] == [True, False]
            assert again[0].message == "the pod was deleted before its report was read"

    run(scenario)


def test_a_pod_that_the_cluster_took_away_is_replaced_without_a_word(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        job = await objects.create(client, objects.JOBS, inspect_manifest(await submit(client, namespace)))
        kubelet = Kubelet(client)
        lost = await kubelet.pod_of(job)
        disruption = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        await kubelet.report(job, "Failed", {"conditions": [disruption]})
        assert (await kubelet.pod_of(job))["metadata"]["uid"] != lost["metadata"]["uid"]
        await kubelet.leave(job, REPORT)
        seen = await Pods(client).observe([record_of(await ended(client, job))], datetime.now(UTC))
        assert seen[0].report == REPORT

    run(scenario)


PULLING = {"waiting": {"reason": "ContainerCreating"}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "jobs:dev"'}}
NO_CONFIG = {"waiting": {"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'}}


async def looked_at_by_the_scheduler(kubelet: Kubelet, job: Object) -> None:
    async with patience(kubelet.client, job["metadata"]["namespace"]):
        while not any(c["type"] == "PodScheduled" for c in (await kubelet.pod_of(job))["status"].get("conditions", [])):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("state", "message", "skew"),
    [
        (None, "Unschedulable: no nodes available to schedule pods", timedelta(0)),
        (PULLING, "", timedelta(0)),
        (NO_IMAGE, 'ImagePullBackOff: Back-off pulling image "jobs:dev"', timedelta(0)),
        (NO_IMAGE, 'ImagePullBackOff: Back-off pulling image "jobs:dev"', timedelta(hours=-1)),
        (NO_CONFIG, 'CreateContainerConfigError: configmap "x" not found', timedelta(0)),
    ],
    ids=["unschedulable", "pulling", "no image", "our clock is behind", "no config"],
)
def test_why_a_pod_does_not_start(namespace: str, state: Object | None, message: str, skew: timedelta) -> None:
    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace))
        kubelet, pods = Kubelet(client), Pods(client)
        if state:
            job = await objects.create(client, objects.JOBS, without_scheduler(manifest))
            scheduled = {"type": "PodScheduled", "status": "True"}
            await kubelet.report(
                job, "Pending", {"conditions": [scheduled], "containerStatuses": [container_status(state)]}
            )
        else:
            job = await objects.create(client, objects.JOBS, manifest)
            await looked_at_by_the_scheduler(kubelet, job)
        record = record_of(await objects.get(client, objects.JOBS, namespace, job["metadata"]["name"]))
        assert record.starting_since is not None
        first = record.starting_since + skew
        assert (await pods.observe([record], first))[0].message == ""
        assert pods.next_look([record], first) == PATIENCE.total_seconds()

        later = first + PATIENCE
        seen: ObservedWork = (await pods.observe([record], later))[0]
        assert (seen.state, seen.message) == (WorkState.ACTIVE, message)
        assert pods.next_look([record], later + timedelta(seconds=5)) == INTERVAL.total_seconds() - 5

    run(scenario)


async def no_quota(client: Client, namespace: str) -> None:
    await use_up(client, namespace, "pods")


async def no_room(client: Client, namespace: str) -> None:
    """A LimitRange that wants limits of everybody."""
    limits = [{"type": "Container", "min": {"cpu": "1m"}, "max": {"cpu": "2"}}]
    body = {"metadata": {"name": "r"}, "spec": {"limits": limits}}
    await client.request("POST", f"/api/v1/namespaces/{namespace}/limitranges", body=body)


async def no_privilege(client: Client, namespace: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"labels": labels}}
    await client.request("PATCH", f"/api/v1/namespaces/{namespace}", body=body, headers=MERGE_PATCH)


@pytest.mark.parametrize(
    ("obstacle", "resources", "reason", "words"),
    [
        (no_quota, {}, Reason.QUOTA_EXCEEDED, "exceeded quota: q, requested: pods=1, limited: pods=0"),
        (no_room, {"limits": {"cpu": "4"}}, Reason.FORBIDDEN, "maximum cpu usage per Container is 2, but limit is 4"),
        (no_privilege, {}, Reason.FORBIDDEN, 'violates PodSecurity "restricted:latest": privileged (container "'),
    ],
)
def test_why_a_job_gets_no_pod(
    namespace: str,
    obstacle: Callable[[Client, str], Awaitable[None]],
    resources: Object,
    reason: Reason,
    words: str,
) -> None:
    """The Job is let in, and its pod is not."""

    async def scenario(_: Client) -> None:
        async with cuttable() as (client, _proxy, calls):
            await obstacle(client, namespace)
            manifest = inspect_manifest(await submit(client, namespace), resources=resources)
            spec = manifest["spec"]["template"]["spec"]
            if obstacle == no_privilege:
                spec["containers"][0]["securityContext"] = {"privileged": True}
            pod = {"metadata": {"name": "x", "namespace": namespace}, "spec": spec}
            await refused(client, objects.PODS, pod, words.partition(",")[0])
            job = await objects.create(client, objects.JOBS, manifest)
            await told(client, job, "FailedCreate")
            record, pods = record_of(job), Pods(client)
            assert record.starting_since
            assert [seen.message for seen in await pods.observe([record], record.starting_since)] == [""]
            calls.clear()
            now = record.starting_since + PATIENCE
            (seen,) = await pods.observe([record], now)
            assert (seen.state, seen.refused) == (WorkState.ACTIVE, reason)
            assert seen.message.startswith(f"no pod can be created: {words}")
            assert calls == [("GET", "pods", 200), ("GET", "events", 200)]
            assert await pods.observe([record], now + timedelta(seconds=1)) == (seen,)
            assert len(calls) == 2
            assert pods.next_look([record], now) == INTERVAL.total_seconds()

    run(scenario)


def test_a_job_that_got_its_pod_is_looked_at_without_delay(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        quota = await use_up(client, namespace, "pods")
        job = await objects.create(client, objects.JOBS, inspect_manifest(await submit(client, namespace)))
        await told(client, job, "FailedCreate")
        record, pods = record_of(job), Pods(client)
        assert record.starting_since
        (seen,) = await pods.observe([record], now := record.starting_since + PATIENCE)
        assert seen.refused == Reason.QUOTA_EXCEEDED
        await client.request("DELETE", quota)
        await looked_at_by_the_scheduler(Kubelet(client), job)
        record = await changed(client, job, lambda new: new.version > record.version)
        assert pods.next_look([record], now) == 0
        (seen,) = await pods.observe([record], now)
        assert (seen.refused, seen.message) == (None, "Unschedulable: no nodes available to schedule pods")
        assert pods.next_look([record], now) == INTERVAL.total_seconds()

    run(scenario)


def test_without_the_right_to_read_events_a_job_without_a_pod_is_told_of(namespace: str) -> None:
    class Unprivileged(Client):
        async def request(self, verb: str, path: str, *arguments: Any, **options: Any) -> Object:
            if path.endswith("/events"):
                raise Forbidden("events is forbidden")
            return await super().request(verb, path, *arguments, **options)

    async def scenario(client: Client) -> None:
        await use_up(client, namespace, "pods")
        job = await objects.create(client, objects.JOBS, inspect_manifest(await submit(client, namespace)))
        record = record_of(job)
        assert record.starting_since
        async with await Unprivileged.connect() as unprivileged:
            (seen,) = await Pods(unprivileged).observe([record], record.starting_since + PATIENCE)
        assert seen.refused is None
        assert seen.message == f"no pod was created: kubectl describe job {record.name} says why"

    run(scenario)


async def told(client: Client, job: Object, reason: str) -> None:
    """Until the Job's controller has recorded such an event."""
    query = [("fieldSelector", f"regarding.uid={job['metadata']['uid']},reason={reason}")]
    namespace = job["metadata"]["namespace"]
    async with patience(client, namespace):
        while not (await client.request("GET", objects.EVENTS.path(namespace), query))["items"]:
            await asyncio.sleep(0.05)


async def expire(client: Client, job: Object, seconds: int) -> None:
    """Give the Job a deadline, now that a test has done before it what it had to."""
    path = objects.JOBS.path(job["metadata"]["namespace"], job["metadata"]["name"])
    await client.request("PATCH", path, body={"spec": {"activeDeadlineSeconds": seconds}}, headers=MERGE_PATCH)


def test_a_pod_that_waited_until_the_deadline_is_told_so(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        job = await objects.create(client, objects.JOBS, inspect_manifest(await submit(client, namespace)))
        pods, name = Pods(client), job["metadata"]["name"]
        await looked_at_by_the_scheduler(Kubelet(client), job)
        await pods.observe([record_of(job)], datetime.now(UTC) + PATIENCE)
        await expire(client, job, 5)
        await ended(client, job)
        last = record_of(await objects.get(client, objects.JOBS, namespace, name))
        seen = (await pods.observe([last], datetime.now(UTC)))[0]
        assert seen.message.startswith("DeadlineExceeded: it took longer than the runtime's activeDeadline, 5s")
        assert seen.message.endswith("; its pod was waiting: Unschedulable: no nodes available to schedule pods")

    run(scenario)


@contextlib.asynccontextmanager
async def silent_node(client: Client, name: str) -> AsyncIterator[None]:
    """A machine that never answers: there is no kubelet. It goes, for a scheduler tells of all nodes there are."""
    await client.request("POST", "/api/v1/nodes", body={"metadata": {"name": name}})
    try:
        yield
    finally:
        await client.request("DELETE", f"/api/v1/nodes/{name}")


def beside_a_silent_node(name: str, scenario: Scenario) -> Scenario:
    async def beside(client: Client) -> None:
        async with silent_node(client, name):
            await scenario(client)

    return beside


async def bind(client: Client, pod: Object, node: str) -> None:
    metadata = pod["metadata"]
    path = objects.PODS.path(metadata["namespace"], metadata["name"], "binding")
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    await client.request("POST", path, body={"metadata": {"name": metadata["name"]}, "target": target})


async def changed(client: Client, job: Object, wanted: Callable[[JobRecord], bool]) -> JobRecord:
    """The Job's record as soon as it is so."""
    metadata = job["metadata"]
    async with patience(client, metadata["namespace"]):
        while True:
            record = record_of(await objects.get(client, objects.JOBS, metadata["namespace"], metadata["name"]))
            if wanted(record):
                return record
            await asyncio.sleep(0.1)


def test_a_pod_on_a_lost_node_is_told_of_and_given_up(namespace: str) -> None:
    """Its Job fails at the deadline, and waits for ever for the pod to end. We do not."""

    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace), schedulerName="nobody")
        job = await objects.create(client, objects.JOBS, manifest)
        kubelet, pods, now = Kubelet(client), Pods(client), datetime.now(UTC)
        await bind(client, await kubelet.pod_of(job), namespace)
        ready = {"type": "Ready", "status": "True"}
        running = {"containerStatuses": [container_status({"running": {}})]}
        await kubelet.report(job, "Pending", running | {"conditions": [ready]})
        await changed(client, job, lambda record: record.starting_since is None)
        # What the node's controller does when a node has been silent for 50 s.
        await kubelet.report(job, "Pending", running | {"conditions": [ready | {"status": "False"}]})
        waiting = await changed(client, job, lambda record: record.starting_since is not None)
        await pods.observe([waiting], now)
        (seen,) = await pods.observe([waiting], now := now + PATIENCE)
        assert seen.message == f"node {namespace} does not answer; if it is gone for good, delete its Node object"

        await expire(client, job, 6)
        late = await changed(client, job, lambda record: record.reason != "")
        assert late.state == WorkState.ACTIVE
        (seen,) = await pods.observe([late], now := datetime.now(UTC) + PATIENCE + INTERVAL)
        assert seen.state == WorkState.ACTIVE
        assert seen.message.startswith(f"node {namespace} has not confirmed that the pod was deleted; if it is gone")
        (seen,) = await pods.observe([late], now + TERMINATION)
        assert seen.state == WorkState.FAILED
        assert seen.message.startswith("DeadlineExceeded: it took longer than the runtime's activeDeadline, 6s")
        assert f"its pod was waiting: node {namespace} has not confirmed" in seen.message

    run(beside_a_silent_node(namespace, scenario))


def test_a_pod_that_runs_for_long_says_since_when(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace), schedulerName="nobody")
        job = await objects.create(client, objects.JOBS, manifest)
        kubelet, pods, now = Kubelet(client), Pods(client), datetime.now(UTC)
        await bind(client, await kubelet.pod_of(job), namespace)
        running = {"containerStatuses": [container_status({"running": {}})]}
        await kubelet.report(job, "Pending", running | {"conditions": [{"type": "Ready", "status": "True"}]})
        record = await changed(client, job, lambda record: record.running_since is not None)
        began = (await objects.get(client, objects.JOBS, namespace, record.name))["status"]["startTime"]
        assert [seen.since for seen in await pods.observe([record], now)] == [""]
        look = pods.next_look([record], now)
        assert look is not None
        (seen,) = await pods.observe([record], now + timedelta(seconds=look))
        assert (seen.state, seen.message, seen.since) == (WorkState.ACTIVE, "", began)
        assert pods.next_look([record], now + LONG) is None

    run(beside_a_silent_node(namespace, scenario))


def test_a_job_whose_task_cannot_be_read_is_named(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        manifest = inspect_manifest(await submit(client, namespace))
        environment = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
        next(v for v in environment if v["name"] == "TRIMTAB_TASK")["value"] = '{"stage": "Nonsense"}'
        record = record_of(await objects.create(client, objects.JOBS, manifest))
        assert unreadable(record).startswith(f"Job {record.name}: its Task cannot be read: stage: ")

    run(scenario)


def test_what_ran_is_read_back_from_the_job(namespace: str) -> None:
    async def scenario(client: Client) -> None:
        odd = {"uri": "pvc://models/$(HOME)/$$m.onnx", "format": "ONNX"}
        job = await submit(client, namespace, model=odd)
        work = plan.inspect(job, make_runtime(), 2)
        stored = await objects.create(client, objects.JOBS, job_manifest(work, make_runtime(), job))
        assert (await Pods(client).observe([record_of(stored)], datetime.now(UTC)))[0].work == work

    run(scenario)
