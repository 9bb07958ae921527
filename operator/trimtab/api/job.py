"""OptimizationJob: what a person asks for, and what the operator remembers of it.

The status is the operator's whole memory: every decision reads the spec and the status and nothing else, so a
restarted operator, and a laptop replaying a cluster's measurements, decide the same. Measurements are stored as
decimal strings of six digits, and decisions read those, never the more precise numbers of a pod's report.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_camel

from trimtab.api.base import Pattern, Record, Rule, Spec, exactly_one, exactly_one_cel
from trimtab.api.quantities import (
    DURATION,
    PERCENT,
    QUANTITY,
    Decimal,
    Duration,
    Percent,
    parse_duration,
    parse_percent,
    parse_quantity,
)
from trimtab.api.techniques import Quantize, QuantizeMethod, Step

URI = Pattern(r"^(file|pvc)://[^\s]+$", "a file:// or pvc:// address such as pvc://models/magika.onnx")
NAME = Pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "a Kubernetes name such as cpu-small")
FACTORY = Pattern(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", "a module:function such as digits:build")
Uri = Annotated[str, Field(max_length=1024, examples=["pvc://models/magika.onnx"]), URI]
Name = Annotated[str, Field(max_length=253), NAME]


class ModelFormat(StrEnum):
    ONNX = "ONNX"
    PYTORCH = "PyTorch"


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
    """What is measured: accuracy on the split, latency of one request in the engine, size of what the engine loads."""

    ACCURACY = "accuracy"
    LATENCY_P50 = "latencyP50"
    LATENCY_P95 = "latencyP95"
    SIZE = "size"


HIGHER_IS_BETTER = frozenset({Metric.ACCURACY})
LATENCIES = frozenset({Metric.LATENCY_P50, Metric.LATENCY_P95})


def parse_metric(metric: Metric, text: str) -> float:
    """A bound in the unit of its metric: a fraction, seconds or bytes."""
    if metric in LATENCIES:
        return parse_duration(text)
    return parse_quantity(text) if metric == Metric.SIZE else parse_percent(text)


class ModelSource(Spec):
    """A trained model."""

    rules: ClassVar = (
        Rule(
            "(self.format == 'PyTorch') == has(self.factory)",
            "a PyTorch model needs factory, the function that builds the module before its weights are loaded; "
            "an ONNX model has none",
            lambda m: (m.format == ModelFormat.PYTORCH) == (m.factory is not None),
        ),
    )
    uri: Uri = Field(description="An .onnx file, or the .safetensors weights of a PyTorch module.")
    format: ModelFormat = Field(description="ONNX or PyTorch.")
    factory: Annotated[str, Field(max_length=256), FACTORY] | None = Field(
        None, description="For PyTorch: module:function, called without arguments, returns the torch.nn.Module."
    )
    code: Uri | None = Field(None, description="For PyTorch: the .py file that holds the factory's module.")


class Split(Spec):
    """A part of the data: an .npz file of arrays keyed by the model's input names, and `labels`."""

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


class RuntimeRef(Spec):
    """Names the OptimizationRuntime."""

    name: Name = Field(description="An OptimizationRuntime in the same namespace.")


class Target(Spec):
    """Where the model will serve."""

    engines: list[EngineName] = Field(
        [EngineName.ONNXRUNTIME],
        min_length=1,
        max_length=8,
        description="Every candidate is measured on each. The first is the one the baseline is measured on.",
    )
    device: Device = Field(Device.CPU, description="The kind of node that trials run on.")
    compute_capability: ComputeCapability = Field(
        ComputeCapability.SM89, description="The GPU that TensorRT engines are built for."
    )
    runtime_ref: RuntimeRef = Field(RuntimeRef(name="default"), description="How and where the pods run.")


def _bound_has_unit(constraint: Constraint) -> bool:
    bound = constraint.max or constraint.min
    if bound is None:
        return True
    try:
        parse_metric(constraint.metric, bound)
    except ValueError:
        return False
    return True


class Constraint(Spec):
    """A promise that the published model keeps."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel("max_drop", "max", "min"),
            "give exactly one of maxDrop, max and min",
            exactly_one("max_drop", "max", "min"),
        ),
        Rule(
            "!has(self.maxDrop) || self.metric == 'accuracy'",
            "maxDrop is for accuracy: bound latency and size with max",
            lambda c: c.max_drop is None or c.metric == Metric.ACCURACY,
        ),
        Rule(
            "(has(self.max) ? [self.max] : has(self.min) ? [self.min] : []).all(bound, "
            f"self.metric == 'accuracy' ? bound.matches(r'{PERCENT.regex}') : "
            f"self.metric == 'size' ? bound.matches(r'{QUANTITY.regex}') : bound.matches(r'{DURATION.regex}'))",
            "the bound has the wrong unit: accuracy takes a percent (98%), latency a duration (5ms), "
            "size a quantity (20Mi)",
            _bound_has_unit,
        ),
    )
    metric: Metric
    max_drop: Percent | None = Field(
        None,
        description="The most that may be lost against the input model, in points: with 1%, 95.3% may become 94.3%.",
    )
    max: Annotated[str, Field(max_length=32)] | None = Field(None, description="The largest value allowed.")
    min: Annotated[str, Field(max_length=32)] | None = Field(None, description="The smallest value allowed.")


class Goal(StrEnum):
    """Which way is better."""

    MINIMIZE = "Minimize"
    MAXIMIZE = "Maximize"


class Objective(Spec):
    """What to prefer among the candidates that keep every promise. The first objective decides; the rest break ties."""

    metric: Metric
    goal: Goal


class Algorithm(StrEnum):
    GRID = "Grid"
    RANDOM = "Random"
    BAYESIAN = "Bayesian"


class Search(Spec):
    """How the space of the techniques is explored."""

    algorithm: Algorithm = Field(Algorithm.GRID, description="Bayesian is Optuna's TPE.")
    max_trials: int = Field(16, ge=1, le=128, description="Trials at most, the input model not counted.")
    parallelism: int = Field(2, ge=1, le=64, description="Trials prepared at the same time.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="With the trial's index it seeds every proposal.")


class Budget(Spec):
    """What a job may spend."""

    deadline: Duration = Field("2h", description="From the first pod; when it passes, the job fails.")


class Publish(Spec):
    """Where the winner goes."""

    uri: Uri = Field(description="A folder: each winner under its digest, and current.json naming the newest.")


IMMUTABLE = ("model", "data", "target", "constraints", "objectives", "techniques", "search", "publish")


def immutable(name: str) -> Rule:
    """A field that is given at creation and stays."""
    wire = to_camel(name)
    return Rule(
        f"has(self.spec.{wire}) == has(oldSelf.spec.{wire}) && "
        f"(!has(self.spec.{wire}) || self.spec.{wire} == oldSelf.spec.{wire})",
        f"{wire} is immutable: create a new OptimizationJob",
    )


def _has_step(spec: OptimizationJobSpec, name: str) -> bool:
    return any(step.technique == name for step in spec.techniques)


def _needs_calibration(spec: OptimizationJobSpec) -> bool:
    configs = [step.config for step in spec.techniques]
    return any(isinstance(config, Quantize) and QuantizeMethod.STATIC in config.method for config in configs)


class OptimizationJobSpec(Spec):
    """What a person asks for."""

    rules: ClassVar = (
        Rule(
            "self.techniques.all(t, !has(t.distill)) || has(self.data.train)",
            "distill trains: give data.train",
            lambda s: not _has_step(s, "distill") or s.data.train is not None,
        ),
        Rule(
            "has(self.data.calibration) || "
            "!self.techniques.exists(t, has(t.quantize) && 'Static' in t.quantize.method)",
            "static quantization needs data.calibration",
            lambda s: not _needs_calibration(s) or s.data.calibration is not None,
        ),
        Rule(
            "self.model.format == 'PyTorch' || self.techniques.all(t, !has(t.prune) && !has(t.distill))",
            "prune and distill need a PyTorch model",
            lambda s: s.model.format == ModelFormat.PYTORCH or not (_has_step(s, "prune") or _has_step(s, "distill")),
        ),
    )
    model: ModelSource
    data: Data
    target: Target = Field(Target(), description="Where the model will serve.")
    constraints: list[Constraint] = Field([], max_length=16, description="Promises the published model keeps.")
    objectives: list[Objective] = Field(
        [Objective(metric=Metric.LATENCY_P50, goal=Goal.MINIMIZE)],
        min_length=1,
        max_length=4,
        description="What to prefer among the candidates that keep every promise.",
    )
    techniques: list[Step] = Field(min_length=1, max_length=8, description="An ordered pipeline.")
    search: Search = Field(Search(), description="How the space of the techniques is explored.")
    budget: Budget = Field(Budget(), description="What the job may spend.")
    publish: Publish | None = Field(None, description="Left out: the winner stays in the store and is only named.")
    suspend: bool = Field(False, description="No new pod is started, and running ones are deleted, while true.")

    def addresses(self) -> dict[str, str]:
        """Every address the spec names, by field."""
        sources = {"spec.model.uri": self.model.uri, "spec.model.code": self.model.code}
        splits = {f"spec.data.{name}.uri": split.uri for name, split in self.data.named().items()}
        given = sources | splits | {"spec.publish.uri": self.publish.uri if self.publish else None}
        return {field: uri for field, uri in given.items() if uri}


class Outcome(StrEnum):
    """How a candidate ends."""

    FEASIBLE = "Feasible"
    DOMINATED = "Dominated"
    INFEASIBLE = "Infeasible"
    SKIPPED = "Skipped"
    INCONCLUSIVE = "Inconclusive"
    FAILED = "Failed"


class TrialState(StrEnum):
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class Condition(Record):
    """metav1.Condition."""

    type: str
    status: str
    observed_generation: int = 0
    last_transition_time: str = ""
    reason: str
    message: str = ""


class Interval(Record):
    """An estimate with its 95% interval."""

    estimate: Decimal
    low: Decimal
    high: Decimal


class CandidateStatus(Record):
    """One trial's model on one engine: what can be chosen."""

    engine: EngineName
    metrics: dict[str, Decimal] = Field({}, description="By metric name, in fractions, seconds and bytes.")
    time_ratio: Interval | None = Field(
        None, description="Median latency relative to the baseline, measured interleaved with it in the playoff."
    )
    outcome: Outcome | None = None
    message: str = ""

    def metric(self, metric: Metric) -> float:
        """The measured value; `KeyError` where the engine did not execute."""
        return float(self.metrics[metric.value])


class TrialStatus(Record):
    """One point of the space. Trial 0 is the input model: it has no settings and is measured by Inspect."""

    index: int
    state: TrialState
    settings: dict[str, str] = {}
    artifact: str = Field("", description="The digest of the model this trial made.")
    candidates: list[CandidateStatus] = []
    message: str = ""


class Inspection(Record):
    """What the Inspect pod found: the operator itself never opens a model."""

    model_digest: str = ""
    data_digests: dict[str, str] = {}
    samples: dict[str, int] = {}
    operators: dict[str, int] = Field({}, description="How many nodes of each ONNX operator.")
    inputs: dict[str, str] = Field({}, description="Name to dtype and shape, such as float32[N,64].")


class Best(Record):
    """The winner, in words and in numbers."""

    trial: int
    engine: EngineName
    artifact: str
    name: str = Field("", description="Trial and engine in short, such as trial-2/ONNXRuntime or input/OpenVINO.")
    speed_up: Annotated[str, Field(description="Baseline time over the winner's, such as 1.52x.")] = ""
    accuracy: str = ""
    size: str = ""
    message: str = ""


class Verdict(StrEnum):
    HOLDS = "Holds"
    INCONCLUSIVE = "Inconclusive"
    VIOLATED = "Violated"


class Claim(Record):
    """What was found on the holdout split: the accuracy of both models on the same samples."""

    samples: int = 0
    baseline: Decimal = "0"
    winner: Decimal = "0"
    drop: Interval | None = None
    verdict: Verdict
    message: str = ""


class Published(Record):
    uri: str
    digest: str


class Hardware(Record):
    """Where measurements were made. Ratios from two machines are not comparable."""

    cpu: str = ""
    flags: list[str] = Field([], description="The vector extensions that decide how fast integers are.")
    threads: int = 0
    versions: dict[str, str] = {}


class Cost(Record):
    pod_seconds: Decimal = "0"


class OptimizationJobStatus(Record):
    """The operator's memory of a job."""

    observed_generation: int = 0
    conditions: list[Condition] = []
    start_time: str | None = None
    completion_time: str | None = None
    inspection: Inspection | None = None
    trials: list[TrialStatus] = []
    playoff_done: bool = False
    control_ratio: Interval | None = Field(
        None, description="The baseline against itself in the playoff: what a ratio of 1 looks like on this machine."
    )
    best: Best | None = None
    nearest_miss: str = Field("", description="Where nothing is feasible: the closest candidate and what binds it.")
    claim: Claim | None = None
    published: Published | None = None
    hardware: Hardware | None = None
    cost: Cost = Cost()
    state: str = Field("", description="The reason of the summary condition, for kubectl get.")

    def wire(self) -> dict[str, Any]:
        """The JSON form for a PATCH: what is unset is null, so that a merge patch also clears it."""
        return self.model_dump(mode="json", by_alias=True)


class ObjectMeta(Record):
    """The part of metav1.ObjectMeta that decisions read."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    deletion_timestamp: str | None = None
    creation_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


NAME_LIMIT = 40
"""A label holds 63 characters, and NAME-UID8-STAGE-TRIAL-ATTEMPT is the value of one: 40 + 9 + 8 + 2 + 4, say."""


class OptimizationJob(Spec):
    """Optimizes one trained model."""

    rules: ClassVar = (
        Rule(
            f"self.metadata.name.size() <= {NAME_LIMIT}",
            f"metadata.name has more than {NAME_LIMIT} characters: the names of pods are made from it",
            lambda job: len(job.metadata.name) <= NAME_LIMIT,
        ),
        *(immutable(name) for name in IMMUTABLE),
    )

    api_version: str = "trimtab.dev/v1alpha1"
    kind: str = "OptimizationJob"
    metadata: ObjectMeta
    spec: OptimizationJobSpec
    status: OptimizationJobStatus = OptimizationJobStatus()
