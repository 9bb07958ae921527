"""Every rule, pattern and bound of the contract refuses its counter-example, in Python and in a real API server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from pydantic import ValidationError

import apiserver
from contracts.bad_manifests import (
    AMOUNTS,
    ANY_KEY,
    BEYOND,
    BOUNDS,
    CASES,
    CHANGES,
    CLUSTER_CASES,
    EDITS,
    GOOD,
    JOB,
    NO_AMOUNTS,
    REMOVED,
    RUNTIME,
    Bound,
    Case,
    Manifest,
    changed,
)
from lab.shell import wait_for
from trimtab.api import names
from trimtab.api.base import RULES
from trimtab.api.schema.kinds import KINDS, crd
from trimtab.api.schema.wire import inlined, wire_schema
from waiting import HANG

MODELS = {kind.name: kind.model for kind in KINDS}
PLURALS = {kind.name: kind.plural for kind in KINDS}
SCHEMAS = {kind.name: wire_schema(kind.model) for kind in KINDS}
TREES = {kind: inlined(schema) for kind, schema in SCHEMAS.items()}


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_ones_are_good(kind: str) -> None:
    MODELS[kind].model_validate(GOOD[kind])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_python_refuses_and_says_why(case: Case) -> None:
    assert any(case.says in message for _, message in problems(case.manifest))


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_python_keeps_bounds(bound: Bound) -> None:
    with pytest.raises(ValidationError) as refused:
        MODELS[bound.kind].model_validate(bound.manifest)
    kinds = {error["type"] for error in refused.value.errors() if error["loc"] == bound.path}
    assert kinds & {*BEYOND[bound.keyword][1]}


def test_python_reads_amounts() -> None:
    """As the API server does, below."""
    read = [MODELS["OptimizationRuntime"].model_validate(with_memory(amount)) for amount in AMOUNTS]
    assert [runtime.wire()["spec"]["resources"]["limits"]["memory"] for runtime in read] == [*map(str, AMOUNTS)]
    for amount in NO_AMOUNTS:
        assert problems(with_memory(amount))


def with_memory(amount: Any) -> Manifest:
    return changed(RUNTIME, {"spec.resources.limits.memory": amount})


def test_every_limit_is_a_bound() -> None:
    written = json.dumps([inlined(wire_schema(kind.parts["spec"])) for kind in KINDS])
    assert {*re.findall(r'"(\w+)": -?\d', written)} <= {*BEYOND, "default"}


def test_every_rule_has_a_case() -> None:
    stated = {
        (definition["title"], rule["message"])
        for schema in SCHEMAS.values()
        for definition in (schema, *schema["$defs"].values())
        for rule in definition.get(RULES, [])
        if "oldSelf" not in rule["rule"]
    }
    broken = {
        (model_at(case.good["kind"], place), message.removeprefix("Value error, "))
        for case in CASES
        for place, message in problems(case.manifest)
    }
    assert stated <= broken


@pytest.mark.parametrize("case", CLUSTER_CASES, ids=str)
def test_what_only_a_cluster_refuses_is_right_without_one(case: Case) -> None:
    MODELS[case.manifest["kind"]].model_validate(case.manifest)


def test_every_rule_of_clusters_alone_has_a_case() -> None:
    stated = {rule["message"] for tree in TREES.values() for rule in rules_of_strings(tree)}
    assert stated
    assert {message for message in stated if not any(message.startswith(case.says) for case in CLUSTER_CASES)} == set()


def rules_of_strings(node: Any) -> Iterator[dict[str, str]]:
    """Those that a string has of itself: `InCluster`."""
    if isinstance(node, dict):
        if node.get("type") == "string":
            yield from node.get(RULES, [])
        for child in node.values():
            yield from rules_of_strings(child)


def test_every_pattern_has_a_case() -> None:
    written = (json.dumps(inlined(wire_schema(kind.parts["spec"]))) for kind in KINDS)
    parts = (part for text in written for part in text.split('"patternErrorMessage": "')[1:])
    expected = {part.partition('"')[0].removeprefix("is ") for part in parts}
    assert {problem for problem in expected if not any(problem.startswith(said(case)) for case in CASES)} == set()


def test_every_change_that_is_refused_is_tried() -> None:
    definitions = [part for schema in SCHEMAS.values() for part in (schema, *schema["$defs"].values())]
    rules = [rule["message"] for part in definitions for rule in part.get(RULES, []) if "oldSelf" in rule["rule"]]
    assert sorted(rules) == sorted(immutable(path) for path in CHANGES)


def problems(manifest: Manifest) -> list[tuple[tuple[str | int, ...], str]]:
    """Where and why the models refuse a manifest."""
    with pytest.raises(ValidationError) as refused:
        MODELS[manifest["kind"]].model_validate(manifest)
    return [(error["loc"], error["msg"]) for error in refused.value.errors()]


def model_at(kind: str, place: tuple[str | int, ...]) -> str:
    """The name of the model that a manifest has at a place."""
    node = TREES[kind]
    for key in place:
        node = node["items"] if isinstance(key, int) else node.get("properties", {}).get(key, {})
    return str(node.get("title", ""))


def said(case: Case) -> str:
    """`'one' is not a percent` without the value."""
    return re.sub(r"^'[^']+' (is )?", "", case.says)


def immutable(path: str) -> str:
    _, field, *rest = path.split(".")
    name = f"{field}.{rest[0]}" if field == "search" else field
    return f"spec.{name} is immutable: create a new OptimizationJob"


BROKEN = changed(JOB, {"spec.budget.deadline": "0s"})


def without(node: Any, left_out: Callable[[Manifest], set[str]]) -> Any:
    """A schema without some of its keywords."""
    if isinstance(node, list):
        return [without(item, left_out) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: without(value, left_out) for key, value in node.items() if key not in left_out(node)}


class Server:
    """A real API server with our CRDs, asked what it would do."""

    def __init__(self) -> None:
        apiserver.install_crds()
        self.api = client.CustomObjectsApi(config.new_client_from_config(str(apiserver.kubeconfig())))

    def create(self, manifest: Manifest, *, dry: bool = True) -> str:
        """What the server answers, empty if it agrees."""
        options = {"dry_run": "All"} if dry else {}
        create = self.api.create_namespaced_custom_object
        if manifest["kind"].startswith("Cluster"):
            create = self.api.create_cluster_custom_object
        return self._answer(
            create,
            *self._kind(manifest),
            manifest,
            field_validation="Strict",
            **options,
        )

    def replace(self, manifest: Manifest) -> str:
        name = manifest["metadata"]["name"]
        version = self.api.get_namespaced_custom_object(*self._kind(manifest), name)["metadata"]["resourceVersion"]
        update = changed(manifest, {"metadata.resourceVersion": version})
        return self._answer(
            self.api.replace_namespaced_custom_object, *self._kind(manifest), name, update, dry_run="All"
        )

    def touch(self, manifest: Manifest) -> str:
        """Write a status, or a label where there is none."""
        kind, name = (*self._kind(manifest),), manifest["metadata"]["name"]
        scope = "cluster" if manifest["kind"].startswith("Cluster") else "namespaced"
        if manifest["kind"].endswith("Runtime"):
            patch = getattr(self.api, f"patch_{scope}_custom_object")
            return self._answer(patch, *kind, name, {"metadata": {"labels": {"touched": "true"}}})
        return self._answer(
            self.api.patch_namespaced_custom_object_status, *kind, name, {"status": {"state": "Inspecting"}}
        )

    def install(self, crds: Iterable[Manifest]) -> None:
        text = yaml.safe_dump_all(json.loads(json.dumps([*crds])))
        done = apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        assert done.returncode == 0, done.stderr

    def _kind(self, manifest: Manifest) -> tuple[str, ...]:
        scope = [] if manifest["kind"].startswith("Cluster") else ["default"]
        return names.GROUP, names.VERSION, *scope, PLURALS[manifest["kind"]]

    def _answer(self, call: Any, *arguments: Any, **options: Any) -> str:
        try:
            call(*arguments, **options)
        except client.ApiException as refused:
            return str(json.loads(refused.body)["message"])
        return ""


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@pytest.mark.e2e
class TestServer:
    @pytest.mark.parametrize("kind", GOOD)
    def test_accepts_the_good_ones(self, server: Server, kind: str) -> None:
        assert server.create(GOOD[kind]) == ""

    @pytest.mark.parametrize("case", CASES + CLUSTER_CASES, ids=str)
    def test_refuses_and_says_why(self, server: Server, case: Case) -> None:
        assert (case.server or case.says) in server.create(case.manifest)

    @pytest.mark.parametrize("bound", BOUNDS, ids=str)
    def test_keeps_bounds(self, server: Server, bound: Bound) -> None:
        place = re.escape(bound.field).replace(rf"\.{ANY_KEY}", rf"(\.{ANY_KEY}|\[{ANY_KEY}\])")
        told = re.escape(BEYOND[bound.keyword][2])
        assert re.search(f"{place}: ((?!, spec).)*{told}", server.create(bound.manifest))

    def test_reads_amounts(self, server: Server) -> None:
        assert [server.create(with_memory(amount)) for amount in AMOUNTS] == [""] * len(AMOUNTS)
        for amount in NO_AMOUNTS:
            assert "spec.resources.limits" in server.create(with_memory(amount))

    def test_takes_the_rules_where_maxlength_of_a_number_or_text_is_passed_over(self, server: Server) -> None:
        """Older API servers reckon then with text as long as a request may be, and refuse rules that are too dear."""
        for kind in KINDS:
            old = without(crd(kind), lambda node: {"maxLength"} if "x-kubernetes-int-or-string" in node else set())
            done = apiserver.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(old))
            assert done.returncode == 0, done.stderr

    def test_what_was_stored_before_a_rule_can_still_be_written(self, server: Server) -> None:
        named = [changed(case.manifest, {"metadata.name": f"old-{n}"}) for n, case in enumerate(CASES)]
        server.install(without(crd(kind), lambda _: {RULES}) for kind in KINDS)
        try:
            wait_for("no rules are kept", lambda: server.create(BROKEN) == "", HANG)
            stored = [manifest for manifest in named if server.create(manifest, dry=False) == ""]
            apiserver.install_crds()
            wait_for("all rules are kept", lambda: server.create(BROKEN) != "", HANG)
            assert len(stored) > len(CASES) / 2
            assert [answer for manifest in stored if (answer := server.touch(manifest))] == []
        finally:
            apiserver.install_crds()
            apiserver.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(named))

    def test_refuses_changes(self, server: Server) -> None:
        job = changed(JOB, {"metadata.name": "stored"})
        assert server.create(job, dry=False) == ""
        for path, value in CHANGES.items():
            assert immutable(path) in server.replace(changed(job, {path: value}))
        assert [server.replace(changed(job, edit)) for edit in EDITS] == [""] * len(EDITS)

    def test_kubectl_shows_every_problem_at_once(self, server: Server) -> None:
        bad = changed(JOB, {"spec.constraints.0.maxDrop": "one", "spec.data.train": REMOVED})
        done = apiserver.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(bad))
        assert done.returncode == 1
        assert "spec.constraints[0].maxDrop" in done.stderr
        assert "'one' is not a percent such as 1%" in done.stderr
        assert "distill trains: give data.train" in done.stderr

    def test_kubectl_refuses_a_misspelt_field(self, server: Server) -> None:
        bad = changed(JOB, {"spec.search.maxtrials": 3})
        done = apiserver.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(bad))
        assert 'unknown field "spec.search.maxtrials"' in done.stderr
