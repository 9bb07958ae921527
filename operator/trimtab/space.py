"""The space a pipeline spans, and the pipeline that one point of it stands for.

`fix` leads from a point to its pipeline, `locate` back, and `span` from a few pipelines to a space that holds them.
A point is a flat mapping from a setting's name to its choice, both as text (`{"quantize.perChannel": "true"}`): that
is what the status stores and what people read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

from trimtab.api.base import Spec, to_camel
from trimtab.api.techniques import IntRange, Range, Scale, Searched, Step, chosen

Point = Mapping[str, str]

GRID_POINTS = 5
"""What a grid makes of an interval; a list of values is taken as it is."""


@dataclass(frozen=True)
class Dimension:
    """One searched setting: either listed choices, or an interval."""

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    def at(self, fraction: float) -> str:
        """The text of the value at a fraction in [0, 1] of the interval."""
        if self.log:
            value = exp(log(self.low) + fraction * (log(self.high) - log(self.low)))
        else:
            value = self.low + fraction * (self.high - self.low)
        return str(round(value)) if self.integer else f"{value:.6g}"

    def grid(self) -> tuple[str, ...]:
        """The choices, or evenly spaced values of the interval without repeats."""
        if self.choices:
            return self.choices
        return tuple(dict.fromkeys(self.at(i / (GRID_POINTS - 1)) for i in range(GRID_POINTS)))


@dataclass(frozen=True)
class Tried:
    """One earlier trial as the search sees it. `value` (to minimize) is None while it runs or if it failed."""

    point: Point
    value: float | None = None
    violation: float = 0.0
    """How far the nearest constraint is missed; 0 or less is feasible."""


def space(steps: Sequence[Step]) -> tuple[Dimension, ...]:
    """Every setting with more than one possible value, in the order of the pipeline."""
    return tuple(d for label, step in labelled(steps) for d in _dimensions(label, step) if len(d.grid()) > 1)


def labelled(steps: Sequence[Step]) -> Iterator[tuple[str, Step]]:
    """Each step with its name: the technique's, and a number from the second of its kind (`prune`, `prune2`)."""
    seen: dict[str, int] = {}
    for step in steps:
        count = seen[step.technique] = seen.get(step.technique, 0) + 1
        yield (step.technique if count == 1 else f"{step.technique}{count}"), step


def _dimensions(label: str, step: Step) -> Iterator[Dimension]:
    if step.optional:
        yield Dimension(f"{label}.enabled", ("true", "false"))
    for field in _searched(step.config):
        setting = getattr(step.config, field)
        name = f"{label}.{to_camel(field)}"
        if isinstance(setting, Range | IntRange):
            yield _numeric(name, setting)
        else:
            yield Dimension(name, tuple(_text(choice) for choice in setting))


def _numeric(name: str, setting: Range | IntRange) -> Dimension:
    if setting.values is not None:
        return Dimension(name, tuple(str(value) for value in setting.values))
    assert setting.min is not None
    assert setting.max is not None
    logarithmic = isinstance(setting, Range) and setting.scale == Scale.LOG
    return Dimension(name, (), float(setting.min), float(setting.max), logarithmic, isinstance(setting, IntRange))


def _text(choice: Any) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def fix(steps: Sequence[Step], point: Point) -> list[Step]:
    """The pipeline with every setting chosen: what a trial's Task carries. Steps left out by the point are gone."""
    return [
        Step.model_validate({step.technique: _fix_config(label, step, point)})
        for label, step in labelled(steps)
        if point.get(f"{label}.enabled") != "false"
    ]


def _fix_config(label: str, step: Step, point: Point) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for field, info in type(step.config).model_fields.items():
        setting = getattr(step.config, field)
        text = point.get(f"{label}.{to_camel(field)}")
        if isinstance(setting, Range | IntRange):
            value = text or str((setting.values or [setting.min])[0])
            config[field] = {"values": [int(value) if isinstance(setting, IntRange) else value]}
        elif any(isinstance(mark, Searched) for mark in info.metadata):
            config[field] = [next(c for c in setting if text is None or _text(c) == text)]
        else:
            config[field] = setting
    return config


def locate(steps: Sequence[Step], pipeline: Sequence[Step]) -> Point | None:
    """The point of the space of `steps` that stands for `pipeline`, whose every setting is chosen.

    None where the space has no such point. What is not searched, such as a list of ignored layers, is not compared.
    """
    point: dict[str, str] = {}
    left = list(pipeline)
    for label, step in labelled(steps):
        settings = _settings(label, step, left[0]) if left else None
        if settings is None and not step.optional:
            return None
        if settings is not None:
            del left[0]
        point |= {f"{label}.enabled": _text(settings is not None)} | (settings or {})
    named = {dimension.name for dimension in space(steps)}
    return None if left else {name: text for name, text in point.items() if name in named}


def _settings(label: str, step: Step, fixed: Step) -> dict[str, str] | None:
    """What is chosen in `fixed`, as settings of `step`; None unless they are among its choices."""
    if step.technique != fixed.technique:
        return None
    chosen_here = {field: _only(getattr(fixed.config, field)) for field in _searched(step.config)}
    if not all(_holds(getattr(step.config, field), text) for field, text in chosen_here.items()):
        return None
    return {f"{label}.{to_camel(field)}": text for field, text in chosen_here.items()}


def span(pipelines: Sequence[Sequence[Step | None]]) -> list[Step]:
    """The smallest pipeline in whose space each of `pipelines` lies.

    All have the same length, with None for a step left out: the steps at one place become one, of one technique.
    """
    merged = []
    for column in zip(*pipelines, strict=True):
        steps = [step for step in column if step]
        if steps:
            first = steps[0]
            union = {field: _union([getattr(s.config, field) for s in steps]) for field in _searched(first.config)}
            held = {first.technique: first.config.model_copy(update=union)}
            merged.append(Step.model_validate(held | {"optional": len(steps) < len(column)}))
    return merged


def _searched(config: Spec) -> Iterator[str]:
    """The fields of a config that a point chooses."""
    for field, info in type(config).model_fields.items():
        numeric = isinstance(getattr(config, field), Range | IntRange)
        if numeric or any(isinstance(mark, Searched) for mark in info.metadata):
            yield field


def _only(setting: Any) -> str:
    choices: Sequence[Any] = setting.values or [] if isinstance(setting, Range | IntRange) else setting
    return _text(chosen(choices))


def _holds(setting: Any, text: str) -> bool:
    if not isinstance(setting, Range | IntRange):
        return text in [_text(choice) for choice in setting]
    if setting.values is not None:
        return text in [str(value) for value in setting.values]
    assert setting.min is not None
    assert setting.max is not None
    return float(setting.min) <= float(text) <= float(setting.max)


def _union(settings: Sequence[Any]) -> Any:
    """One setting with the choices of all, each of which is listed."""
    if isinstance(settings[0], Range | IntRange):
        values = dict.fromkeys(value for setting in settings for value in setting.values or [])
        return type(settings[0])(values=list(values))
    return list(dict.fromkeys(choice for setting in settings for choice in setting))


def words(point: Point) -> str:
    """The point for people: the steps it takes with their settings, such as `quantize operatorScope=Compute`.

    Where there was nothing to choose the point is empty, and the pipeline is what the job says.
    """
    if not point:
        return "the pipeline as given"
    chosen_by: dict[str, list[str]] = {}
    for name, text in without_idle(point).items():
        label, _, setting = name.rpartition(".")
        if text != "false" or setting != "enabled":
            chosen_by.setdefault(label, []).extend([] if setting == "enabled" else [f"{setting}={text}"])
    return ", ".join(" ".join([label, *settings]) for label, settings in chosen_by.items())


def canonical(point: Point) -> tuple[tuple[str, str], ...]:
    """Equal for two points that stand for the same pipeline."""
    return tuple(sorted(without_idle(point).items()))


def without_idle(point: Point) -> Point:
    """The point without the settings of steps it leaves out: they make no difference."""
    idle = tuple(
        name.removesuffix("enabled") for name, value in point.items() if name.endswith(".enabled") and value == "false"
    )
    if not idle:
        return point
    return {name: value for name, value in point.items() if name.endswith(".enabled") or not name.startswith(idle)}
