"""What to try on a model nobody has described: a pipeline and its points, from the model and the target alone.

No single tool is safe by default, and the winner is another almost every time, so a recipe is a short list of
alternatives that have won somewhere, the most promising first: a budget of time cuts its tail. They follow from the
operators (convolutions want activation ranges from data, attention and recurrences want them measured at run time),
from the CPU (its vector extensions) and from what the job gave: calibration data, OpenVINO among the engines, a
promise to guard. Every alternative is measured on every engine, and so is the input model.

Where activations are quantized the guard is always set: a plain result that keeps the promise costs one evaluation, and
one that does not is repaired in the same trial instead of being lost. Weights alone have none: 8 bits in blocks lose
next to nothing.

An alternative is a pipeline with every setting chosen. Together they span one pipeline of optional steps, and each is
a point of its space: what runs when `spec.techniques` is left out, and a warm start for a search that has a space of
its own. Pure, and the inspection and the hardware are in the status, so a restart leads to the same points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from trimtab.api.job import Algorithm, OptimizationJob
from trimtab.api.model import EngineName, Target
from trimtab.api.promises import Constraint
from trimtab.api.quantities import Percent
from trimtab.api.status import BFLOAT16, DECISIVE_OPERATORS, VNNI, Hardware, Inspection
from trimtab.api.techniques import (
    CalibrateMethod,
    CastFloat,
    FloatPrecision,
    GraphOptimizer,
    IntegerType,
    Nncf,
    NncfModelType,
    NncfPreset,
    OperatorScope,
    OptimizeGraph,
    Quantize,
    QuantizeMethod,
    QuantizeWeights,
    Step,
)
from trimtab.search import Exploration
from trimtab.space import Point, fix, locate, span

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "com.microsoft:FusedConv"})
PRODUCTS = frozenset({"MatMul", "Gemm", "com.microsoft:FusedMatMul"})
RECURRENCES = frozenset({"LSTM", "GRU", "RNN"})
SPARSE = 1 / 12
"""Of magika's 95 nodes 3 compute, and recipes that quantized the others too broke it; of others' a tenth or more do."""
ATTENTIONS = DECISIVE_OPERATORS - CONVOLUTIONS - PRODUCTS - RECURRENCES


class Pipeline(NamedTuple):
    """One alternative. The order of the fields is the order of the steps."""

    graph: Step | None = None
    cast: Step | None = None
    static: Step | None = None
    dynamic: Step | None = None
    weights: Step | None = None
    nncf: Step | None = None

    @property
    def steps(self) -> list[Step]:
        return [step for step in self if step]


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
    """How many nodes are convolutions; `products` and `recurrences` likewise."""
    products: int
    recurrences: int
    attention: bool
    """Whether it is mostly a transformer."""
    sparse: bool
    """Whether few nodes are any of these: then quantizing all of them hurts, and undoing that takes minutes."""
    calibrated: bool
    """Whether there is data to take activation ranges from."""
    openvino: bool
    vnni: bool
    bfloat16: bool
    guard: Percent | None
    """The most that may be lost, where the job promises so."""


def explore(job: OptimizationJob) -> Exploration:
    """The space of a job that has been inspected: its own, begun with what the recipe has in it, or the recipe's."""
    steps, algorithm = job.spec.techniques, job.spec.search.algorithm
    if steps is None:
        derived = _derived(job)
        return Exploration(derived.steps, algorithm or Algorithm.RECIPE, derived.points)
    if algorithm is None or algorithm == Algorithm.GRID:
        return Exploration(steps, Algorithm.GRID)
    derived = _derived(job)
    located = (locate(steps, fix(derived.steps, point)) for point in derived.points)
    return Exploration(steps, algorithm, tuple(point for point in located if point is not None))


def pipeline(job: OptimizationJob) -> list[Step]:
    """The steps whose settings the job's trials choose."""
    return job.spec.techniques or _derived(job).steps


def _derived(job: OptimizationJob) -> Recipe:
    inspection = job.status.inspection or Inspection()
    return recipe(inspection, job.spec.target, job.status.hardware or Hardware(), job.spec.constraints)


def recipe(inspection: Inspection, target: Target, hardware: Hardware, constraints: Sequence[Constraint]) -> Recipe:
    """The alternatives for a model: their pipeline, and a point of its space for each."""
    return _recipe(_look(inspection, target, hardware, constraints))


@lru_cache
def _recipe(look: Look) -> Recipe:
    """Kept, because every decision of a job asks for it several times and it takes longer than the rest of one."""
    pipelines = list(_alternatives(look))
    steps = span(pipelines)
    located = (locate(steps, alternative.steps) for alternative in pipelines)
    return Recipe(steps, tuple(point for point in located if point is not None))


def _look(inspection: Inspection, target: Target, hardware: Hardware, constraints: Sequence[Constraint]) -> Look:
    def count(names: Collection[str]) -> int:
        return sum(inspection.operators.get(name, 0) for name in names)

    drops = (c.max_drop for c in constraints if c.max_drop and c.metric == inspection.quality)
    return Look(
        convolutions=count(CONVOLUTIONS),
        products=count(PRODUCTS),
        recurrences=count(RECURRENCES),
        attention=count(ATTENTIONS) > 0 and count(CONVOLUTIONS) < count(PRODUCTS),
        sparse=count(DECISIVE_OPERATORS) < SPARSE * sum(inspection.operators.values()),
        calibrated="calibration" in inspection.data_digests,
        openvino=EngineName.OPENVINO in target.engines,
        vnni=bool(VNNI & {*hardware.flags}),
        bfloat16=bool(BFLOAT16 & {*hardware.flags}),
        guard=next(drops, None),
    )


def _alternatives(look: Look) -> Iterator[Pipeline]:
    """The most promising first, by what the model mostly is; at the end what costs little and helps some.

    Where the CPU computes in bfloat16, that comes before everything: it needs no data, loses next to nothing, and took
    ten of the bench's twelve models to 0.29 to 0.91 of the time of OpenVINO in FLOAT32, most to half of it (one core
    with AMX). Of the quantizations only NNCF's came near, and better with bfloat16 in what stays float.
    """
    yield from _bfloat16(look)
    if look.attention:
        yield from _attention(look)
    elif look.recurrences:
        yield from _recurrent(look)
    elif look.convolutions:
        yield from _convolutional(look)
    elif look.products:
        yield from _perceptron(look)
    yield Pipeline(graph=_graph(GraphOptimizer.ONNXSLIM))
    yield Pipeline(cast=_cast(FloatPrecision.FLOAT16))


def _attention(look: Look) -> Iterator[Pipeline]:
    """Activations differ too much between inputs for fixed ranges: those measured at run time come first.

    After a dynamic step the weights left are the embeddings'. Quantized too, they made a sentence encoder of 91 MB one
    of 25 MB instead of 59 MB, as fast as before. With VNNI the integers are so fast that NNCF's fixed ranges win all
    the same: 0.20 of FLOAT32's time where dynamic ones took 0.39 (MiniLM, one core with AMX).
    """
    fixed = list(_nncf(look, NncfPreset.MIXED, OperatorScope.ALL, NncfModelType.TRANSFORMER))
    if look.vnni:
        yield from _nncf(look, NncfPreset.PERFORMANCE, OperatorScope.ALL, NncfModelType.TRANSFORMER)
        yield from fixed
    fused, dynamic, weights = _graph(GraphOptimizer.TRANSFORMERS), _dynamic(look), _weights()
    yield Pipeline(dynamic=dynamic, weights=weights)
    yield Pipeline(graph=fused, dynamic=dynamic, weights=weights)
    yield Pipeline(dynamic=dynamic)
    yield Pipeline(weights=weights)
    yield Pipeline(graph=fused)
    if not look.vnni:
        yield from fixed
    if look.calibrated:
        yield Pipeline(static=_static(look, OperatorScope.MATMUL, CalibrateMethod.PERCENTILE))


def _recurrent(look: Look) -> Iterator[Pipeline]:
    """The recurrence with ranges measured at run time, and convolutions before it with ranges from data.

    Both took a recogniser of 21 convolutions and an LSTM to 0.45 to 0.50 of its time, the first alone to 0.53, the
    second alone to 0.87 (ONNX Runtime, one core of an AVX2 machine).
    """
    dynamic = _dynamic(look)
    if look.calibrated and look.convolutions:
        static = _static(look, OperatorScope.CONV, CalibrateMethod.PERCENTILE)
        fixed = list(_nncf(look, NncfPreset.MIXED, OperatorScope.COMPUTE))
        yield Pipeline(static=static, dynamic=dynamic)
        if look.vnni:
            yield from fixed
        yield Pipeline(dynamic=dynamic)
        yield Pipeline(static=static)
        yield Pipeline(static=_static(look, OperatorScope.CONV))
        if not look.vnni:
            yield from fixed
        yield Pipeline(static=_static(look, OperatorScope.ALL))
    else:
        yield Pipeline(dynamic=dynamic)


def _convolutional(look: Look) -> Iterator[Pipeline]:
    """No calibrator is the best on every model, and quantizing less often beats quantizing all.

    A scale for the whole tensor loses more, and is rounded with faster: 0.47 of FLOAT32's time where one for each
    channel took 0.48 (a digits network, one core with VNNI).
    """
    if look.calibrated:
        yield Pipeline(static=_static(look, OperatorScope.COMPUTE, CalibrateMethod.PERCENTILE))
        yield from _nncf(look, NncfPreset.PERFORMANCE, OperatorScope.COMPUTE if look.sparse else OperatorScope.ALL)
        yield Pipeline(static=_static(look, OperatorScope.CONV))
        if look.products > 1:
            static = _static(look, OperatorScope.CONV, CalibrateMethod.PERCENTILE)
            yield Pipeline(static=static, dynamic=_dynamic(look))
        yield Pipeline(static=_static(look, OperatorScope.COMPUTE, per_channel=False))
        yield Pipeline(static=_static(look, OperatorScope.COMPUTE, CalibrateMethod.ENTROPY))
        if not look.sparse:
            yield Pipeline(static=_static(look, OperatorScope.ALL, CalibrateMethod.PERCENTILE))
        yield from _nncf(look, NncfPreset.MIXED, OperatorScope.COMPUTE)
        if not look.vnni:
            yield Pipeline(static=_static(look, OperatorScope.COMPUTE, weights=IntegerType.UINT8))
    if look.products:
        yield Pipeline(dynamic=_dynamic(look))


def _perceptron(look: Look) -> Iterator[Pipeline]:
    yield Pipeline(dynamic=_dynamic(look))
    yield Pipeline(weights=_weights())
    if look.calibrated:
        yield Pipeline(static=_static(look, OperatorScope.COMPUTE))
    yield from _nncf(look, NncfPreset.PERFORMANCE, OperatorScope.ALL)


def _bfloat16(look: Look) -> Iterator[Pipeline]:
    """Where the CPU has instructions for it."""
    if look.bfloat16 and look.openvino:
        yield Pipeline(cast=_cast(FloatPrecision.BFLOAT16))


def _nncf(
    look: Look, preset: NncfPreset, scope: OperatorScope, model_type: NncfModelType = NncfModelType.NONE
) -> Iterator[Pipeline]:
    """Where it can be had: it needs data, and only OpenVINO runs what it makes. What it leaves float is bfloat16
    where the CPU computes in that."""
    if look.calibrated and look.openvino:
        config = Nncf(preset=[preset], model_type=[model_type], operator_scope=[scope], max_drop=look.guard)
        yield Pipeline(cast=_cast(FloatPrecision.BFLOAT16) if look.bfloat16 else None, nncf=Step(nncf=config))


def _weights() -> Step:
    return Step(quantize_weights=QuantizeWeights(bits=[8]))


def _graph(optimizer: GraphOptimizer) -> Step:
    return Step(optimize_graph=OptimizeGraph(optimizer=[optimizer]))


def _cast(precision: FloatPrecision) -> Step:
    return Step(cast_float=CastFloat(precision=[precision]))


def _static(
    look: Look,
    scope: OperatorScope,
    calibrate: CalibrateMethod = CalibrateMethod.MINMAX,
    weights: IntegerType = IntegerType.INT8,
    per_channel: bool = True,
) -> Step:
    config = Quantize(
        method=[QuantizeMethod.STATIC],
        operator_scope=[scope],
        calibrate_method=[calibrate],
        weight_type=[weights],
        per_channel=[per_channel],
        max_drop=look.guard,
    )
    return Step(quantize=config)


def _dynamic(look: Look) -> Step:
    """Without convolutions: ONNX Runtime's kernel for those with ranges measured at run time is slow."""
    method, scope = [QuantizeMethod.DYNAMIC], [OperatorScope.MATMUL]
    return Step(quantize=Quantize(method=method, operator_scope=scope, max_drop=look.guard))
