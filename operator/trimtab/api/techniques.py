"""Techniques: one config model each, and the pipeline step that holds exactly one of them.

A config model describes a *space*: a categorical setting is a list of choices, a numeric one a `Range`. A trial
fixes one point of the space; what a pod receives is the same model with one choice left in every setting, which
`chosen` reads. So a technique has one model, not a searchable twin beside it.

To add a technique: write its model and name it in `Techniques` (here), write its function (`trimtab_jobs/techniques`),
add a line to the table there, and a test. `tests/contracts/test_extending.py` does exactly that.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field

from trimtab.api.base import Rule, Spec, exactly_one, exactly_one_cel, to_camel
from trimtab.api.quantities import Decimal, Percent

T = TypeVar("T")


class Searched:
    """Marks a field whose list is a choice for the search, not a value."""


Choice = Annotated[list[T], Field(min_length=1, max_length=16), Searched()]


class Scale(StrEnum):
    LINEAR = "Linear"
    LOG = "Log"


class Range(Spec):
    """A numeric setting: the listed values, or an interval on a linear or logarithmic scale."""

    rules: ClassVar = (
        Rule(
            "has(self.values) ? !has(self.min) && !has(self.max) : has(self.min) && has(self.max)",
            "give either values, or min and max",
            lambda r: (
                (r.values is None) != (r.min is None or r.max is None)
                and (r.values is None or (r.min is None and r.max is None))
            ),
        ),
        Rule(
            "!has(self.min) || !has(self.max) || double(self.min) <= double(self.max)",
            "min is above max: the range is empty",
            lambda r: r.min is None or r.max is None or float(r.min) <= float(r.max),
        ),
        Rule(
            "!has(self.scale) || self.scale != 'Log' || !has(self.min) || double(self.min) > 0.0",
            "a Log scale needs min above 0",
            lambda r: r.scale != Scale.LOG or r.min is None or float(r.min) > 0,
        ),
    )
    values: list[Decimal] | None = Field(None, min_length=1, max_length=16, description="The values to try.")
    min: Decimal | None = Field(None, description="The lower end of the interval.")
    max: Decimal | None = Field(None, description="The upper end of the interval.")
    scale: Scale = Field(Scale.LINEAR, description="How the interval is sampled.")


class IntRange(Spec):
    """A whole-number setting: the listed values, or an interval."""

    rules: ClassVar = (
        Rule(
            "has(self.values) ? !has(self.min) && !has(self.max) : has(self.min) && has(self.max)",
            "give either values, or min and max",
            Range.rules[0].holds,
        ),
        Rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "min is above max: the range is empty",
            lambda r: r.min is None or r.max is None or r.min <= r.max,
        ),
    )
    values: list[Annotated[int, Field(ge=0, le=1_000_000)]] | None = Field(
        None, min_length=1, max_length=16, description="The values to try."
    )
    min: int | None = Field(None, ge=0, le=1_000_000, description="The lower end of the interval.")
    max: int | None = Field(None, ge=0, le=1_000_000, description="The upper end of the interval.")


class CountRange(IntRange):
    """How many of something of which none is no choice: the listed values, or an interval."""

    values: list[Annotated[int, Field(ge=1, le=1_000_000)]] | None = Field(
        None, min_length=1, max_length=16, description="The values to try."
    )
    min: int | None = Field(None, ge=1, le=1_000_000, description="The lower end of the interval.")


def fixed(*values: float) -> Range:
    """A Range of the given values, for defaults."""
    return Range(values=[f"{value:g}" for value in values])


def fixed_int(*values: int) -> IntRange:
    return IntRange(values=list(values))


def chosen(setting: Sequence[T]) -> T:
    """The one choice a trial left in a categorical setting. Raises ValueError while there are several."""
    if len(setting) != 1:
        raise ValueError(f"undecided setting: {list(setting)} still holds {len(setting)} choices")
    return setting[0]


def chosen_number(setting: Range) -> float:
    """The one value a trial left in a numeric setting."""
    return float(chosen(setting.values or []))


def chosen_int(setting: IntRange) -> int:
    return chosen(setting.values or [])


class GraphOptimizer(StrEnum):
    """Who rewrites the graph. ONNX Runtime's highest level is left out: its layouts fit one CPU only."""

    ONNXSLIM = "Onnxslim"
    ONNXRUNTIME_BASIC = "OnnxRuntimeBasic"
    ONNXRUNTIME_EXTENDED = "OnnxRuntimeExtended"
    TRANSFORMERS = "Transformers"


class OptimizeGraph(Spec):
    """A smaller graph of an ONNX model that answers the same: constants folded, operators fused."""

    optimizer: Choice[GraphOptimizer] = Field(
        [GraphOptimizer.ONNXSLIM, GraphOptimizer.TRANSFORMERS],
        description="Onnxslim and OnnxRuntimeBasic stay with standard ONNX. OnnxRuntimeExtended and Transformers, "
        "which fuses attention, also write ONNX Runtime's own operators, and other engines may refuse those.",
    )


class FloatPrecision(StrEnum):
    FLOAT16 = "Float16"
    BFLOAT16 = "BFloat16"


class CastScope(StrEnum):
    WEIGHTS = "Weights"
    ALL = "All"


class CastFloat(Spec):
    """Half the bits for floating-point numbers. Inputs and outputs keep their types."""

    precision: Choice[FloatPrecision] = Field(
        [FloatPrecision.FLOAT16],
        description="Float16 is written into the model. BFloat16 is how OpenVINO computes the unchanged model, where "
        "the CPU has instructions for it (avx512_bf16, amx_bf16).",
    )
    scope: Choice[CastScope] = Field(
        [CastScope.WEIGHTS],
        description="For Float16: Weights halves the file, and CPUs compute as before at the same speed. All also "
        "computes in it, which pays on GPUs; CPUs get slower.",
    )


LayerName = Annotated[str, Field(max_length=256)]
MaxDrop = Annotated[
    Percent | None,
    Field(
        description="Layers whose quantization costs most go back to floating point until no more than this is lost on "
        "the evaluation split."
    ),
]
"""A guard's promise."""


class Precision(StrEnum):
    INT8 = "Int8"


class QuantizeMethod(StrEnum):
    STATIC = "Static"
    DYNAMIC = "Dynamic"


class OperatorScope(StrEnum):
    """Which operators are quantized."""

    ALL = "All"
    COMPUTE = "Compute"
    CONV = "Conv"
    MATMUL = "MatMul"


class IntegerType(StrEnum):
    INT8 = "Int8"
    UINT8 = "UInt8"


class ReduceRange(StrEnum):
    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class CalibrateMethod(StrEnum):
    MINMAX = "MinMax"
    ENTROPY = "Entropy"
    PERCENTILE = "Percentile"


class Quantize(Spec):
    """Post-training quantization of an ONNX model to QDQ form (Jacob et al., arXiv:1712.05877)."""

    precision: Choice[Precision] = Field([Precision.INT8], description="The integer type of weights and activations.")
    method: Choice[QuantizeMethod] = Field(
        [QuantizeMethod.STATIC],
        description="Static takes activation ranges from the calibration split; Dynamic measures them at run time, "
        "which makes convolutions several times slower: give it the scope MatMul.",
    )
    activation_type: Choice[IntegerType] = Field(
        [IntegerType.UINT8],
        description="UInt8 spends its steps on the range seen, and CPUs are fastest with it. Int8 is symmetric: the "
        "only one that TensorRT takes. Dynamic has UInt8 only.",
    )
    weight_type: Choice[IntegerType] = Field(
        [IntegerType.INT8],
        description="UInt8 keeps all 8 bits without saturating on a CPU without VNNI, and is slower there.",
    )
    reduce_range: Choice[ReduceRange] = Field(
        [ReduceRange.AUTO],
        description="Weights of 7 bits. Auto: where a CPU without VNNI would saturate on Int8 weights of 8.",
    )
    operator_scope: Choice[OperatorScope] = Field(
        [OperatorScope.ALL, OperatorScope.COMPUTE],
        description="Compute quantizes what has weights: Conv, ConvTranspose, MatMul, Gemm, and LSTM and Attention "
        "where Dynamic; Conv and MatMul only the convolutions or the others of these. All adds elementwise operators.",
    )
    ignored_layers: list[LayerName] = Field(
        [], max_length=64, description="Nodes, by name, that stay in floating point."
    )
    per_channel: Choice[bool] = Field([True], description="One weight scale per output channel instead of per tensor.")
    calibrate_method: Choice[CalibrateMethod] = Field(
        [CalibrateMethod.MINMAX], description="How Static turns observed activations into a range."
    )
    calibration_samples: CountRange = Field(
        CountRange(values=[300]),
        description="How many samples, spread over the calibration split, Static observes at most.",
    )
    max_drop: MaxDrop = None
    max_evaluations: int = Field(
        12, ge=1, le=100, description="How often the evaluation split may be run through a model to keep maxDrop."
    )


class QuantizeWeights(Spec):
    """Weight-only quantization in blocks, without data: activations stay in floating point."""

    bits: Choice[Literal[4, 8]] = Field([8, 4], description="The bits of a weight.")
    block_size: Choice[Literal[16, 32, 64, 128, 256]] = Field(
        [32], description="How many weights of a row share a scale. Fewer are more accurate, and larger."
    )
    symmetric: Choice[bool] = Field(
        [False], description="Without a zero point per block: 3% smaller, and less accurate in 4 bits."
    )
    accuracy_level: Choice[Literal[0, 1, 2, 3, 4]] = Field(
        [4],
        description="The least precision in which ONNX Runtime multiplies: 1 is FLOAT32, 2 FLOAT16, 3 BFLOAT16, 4 INT8 "
        "activations, 0 leaves it to the weights' type.",
    )
    embeddings: Choice[bool] = Field([True], description="Quantize tables that a Gather looks rows up in, too.")
    ignored_layers: list[LayerName] = Field(
        [], max_length=64, description="Nodes, by their name, that keep their weights."
    )


class NncfPreset(StrEnum):
    PERFORMANCE = "Performance"
    MIXED = "Mixed"


class NncfModelType(StrEnum):
    NONE = "None"
    TRANSFORMER = "Transformer"


class Nncf(Spec):
    """Post-training INT8 quantization by NNCF (Kozlov et al., arXiv:2002.08679), for OpenVINO only: the last step."""

    preset: Choice[NncfPreset] = Field(
        [NncfPreset.PERFORMANCE],
        description="Performance is symmetric; Mixed spends the steps of an activation on the range seen.",
    )
    model_type: Choice[NncfModelType] = Field(
        [NncfModelType.NONE],
        description="Transformer keeps what attention is sensitive to in floating point, and smooths outliers.",
    )
    operator_scope: Choice[OperatorScope] = Field(
        [OperatorScope.ALL, OperatorScope.COMPUTE],
        description="Compute quantizes convolutions and matrix products; Conv and MatMul only these or those. All adds "
        "elementwise operators.",
    )
    fast_bias_correction: Choice[bool] = Field(
        [True], description="False corrects biases layer by layer, by running the model: slower, often more accurate."
    )
    calibration_samples: CountRange = Field(
        CountRange(values=[300]),
        description="How many samples, spread over the calibration split, are observed at most.",
    )
    max_drop: MaxDrop = None
    max_evaluations: int = Field(
        12, ge=4, le=100, description="How often the evaluation split may be run through a model to keep maxDrop."
    )


class Granularity(StrEnum):
    CHANNEL = "Channel"


class Prune(Spec):
    """Structured pruning of a PyTorch model along its dependency graph (Fang et al., arXiv:2301.12900)."""

    granularity: Choice[Granularity] = Field([Granularity.CHANNEL], description="What is removed as a whole.")
    ratio: Range = Field(fixed(0.3), description="The fraction of channels removed, in (0, 1).")
    ignored_layers: list[LayerName] = Field(
        [], max_length=64, description="Modules, by their dotted name, that keep all their channels."
    )


class Distill(Spec):
    """Recovery by distillation from the original model (Hinton et al., arXiv:1503.02531)."""

    epochs: IntRange = Field(fixed_int(5), description="Passes over the train split.")
    temperature: Range = Field(fixed(4), description="Softens both distributions; the loss is scaled by its square.")
    alpha: Range = Field(fixed(0.7), description="The weight of the distillation loss; 1 - alpha goes to the labels.")
    learning_rate: Range = Field(fixed(0.001), description="The peak learning rate of Adam.")


class Techniques(Spec):
    """The techniques by name; the order here is the order of the reference."""

    optimize_graph: OptimizeGraph | None = None
    cast_float: CastFloat | None = None
    quantize: Quantize | None = None
    quantize_weights: QuantizeWeights | None = None
    nncf: Nncf | None = None
    prune: Prune | None = None
    distill: Distill | None = None


_NAMES = {name: to_camel(name) for name in Techniques.model_fields}
TECHNIQUES = tuple(_NAMES.values())
"""Their names as people write them, which are also the names in points, reports and the table in `trimtab_jobs`."""

TRAINING = frozenset({"distill"})
"""Those that train by `trimtab_jobs.train`, and so can on several processes and pods (an OptimizationRuntime's
`distributed`). All others run in one process."""


class Step(Techniques):
    """One step of the pipeline: exactly one technique."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel(*Techniques.model_fields),
            "a step names exactly one technique: split it in two, or remove all but one",
            exactly_one(*Techniques.model_fields),
        ),
    )
    optional: bool = Field(False, description="The search may leave this step out.")

    @property
    def technique(self) -> str:
        """The name of the one technique this step holds, as people write it."""
        return _NAMES[self._held[0]]

    @property
    def trains(self) -> bool:
        return self.technique in TRAINING

    @property
    def config(self) -> Spec:
        return self._held[1]

    @property
    def _held(self) -> tuple[str, Spec]:
        for name in _NAMES:
            if (config := getattr(self, name)) is not None:
                return name, config
        raise AssertionError("the rule of a step was not checked")
