"""From what was seen of a model to a job a person can read: the YAML that `optimize` runs and `init` writes.

The text is the only form: what `optimize` runs is what `--dry-run` prints, read back as any job is.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from trimtab.api.job import NAME_LIMIT
from trimtab.api.look import Look
from trimtab.api.model import EngineName, is_address
from trimtab.api.quantities import show_quantity

OPERATORS_SHOWN = 6


@dataclass(frozen=True)
class Asked:
    """What a person asked for, each as it is written in a job; None leaves it to what was seen."""

    max_drop: str
    timeout: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    engines: Sequence[EngineName] = ()


def job_name(model: str) -> str:
    """A Kubernetes name from that of a file, or of what a registry has."""
    name = re.sub("[^a-z0-9]+", "-", PurePosixPath(_title(model)).stem.lower())[:NAME_LIMIT].strip("-")
    return name or "model"


def job_text(model: str, look: Look, asked: Asked, published: str) -> str:
    """The OptimizationJob, with comments that say what was seen and what each part is for.

    `model` and `published` are paths or addresses.
    """
    return "\n".join(_lines(model, look, asked, published)) + "\n"


def run_command(job: Path, out: Path) -> str:
    """What runs a job that was written, in the folder that was named with its model."""
    return shlex.join(["trimtab", "run", str(job), "--out", str(out)])


def _title(model: str) -> str:
    """A file's name; of `models:/name/3`, the name."""
    path = model.removeprefix("models:/").partition("/")[0] if model.startswith("models:") else urlsplit(model).path
    return PurePosixPath(path if is_address(model) else model).name


def _lines(model: str, look: Look, asked: Asked, published: str) -> Iterator[str]:
    yield from (f"# {line}" for line in summary(model, look))
    yield "apiVersion: trimtab.dev/v1alpha1"
    yield "kind: OptimizationJob"
    yield f"metadata: {{name: {json.dumps(job_name(model))}}}"
    yield "spec:"
    yield f"  model: {{uri: {_uri(model)}, format: {look.format}}}"
    yield "  # Three parts that share no sample, so that the model is not judged on what it was tuned on."
    yield "  data:"
    for name, use in _USES.items():
        yield f"    {name}: {{uri: {_uri(look.data[name])}}}  # {look.samples[name]} samples: {use}"
    yield "  # Every candidate is measured on each engine; the first is what the input model is measured on."
    yield f"  target: {{engines: [{', '.join(asked.engines or look.engines)}]}}"
    yield "  # What the published model promises, compared with the input model. Otherwise nothing is published."
    yield "  constraints:"
    yield from _constraints(look, asked)
    yield "  # What to prefer among those that keep every promise."
    yield "  objectives: [{metric: latencyP50, goal: Minimize}]"
    yield "  # Techniques are left out, so they follow from the model and this CPU. For a search of your own, say:"
    yield "  # techniques: [{quantize: {operatorScope: [All, Compute], perChannel: [true, false]}}]"
    yield "  # No new trial is started after that; what was found by then is measured and published."
    yield f"  search: {{timeout: {asked.timeout or _timeout(look)}}}"
    yield f"  publish: {{uri: {_uri(published)}}}"


def _timeout(look: Look) -> str:
    """A small model is done within five minutes on two cores, and a large one still gets a few trials."""
    return f"{min(150 + 2 * look.size // 2**20, 3600)}s"


_USES = {
    "calibration": "what activations look like",
    "evaluation": "what the search sees",
    "holdout": "what the promise is checked on, once",
}


def summary(model: str, look: Look) -> Iterator[str]:
    """What was seen, in a few lines."""
    nodes = sum(look.operators.values())
    most = ", ".join(f"{count} {name}" for name, count in list(look.operators.items())[:OPERATORS_SHOWN])
    yield f"{_title(model)}: {look.format}, {show_quantity(look.size)}, {nodes} operators ({most})"
    yield "inputs: " + ", ".join(f"{name} {form}" for name, form in look.inputs.items())
    yield "outputs: " + ", ".join(f"{name} {form}" for name, form in look.outputs.items())
    yield f"labels: {look.labels or 'none'}; quality: {look.metric}"


def _constraints(look: Look, asked: Asked) -> Iterator[str]:
    yield f"  - {{metric: {look.metric}, maxDrop: {asked.max_drop}}}"
    yield _bound("latencyP95", asked.max_latency, "5ms")
    yield _bound("size", asked.max_size, "20Mi")


def _bound(metric: str, bound: str | None, example: str) -> str:
    # A size may have no unit, and YAML would read a number.
    return f'  - {{metric: {metric}, max: "{bound}"}}' if bound else f"  # - {{metric: {metric}, max: {example}}}"


def _uri(place: str) -> str:
    return json.dumps(place if is_address(place) else Path(place).resolve().as_uri())
