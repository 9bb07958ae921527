"""What the operator remembers of a job.

The status is its whole memory: every decision reads the spec and the status and nothing else, so a restarted operator,
and a laptop replaying a cluster's measurements, decide the same. Measurements are stored as decimal strings of six
digits, and decisions read those, never the more precise numbers of a pod's report.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trimtab.api.base import Record
from trimtab.api.doing import Doing
from trimtab.api.model import EngineName, Metric
from trimtab.api.quantities import Decimal


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


def show_interval(interval: Interval) -> str:
    """For people: `0.68 [0.65, 0.72]`."""
    return f"{float(interval.estimate):.2f} [{float(interval.low):.2f}, {float(interval.high):.2f}]"


class CandidateStatus(Record):
    """One trial's model on one engine: what can be chosen."""

    engine: EngineName
    metrics: dict[str, Decimal] = Field({}, description="By metric name: fractions, seconds, bytes, plain numbers.")
    time_ratio: Interval | None = Field(
        None, description="Median latency relative to the baseline, measured interleaved with it in the playoff."
    )
    batch_ratio: Interval | None = Field(None, description="The same for a batch, where throughput is asked for.")
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


DECISIVE_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Softmax", "Attention"}
    | {f"com.microsoft:{name}" for name in ("Attention", "MultiHeadAttention", "FusedMatMul", "FusedConv")}
)
"""The operators that decide what a recipe tries: a Report never leaves them out."""


class Inspection(Record):
    """What the Inspect pod found: the operator itself never opens a model."""

    model_digest: str = ""
    data_digests: dict[str, str] = {}
    samples: dict[str, int] = {}
    operators: dict[str, int] = Field({}, description="How many nodes of each ONNX operator, most frequent first.")
    inputs: dict[str, str] = Field({}, description="Name to dtype and shape, such as float32[N,64].")
    size: int = Field(0, description="Bytes of the input model as ONNX.")
    quality: Metric = Field(
        Metric.ACCURACY,
        description="The quality metric that counts: the first one named in constraints, else in objectives; where "
        "none is named, what fits the data: accuracy for class labels, mse for numbers, cosine without labels.",
    )
    warnings: list[str] = Field([], description="What makes the input model's quality doubtful, such as wrong labels.")


class Best(Record):
    """The winner, in words and in numbers."""

    trial: int
    engine: EngineName
    artifact: str
    name: str = Field("", description="Trial and engine in short, such as trial-2/ONNXRuntime or input/OpenVINO.")
    speed_up: Annotated[
        str,
        Field(
            description="Baseline time over the winner's, such as 1.52x: of a batch where throughput is the objective."
        ),
    ] = ""
    quality: Annotated[str, Field(description="The quality metric that counts, such as 95.3% accuracy.")] = ""
    size: str = ""
    message: str = ""


class Verdict(StrEnum):
    HOLDS = "Holds"
    INCONCLUSIVE = "Inconclusive"
    VIOLATED = "Violated"


class Claim(Record):
    """What was found on the holdout split: the quality of both models on the same samples."""

    metric: Metric = Metric.ACCURACY
    samples: int = 0
    baseline: Decimal = "0"
    winner: Decimal = "0"
    drop: Interval | None = Field(None, description="In points of a fraction, relative for other metrics.")
    verdict: Verdict
    message: str = ""


class Published(Record):
    uri: str
    digest: str


VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""The flags of x86 CPUs that add products of 8 bits in 32."""
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""The flags of CPUs that compute in bfloat16."""


class Hardware(Record):
    """Where measurements were made. Ratios from two machines are not comparable."""

    cpu: str = ""
    flags: list[str] = Field([], description="The vector extensions that decide how fast integers are.")
    threads: int = 0
    versions: dict[str, str] = {}


class Cost(Record):
    pod_seconds: Decimal = "0"
    gpu_seconds: Decimal = Field(
        "0",
        description="GPUs times the seconds that pods held them, those included that were deleted because the job was "
        "suspended or failed, or gave up their trial.",
    )


class Running(Record):
    """A pod that has run for long."""

    job: str = Field(description="The name of its Job.")
    since: str
    doing: Doing | None = Field(None, description="How far it is, as its log last said.")


class OptimizationJobStatus(Record):
    """The operator's memory of a job."""

    observed_generation: int = 0
    conditions: list[Condition] = []
    start_time: str | None = Field(
        None, description="Since when the job's time counts. The time that it spends in a queue is added to it."
    )
    queued_since: str | None = Field(
        None, description="Since when all its work under way is held back by a queue, so that no time passes."
    )
    completion_time: str | None = None
    inspection: Inspection | None = None
    trials: list[TrialStatus] = []
    progress: str = Field("", description="Trials that have ended, of those there may be, such as 3/16.")
    running: Running | None = Field(
        None, description="The pod that has run the longest, once that is more than a minute."
    )
    search_stopped: str = Field("", description="Why no further trial is started.")
    playoff_done: bool = False
    control_ratio: Interval | None = Field(
        None, description="The baseline against itself in the playoff: what a ratio of 1 looks like on this machine."
    )
    batch_control_ratio: Interval | None = Field(
        None, description="The same for a batch, where throughput is asked for."
    )
    best: Best | None = None
    nearest_miss: str = Field("", description="Where nothing is feasible: the closest candidate and what binds it.")
    claim: Claim | None = None
    published: Published | None = None
    hardware: Hardware | None = None
    cost: Cost = Cost()
    state: str = Field("", description="The reason of the summary condition, for kubectl get.")
