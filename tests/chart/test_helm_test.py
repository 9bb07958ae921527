"""What `helm test` finds: everything in order where the chart was installed, and a line for each thing that is missing.

The API server has no node, so operator and check run as processes, with the account that the chart made for them.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apiserver
from builders import job_dict
from chart.support import CHART, NAMESPACE, check, operator_account, render, the
from kubelet import node
from monitors import make_monitor
from operators import answer, create_runtime, fetch, process, says
from ports import free_port
from trimtab import selfcheck
from trimtab.api.names import API_VERSION
from trimtab.cluster import objects
from trimtab.cluster.client import Client
from trimtab.settings import Settings
from waiting import patience

pytestmark = pytest.mark.e2e

SERVED = "selfchecked"


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    for name in (NAMESPACE, SERVED):
        apiserver.kubectl("create", "namespace", name)
    apiserver.kubectl("delete", "--ignore-not-found", "-f", selfcheck.__file__.partition("operator/")[0] + "crds")
    done = apiserver.helm("install", "trimtab", CHART, "--namespace", NAMESPACE)
    assert done.returncode == 0, done.stderr
    apiserver.served()
    yield
    apiserver.helm("uninstall", "trimtab", "--namespace", NAMESPACE)


def upgrade(*settings: str) -> None:
    """The chart as it is, whatever was edited by hand."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = apiserver.helm("upgrade", "trimtab", CHART, "--namespace", NAMESPACE, "--force-conflicts", *chosen)
    assert done.returncode == 0, done.stderr
    apiserver.served()


def test_the_pod_asks_the_operators_service() -> None:
    pod = the("Pod", render(), "trimtab-test")
    [container] = pod["spec"]["containers"]
    deployed = the("Deployment", render())["spec"]["template"]["spec"]
    assert container["args"] == ["--check", "$(TRIMTAB_SERVICE_HOST)", "--rights", "monitors,distributed"]
    assert container["image"] == deployed["containers"][0]["image"]
    assert container["securityContext"] == deployed["containers"][0]["securityContext"]
    assert pod["spec"]["serviceAccountName"] == deployed["serviceAccountName"]
    service = the("Service", render())["spec"]["selector"]
    assert not service.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("served", [[], [SERVED]], ids=["all namespaces", "a named one"])
def test_all_is_well_after_an_install(tmp_path: Path, served: list[str]) -> None:
    upgrade(*(f"settings.watchNamespaces={{{name}}}" for name in served))
    settings = Settings(watch_namespaces=served, http_port=free_port(), lease=f"{NAMESPACE}/trimtab")
    account = operator_account(tmp_path)

    async def main() -> subprocess.CompletedProcess[str]:
        async with process(settings, KUBECONFIG=str(account)):
            await says(settings.http_port, "ok", "/readyz")
            return await asyncio.to_thread(check, account, settings)

    done = asyncio.run(main())
    assert (done.returncode, done.stdout) == (0, "the operator has all that it needs\n")
    jobs = json.loads(
        apiserver.kubectl(
            "get", "jobs,tjob,configmaps,leases", "-n", served[0] if served else "default", "-o", "json"
        ).stdout
    )
    assert not [item for item in jobs["items"] if "trimtab" in item["metadata"]["name"]]


def test_each_thing_that_is_missing_is_a_line(tmp_path: Path) -> None:
    """No operator runs, the role lacks a right, a quota and a policy are in the way, and a kind is not served."""
    upgrade(f"settings.watchNamespaces={{{SERVED}}}")
    settings = Settings(watch_namespaces=[SERVED], http_port=free_port(), lease=f"{NAMESPACE}/another")
    rules = json.loads(apiserver.kubectl("get", "role", "trimtab", "-n", SERVED, "-o", "json").stdout)
    for rule in rules["rules"]:
        if "events" in rule["resources"]:
            rule["verbs"] = ["get"]
    apiserver.kubectl("replace", "-f", "-", stdin=json.dumps(rules))
    quota = ("create", "quota", "full", "--hard=count/jobs.batch=0", "--namespace", SERVED)
    apiserver.kubectl(*quota)
    counted = ("wait", "--for=jsonpath={.status.used}", "--timeout=300s", "quota/full", "--namespace", SERVED)
    assert apiserver.kubectl(*counted).returncode == 0
    apiserver.kubectl("delete", "crd", "modelmonitors.trimtab.dev")
    try:
        lines = complaints(operator_account(tmp_path), settings)
    finally:
        apiserver.kubectl("delete", "quota", "full", "--namespace", SERVED)
        upgrade()
    assert f"the operator at http://127.0.0.1:{settings.http_port}/readyz does not answer" in lines[0]
    told = [line.partition(":")[0] for line in lines[1:]]
    assert told == [
        f"list modelmonitors in {SERVED}",
        f"list events in {SERVED}",
        f"create jobs in {SERVED}",
        f"create events in {SERVED}",
        f"get leases in {NAMESPACE}",
        f"patch leases in {NAMESPACE}",
    ]
    assert "exceeded quota: full" in lines[3]


TRAINS = job_dict(
    model={"uri": "pvc://models/m.safetensors", "format": "PyTorch", "factory": "net:make"},
    data={name: {"uri": f"pvc://data/{name}.npz"} for name in ("train", "calibration", "evaluation", "holdout")},
    techniques=[{"distill": {}}],
)["spec"]
LESS = ("rbac.monitors=false", "rbac.distributed=false")


def test_what_takes_a_right_that_was_left_out_says_so_and_nothing_else_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(f"settings.watchNamespaces={{{SERVED}}}", *LESS)
    settings = Settings(watch_namespaces=[SERVED], http_port=free_port(), lease=f"{NAMESPACE}/trimtab")
    account = operator_account(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(apiserver.kubeconfig()))

    async def main() -> subprocess.CompletedProcess[str]:
        async with (
            await Client.connect() as client,
            node(client, SERVED, answer()),
            process(settings, KUBECONFIG=str(account)) as running,
        ):
            monitor = make_monitor().spec.wire()
            await create(client, objects.MODEL_MONITORS, "ModelMonitor", monitor)
            assert await refused(client, objects.MODEL_MONITORS, "Ready") == 'cannot patch resource "configmaps"'
            await create_runtime(client, SERVED, distributed={"numNodes": 2}, customCode="Allow")
            await create(client, objects.OPTIMIZATION_JOBS, "OptimizationJob", TRAINS)
            assert await refused(client, objects.OPTIMIZATION_JOBS, "Complete") == 'cannot create resource "services"'
            done = await asyncio.to_thread(check, account, settings, *LESS)
            assert running.process.returncode is None
            return done

    try:
        done = asyncio.run(main())
        assert (done.returncode, done.stdout) == (0, "the operator has all that it needs\n")
        told = complaints(account, settings)[1:]
        assert [line.partition(" in ")[0] for line in told] == [
            "create services",
            "create optimizationjobs",
            "patch configmaps",
            "get services",
        ]
    finally:
        apiserver.kubectl("delete", "tjob,modelmonitors.trimtab.dev,optimizationruntimes", "--all", "-n", SERVED)
        upgrade("rbac.monitors=true", "rbac.distributed=true")


async def create(client: Client, resource: objects.Resource, kind: str, spec: dict[str, Any]) -> None:
    metadata = {"name": "m", "namespace": SERVED}
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    await objects.create(client, resource, body)


async def refused(client: Client, resource: objects.Resource, condition: str) -> str:
    """The right that the object `m` says is missing, once it is Forbidden."""
    async with patience(client, SERVED):
        while True:
            status = (await objects.get(client, resource, SERVED, "m")).get("status", {})
            if status.get("state") == "Forbidden":
                [found] = [c for c in status["conditions"] if c["type"] == condition]
                assert (found["status"], found["reason"]) == ("False", "Forbidden")
                said = re.search(r'cannot \w+ resource "\w+"', found["message"])
                assert said, found
                return said[0]
            await asyncio.sleep(0.1)


def test_the_runtimes_of_the_cluster_are_asked_for_where_the_chart_reads_them(tmp_path: Path) -> None:
    role_mode = f"settings.watchNamespaces={{{SERVED}}}"
    settings = Settings(watch_namespaces=[SERVED], http_port=free_port(), lease=f"{NAMESPACE}/trimtab")
    for given, missing in ((role_mode, True), (f"{role_mode},clusterRuntimes=true", False)):
        upgrade(given)
        account = operator_account(tmp_path)
        told = check(account, settings, "clusterRuntimes=true").stdout
        assert ("list clusteroptimizationruntimes in all namespaces" in told) is missing
    upgrade(f"{role_mode},clusterRuntimes=false")


def test_without_a_crd_it_is_alive_and_not_ready_and_with_it_a_replica_that_stands_by_is_ready_too(
    tmp_path: Path,
) -> None:
    role_mode = f"settings.watchNamespaces={{{SERVED}}}"
    upgrade(role_mode)
    apiserver.kubectl("delete", "crd", "modelmonitors.trimtab.dev")
    account, lease = str(operator_account(tmp_path)), f"{NAMESPACE}/trimtab"
    first, second = (Settings(watch_namespaces=[SERVED], http_port=free_port(), lease=lease) for _ in range(2))

    async def main() -> None:
        async with process(first, KUBECONFIG=account), process(second, KUBECONFIG=account):
            for replica in (first, second):
                await says(replica.http_port, "ok")
                assert "not known yet" in await fetch(replica.http_port, "/readyz")
            await asyncio.to_thread(upgrade, role_mode)
            for replica in (first, second):
                await says(replica.http_port, "ok", "/readyz")

    try:
        asyncio.run(main())
    finally:
        upgrade(role_mode)


def complaints(account: Path, settings: Settings) -> list[str]:
    done = check(account, settings)
    assert done.returncode == 1, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("given", [[], ["settings.watchNamespaces={ml}"]], ids=["all namespaces", "a named one"])
def test_whatever_the_operator_may_do_is_tried(given: list[str]) -> None:
    """A right that is added to the chart is tried by `helm test`, or this fails."""
    tried = {
        (attempt.verb, attempt.resource.plural + (f"/{attempt.part}" if attempt.part else ""))
        for attempt in selfcheck.attempts(Settings(lease="a/b"), "default")
    }
    quiet = selfcheck.attempts(Settings(lease="a/b", read_logs=False), "default")
    assert {f"{a.verb} {a.resource.plural}/{a.part}" for a in quiet if a.part == "log"} == set()
    roles = [item for item in render(*given) if item["kind"] in ("Role", "ClusterRole") and bound(item)]
    assert roles
    rules = [rule for role in roles for rule in role["rules"]]
    allowed = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    # A watch is what /readyz is about, and a create is asked for by the server-side apply.
    assert {pair for pair in allowed if pair[0] != "watch"} - {("create", "configmaps")} <= tried


def bound(role: dict[str, Any]) -> bool:
    """The others are for people."""
    return not any("aggregate-to" in label for label in role["metadata"]["labels"])
