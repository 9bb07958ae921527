"""The values of the Helm chart: the operator's own settings, and what Kubernetes must know to run it.

The chart's values.yaml and values.schema.json are generated from here (`trimtab.api.schema`), so a setting that is
added to `trimtab.settings` is a value of the chart at once, with its description and its bounds.
"""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

from pydantic import Field, create_model

from trimtab.api.base import Spec
from trimtab.api.model import Name
from trimtab.api.runtime import PullPolicy, ResourceName, Resources
from trimtab.api.schema.wire import inlined, wire_schema
from trimtab.settings import Settings

Labels = dict[ResourceName, Annotated[str, Field(max_length=63)]]


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


class ServiceAccount(Spec):
    """Who the operator is to the API server. Roles are bound to it either way."""

    create: bool = Field(True, description="Make one; otherwise name one that exists.")
    name: str = Field("", max_length=253, description="Left empty: the release's name.")
    annotations: dict[str, str] = Field({}, description="For cloud identities.")


class Alerts(Spec):
    """The webhook that Alertmanager calls."""

    token: str = Field(
        "", description="The bearer token it must send. Left empty: one is made up at install and kept from then on."
    )
    existing_secret: str = Field("", max_length=253, description="A Secret of yours with the key `token`, instead.")


class ServiceMonitor(Spec):
    """For the Prometheus operator."""

    enabled: bool = Field(False, description="Needs the CustomResourceDefinitions of the Prometheus operator.")
    interval: str = Field("30s", description="How often the operator's /metrics are read.")
    labels: Labels = Field({}, description="What your Prometheus selects ServiceMonitors by.")


# The chart decides these two itself: the Service's port, and where the token is mounted.
_SET_BY_CHART = ("http_port", "alerts_token_file")
_SETTINGS: dict[str, Any] = {
    name: (field.annotation, field) for name, field in Settings.model_fields.items() if name not in _SET_BY_CHART
}
OperatorSettings: Any = create_model("OperatorSettings", __base__=Spec, __doc__="The operator itself.", **_SETTINGS)


class Values(Spec):
    """What `helm install --set` and values files may say."""

    image: Image = Field(Image(), description="The operator's image.")
    image_pull_secrets: list[Name] = Field([], description="Secrets for the registry that has the image.")
    settings: OperatorSettings = Field(OperatorSettings(), description="The operator itself.")
    crds: Crds = Field(Crds(), description="The CustomResourceDefinitions.")
    service_account: ServiceAccount = Field(ServiceAccount(), description="Who the operator is to the API server.")
    alerts: Alerts = Field(Alerts(), description="The webhook that Alertmanager calls.")
    service_monitor: ServiceMonitor = Field(ServiceMonitor(), description="For the Prometheus operator.")
    resources: Resources = Field(
        Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}),
        description="For the operator alone: the pods of OptimizationJobs have theirs from their OptimizationRuntime.",
    )
    node_selector: Labels = Field({}, description="The labels of the nodes that the operator may run on.")
    tolerations: list[dict[str, Any]] = Field([], description="The taints that it bears, as in corev1.Toleration.")


def values_yaml() -> str:
    """The chart's values.yaml: every value with its default, under what it means."""
    return "\n".join(_lines(Values(), "")) + "\n"


def values_schema() -> dict[str, Any]:
    """The chart's values.schema.json: an unknown value is an error, but for `global`, which a parent chart may set."""
    schema = inlined(wire_schema(Values))
    members = {**schema["properties"], "global": {"type": "object"}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "properties": members}


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
