"""What the chart's NetworkPolicies do to packets, on the lab's node, whose agent enforces them.

Every pod here only listens and calls. What makes it a trial, a rank or the operator are its labels, which come from the
code and the chart that make the real ones. A call that is refused proves nothing unless it was answered before: each is
made without policies too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any

import pytest
import yaml

from builders import make_job, make_runtime
from e2e import peer
from e2e.support import IMAGES, REPOSITORY, get, helm, kubectl, make_namespace
from lab import control, network, paths
from lab.shell import run
from trimtab import plan
from trimtab.api.names import TEAM_LABEL
from trimtab.manifests import job_manifest

pytestmark = pytest.mark.e2e
HOME, ELSEWHERE = "e2e-policies", "e2e-policies-elsewhere"
METADATA = "169.254.213.1"
"""Stands in for a cloud's metadata service, in its range; the address of a real one may be in use here."""
HTTP, OTHER = 8080, 9000
CODE = Path(peer.__file__).read_text()

BUCKET = {"to": [{"podSelector": {"matchLabels": {"app": "bucket"}}}], "ports": [{"port": OTHER}]}
OPEN = {"enabled": True, "namespaces": [HOME]}
PHASES: dict[str, dict[str, Any] | None] = {"none": None, "open": OPEN, "listed": OPEN | {"egress": [BUCKET]}}
"""The values of `networkPolicy.jobs`: no policy at all, the default, and one that lists where to go."""


@dataclass(frozen=True)
class Call:
    """Who calls whom, and in which phases it is answered besides the one without policies."""

    caller: str
    protocol: str
    callee: str
    port: int
    answered: frozenset[str]

    def __str__(self) -> str:
        return f"{self.caller} to {self.callee}, {self.protocol} {self.port}"


def call(caller: str, target: str, *answered: str) -> Call:
    callee, protocol, port = target.split()
    return Call(caller, protocol, callee, int(port), frozenset(answered))


ALWAYS = ("open", "listed")
CALLS = [
    # A pod of a job goes where its data are, and nowhere that has credentials.
    call("trial", "bucket tcp 9000", *ALWAYS),
    call("trial", "bucket-service tcp 9000", *ALWAYS),
    call("trial", "bucket tcp 8080", "open"),
    call("trial", "bucket tcp 53", *ALWAYS),
    call("trial", "bucket udp 53", *ALWAYS),
    call("trial", "api tcp 6443"),
    call("trial", "api-service tcp 443"),
    call("trial", "metadata tcp 8080"),
    # It answers nobody.
    call("bucket", "trial tcp 9000"),
    call("operator", "trial tcp 9000"),
    call("elsewhere", "trial tcp 9000"),
    call("rank-0", "trial tcp 9000"),
    # Those that train together answer each other, on any port.
    call("rank-0", "rank-1 tcp 9000", *ALWAYS),
    call("rank-1", "rank-0 udp 53", *ALWAYS),
    call("rank-0", "bucket tcp 9000", *ALWAYS),
    call("rank-0", "api tcp 6443"),
    call("rank-0", "metadata tcp 8080"),
    call("trial", "rank-0 tcp 9000"),
    call("bucket", "rank-0 tcp 9000"),
    call("elsewhere", "rank-0 tcp 9000"),
    # The operator answers whom the values name, and `helm test`.
    call("prometheus", "operator tcp 8080", *ALWAYS),
    call("prometheus", "operator tcp 9000"),
    call("test", "operator tcp 8080", *ALWAYS),
    call("bucket", "operator tcp 8080"),
    call("trial", "operator tcp 8080"),
    call("elsewhere", "operator tcp 8080"),
    # It calls the API server.
    call("operator", "api tcp 6443", *ALWAYS),
    call("operator", "api-service tcp 443", *ALWAYS),
    call("operator", "bucket udp 53", *ALWAYS),
    call("operator", "bucket tcp 9000"),
    call("operator", "metadata tcp 8080"),
]

Answers = Mapping[Call, bool]


def rendered(jobs: Mapping[str, Any] | None, folder: Path) -> list[dict[str, Any]]:
    """The chart, with both policies."""
    operator = {
        "enabled": True,
        "ingressFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        "apiServer": {"cidrs": [f"{network.NODE_ADDRESS}/32"]},
    }
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump({"networkPolicy": operator | {"jobs": jobs or {}}}))
    chart = REPOSITORY / "charts" / "trimtab"
    text = helm("template", "trimtab", chart, "--namespace", HOME, "--values", values)
    return [document for document in yaml.safe_load_all(text) if document]


def labels(folder: Path) -> dict[str, dict[str, str]]:
    """The pods, and what makes each what it is. `elsewhere` has every label that opens a door, in another namespace."""
    job, runtime = make_job(), make_runtime()
    manifest = job_manifest(plan.trial(job, runtime, 0, {}, 0), runtime, job)
    trial = manifest["spec"]["template"]["metadata"]["labels"]
    rank = trial | {TEAM_LABEL: "true"}
    chart = {item["kind"]: item for item in rendered(None, folder)}
    return {
        "trial": trial,
        "rank-0": rank,
        "rank-1": rank,
        "operator": chart["Deployment"]["spec"]["template"]["metadata"]["labels"],
        "test": chart["Pod"]["metadata"]["labels"],
        "prometheus": {"app": "prometheus"},
        "bucket": {"app": "bucket"},
        "elsewhere": rank | {"app": "prometheus"},
    }


def home_of(name: str) -> str:
    return ELSEWHERE if name == "elsewhere" else HOME


def pod(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """As the restricted standard wants it. The kubelet's probe passes whatever the policies say."""
    container = {
        "name": "peer",
        "image": IMAGES.format(target="jobs"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", CODE, "listen", str(HTTP), str(OTHER), "53"],
        "ports": [{"name": "http", "containerPort": HTTP}],
        "readinessProbe": {"tcpSocket": {"port": HTTP}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": home_of(name), "labels": dict(labels)},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
            },
            "containers": [container],
        },
    }


def service() -> dict[str, Any]:
    spec = {"selector": {"app": "bucket"}, "ports": [{"port": OTHER}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bucket", "namespace": HOME}, "spec": spec}


def apply(*documents: Mapping[str, Any]) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))


@pytest.fixture(scope="module")
def metadata(cluster: None) -> Iterator[None]:
    """An address of this machine that only its pods are told of, and a server there."""
    run("ip", "address", "add", f"{METADATA}/32", "dev", paths.NAME)
    try:
        with peer.Listener((METADATA, HTTP), BaseRequestHandler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield
            server.shutdown()
            thread.join()
    finally:
        run("ip", "address", "delete", f"{METADATA}/32", "dev", paths.NAME)


@pytest.fixture(scope="module")
def addresses(metadata: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where everybody is, once all listen."""
    everybody = labels(tmp_path_factory.mktemp("labels"))
    for namespace in (HOME, ELSEWHERE):
        make_namespace(namespace)
    try:
        apply(service(), *(pod(name, given) for name, given in everybody.items()))
        for name in everybody:
            kubectl("-n", home_of(name), "wait", "--for=condition=Ready", "--timeout=300s", f"pod/{name}")
        yield {
            "api": network.NODE_ADDRESS,
            "api-service": control.KUBERNETES_SERVICE,
            "bucket-service": get(HOME, "services", "bucket")["spec"]["clusterIP"],
            "metadata": METADATA,
            **{name: get(home_of(name), "pods", name)["status"]["podIP"] for name in everybody},
        }
    finally:
        kubectl("delete", "namespace", HOME, ELSEWHERE, "--timeout=300s")


@pytest.fixture(scope="module")
def answers(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    """What became of every call in every phase."""
    found: dict[str, Answers] = {}
    for phase, jobs in PHASES.items():
        if jobs:
            chart = rendered(jobs, tmp_path_factory.mktemp(phase))
            apply(*(item for item in chart if item["kind"] == "NetworkPolicy"))
        found[phase] = settled({each: phase == "none" or phase in each.answered for each in CALLS}, addresses)
    return found


def settled(expected: Answers, addresses: Mapping[str, str]) -> Answers:
    """An agent takes its time: calls are made until all end as they should, or for five minutes."""
    end = time.monotonic() + 300
    while (last := asked(addresses)) != expected and time.monotonic() < end:
        time.sleep(0.5)
    return last


def asked(addresses: Mapping[str, str]) -> Answers:
    """Have everybody make their calls."""
    by_caller = groupby(sorted(CALLS, key=lambda each: each.caller), lambda each: each.caller)
    everybody = [list(calls) for _, calls in by_caller]
    with ThreadPoolExecutor(4) as threads:
        return {
            each: answer for found in threads.map(partial(asked_of, addresses), everybody) for each, answer in found
        }


def asked_of(addresses: Mapping[str, str], calls: list[Call]) -> list[tuple[Call, bool]]:
    caller = calls[0].caller
    words = [f"{each.protocol} {addresses[each.callee]} {each.port}" for each in calls]
    answer = kubectl("-n", home_of(caller), "exec", caller, "--", "python", "-c", CODE, "call", *words)
    return list(zip(calls, json.loads(answer), strict=True))


@pytest.mark.parametrize("each", CALLS, ids=str)
def test_without_policies_everybody_is_answered(answers: dict[str, Answers], each: Call) -> None:
    assert answers["none"][each]


@pytest.mark.parametrize("phase", ALWAYS)
@pytest.mark.parametrize("each", CALLS, ids=str)
def test_with_policies_only_those_are_answered_who_should(answers: dict[str, Answers], phase: str, each: Call) -> None:
    assert answers[phase][each] == (phase in each.answered)
