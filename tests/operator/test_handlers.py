"""The operator as a process of its own, kopf and all, against a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from itertools import islice
from pathlib import Path

import pytest
import yaml

from builders import job_dict
from faulty import faulty
from kubelet import node
from operators import Operator, answer, process, published, says, submit
from ports import free_port
from trimtab import handlers
from trimtab.cluster import objects
from trimtab.cluster.client import MERGE_PATCH, Client
from trimtab.errors import AlreadyExists
from trimtab.settings import Settings
from waiting import HANG, patience

pytestmark = pytest.mark.e2e


def test_from_an_applied_manifest_to_a_winner_with_a_kill_and_a_polite_end(namespace: str) -> None:
    settings = Settings(watch_namespaces=[namespace], http_port=free_port(), log_format="JSON")

    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, answer()) as ran:
            async with process(settings) as first:
                # Only kopf can tell of this: the operator has made its lists before.
                await says(settings.http_port, "ok", "/readyz")
                await submit(client, namespace)
                async with patience(client, namespace):
                    while not ran:
                        await asyncio.sleep(0.1)
                first.process.kill()
                await first.ended()

            async with process(settings) as second:
                job = await published(client, namespace)
                counted = f'trimtab_jobs{{namespace="{namespace}",state="Published"}} 1.0'
                await says(settings.http_port, counted, "/metrics")
                await says(settings.http_port, "ok")
                second.process.send_signal(signal.SIGTERM)
                assert await second.ended() == 0
                lines = [json.loads(line) for line in second.said().splitlines()]
            assert not [line for line in lines if line["level"] not in ("DEBUG", "INFO")]

            assert len(ran) == len(set(ran)) == 5
            assert job["status"]["best"]["trial"] == 2
            assert "annotations" not in job["metadata"]
            assert "finalizers" not in job["metadata"]
            events = (await client.request("GET", objects.EVENTS.path(namespace)))["items"]
            ours = [e["reason"] for e in events if e.get("reportingController") == "trimtab.dev/operator"]
            assert set(ours) >= {"TrialSucceeded", "CandidateSelected", "Published", "Complete"}
            assert not [e for e in events if "kopf" in json.dumps(e)]

    asyncio.run(main())


def test_kopf_waits_for_an_api_server_for_as_long_as_it_takes() -> None:
    backoffs = handlers._kopf_settings().networking.error_backoffs
    for _ in ("a call", "the next"):
        assert sum(islice(backoffs, 1000)) > 3600


def test_a_finalizer_of_kopfs_is_left_to_whoever_wrote_it(namespace: str, tmp_path: Path) -> None:
    """kopf takes its own off whatever no handler needs to be kept, and would do so again at every event."""
    settings = Settings(watch_namespaces=[namespace], http_port=free_port())
    kopfs = ["kopf.zalando.org/KopfFinalizerMarker"]
    manifest = job_dict(suspend=True)

    async def main() -> None:
        async with await Client.connect() as client, node(client, namespace, answer()), faulty() as proxy:
            for name in ("kept", "deleted"):
                manifest["metadata"] = {"name": name, "namespace": namespace, "finalizers": kopfs}
                await objects.create(client, objects.OPTIMIZATION_JOBS, manifest)
            kept, deleted = (objects.OPTIMIZATION_JOBS.path(namespace, name) for name in ("kept", "deleted"))
            async with process(settings, KUBECONFIG=str(proxy.kubeconfig(tmp_path / "kubeconfig"))):
                await says(settings.http_port, "ok", "/readyz")
                await client.request("DELETE", deleted)
                await client.request("PATCH", kept, body={"metadata": {"labels": {"a": "b"}}}, headers=MERGE_PATCH)
                await submit(client, namespace)
                await published(client, namespace)
            for path in (kept, deleted):
                assert (await client.request("GET", path))["metadata"]["finalizers"] == kopfs
                await client.request("PATCH", path, body={"metadata": {"finalizers": None}}, headers=MERGE_PATCH)
            assert proxy.seen["PATCH optimizationjobs/status"] > 0
            assert proxy.seen["PATCH optimizationjobs"] == 0

    asyncio.run(main())


RULES = [
    {
        "apiGroups": ["trimtab.dev", "batch", "", "events.k8s.io"],
        "resources": ["*"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    # Subresources are named one by one.
    {"apiGroups": ["trimtab.dev"], "resources": ["optimizationjobs/status"], "verbs": ["patch"]},
]
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"


async def bind(client: Client, namespace: str, account: str) -> None:
    """Let an account's default user do in a namespace what the chart's Role lets the operator do."""
    role = {"metadata": {"name": "operator"}, "rules": RULES}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": account}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"}
    binding = {"metadata": {"name": "operator"}, "roleRef": reference, "subjects": [subject]}
    for kind, body in (("roles", role), ("rolebindings", binding)):
        with contextlib.suppress(AlreadyExists):
            await client.request("POST", f"{RBAC}/{namespace}/{kind}", body=body)
    asked = {"namespace": namespace, "verb": "list", "group": "batch", "resource": "jobs"}
    review = {"spec": {"user": f"system:serviceaccount:{account}:default", "resourceAttributes": asked}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    async with patience(client, namespace):
        while not (await client.request("POST", path, body=review))["status"]["allowed"]:
            await asyncio.sleep(0.05)


async def kubeconfig_of(client: Client, namespace: str, folder: Path) -> str:
    """A kubeconfig with the token of the namespace's default account."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token = (await client.request("POST", path, body={"spec": {}}))["status"]["token"]
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    return str(folder / "kubeconfig")


def test_a_namespace_that_is_lost_and_comes_back_does_not_stop_the_others(
    namespace: str, other_namespace: str, tmp_path: Path
) -> None:
    """Deleting a namespace deletes the role in it; to the operator, both look the same."""
    settings = Settings(watch_namespaces=[namespace, other_namespace], http_port=free_port())

    async def main() -> None:
        async with (
            await Client.connect() as client,
            node(client, namespace, answer()),
            node(client, other_namespace, answer()),
        ):
            for each in (namespace, other_namespace):
                await bind(client, each, account=namespace)
            kubeconfig = await kubeconfig_of(client, namespace, tmp_path)
            async with process(settings, KUBECONFIG=kubeconfig) as running:
                await says(settings.http_port, "ok", "/readyz")
                await client.request("DELETE", f"{RBAC}/{other_namespace}/rolebindings/operator")
                await heard(running, f"{other_namespace} cannot be read")
                await submit(client, namespace)
                await published(client, namespace)
                await submit(client, other_namespace)
                await bind(client, other_namespace, account=namespace)
                await published(client, other_namespace)
                assert running.process.returncode is None

    asyncio.run(main())


async def heard(running: Operator, words: str) -> None:
    """Wait until the operator says this in its log."""
    async with asyncio.timeout(HANG):
        while words not in running.said():
            assert running.process.returncode is None, "it ended before"
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"TRIMTAB_WORKERS": "none"}, 2, "settings: workers: 'none'"),
        ({"KUBECONFIG": "/nowhere"}, 1, "no way to a cluster, /nowhere"),
    ],
    ids=["settings", "no cluster"],
)
def test_what_keeps_it_from_starting_is_one_line(
    kubeconfig: str, variables: dict[str, str], code: int, told: str
) -> None:
    async def main() -> None:
        async with process(Settings(http_port=free_port()), **variables) as running:
            assert await running.ended() == code
            (line,) = running.said().splitlines()
            assert told in line

    asyncio.run(main())
