"""The base of every model of the contract, and rules that hold in Python and in the API server alike.

What people write is read strictly (`Spec`: an unknown field is an error). What programs stored is read
tolerantly (`Record`: an unknown field is ignored), so that two versions of the operator and its images understand
each other. A `Rule` states one sentence twice, as CEL for the API server and as a Python predicate for
`trimtab validate`, with one message for both; a `Pattern` and a `Without` do so for a string. The tests run every
counter-example through both. What a cluster alone refuses is `InCluster`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    alias_generators,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

RULES = "x-kubernetes-validations"


@dataclass(frozen=True)
class Rule:
    """A sentence that must hold of a model.

    `cel` is evaluated by the API server with the object as `self`. `holds` is the same in Python; None for a
    transition rule (`oldSelf`), which has no meaning where there is no earlier object.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None


to_camel = cache(alias_generators.to_camel)
"""A field's name on the wire. Settings are named so at every turn, and pydantic's own is four regular expressions."""


@cache
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex, re.ASCII)


@dataclass(frozen=True)
class Pattern:
    """The form a string must have, and how to say so: `Annotated[str, Pattern(r"^[0-9]+%$", "a percent such as 1%")]`.

    A bare `Field(pattern=...)` would answer with the regular expression, in Python and in the API server.
    """

    regex: str
    expected: str

    def check(self, text: str) -> str:
        """The text itself. Raises ValueError where it has another form."""
        if not _compiled(self.regex).fullmatch(text):
            raise ValueError(f"{text!r} is not {self.expected}")
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # patternErrorMessage is what the language servers of YAML and JSON show.
        return handler(schema) | {"pattern": self.regex, "patternErrorMessage": f"not {self.expected}"}


@dataclass(frozen=True)
class WholeOrText(Pattern):
    """A `Pattern` for text that people also write as a whole number, without quotes; it is kept as text.

    Older API servers pass over maxLength of such a field and reckon with 3 MB of text, on which no regular expression
    is affordable: so `cel` says the same in cheaper words.
    """

    cel: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = super().__get_pydantic_core_schema__(source, handler)
        return core_schema.no_info_before_validator_function(_as_text, text)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return super().__get_pydantic_json_schema__(schema, handler) | {
            "type": ["integer", "string"],
            RULES: [told(self.cel, f"not {self.expected}", f"is not {self.expected}")],
        }


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def told(rule: str, message: str, problem: str, value: str = "self") -> dict[str, str]:
    """A rule for the API server, which repeats the value back: a string, in CEL."""
    return {"rule": rule, "message": message, "messageExpression": f'"\'" + {value} + "\' {problem}"'}


@dataclass(frozen=True)
class Without:
    """What a string may not hold anywhere, and how to say so: the other half of a `Pattern`."""

    regex: str
    problem: str

    def check(self, text: str) -> str:
        """The text itself. Raises ValueError where it holds that."""
        if re.search(self.regex, text, re.ASCII):
            raise ValueError(f"{text!r} {self.problem}")
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"not": {"pattern": self.regex, "patternErrorMessage": self.problem}}


@dataclass(frozen=True)
class InCluster:
    """What the API server alone asks of a string: the same manifest may say more to a laptop."""

    cel: str
    message: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {RULES: [{"rule": self.cel, "message": self.message}]}


class Spec(BaseModel):
    """Something a person writes. Fields are snake_case here and camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_enum_values=False
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.rules:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(rule.message)
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Frozen, so one will do: pydantic copies the default of a field for every model that leaves it out."""
        return self

    def wire(self) -> dict[str, Any]:
        """The JSON form: camelCase keys, no unset optional fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Record(Spec):
    """Something a program stored: unknown fields are ignored, not refused."""

    model_config = ConfigDict(extra="ignore")


def exactly_one(*names: str) -> Callable[[Any], bool]:
    """A predicate for rules: exactly one of the optional fields `names` is set."""
    return lambda model: sum(getattr(model, name) is not None for name in names) == 1


def exactly_one_cel(*names: str) -> str:
    """The same in CEL, over the wire names."""
    return "[" + ", ".join(f"has(self.{to_camel(name)})" for name in names) + "].exists_one(x, x)"
