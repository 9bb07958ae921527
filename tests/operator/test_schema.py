"""What is generated from the models: fresh, structural, complete, and a clear error where it cannot be made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from trimtab.api.base import RULES, Pattern, Record, Rule, Spec
from trimtab.api.names import API_VERSION
from trimtab.api.schema.__main__ import ROOT, files, main
from trimtab.api.schema.kinds import KINDS, crd, editor_schema
from trimtab.api.schema.reference import reference
from trimtab.api.schema.wire import structural
from trimtab.api.values import Values, values_yaml

DIGITS = Pattern(r"^\d+$", "a row of digits such as 42")


def field(annotation: Any, default: Any = ...) -> dict[str, Any]:
    """The structural schema of a one-field model's field."""
    model = type("One", (Spec,), {"__annotations__": {"one": annotation}, "one": Field(default)})
    return structural(model)["properties"]["one"]


class Inner(Spec):
    """An inner model,
    described in two lines."""

    rules = (Rule("self.name != 'x'", "not x", lambda inner: inner.name != "x"),)
    name: str
    size: int = 3


DIALECT = {
    "optional is absent, not null": (int | None, None, {"type": "integer"}),
    "exclusive bounds": (
        Annotated[int, Field(gt=0, lt=9)],
        ...,
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": True},
    ),
    "a constant": (Literal["A"], ..., {"type": "string", "enum": ["A"]}),
    "a map": (dict[str, int], ..., {"type": "object", "additionalProperties": {"type": "integer"}}),
    "a model, inlined, with its rules and only the defaults that need saying": (
        Inner,
        Inner(name="y"),
        {
            "type": "object",
            "description": "An inner model, described in two lines.",
            "properties": {"name": {"type": "string"}, "size": {"type": "integer", "default": 3}},
            "required": ["name"],
            "default": {"name": "y"},
            RULES: [{"rule": "self.name != 'x'", "message": "not x"}],
        },
    ),
    "a pattern, with words for it": (
        Annotated[str, Field(max_length=5), DIGITS],
        ...,
        {
            "type": "string",
            "maxLength": 5,
            RULES: [
                {
                    "rule": r"self.matches(r'^\d+$')",
                    "message": "not a row of digits such as 42",
                    "messageExpression": '"\'" + self + "\' is not a row of digits such as 42"',
                }
            ],
        },
    ),
}


@pytest.mark.parametrize("case", DIALECT)
def test_dialect(case: str) -> None:
    annotation, default, expected = DIALECT[case]
    assert field(annotation, default) == expected


def test_a_stored_value_has_types_only() -> None:
    class Stored(Record):
        number: Annotated[int, Field(ge=1)] = 2
        text: Annotated[str, Field(max_length=5), DIGITS] = "4"

    assert structural(Stored, stored=True)["properties"] == {"number": {"type": "integer"}, "text": {"type": "string"}}


@pytest.mark.parametrize("annotation", [int | str, tuple[int, str]])
def test_what_the_dialect_cannot_say_is_an_error(annotation: Any) -> None:
    with pytest.raises(ValueError, match="has no place in a structural schema"):
        field(annotation)


def test_generated_files_are_fresh() -> None:
    assert main(["--check"]) == 0


def test_a_stale_file_is_named_and_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 0
    stale = tmp_path / "crds" / "optimizationjobs.yaml"
    fresh = stale.read_text()
    stale.write_text(fresh + "# edited\n")
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "crds/optimizationjobs.yaml is stale: run `python -m trimtab.api.schema`"
    ]
    assert main([], tmp_path) == 0
    assert stale.read_text() == fresh


def test_nothing_generated_was_left_behind() -> None:
    """A renamed kind would leave its old file."""
    generated = ("crds/*.yaml", "docs/schema/*.json", "charts/trimtab/templates/crds/*.yaml")
    present = {str(path.relative_to(ROOT)) for pattern in generated for path in ROOT.glob(pattern)}
    assert present <= set(files())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_columns_show_fields_that_exist(kind: Any) -> None:
    root = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for column in kind.columns:
        node = root | {"properties": root["properties"] | {"metadata": {"properties": {"creationTimestamp": {}}}}}
        for name in re.sub(r"\[.*\]", "[]", column.path).removeprefix(".").split("."):
            node = node["properties"][name.removesuffix("[]")]
            node = node["items"] if name.endswith("[]") else node


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_whatever_a_person_writes_is_explained(kind: Any) -> None:
    assert list(unexplained(structural(kind.parts["spec"]), "spec")) == []


def unexplained(node: dict[str, Any], path: str) -> Any:
    for name, child in node.get("properties", {}).items():
        if not child.get("description"):
            yield f"{path}.{name}"
        yield from unexplained(child.get("items", child), f"{path}.{name}")


def test_the_reference_has_every_field_once() -> None:
    page = reference()
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))
    assert "| `maxDrop` | a percent such as 1% |" in page
    assert "- static quantization needs data.calibration" in page


def test_editors_refuse_unknown_fields_everywhere() -> None:
    for kind in KINDS:
        objects = list(objects_in(editor_schema(kind)))
        assert len(objects) > 3
        assert all(node["additionalProperties"] is False for node in objects if "properties" in node)
        assert RULES not in json.dumps(objects)


def objects_in(node: Any) -> Any:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield node
        for child in node.values():
            yield from objects_in(child)


def test_values_yaml_says_the_defaults() -> None:
    assert Values.model_validate(yaml.safe_load(values_yaml())) == Values()


def test_examples_are_valid() -> None:
    models = {kind.name: kind.model for kind in KINDS}
    for path in ROOT.glob("examples/**/*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("apiVersion") == API_VERSION:
                models[document["kind"]].model_validate(document)
