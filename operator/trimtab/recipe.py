"""What to try on a model nobody has described: a pipeline and its points, from the model and the target alone.

No single tool is safe by default, and the winner is another almost every time, so a recipe is a short list of
alternatives that have won somewhere, the most promising first: a budget of time cuts its tail. They follow from the
operators (convolutions want activation ranges from data, attention and recurrences want them measured at run time),
from the CPU (without VNNI, 8-bit products saturate) and from what the job gave (calibration data, OpenVINO among the
engines, a promise to guard). Every alternative is measured on every engine, and so is the input model.

An alternative is a pipeline with every setting chosen. Together they span one pipeline of optional steps, and each is
a point of its space: what runs when `spec.techniques` is left out, and a warm start for a search that has a space of
its own. Pure, and the inspection and the hardware are in the status, so a restart leads to the same points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from trimtab.api.job import Algorithm, Constraint, OptimizationJob
from trimtab.api.model import Target
from trimtab.api.status import DECISIVE_OPERATORS, Hardware, Inspection
from trimtab.api.techniques import CalibrateMethod, OperatorScope, Quantize, QuantizeMethod, Step
from trimtab.search import Exploration
from trimtab.space import Point, fix, locate, span

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "com.microsoft:FusedConv"})
PRODUCTS = frozenset({"MatMul", "Gemm", "com.microsoft:FusedMatMul"})
RECURRENCES = frozenset({"LSTM", "GRU", "RNN"})
ATTENTIONS = DECISIVE_OPERATORS - CONVOLUTIONS - PRODUCTS - RECURRENCES

Pipeline = tuple[Step, ...]


@dataclass(frozen=True)
class Recipe:
    """A pipeline, and the points of its space to try."""

    steps: list[Step]
    points: tuple[Point, ...]
    """The most promising first."""


@dataclass(frozen=True)
class Look:
    """What the alternatives depend on."""

    convolutions: int
    products: int
    recurrences: int
    attention: bool
    calibrated: bool
    """Whether there is data to take activation ranges from."""


def explore(job: OptimizationJob) -> Exploration:
    """The space of a job that has been inspected: its own, begun with what the recipe has in it, or the recipe's."""
    steps, algorithm = job.spec.techniques, job.spec.search.algorithm
    if steps and algorithm in (None, Algorithm.GRID):
        return Exploration(steps, Algorithm.GRID)
    derived = _derived(job)
    if steps is None:
        return Exploration(derived.steps, algorithm or Algorithm.RECIPE, derived.points)
    located = (locate(steps, fix(derived.steps, point)) for point in derived.points)
    return Exploration(steps, algorithm or Algorithm.GRID, tuple(point for point in located if point is not None))


def pipeline(job: OptimizationJob) -> list[Step]:
    """The steps whose settings the job's trials choose."""
    return job.spec.techniques or _derived(job).steps


def _derived(job: OptimizationJob) -> Recipe:
    inspection = job.status.inspection or Inspection()
    return recipe(inspection, job.spec.target, job.status.hardware or Hardware(), job.spec.constraints)


def recipe(inspection: Inspection, target: Target, hardware: Hardware, constraints: Sequence[Constraint]) -> Recipe:
    """The alternatives for a model: their pipeline, and a point of its space for each."""
    pipelines = list(_alternatives(_look(inspection)))
    steps = span(pipelines)
    return Recipe(steps, tuple(p for p in (locate(steps, one) for one in pipelines) if p is not None))


def _look(inspection: Inspection) -> Look:
    def count(names: Collection[str]) -> int:
        return sum(inspection.operators.get(name, 0) for name in names)

    return Look(
        convolutions=count(CONVOLUTIONS),
        products=count(PRODUCTS),
        recurrences=count(RECURRENCES),
        attention=count(ATTENTIONS) > 0 and count(CONVOLUTIONS) < count(PRODUCTS),
        calibrated="calibration" in inspection.data_digests,
    )


def _alternatives(look: Look) -> Iterator[Pipeline]:
    """The most promising first."""
    static = list(_static()) if look.calibrated else []
    dynamic = [(_quantize(QuantizeMethod.DYNAMIC, scope),) for scope in (OperatorScope.COMPUTE, OperatorScope.ALL)]
    yield from (*dynamic, *static) if look.attention or look.recurrences else (*static, *dynamic)


def _static() -> Iterator[Pipeline]:
    """No calibrator is the best on every model, and quantizing less often beats quantizing all."""
    for method in (CalibrateMethod.MINMAX, CalibrateMethod.PERCENTILE, CalibrateMethod.ENTROPY):
        yield (_quantize(QuantizeMethod.STATIC, OperatorScope.COMPUTE, method),)
    yield (_quantize(QuantizeMethod.STATIC, OperatorScope.ALL, CalibrateMethod.MINMAX),)


def _quantize(
    method: QuantizeMethod, scope: OperatorScope, calibrate: CalibrateMethod = CalibrateMethod.MINMAX
) -> Step:
    return Step(quantize=Quantize(method=[method], operator_scope=[scope], calibrate_method=[calibrate]))
