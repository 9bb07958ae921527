"""The kinds, whole, as CustomResourceDefinitions and as JSON Schema for editors; and the JSON Schemas
of the documents that programs of ours write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from trimtab.api import names
from trimtab.api.base import RULES, Record, Spec
from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.runtime import ClusterOptimizationRuntime, OptimizationRuntime
from trimtab.api.schema.wire import one_line, structural, wire_schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Column:
    """What `kubectl get` shows."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Only with `-o wide`."""


AGE = Column("Age", ".metadata.creationTimestamp", "date")


def told(condition: str) -> Column:
    """What a condition says."""
    return Column("Message", f'.status.conditions[?(@.type=="{condition}")].message', wide=True)


@dataclass(frozen=True)
class Kind:
    """What a model does not say of its kind. `keyed` names the status lists that are maps, and their key."""

    model: type[Spec]
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    keyed: tuple[tuple[str, str], ...] = ()
    namespaced: bool = True

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def parts(self) -> dict[str, type[Spec]]:
        """The models of `spec`, which a person writes, and of `status`, where there is one."""
        fields = self.model.model_fields
        return {name: cast(type[Spec], fields[name].annotation) for name in ("spec", "status") if name in fields}


KINDS = (
    Kind(
        OptimizationJob,
        "optimizationjobs",
        "tjob",
        (
            Column("State", ".status.state"),
            Column("Trials", ".status.progress"),
            Column("Best", ".status.best.name"),
            Column("Speed-up", ".status.best.speedUp"),
            Column("Quality", ".status.best.quality"),
            Column("Size", ".status.best.size"),
            AGE,
            told(names.ConditionType.COMPLETE),
        ),
        (("conditions", "type"), ("trials", "index")),
    ),
    Kind(
        ModelMonitor,
        "modelmonitors",
        "tmon",
        (Column("State", ".status.state"), Column("Last job", ".status.lastJob"), AGE),
        (("conditions", "type"),),
    ),
    Kind(
        OptimizationRuntime,
        "optimizationruntimes",
        "trun",
        (Column("Image", ".spec.image"), Column("Store", ".spec.store.uri"), AGE),
    ),
    Kind(
        ClusterOptimizationRuntime,
        "clusteroptimizationruntimes",
        "ctrun",
        (Column("Image", ".spec.image"), Column("Store", ".spec.store.uri"), AGE),
        namespaced=False,
    ),
)


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of `kind`."""
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": column.name, "type": column.type, "jsonPath": column.path}
            | ({"priority": 1} if column.wide else {})
            for column in kind.columns
        ],
        "schema": {"openAPIV3Schema": _root(kind)},
    }
    if "status" in kind.parts:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def _root(kind: Kind) -> dict[str, Any]:
    """The whole object. Its metadata is Kubernetes' own, and needs no schema here."""
    parts = {name: structural(model, stored=issubclass(model, Record)) for name, model in kind.parts.items()}
    for field, key in kind.keyed:
        parts["status"]["properties"][field] |= {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [key],
        }
    kubernetes = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    root = {
        "type": "object",
        "description": one_line(kind.model.__doc__ or ""),
        "required": ["spec"],
        "properties": kubernetes | parts,
    }
    rules = wire_schema(kind.model).get(RULES)
    return root | {RULES: rules} if rules else root


def editor_schema(kind: Kind) -> dict[str, Any]:
    """What a person may write: an unknown field is an error, and there is no status."""
    spec = _without_rules(wire_schema(kind.parts["spec"]))
    definitions = spec.pop("$defs", {})
    return {
        "$schema": DRAFT,
        "title": f"{kind.name} ({names.API_VERSION})",
        "description": one_line(kind.model.__doc__ or ""),
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": names.API_VERSION},
            "kind": {"const": kind.name},
            "metadata": {"type": "object"},
            "spec": spec,
        },
        "$defs": definitions,
    }


def document_schema(model: type[Record], version: str) -> dict[str, Any]:
    """What a document of ours holds. A reader ignores fields it does not know: later versions may add some."""
    schema: dict[str, Any] = _without_rules(wire_schema(model))
    return {"$schema": DRAFT} | schema | {"title": f"{model.__name__} ({names.GROUP}/{version})"}


def _without_rules(node: Any) -> Any:
    """CEL is for the API server; editors have no evaluator for it."""
    if isinstance(node, dict):
        return {key: _without_rules(value) for key, value in node.items() if key != RULES}
    return [_without_rules(item) for item in node] if isinstance(node, list) else node
