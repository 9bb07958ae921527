"""What a job is about: the model, its data, where it will serve, and what is measured of it.

These cross every boundary: a person writes them in a job, a pod receives them in its Task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar
from urllib.parse import unquote

from pydantic import Field

from trimtab.api.base import InCluster, Pattern, Rule, Spec, Without
from trimtab.api.quantities import (
    DECIMAL,
    DURATION,
    PERCENT,
    QUANTITY,
    parse_decimal,
    parse_duration,
    parse_percent,
    parse_quantity,
    show_decimal,
    show_duration,
    show_percent,
    show_quantity,
)

_CLAIM = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_FOLDER, _BUCKET = rf"file://\S+|pvc://{_CLAIM}(/\S*)?", r"(s3|gs)://[^\s/@]+(/\S*)?"
# Without user:password@, for credentials are in no spec.
_ANYWHERE = rf"{_FOLDER}|{_BUCKET}|https?://[^\s/@]+/\S+|hf://\S+|models:/[^\s/@]+[/@][^\s/@]+"
URI = Pattern(rf"^({_ANYWHERE})$", "a file, pvc, http, https, s3, gs, hf or models address such as s3://models/a.onnx")
_NAME = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
_IMAGE = rf"oci://[^\s/@]+(/{_NAME})+(:\w[\w.-]{{0,127}})?"
WRITABLE = Pattern(
    rf"^({_FOLDER}|{_BUCKET}|{_IMAGE})$", "a file, pvc, s3, gs or oci address such as oci://registry/models/magika:v1"
)
FOLDER = Pattern(rf"^({_FOLDER})$", "a file:// or pvc:// address, for pods share it as a disk, such as pvc://store")
INSIDE = Without(
    r"^pvc:.*(/|%2[fF])(\.|%2[eE]){2}(/|%2[fF]|$)", "has .. in its path: name the place in the claim itself"
)
"""However it is spelt: addresses are unquoted where they are opened."""
CLUSTER = InCluster(
    "!self.startsWith('file:')",
    "a file:// address is for runs without a cluster: in a pod it would be a file of the image, or of what the runtime "
    "mounts. Name a claim (pvc://claim/path) or another address",
)
STORE = Pattern(rf"^({_FOLDER}|{_BUCKET})$", "a file, pvc, s3 or gs address such as pvc://store")
NAME = Pattern(rf"^{_CLAIM}$", "a Kubernetes name such as cpu-small")
FACTORY = Pattern(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", "a module:function such as digits:build")
Uri = Annotated[str, Field(max_length=1024, examples=["pvc://models/magika.onnx"]), URI, INSIDE, CLUSTER]
"""Where to read: on a disk, or fetched once."""
WritableUri = Annotated[str, Field(max_length=1024, examples=["pvc://models/magika"]), WRITABLE, INSIDE, CLUSTER]
FolderUri = Annotated[str, Field(max_length=1024, examples=["pvc://captured"]), FOLDER, INSIDE, CLUSTER]
StoreUri = Annotated[str, Field(max_length=1024, examples=["pvc://store"]), STORE, INSIDE]
"""The runtime's: whoever mounts claims by path may name one so."""
Name = Annotated[str, Field(max_length=253), NAME]


def scheme_of(uri: str) -> str:
    """What an address begins with, such as s3."""
    return uri.partition(":")[0]


def claim_of(uri: str) -> str:
    """The claim that a pvc:// address names; empty for another address."""
    return uri.removeprefix("pvc://").partition("/")[0] if scheme_of(uri) == "pvc" else ""


def leads_into(uri: str, place: str) -> bool:
    """Whether an address is at a place or below it. In a claim all is one place, for links lead from one to another."""
    if claim := claim_of(place):
        return claim_of(uri) == claim
    there = _parts(place)
    return scheme_of(uri) == scheme_of(place) and _parts(uri)[: len(there)] == there


def _parts(uri: str) -> list[str]:
    """Clients drop empty parts, and some decode what is quoted."""
    return [part for part in unquote(uri.partition("://")[2]).split("/") if part]


def is_local(uri: str) -> bool:
    """Whether a path stands behind an address, where the claims are mounted."""
    return scheme_of(uri) in ("file", "pvc")


def is_address(text: str) -> bool:
    """Whether text is an address rather than a path: it begins with a scheme of two letters or more."""
    return re.match(r"[a-z][a-z0-9]+:/", text) is not None


class SourceFormat(StrEnum):
    """What a job may be given."""

    ONNX = "ONNX"
    PYTORCH = "PyTorch"


class ModelFormat(StrEnum):
    """What an artifact may hold: a job's model, or what a technique made of it."""

    ONNX = "ONNX"
    PYTORCH = "PyTorch"
    OPENVINO = "OpenVINO"
    """OpenVINO's intermediate representation."""


MODEL_FILES = {
    ModelFormat.ONNX: "model.onnx",
    ModelFormat.PYTORCH: "weights.safetensors",
    ModelFormat.OPENVINO: "model.xml",
}
"""The file in an artifact's folder that a loader of the format opens."""


class EngineName(StrEnum):
    ONNXRUNTIME = "ONNXRuntime"
    OPENVINO = "OpenVINO"
    TENSORRT = "TensorRT"


class ComputeCapability(StrEnum):
    """The GPU generations whose engines were built in the tests (none was executed: see docs/testing.md)."""

    SM80 = "SM80"
    SM86 = "SM86"
    SM89 = "SM89"
    SM120 = "SM120"


class Metric(StrEnum):
    """What is measured: quality on a split, then what an answer costs in the engine.

    f1 is the mean over the classes, auroc the mean of one class against the rest, cosine the mean similarity of each
    sample's outputs to those of the input model, which needs no labels. Latency is that of one request.
    """

    ACCURACY = "accuracy"
    TOP_K = "topK"
    F1 = "f1"
    AUROC = "auroc"
    MSE = "mse"
    MAE = "mae"
    COSINE = "cosine"
    CUSTOM = "custom"
    LATENCY_P50 = "latencyP50"
    LATENCY_P95 = "latencyP95"
    LATENCY_P99 = "latencyP99"
    THROUGHPUT = "throughput"
    SIZE = "size"
    PEAK_MEMORY = "peakMemory"
    COST_PER_MILLION = "costPerMillion"


FRACTIONS = frozenset({Metric.ACCURACY, Metric.TOP_K, Metric.F1, Metric.AUROC, Metric.COSINE})
QUALITY = FRACTIONS | {Metric.MSE, Metric.MAE, Metric.CUSTOM}
LATENCIES = frozenset({Metric.LATENCY_P50, Metric.LATENCY_P95, Metric.LATENCY_P99})
TAILS = LATENCIES - {Metric.LATENCY_P50}
TIMED = LATENCIES | {Metric.THROUGHPUT, Metric.COST_PER_MILLION}
"""What follows from the clock, and so is only a hint before the playoff."""
BYTES = frozenset({Metric.SIZE, Metric.PEAK_MEMORY})
HIGHER_IS_BETTER = FRACTIONS | {Metric.THROUGHPUT}
"""A user's own metric says itself which way is better: ask `Metrics.higher_is_better`."""


@dataclass(frozen=True)
class Unit:
    """How people write a metric's values."""

    pattern: Pattern
    parse: Callable[[str], float]
    show: Callable[[float], str]
    cel: str
    """What CEL reads one by and can compare; {} stands for the text."""


UNITS = {
    FRACTIONS: Unit(PERCENT, parse_percent, show_percent, "double({}.replace('%', ''))"),
    LATENCIES: Unit(DURATION, parse_duration, show_duration, "duration({})"),
    BYTES: Unit(QUANTITY, parse_quantity, show_quantity, "quantity({}).asApproximateFloat()"),
}
PLAIN = Unit(DECIMAL, parse_decimal, show_decimal, "double({})")
"""Errors, samples per second, money: numbers without a unit."""


def parse_metric(metric: Metric, text: str) -> float:
    """A bound in the unit of its metric: a fraction, seconds, bytes, or a plain number. Raises ValueError."""
    return _unit(metric).parse(text)


def show_metric(metric: Metric, value: float) -> str:
    """A value for people, in the unit of its metric."""
    return _unit(metric).show(value)


def _unit(metric: Metric) -> Unit:
    return next((unit for metrics, unit in UNITS.items() if metric in metrics), PLAIN)


def one_of(metrics: Iterable[Metric]) -> str:
    """The CEL list of these metrics, for rules."""
    return "[" + ", ".join(f"'{metric}'" for metric in Metric if metric in metrics) + "]"


class ModelSource(Spec):
    """A trained model."""

    rules: ClassVar = (
        Rule(
            "(self.format == 'PyTorch') == has(self.factory)",
            "a PyTorch model needs factory, the function that builds the module before its weights are loaded; "
            "an ONNX model has none",
            lambda m: (m.format == SourceFormat.PYTORCH) == (m.factory is not None),
        ),
    )
    uri: Uri = Field(description="An .onnx file, or the .safetensors weights of a PyTorch module.")
    format: SourceFormat = Field(description="ONNX or PyTorch.")
    factory: Annotated[str, Field(max_length=256), FACTORY] | None = Field(
        None, description="For PyTorch: module:function, called without arguments, returns the torch.nn.Module."
    )
    code: Uri | None = Field(None, description="For PyTorch: the .py file that holds the factory's module.")


class Split(Spec):
    """A part of the data: an .npz file of arrays keyed by the model's input names, and perhaps `labels`."""

    uri: Uri = Field(description="An .npz file.")


class Data(Spec):
    """Disjoint splits. The search sees `evaluation`; the claim is made once, on `holdout`."""

    calibration: Split | None = Field(None, description="Activation ranges for static quantization come from here.")
    train: Split | None = Field(None, description="Only needed where a technique trains.")
    evaluation: Split = Field(description="What the search sees.")
    holdout: Split = Field(description="What the published claim is measured on, once.")

    def named(self) -> dict[str, Split]:
        """The splits that are given, by name."""
        return {name: split for name in type(self).model_fields if (split := getattr(self, name)) is not None}


class Device(StrEnum):
    CPU = "CPU"
    GPU = "GPU"


class RuntimeKind(StrEnum):
    NAMESPACED = "OptimizationRuntime"
    CLUSTER = "ClusterOptimizationRuntime"


class RuntimeRef(Spec):
    """Names the runtime."""

    kind: RuntimeKind = Field(
        RuntimeKind.NAMESPACED,
        description="A runtime of the same namespace, or one of the cluster that allows this namespace.",
    )
    name: Name = Field(description="The runtime.")


class Target(Spec):
    """Where the model will serve."""

    rules: ClassVar = (
        Rule(
            "!has(self.engines) || self.engines.all(e, self.engines.exists_one(x, x == e))",
            "engines names an engine twice: name each once",
            lambda t: len(set(t.engines)) == len(t.engines),
        ),
    )
    engines: list[EngineName] = Field(
        [EngineName.ONNXRUNTIME],
        min_length=1,
        max_length=8,
        description="Every candidate is measured on each. The first is the one the baseline is measured on.",
    )
    device: Device = Field(
        Device.CPU, description="The kind of node that trials run on. GPU needs a runtime whose pods are given one."
    )
    compute_capability: ComputeCapability = Field(
        ComputeCapability.SM89, description="The GPU that TensorRT engines are built for."
    )
    runtime_ref: RuntimeRef = Field(RuntimeRef(name="default"), description="How and where the pods run.")
