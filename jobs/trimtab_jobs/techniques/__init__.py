"""The table of techniques: which function carries out which config model, and on which format.

A technique is a function `(model, config, bench) -> model`. It reads its one choice per setting with
`trimtab.api.techniques.chosen`, writes the new model into `bench.out` and returns it; it raises `NotApplicable` when
there is nothing for it to do. Functions are named, not imported, so that a pod loads only what its Task needs;
techniques never import each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.api.model import ModelFormat
from trimtab_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from trimtab_jobs.data import Splits
    from trimtab_jobs.engines import Session
    from trimtab_jobs.model import Model


@dataclass(frozen=True)
class Bench:
    """What a technique works with beside its model and its config."""

    out: Path
    """An empty folder for the new model."""
    original: Model
    """The model the job was given: a distillation's teacher."""
    splits: Splits
    seed: int
    threads: int
    note: Callable[[str], None]
    """Says in one line what the technique did; shown in the report."""
    drop: Callable[[Session], float]
    """How much quality a loaded model loses on the evaluation split against the original, as a fraction: 0.01 is one
    point. Only for a technique whose config sets `max_drop`: the cache knows by that what quality has to do with it."""
    float_layers: list[str] = field(default_factory=list)
    """To be filled with the layers in scope that stay in floating point to keep the quality; listed in the report."""


def counted(names: Mapping[str, int]) -> str:
    """For notes: `1 Conv, 2 MatMul`."""
    return ", ".join(f"{count} {name}" for name, count in sorted(names.items()))


def check_ignored(technique: str, ignored: Sequence[str], layers: Sequence[str]) -> None:
    """Raise InvalidInput unless each of the names is that of a layer."""
    for name in ignored:
        if name not in layers:
            near = ", ".join(get_close_matches(name, layers, cutoff=0.0)) or "none"
            raise InvalidInput(
                f"{technique}.ignoredLayers: the model has no layer {name!r}: the nearest names are {near}"
            )


Function = Callable[["Model", Any, Bench], "Model"]


@dataclass(frozen=True)
class Entry:
    function: str
    accepts: ModelFormat
    """A model in another format is converted first, where a conversion exists (`trimtab_jobs.convert`)."""
    evaluation: bool = False
    """Whether it looks at values of the evaluation split, guard or not: to decide, or to check what it wrote. Shapes
    are no values: the model's inputs say them."""

    def load(self) -> Function:
        module, name = self.function.split(":")
        function: Function = getattr(import_module(module), name)
        return function


TECHNIQUES: dict[str, Entry] = {
    "optimizeGraph": Entry("trimtab_jobs.techniques.optimize_graph:optimize_graph", ModelFormat.ONNX, evaluation=True),
    "castFloat": Entry("trimtab_jobs.techniques.cast_float:cast_float", ModelFormat.ONNX, evaluation=True),
    "quantize": Entry("trimtab_jobs.techniques.quantize:quantize", ModelFormat.ONNX),
    "quantizeWeights": Entry(
        "trimtab_jobs.techniques.quantize_weights:quantize_weights", ModelFormat.ONNX, evaluation=True
    ),
    "nncf": Entry("trimtab_jobs.techniques.nncf:nncf", ModelFormat.ONNX),
    "prune": Entry("trimtab_jobs.techniques.prune:prune", ModelFormat.PYTORCH),
    "distill": Entry("trimtab_jobs.techniques.distill:distill", ModelFormat.PYTORCH),
}
