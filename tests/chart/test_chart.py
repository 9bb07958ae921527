"""The chart as a real helm renders and installs it, judged by a real API server and by the operator's own settings."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client, config

import apiserver
from chart.support import CHART, NAMESPACE, ROOT, Object, helm, render, the
from contracts.bad_manifests import JOB, RUNTIME, changed
from trimtab.api.names import MANAGED_LABEL, TEAM_LABEL
from trimtab.settings import Settings

pytestmark = pytest.mark.e2e


def pod_of(objects: list[Object]) -> Object:
    pod: Object = the("Deployment", objects)["spec"]["template"]
    return pod


def jobs_policies(*settings: str, name: str) -> list[Object]:
    objects = render("networkPolicy.jobs.enabled=true", *settings)
    policies = (item for item in objects if item["kind"] == "NetworkPolicy")
    return [policy for policy in policies if policy["metadata"]["name"].endswith(f"-{name}")]


def rules_of(objects: list[Object]) -> list[Object]:
    kinds = ("Role", "ClusterRole")
    return [rule for item in objects if item["kind"] in kinds for rule in item["rules"]]


class TestRendered:
    def test_lint(self) -> None:
        done = helm("lint", "--strict", str(CHART))
        assert done.returncode == 0, done.stdout

    def test_crds_are_the_generated_ones(self) -> None:
        rendered = {item["metadata"]["name"]: item for item in render() if item["kind"] == "CustomResourceDefinition"}
        generated = [yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")]
        assert {name: item["spec"] for name, item in rendered.items()} == {
            item["metadata"]["name"]: item["spec"] for item in generated
        }
        assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in rendered.values()} == {"keep"}

    def test_crds_may_be_left_out_or_go_with_the_chart(self) -> None:
        assert "CustomResourceDefinition" not in {item["kind"] for item in render("crds.enabled=false")}
        crd = the("CustomResourceDefinition", render("crds.keep=false"), "optimizationjobs.trimtab.dev")
        assert "annotations" not in crd["metadata"]

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ([], {}),
            (["settings.workers=16", "settings.logFormat=JSON"], {"workers": 16, "log_format": "JSON"}),
            (["settings.watchNamespaces={ml,vision}"], {"watch_namespaces": ["ml", "vision"]}),
        ],
    )
    def test_the_operator_reads_what_the_values_say(self, given: list[str], expected: Object) -> None:
        [container] = pod_of(render(*given))["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        read = Settings.from_environment(environment)
        lease = f"{NAMESPACE}/trimtab"
        assert read == Settings(alerts_token_file="/etc/trimtab/alerts/token", lease=lease, **expected)
        assert [port["containerPort"] for port in container["ports"]] == [read.http_port]

    @pytest.mark.parametrize(
        ("setting", "complaint"),
        [
            ("settings.workers=0", "at '/settings/workers': minimum: got 0, want 1"),
            ("settings.logLevel=Loud", "at '/settings/logLevel': value must be one of"),
            ("settings.watchNamespaces={ML}", "at '/settings/watchNamespaces/0'"),
            ("resources.limits.cpu=1GB", "does not match pattern"),
            ("imagge.tag=1", "additional properties 'imagge' not allowed"),
            ("replicaCount=2,leaderElection=false", "replicaCount: more than 1 needs leaderElection"),
        ],
    )
    def test_wrong_values_are_refused(self, setting: str, complaint: str) -> None:
        done = helm("template", "trimtab", str(CHART), "--set", setting)
        assert done.returncode != 0
        assert complaint in done.stderr

    @pytest.mark.parametrize(("given", "expected"), [("1", 1), ("0.5", "0.5"), ("500m", "500m")])
    def test_amounts_are_written_as_people_write_them(self, given: str, expected: Any) -> None:
        [container] = pod_of(render(f"resources.limits.cpu={given}"))["spec"]["containers"]
        assert container["resources"]["limits"]["cpu"] == expected

    def test_rights_are_what_the_operator_needs(self) -> None:
        rules = rules_of([the("ClusterRole", render())])
        assert {
            f"{verb} {group}/{resource}"
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if verb not in ("get", "list", "watch")
        } == {
            "patch trimtab.dev/optimizationjobs/status",
            "patch trimtab.dev/modelmonitors/status",
            "create trimtab.dev/optimizationjobs",
            "delete trimtab.dev/optimizationjobs",
            "create batch/jobs",
            "delete batch/jobs",
            "deletecollection batch/jobs",
            "create events.k8s.io/events",
            "create /services",
            "create /configmaps",
            "patch /configmaps",
        }

    @pytest.mark.parametrize(
        ("left_out", "gone"),
        [
            ("rbac.monitors=false", {"create configmaps", "patch configmaps", "create optimizationjobs"}),
            ("rbac.distributed=false", {"create services", "get services"}),
        ],
    )
    def test_rights_that_not_everybody_needs_can_be_left_out(self, left_out: str, gone: set[str]) -> None:
        def rights(*given: str) -> set[str]:
            rules = rules_of([the("ClusterRole", render(*given))])
            return {f"{verb} {what}" for rule in rules for verb in rule["verbs"] for what in rule["resources"]}

        assert rights() - rights(left_out) == gone

    @pytest.mark.parametrize("given", [[], ["settings.watchNamespaces={ml,vision}"]])
    def test_nobody_gets_secrets_or_wildcards(self, given: list[str]) -> None:
        words = {word for rule in rules_of(render(*given)) for part in rule.values() for word in part}
        assert not words & {"*", "secrets"}

    @pytest.mark.parametrize("served", [[], ["settings.watchNamespaces={ml}"]])
    @pytest.mark.parametrize(("read", "verbs"), [("true", [["get"]]), ("false", [])])
    def test_logs_are_read_where_that_is_wanted(self, served: list[str], read: str, verbs: list[list[str]]) -> None:
        objects = render(*served, f"settings.readLogs={read}")
        assert [rule["verbs"] for rule in rules_of(objects) if "pods/log" in rule["resources"]] == verbs
        variables = pod_of(objects)["spec"]["containers"][0]["env"]
        assert {"name": "TRIMTAB_READ_LOGS", "value": read} in variables

    def test_named_namespaces_get_roles(self) -> None:
        objects = render("settings.watchNamespaces={ml,vision}", "leaderElection=false")
        bindings = [item for item in objects if item["kind"] == "RoleBinding"]
        roles = [item["metadata"]["namespace"] for item in objects if item["kind"] == "Role"]
        assert [item["metadata"]["namespace"] for item in bindings] == roles == ["ml", "vision"]
        assert {item["subjects"][0]["namespace"] for item in bindings} == {NAMESPACE}
        assert "ClusterRoleBinding" not in {item["kind"] for item in objects}

    @pytest.mark.parametrize(
        ("given", "read"),
        [
            ([], True),
            (["settings.watchNamespaces={ml}"], False),
            (["settings.watchNamespaces={ml}", "clusterRuntimes=true"], True),
        ],
    )
    def test_runtimes_of_the_cluster_are_read_where_a_cluster_role_may_be_had(
        self, given: list[str], read: bool
    ) -> None:
        bound = [item["roleRef"]["name"] for item in render(*given) if item["kind"] == "ClusterRoleBinding"]
        assert (f"trimtab-{NAMESPACE}-cluster-runtimes" in bound) == read

    def test_a_rollout_waits_for_a_replica_that_knows_the_cluster_and_nobody_is_killed_for_not_knowing_it(self) -> None:
        [container] = pod_of(render())["spec"]["containers"]
        probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}

    def test_replicas_elect_one_by_a_lease_of_their_own(self) -> None:
        objects = render("replicaCount=2")
        deployment = the("Deployment", objects)["spec"]
        assert (deployment["replicas"], deployment["strategy"]["type"]) == (2, "RollingUpdate")
        role = the("Role", objects, "trimtab-leader")
        assert role["metadata"]["namespace"] == NAMESPACE
        assert [(rule.get("resourceNames"), rule["verbs"]) for rule in role["rules"]] == [
            (["trimtab"], ["get", "patch"]),
            (None, ["create"]),
        ]

    def test_without_election_an_upgrade_ends_the_old_one_first(self) -> None:
        objects = render("leaderElection=false")
        assert the("Deployment", objects)["spec"]["strategy"]["type"] == "Recreate"
        assert "Role" not in {item["kind"] for item in objects}
        environment = {variable["name"] for variable in pod_of(objects)["spec"]["containers"][0]["env"]}
        assert "TRIMTAB_LEASE" not in environment

    def test_token(self) -> None:
        given = the("Secret", render("alerts.token=s3cret"), "trimtab-alerts")["data"]["token"]
        assert base64.b64decode(given) == b"s3cret"
        own = render("alerts.existingSecret=mine")
        assert "Secret" not in {item["kind"] for item in own}
        assert pod_of(own)["spec"]["volumes"][0]["secret"]["secretName"] == "mine"

    def test_service_monitor_is_opt_in(self) -> None:
        assert "ServiceMonitor" not in {item["kind"] for item in render()}
        on = ("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.labels.release=prom")
        monitor = the("ServiceMonitor", render(*on))
        service = the("Service", render())
        assert monitor["metadata"]["labels"]["release"] == "prom"
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]

    @pytest.mark.parametrize(
        ("setting", "field", "expected"),
        [
            (
                "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone",
                "affinity",
                {},
            ),
            ("priorityClassName=system-cluster-critical", "priorityClassName", "system-cluster-critical"),
            ("topologySpreadConstraints[0].maxSkew=1", "topologySpreadConstraints", [{"maxSkew": 1}]),
            ("podSecurityContext.runAsUser=null", "securityContext", {"runAsNonRoot": True}),
        ],
    )
    def test_where_and_as_whom_the_pod_runs(self, setting: str, field: str, expected: Any) -> None:
        found = pod_of(render(setting))["spec"][field]
        assert found.items() >= expected.items() if isinstance(expected, dict) else found == expected
        assert field == "securityContext" or field not in pod_of(render())["spec"]
        assert "runAsUser" not in found

    def test_a_disruption_budget_and_a_network_policy_are_opt_in_and_about_the_operators_pod(self) -> None:
        kinds = ("PodDisruptionBudget", "NetworkPolicy")
        assert not [item for item in render() if item["kind"] in kinds]
        objects = render("podDisruptionBudget.enabled=true", "networkPolicy.enabled=true")
        labels = pod_of(objects)["metadata"]["labels"]
        budget, policy = (the(kind, objects)["spec"] for kind in kinds)
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= labels.items()
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()

    @pytest.mark.parametrize(
        ("given", "ingress", "api_server"),
        [
            ([], {"ports": [{"port": "http"}]}, {"ports": [{"port": 443}, {"port": 6443}]}),
            (
                [
                    "networkPolicy.ingressFrom[0].namespaceSelector.matchLabels.team=prometheus",
                    "networkPolicy.apiServer.cidrs={10.0.0.1/32,fd00::1/128}",
                    "networkPolicy.apiServer.ports={6443}",
                ],
                {
                    "ports": [{"port": "http"}],
                    "from": [
                        {
                            "podSelector": {
                                "matchLabels": {
                                    "app.kubernetes.io/name": "trimtab",
                                    "app.kubernetes.io/instance": "trimtab",
                                    "app.kubernetes.io/component": "test",
                                }
                            }
                        },
                        {"namespaceSelector": {"matchLabels": {"team": "prometheus"}}},
                    ],
                },
                {
                    "ports": [{"port": 6443}],
                    "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}],
                },
            ),
        ],
        ids=["defaults", "named"],
    )
    def test_who_may_talk_to_whom(self, given: list[str], ingress: Object, api_server: Object) -> None:
        spec = the("NetworkPolicy", render("networkPolicy.enabled=true", *given))["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert spec["ingress"] == [ingress]
        assert spec["egress"] == [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            api_server,
        ]

    @pytest.mark.parametrize(
        ("given", "namespaces"),
        [
            (["settings.watchNamespaces={ml,vision}"], ["ml", "vision"]),
            (["settings.watchNamespaces={ml,vision}", "networkPolicy.jobs.namespaces={ml}"], ["ml"]),
        ],
        ids=["role mode", "named"],
    )
    @pytest.mark.parametrize("name", ["jobs", "jobs-egress", "teams"])
    def test_the_pods_of_jobs_have_policies_in_each_namespace(
        self, given: list[str], namespaces: list[str], name: str
    ) -> None:
        policies = jobs_policies(*given, name=name)
        assert [policy["metadata"]["namespace"] for policy in policies] == namespaces
        assert all(policy["spec"] == policies[0]["spec"] for policy in policies)

    def test_a_policy_for_jobs_of_all_namespaces_must_name_them(self) -> None:
        done = helm("template", "trimtab", str(CHART), "--set", "networkPolicy.jobs.enabled=true")
        assert done.returncode == 1
        assert "name those that have OptimizationJobs in networkPolicy.jobs.namespaces" in done.stderr

    @pytest.mark.parametrize(
        ("given", "egress"),
        [
            (
                [],
                {
                    "to": [
                        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "100.100.100.200/32"]}},
                        {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}},
                    ]
                },
            ),
            (
                ["networkPolicy.jobs.blocked={169.254.0.0/16}", "networkPolicy.apiServer.cidrs={10.0.0.1/32}"],
                {
                    "to": [
                        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "10.0.0.1/32"]}},
                        {"ipBlock": {"cidr": "::/0"}},
                    ]
                },
            ),
            (
                [
                    "networkPolicy.jobs.egress[0].ports[0].port=443",
                    "networkPolicy.jobs.egress[0].to[0].ipBlock.cidr=203.0.113.0/24",
                ],
                {"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]},
            ),
        ],
        ids=["defaults", "the API server", "named"],
    )
    def test_what_the_pods_of_jobs_may_reach(self, given: list[str], egress: Object) -> None:
        [policy] = jobs_policies("networkPolicy.jobs.namespaces={default}", *given, name="jobs-egress")
        dns = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
        assert policy["spec"] == {
            "podSelector": {"matchLabels": {MANAGED_LABEL: "true"}},
            "policyTypes": ["Egress"],
            "egress": [dns, egress],
        }
        done = apiserver.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(policy))
        assert done.returncode == 0, done.stderr

    def test_the_pods_of_jobs_answer_nobody(self) -> None:
        [policy] = jobs_policies("networkPolicy.jobs.namespaces={default}", name="jobs")
        jobs = {"podSelector": {"matchLabels": {MANAGED_LABEL: "true"}}}
        assert policy["spec"] == {**jobs, "policyTypes": ["Ingress"], "ingress": []}
        done = apiserver.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(policy))
        assert done.returncode == 0, done.stderr

    def test_pods_that_train_together_reach_each_other(self) -> None:
        [policy] = jobs_policies("networkPolicy.jobs.namespaces={default}", name="teams")
        team = {"podSelector": {"matchLabels": {MANAGED_LABEL: "true", TEAM_LABEL: "true"}}}
        assert policy["spec"] == {
            **team,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [team]}],
            "egress": [{"to": [team]}],
        }
        done = apiserver.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(policy))
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ([], ["jobs.enabled", "jobs.namespaces", "apiServer.cidrs", "enabled", "apiServer.ports"]),
            (["settings.watchNamespaces={ml}"], ["jobs.enabled", "apiServer.cidrs", "enabled", "apiServer.ports"]),
            (
                ["settings.watchNamespaces={ml}", "networkPolicy.jobs.enabled=true"],
                ["enabled", "apiServer.ports"],
            ),
            (
                ["settings.watchNamespaces={ml}", "networkPolicy.jobs.enabled=true", "networkPolicy.enabled=true"],
                [],
            ),
        ],
        ids=["defaults", "role mode", "the jobs' is there", "both are there"],
    )
    def test_the_notes_name_what_makes_the_policies_that_are_not_there(self, given: list[str], told: list[str]) -> None:
        chosen = [word for setting in given for word in ("--set", setting)]
        done = helm("install", "trimtab", str(CHART), "--dry-run=client", *chosen)
        assert done.returncode == 0, done.stderr
        notes = done.stdout.partition("NOTES:")[2]
        assert re.findall(r"networkPolicy\.([\w.]*\w)", notes) == told

    def test_names_follow_the_release(self) -> None:
        done = helm("template", "prod", str(CHART), "--show-only", "templates/service.yaml")
        assert yaml.safe_load(done.stdout)["metadata"]["name"] == "prod-trimtab"


@pytest.fixture(scope="module")
def notes() -> Iterator[str]:
    """What helm says when it has installed the chart into a namespace that is as strict as can be."""
    strict = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": strict}}
    assert apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(namespace)).returncode == 0
    apiserver.kubectl("delete", "--ignore-not-found", "-f", ROOT / "crds")
    done = apiserver.helm("install", "trimtab", CHART, "--namespace", NAMESPACE)
    assert done.returncode == 0, done.stderr
    apiserver.served()
    wait_until(lambda: can("delete", "optimizationjobs.trimtab.dev"))  # the API server hears of roles a moment later
    yield done.stdout
    apiserver.helm("uninstall", "trimtab", "--namespace", NAMESPACE)


def get(*words: str) -> Object:
    done = apiserver.kubectl("get", *words, "--namespace", NAMESPACE, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: Object = json.loads(done.stdout)
    return found


def can(verb: str, resource: str, namespace: str = "default", who: str = "") -> bool:
    user = who or f"system:serviceaccount:{NAMESPACE}:trimtab"
    name, _, part = resource.partition("/")
    asked = (verb, name, f"--subresource={part}", f"--namespace={namespace}", f"--as={user}")
    done = apiserver.kubectl("auth", "can-i", *asked)
    return done.stdout.strip() == "yes"


ROLES = ("view", "edit", "admin", "trimtab-view", "trimtab-edit", "trimtab-admin")
"""Kubernetes' own, which ours are added to, and ours alone: for a tenant who is trusted with nothing else."""
READERS, WRITERS, OWNERS = {"view", "edit", "admin", "trimtab-view"}, {"edit", "admin", "trimtab-edit"}, {"admin"}
RIGHTS: dict[tuple[str, str], set[str]] = {
    ("list", "optimizationjobs"): READERS,
    ("watch", "modelmonitors"): READERS,
    ("get", "optimizationruntimes"): READERS,
    ("list", "clusteroptimizationruntimes"): set(),  # no binding in a namespace gives a right on the cluster's
    ("create", "optimizationjobs"): WRITERS,
    ("patch", "optimizationjobs"): WRITERS,
    ("delete", "optimizationjobs"): WRITERS,
    ("create", "modelmonitors"): WRITERS,
    ("patch", "optimizationjobs/status"): set(),
    ("update", "modelmonitors/status"): set(),
    ("create", "optimizationruntimes"): OWNERS | {"trimtab-admin"},
    ("patch", "optimizationruntimes"): OWNERS | {"trimtab-admin"},
    ("create", "clusteroptimizationruntimes"): set(),
    ("get", "secrets"): {"edit", "admin"},  # Kubernetes' own roles read them, and ours add nothing
    ("create", "pods"): {"edit", "admin"},
    ("create", "jobs"): {"edit", "admin"},
    ("get", "pods/log"): {"view", "edit", "admin"},
    ("create", "networkpolicies"): {"edit", "admin"},
    ("impersonate", "users"): set(),
}
GROUPS = {"secrets": "", "pods": "", "users": "", "jobs": "batch", "networkpolicies": "networking.k8s.io"}


def bind(role: str) -> None:
    """Give a role in our namespace to a user of its name."""
    binding = ("create", "rolebinding", role, "--clusterrole", role, "--user", role, "-n", NAMESPACE)
    done = apiserver.kubectl(*binding)
    assert done.returncode == 0 or "already exists" in done.stderr, done.stderr


def access(user: str) -> Callable[[str, str, str], bool]:
    """What a user may do, by asking as this user."""
    api = client.ApiClient(config.new_client_from_config(str(apiserver.kubeconfig())).configuration)
    api.set_default_header("Impersonate-User", user)
    reviews = client.AuthorizationV1Api(api)

    def may(verb: str, what: str, namespace: str) -> bool:
        resource, _, part = what.partition("/")
        where = {} if resource.startswith("cluster") else {"namespace": namespace}
        group = GROUPS.get(resource, "trimtab.dev")
        asked = where | {"verb": verb, "group": group, "resource": resource, "subresource": part}
        answer = reviews.create_self_subject_access_review({"spec": {"resourceAttributes": asked}})
        return bool(answer.status.allowed)

    return may


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)


class TestInstalled:
    def test_the_notes_say_what_is_next(self, notes: str) -> None:
        assert "serves all namespaces" in notes
        assert f"http://trimtab.{NAMESPACE}.svc:8080/alerts" in notes

    def test_the_runtime_in_the_notes_is_valid(self, notes: str) -> None:
        text = notes.partition("<<EOF\n")[2].partition("EOF")[0]
        done = apiserver.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
        assert done.returncode == 0, done.stderr

    def test_its_pod_meets_the_restricted_standard(self, notes: str) -> None:
        pod = get("deployment", "trimtab")["spec"]["template"]
        manifest = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "like-it"}}
        create = ("create", "--dry-run=server", "--namespace", NAMESPACE, "-f", "-")
        assert apiserver.kubectl(*create, stdin=json.dumps(manifest)).returncode == 0
        del manifest["spec"]["securityContext"]
        assert "violates PodSecurity" in apiserver.kubectl(*create, stdin=json.dumps(manifest)).stderr

    @pytest.mark.parametrize(
        ("verb", "resource", "allowed"),
        [
            ("create", "jobs.batch", True),
            ("patch", "optimizationjobs.trimtab.dev/status", True),
            ("patch", "optimizationjobs.trimtab.dev", False),
            ("create", "pods", False),
            ("list", "events.events.k8s.io", True),
            ("get", "events.events.k8s.io", False),
            ("get", "pods/log", True),
            ("get", "pods", False),
            ("get", "secrets", False),
            ("delete", "optimizationjobs.trimtab.dev", True),
            ("delete", "modelmonitors.trimtab.dev", False),
            ("create", "optimizationruntimes.trimtab.dev", False),
            # Kubeflow's kind of the same name.
            ("get", "optimizationjobs.trainer.kubeflow.org", False),
            ("patch", "optimizationjobs.trainer.kubeflow.org/status", False),
        ],
    )
    def test_what_the_operator_may_do(self, notes: str, verb: str, resource: str, *, allowed: bool) -> None:
        assert can(verb, resource) is allowed

    @pytest.mark.parametrize("role", ROLES)
    def test_what_people_may_do(self, notes: str, role: str) -> None:
        """Of the verbs on our kinds, and of what else would lead to another's Secrets, here and next door."""
        bind(role)
        person = access(role)
        for (verb, what), roles in RIGHTS.items():
            expected = role in roles
            if expected:  # roles are aggregated a moment after they appear
                wait_until(lambda verb=verb, what=what: person(verb, what, NAMESPACE))
            assert (verb, what, person(verb, what, NAMESPACE)) == (verb, what, expected)
            assert (verb, what, person(verb, what, "default")) == (verb, what, False)

    def test_a_tenant_creates_jobs_at_home_alone_and_says_nothing_of_their_status(self, notes: str) -> None:
        bind("trimtab-edit")
        wait_until(lambda: access("trimtab-edit")("create", "optimizationjobs", NAMESPACE))
        job = changed(JOB, {"metadata.namespace": NAMESPACE}) | {"status": {"state": "Published"}}
        create = ("create", "--as=trimtab-edit", "--dry-run=server", "-o", "json", "-f", "-")
        done = apiserver.kubectl(*create, stdin=json.dumps(job))
        assert (done.returncode, "status" in json.loads(done.stdout)) == (0, False)
        elsewhere = apiserver.kubectl(*create, stdin=json.dumps(changed(job, {"metadata.namespace": "default"})))
        assert 'User "trimtab-edit" cannot create resource "optimizationjobs"' in elsewhere.stderr
        runtime = changed(RUNTIME, {"metadata.namespace": NAMESPACE})
        assert "Forbidden" in apiserver.kubectl(*create, stdin=json.dumps(runtime)).stderr

    def test_an_upgrade_keeps_the_token(self, notes: str) -> None:
        before = get("secret", "trimtab-alerts")["data"]
        done = apiserver.helm("upgrade", "trimtab", CHART, "--namespace", NAMESPACE, "--set", "settings.workers=4")
        assert done.returncode == 0, done.stderr
        assert get("secret", "trimtab-alerts")["data"] == before
        variables = get("deployment", "trimtab")["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": "TRIMTAB_WORKERS", "value": "4"} in variables

    def test_uninstalling_keeps_what_people_made(self, notes: str) -> None:
        assert apiserver.helm("uninstall", "trimtab", "--namespace", NAMESPACE).returncode == 0
        assert "trimtab.dev" in str(get("crd", "optimizationjobs.trimtab.dev")["spec"]["group"])
        again = apiserver.helm("install", "trimtab", CHART, "--namespace", NAMESPACE)
        assert again.returncode == 0, again.stderr
