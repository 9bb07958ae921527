"""What is wrong with a document, one line each: the field, the value, the remedy.

Pydantic knows all three and says them in its own way; this module says them in ours, with the field as it is written
in YAML and a suggestion for a misspelt one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

SHOWN = 60
"""Characters of a wrong value that are repeated back."""


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Every problem of a document that `model` refused, in the order of the document."""
    return [_line(problem, model) for problem in error.errors()]


def _line(problem: Any, model: type[BaseModel]) -> str:
    where = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, name = problem["loc"]
        close = difflib.get_close_matches(str(name), _fields(model, parents), n=1)
        return f"{where}: unknown field" + (f"; did you mean {close[0]}?" if close else "; remove it")
    if problem["type"] == "missing":
        return f"{where}: required, and not given"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}" if where else str(problem["ctx"]["error"])
    return f"{where}: {_value(problem['input'])} {_expected(problem)}"


_FORMS = {
    "Range": 'such as {values: ["0.3", "0.5"]} or {min: "0.1", max: "0.5"}',
    "IntRange": "such as {values: [2, 4]} or {min: 1, max: 8}",
    "CountRange": "such as {values: [100, 300]} or {min: 100, max: 500}",
}
"""How the models are written that people take for a plain value."""


def _path(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else repr(part)}"
    return text.removeprefix(".")


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _expected(problem: Any) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "string_pattern_mismatch":
        return f"does not have the form {context['pattern']}"
    if problem["type"] == "enum":
        return f"is none of {context['expected']}"
    if problem["type"] == "string_type" and type(problem["input"]) in (int, float):
        return 'is a number where text in quotes is wanted, with its unit if it has one, such as "1%", "5ms" or "0.5"'
    if problem["type"] == "list_type":
        plain = isinstance(problem["input"], str | int | float)
        return "is refused: a list is wanted" + (f": write [{_value(problem['input'])}]" if plain else "")
    if problem["type"] == "model_type":
        return (
            f"is refused: a mapping of fields is wanted, {_FORMS.get(context['class_name'], 'such as {name: value}')}"
        )
    return f"is refused: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _fields(model: type[BaseModel], path: list[str | int]) -> list[str]:
    """The wire names of the fields at a path of the model."""
    for part in path:
        if isinstance(part, str):
            info = next((i for n, i in model.model_fields.items() if part in (n, i.alias)), None)
            model = next(iter(_models(info.annotation)), model) if info else model
    return [info.alias or name for name, info in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
