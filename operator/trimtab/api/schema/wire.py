"""Pydantic models as JSON Schema of their wire form, and as the dialect that CustomResourceDefinitions speak.

A structural schema has no references, no unions and no null, so optional fields are absent ones and references are
inlined. What is neither known to the dialect nor safe to drop is an error here, not a surprise in the API server.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from trimtab.api.base import RULES, Spec, told

_LIMITS = [f"{end}{what}" for end in ("min", "max") for what in ("imum", "Length", "Items", "Properties")]
# What constrains or completes a value; a status has none of it, for it was written by a program.
_STRICT = {"default", "pattern", "not", "propertyNames", RULES, *_LIMITS}
Translation = Callable[[Any, bool], dict[str, Any]]


class _WireSchema(GenerateJsonSchema):
    """Adds each model's rules, and writes optional fields and defaults as a person would."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value  # in the order of the models, which is the order to read them in

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        json_schema = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, Spec) and model.rules:
            json_schema[RULES] = [{"rule": rule.cel, "message": rule.message} for rule in model.rules]
        return json_schema

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """With the form of names beside their length, and not around the values (`patternProperties`)."""
        json_schema = super().dict_schema(schema)
        for pattern, values in json_schema.pop("patternProperties", {}).items():
            json_schema["propertyNames"]["pattern"] = pattern
            json_schema["additionalProperties"] = values
        return json_schema

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        json_schema = super().default_schema(schema)
        return {key: value for key, value in json_schema.items() if key != "default" or value is not None}

    def encode_default(self, dft: Any) -> Any:
        """Nested defaults follow by themselves: `target: {}` says as much as all of its fields."""
        if isinstance(dft, BaseModel):
            return dft.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if isinstance(dft, list):
            return [self.encode_default(item) for item in dft]
        return super().encode_default(dft)


def wire_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of what a person writes, with `$defs`; rules are under `x-kubernetes-validations`."""
    return model.model_json_schema(by_alias=True, schema_generator=_WireSchema)


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema without `$defs` and `$ref`. What stands beside a reference wins over what it refers to."""
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].rpartition("/")[2]]
            return resolve(target | {key: value for key, value in node.items() if key != "$ref"})
        return {key: resolve(value) for key, value in node.items() if key != "$defs"}

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def structural(model: type[BaseModel], *, stored: bool = False) -> dict[str, Any]:
    """The structural schema of `model`.

    A `stored` one has types and descriptions only, so that the API server never refuses what a program measured.
    Raises ValueError on a construct that a structural schema cannot express.
    """
    return _structural(inlined(wire_schema(model)), stored)


def _structural(node: dict[str, Any], stored: bool) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key not in _DIALECT:
            raise ValueError(
                f"{key}: {value!r} has no place in a structural schema; write an optional member and a Rule"
            )
        if not (stored and key in _STRICT):
            result |= _DIALECT[key](value, stored)
    rules = [] if stored else [*_text_rules(node), *node.get(RULES, [])]
    return result | {RULES: rules} if rules else result


def _same(key: str) -> Translation:
    return lambda value, _: {key: value}


_DIALECT: dict[str, Translation] = {
    **{key: _same(key) for key in ("default", "enum", "required", *_LIMITS)},
    "type": lambda kind, _: {"type": kind} if isinstance(kind, str) else {"x-kubernetes-int-or-string": True},
    **dict.fromkeys(("title", "examples", "patternErrorMessage"), lambda *_: {}),  # for editors
    **dict.fromkeys(("pattern", "not", "propertyNames", RULES), lambda *_: {}),  # become rules
    "description": lambda text, _: {"description": one_line(text)},
    "properties": lambda fields, stored: {"properties": {name: _structural(fields[name], stored) for name in fields}},
    "items": lambda item, stored: {"items": _structural(item, stored)},
    # A bool here says whether unknown fields are welcome; the API server refuses or prunes them of itself.
    "additionalProperties": lambda value, stored: (
        {} if isinstance(value, bool) else {"additionalProperties": _structural(value, stored)}
    ),
    "const": lambda value, _: {"enum": [value]},
    "exclusiveMinimum": lambda bound, _: {"minimum": bound, "exclusiveMinimum": True},
    "exclusiveMaximum": lambda bound, _: {"maximum": bound, "exclusiveMaximum": True},
}
"""How each keyword is written in the dialect."""


def _text_rules(node: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A `Pattern`, a `Without`, and what the names in a map may be, as CEL.

    The dialect knows patterns, but answers with the regular expression; for the keys of a map it has no word.
    """
    if "pattern" in node and node["type"] == "string":
        problem = node["patternErrorMessage"]
        yield told(f"self.matches(r'{node['pattern']}')", problem, f"is {problem}")
    if "not" in node:
        problem = node["not"]["patternErrorMessage"]
        yield told(f"!self.matches(r'{node['not']['pattern']}')", problem, problem)
    if "propertyNames" in node:
        yield from _name_rules(node["propertyNames"])


def _name_rules(names: dict[str, Any]) -> Iterator[dict[str, str]]:
    limit = names["maxLength"]
    yield {"rule": f"self.all(name, name.size() <= {limit})", "message": f"a name has more than {limit} characters"}
    if "pattern" in names:
        problem, fits = names["patternErrorMessage"], f"name.matches(r'{names['pattern']}')"
        first = f"self.filter(name, !{fits})[0]"
        yield told(f"self.all(name, {fits})", f"a name is {problem}", f"is {problem}", first)


def one_line(text: str) -> str:
    """A docstring as flowing text, its paragraphs joined."""
    return " ".join(inspect.cleandoc(text).split())
