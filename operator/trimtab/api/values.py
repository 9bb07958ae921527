"""The values of the Helm chart: the operator's own settings, and what Kubernetes must know to run it.

The chart's values.yaml and values.schema.json are generated from here (`trimtab.api.schema`), so a setting that is
added to `trimtab.settings` is a value of the chart at once, with its description and its bounds.
"""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

from pydantic import Field, create_model

from trimtab.api.base import RULES, Pattern, Spec
from trimtab.api.model import Name
from trimtab.api.resources import Resources
from trimtab.api.runtime import PullPolicy
from trimtab.api.scheduling import Labels
from trimtab.api.schema.wire import inlined, wire_schema
from trimtab.settings import Settings

CIDR = Pattern(r"^[0-9a-fA-F:.]+/[0-9]{1,3}$", "a range of addresses such as 10.0.0.1/32")
Cidr = Annotated[str, Field(max_length=43), CIDR]


class Image(Spec):
    """The operator's image."""

    repository: str = Field(
        "trimtab-operator", description="What `docker build --target operator` was told to name it."
    )
    tag: str = Field("", description="Left empty: the chart's appVersion.")
    pull_policy: PullPolicy = Field(PullPolicy.IF_NOT_PRESENT, description="When a node fetches it.")


class Crds(Spec):
    """The CustomResourceDefinitions."""

    enabled: bool = Field(True, description="Install and upgrade them with the chart.")
    keep: bool = Field(
        True, description="Leave them, and with them every OptimizationJob, when the chart is uninstalled."
    )


class Rbac(Spec):
    """What the operator may do that not everybody needs done. Without a right, what needs it says so in its status."""

    monitors: bool = Field(
        True,
        description="For ModelMonitors: create and change ConfigMaps, which hold their rules, and create "
        "OptimizationJobs. Without it, no ModelMonitor gets ready.",
    )
    distributed: bool = Field(
        True,
        description="For runtimes with `distributed`: create and read Services, by which pods find each other. Without "
        "it, their trials that train wait.",
    )


class AggregatedRoles(Spec):
    """The rights of people, added to Kubernetes' own roles `view`, `edit` and `admin`."""

    enabled: bool = Field(
        True,
        description="Make the ClusterRoles that are added to Kubernetes' own view, edit and admin. They are named by "
        "the release: of two releases of one name, one makes them.",
    )


class ServiceAccount(Spec):
    """Who the operator is to the API server. Roles are bound to it either way."""

    create: bool = Field(True, description="Make one; otherwise name one that exists.")
    name: str = Field("", max_length=253, description="Left empty: the release's name.")
    annotations: dict[str, str] = Field({}, description="For cloud identities.")


class Alerts(Spec):
    """The webhook that Alertmanager calls."""

    token: str = Field(
        "",
        description="The bearer token it must send. Left empty: one is made up at install and kept from then on, but "
        "by what renders the chart without the cluster (GitOps) at each render anew: set existingSecret there.",
    )
    existing_secret: str = Field("", max_length=253, description="A Secret of yours with the key `token`, instead.")


class ServiceMonitor(Spec):
    """For the Prometheus operator: what to scrape."""

    enabled: bool = Field(False, description="Needs the CustomResourceDefinitions of the Prometheus operator.")
    interval: str = Field("30s", description="How often the operator's /metrics are read.")
    labels: Labels = Field({}, description="What your Prometheus selects ServiceMonitors by.")


class PrometheusRule(Spec):
    """For the Prometheus operator: alerts about the operator itself. Those on models are their ModelMonitors'."""

    enabled: bool = Field(False, description="Needs the CustomResourceDefinitions of the Prometheus operator.")
    labels: Labels = Field({}, description="What your Prometheus selects PrometheusRules by.")


class Dashboards(Spec):
    """Grafana's dashboards, each in a ConfigMap, as the sidecar of Grafana's chart collects them."""

    enabled: bool = Field(False, description="Make the ConfigMaps.")
    labels: Labels = Field({"grafana_dashboard": "1"}, description="What your sidecar looks for.")
    annotations: dict[str, str] = Field({}, description="Such as the sidecar's annotation for a folder.")


class Metrics(Spec):
    """What watches the operator."""

    service_monitor: ServiceMonitor = Field(
        ServiceMonitor(), description="For the Prometheus operator: what to scrape."
    )
    prometheus_rule: PrometheusRule = Field(
        PrometheusRule(), description="For the Prometheus operator: alerts about the operator itself."
    )
    dashboards: Dashboards = Field(Dashboards(), description="Grafana's dashboards, each in a ConfigMap.")


class ApiServer(Spec):
    """Where the operator's pod finds the API server, after the Service `kubernetes` was resolved to an endpoint."""

    cidrs: list[Cidr] = Field([], max_length=16, description="Left empty: every address, on the ports below.")
    ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(
        [443, 6443], min_length=1, max_length=16, description="The ports of its endpoints."
    )


METADATA = ["169.254.0.0/16", "100.100.100.200/32", "fe80::/10", "fd00:ec2::254/128"]
"""Where clouds hand out a node's credentials: all link-local, Alibaba's, and AWS's over IPv6."""


class JobsNetworkPolicy(Spec):
    """What the pods of OptimizationJobs may reach. Nobody reaches them: they serve nothing."""

    enabled: bool = Field(False, description="Needs a network that enforces NetworkPolicies.")
    namespaces: list[Annotated[str, Field(max_length=63)]] = Field(
        [],
        description="The namespaces that get the policy; they must be there. Left empty: settings.watchNamespaces.",
    )
    egress: list[dict[str, Any]] = Field(
        [],
        description="Where their models, data, buckets and registries are, as in "
        "networking.v1.NetworkPolicyEgressRule. DNS is allowed besides. Left empty: everywhere but what is blocked "
        "and apiServer.cidrs.",
    )
    blocked: list[Cidr] = Field(METADATA, description="Where they never go while egress is left empty.")


class NetworkPolicy(Spec):
    """What the operator's pod may reach, and who may reach it."""

    enabled: bool = Field(False, description="Needs a network that enforces NetworkPolicies.")
    ingress_from: list[dict[str, Any]] = Field(
        [],
        description="Who may call /metrics and the webhook, as in networking.v1.NetworkPolicyPeer: your Prometheus and "
        "your Alertmanager. Left empty: everyone.",
    )
    api_server: ApiServer = Field(
        ApiServer(), description="Besides DNS, all that the operator calls, by its endpoints and not its Service."
    )
    jobs: JobsNetworkPolicy = Field(
        JobsNetworkPolicy(),
        description="A policy of its own for the pods of OptimizationJobs, enabled or not by itself.",
    )


class PodDisruptionBudget(Spec):
    """How many of the operator's pods a drain may take away at once."""

    enabled: bool = Field(False, description="Make one; of use with more than one replica.")
    max_unavailable: int = Field(1, ge=0, description="0 lets no drain end while the operator runs.")


USER = 65532
"""The `nonroot` of distroless images; the Dockerfile uses the same."""

# The chart decides these itself: the Service's port, where the token is mounted, and the Lease of the release.
_SET_BY_CHART = ("http_port", "alerts_token_file", "lease")
_SETTINGS: dict[str, Any] = {
    name: (field.annotation, field) for name, field in Settings.model_fields.items() if name not in _SET_BY_CHART
}
OperatorSettings: Any = create_model("OperatorSettings", __base__=Spec, __doc__="The operator itself.", **_SETTINGS)


_NONROOT = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Values(Spec):
    """What `helm install --set` and values files may say."""

    image: Image = Field(Image(), description="The operator's image.")
    image_pull_secrets: list[Name] = Field([], description="Secrets for the registry that has the image.")
    replica_count: int = Field(
        1, ge=1, le=16, description="Replicas of the operator: one acts, the others stand by for it."
    )
    leader_election: bool = Field(
        True,
        description="The replica that acts holds a Lease. Without, there can be one replica only, and an upgrade ends "
        "the old one before it starts the new.",
    )
    settings: OperatorSettings = Field(OperatorSettings(), description="The operator itself.")
    cluster_runtimes: bool = Field(
        False,
        description="Where namespaces are named: use ClusterOptimizationRuntimes and keep to their allowedImages, "
        "which takes a ClusterRole that reads them. Where all namespaces are served this is so anyway.",
    )
    crds: Crds = Field(Crds(), description="The CustomResourceDefinitions.")
    rbac: Rbac = Field(Rbac(), description="What the operator may do that not everybody needs done.")
    aggregated_roles: AggregatedRoles = Field(
        AggregatedRoles(), description="What people may do with our kinds, by the roles they have."
    )
    service_account: ServiceAccount = Field(ServiceAccount(), description="Who the operator is to the API server.")
    alerts: Alerts = Field(Alerts(), description="The webhook that Alertmanager calls.")
    metrics: Metrics = Field(Metrics(), description="What watches the operator.")
    network_policy: NetworkPolicy = Field(
        NetworkPolicy(), description="What the operator's pod may reach, and who may reach it."
    )
    pod_disruption_budget: PodDisruptionBudget = Field(
        PodDisruptionBudget(), description="How many of the operator's pods a drain may take away at once."
    )
    pod_security_context: dict[str, Any] = Field(
        _NONROOT,
        description="As in corev1.PodSecurityContext. On OpenShift, which chooses them itself, set runAsUser, "
        "runAsGroup and fsGroup to null.",
    )
    resources: Resources = Field(
        Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}),
        description="For the operator alone: the pods of OptimizationJobs have theirs from their OptimizationRuntime.",
    )
    node_selector: Labels = Field({}, description="The labels of the nodes that the operator may run on.")
    tolerations: list[dict[str, Any]] = Field([], description="The taints that it bears, as in corev1.Toleration.")
    affinity: dict[str, Any] = Field({}, description="Where it is rather or never put, as in corev1.Affinity.")
    topology_spread_constraints: list[dict[str, Any]] = Field(
        [], description="How replicas are spread, as in corev1.TopologySpreadConstraint."
    )
    priority_class_name: str = Field("", max_length=253, description="How important it is; empty: as any pod.")


def values_yaml() -> str:
    """The chart's values.yaml: every value with its default, under what it means."""
    return "\n".join(_lines(Values(), "")) + "\n"


def values_schema() -> dict[str, Any]:
    """The chart's values.schema.json: an unknown value is an error, but for `global`, which a parent chart may set."""
    schema = _for_helm(inlined(wire_schema(Values)))
    members = {**schema["properties"], "global": {"type": "object"}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "properties": members}


def _for_helm(node: Any) -> Any:
    """Without rules in CEL, and an amount may be 0.5 without quotes: the API server reads what the chart passes on."""
    if isinstance(node, dict):
        return {key: _for_helm(value) for key, value in node.items() if key != RULES}
    return ["number", "string"] if node == ["integer", "string"] else node


def _lines(values: Spec, indent: str) -> list[str]:
    lines: list[str] = []
    plain = values.wire()
    for name, field in type(values).model_fields.items():
        key, value = field.alias or name, getattr(values, name)
        lines += [f"{indent}# {line}" for line in textwrap.wrap(field.description or "", 100)]
        if isinstance(value, Spec):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(plain[key])}")
        lines += [] if indent else [""]
    return lines
