"""Task and Report: a pod's whole input and its whole output.

A pod gets one Task (JSON in the environment variable `TRIMTAB_TASK`, so that it is created atomically with the Job
and can be read back from it) and leaves one Report. The full Report goes to the store; `Report.compact` fits it into
the 4,096 bytes that Kubernetes keeps of a container's termination message.

Images and operators of neighbouring versions meet here: a runtime names its image, and a job in flight outlives an
upgrade. What is at its default is not written, and what a reader does not know of a Record it ignores; so a field
may be added, if its default means what there was before. An image refuses a setting that it does not know, because
what it made would be taken for what was asked. A change of meaning needs a new `WORK_VERSION`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_core import to_json

from trimtab.api.base import Record
from trimtab.api.metrics import Metrics
from trimtab.api.model import Data, EngineName, Metric, ModelSource, Target
from trimtab.api.promises import Constraint
from trimtab.api.quantities import Duration
from trimtab.api.runtime import Distributed
from trimtab.api.status import DECISIVE_OPERATORS, Claim, Hardware, Inspection, Interval
from trimtab.api.techniques import Step

WORK_VERSION = "v1alpha1"
TASK_VARIABLE = "TRIMTAB_TASK"
VOLUMES_VARIABLE = "TRIMTAB_VOLUMES"
VOLUMES_PATH = "/trimtab/volumes"
"""Where a pod has its claims, each in a folder of its name."""
MESSAGE_VARIABLE = "TRIMTAB_TERMINATION_MESSAGE"
CONFINED_VARIABLE = "TRIMTAB_CONFINED"
"""Set in a pod, to the address of its store: what a registry answers leads neither there nor to a file of the pod."""
MESSAGE_LIMIT = 4096
FINALISTS_LIMIT = 12
OPERATORS_KEPT = 16
"""How many operators a compact Report has at least, where it cannot have all."""
INVALID_INPUT_EXIT = 2
TEMPORARY_EXIT = 75
"""The exit codes of a pod: 2 is somebody's input and never retried, 75 (EX_TEMPFAIL) is worth another attempt."""


def report_folder(uid: str) -> str:
    """Where in the store the full reports of a job's pods are."""
    return f"reports/{uid}"


class Stage(StrEnum):
    INSPECT = "Inspect"
    TRIAL = "Trial"
    PLAYOFF = "Playoff"
    PUBLISH = "Publish"


class JobIdentity(Record):
    name: str
    namespace: str
    uid: str


class Finalist(Record):
    """A candidate as the playoff and the publisher see it."""

    trial: int
    engine: EngineName
    artifact: str


class Task(Record):
    """A pod's whole input. Nothing else is passed: no flags, no mounted configuration."""

    version: str = WORK_VERSION
    stage: Stage
    job: JobIdentity
    model: ModelSource
    data: Data
    target: Target
    store: str = Field(description="The address of the folder for artifacts, cache and full reports.")
    seed: int = 0
    pins: dict[str, str] = Field({}, description="Digests by split name, and `model`; a pod refuses other content.")
    trial: int | None = None
    settings: dict[str, str] = Field({}, description="The point of the space that `steps` was made from.")
    steps: list[Step] = Field([], description="The pipeline with every setting chosen.")
    distributed: Distributed | None = Field(
        None, description="Trial: the processes that train; unset: this one. Never without a step that trains."
    )
    finalists: list[Finalist] = Field([], description="Playoff: what to measure. The first is the baseline.")
    winner: Finalist | None = None
    baseline: Finalist | None = Field(None, description="Publish: what the winner is compared with.")
    constraints: list[Constraint] = []
    quality: Metric | None = Field(None, description="The quality metric that counts; unset: chosen by the data.")
    measure: list[Metric] = Field([], description="What promises and objectives name.")
    metrics: Metrics = Metrics()
    publish: str | None = None
    keep: Duration | None = Field(None, description="Publish: what nobody has used for so long leaves the store.")

    def text(self) -> str:
        """As JSON, as `asked` and `recorded` read it."""
        return _versioned(self)

    @classmethod
    def asked(cls, text: str) -> Task:
        """For whoever does the work: an unknown setting is refused. Raises ValidationError."""
        return cls.model_validate_json(text)

    @classmethod
    def recorded(cls, text: str) -> Task:
        """For whoever only looks at what was asked, maybe by a newer operator. Raises ValidationError."""
        return cls.model_validate_json(text, extra="ignore")

    report: str = Field(
        "", description="Publish: the job's JobReport so far, packed; with the claim it is published too."
    )


def _versioned(document: Task | Report) -> str:
    """Without what is at its default; but the version is always said, for a reader may have another one."""
    said = document.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    return to_json({"version": document.version} | said, inf_nan_mode="null").decode()


OUT_OF_SPACE = "OutOfSpace"
"""The reason of a WorkError: temporary in a cluster, where somebody else may free space; a laptop's person must."""


class ErrorKind(StrEnum):
    PERMANENT = "Permanent"
    TEMPORARY = "Temporary"


class WorkError(Record):
    """Why there is no result. `message` names the field or file, the value and the remedy, in one line."""

    kind: ErrorKind
    reason: str
    message: str


Number = Annotated[float, PlainSerializer(lambda value: float(f"{value:.10g}"), when_used="json")]
"""Ten digits: bytes stay whole, and the timings of a large playoff fit into a message."""


def _known(metrics: Any) -> Any:
    """Without what only a newer image measures."""
    known = set(Metric)
    return {name: value for name, value in metrics.items() if name in known} if isinstance(metrics, dict) else metrics


Measured = Annotated[dict[Metric, Number], BeforeValidator(_known)]


class Measurement(Record):
    """One model on one engine: what the job needs of it, in fractions, seconds, bytes and plain numbers.

    `size` is what the engine loads: the model's files, or the built plan.
    """

    engine: EngineName
    executed: bool = Field(True, description="False: built for hardware that is not here, or not run; `note` says why.")
    opened: bool = Field(True, description="False: the engine opens no model of this kind, or is not installed.")
    metrics: Measured = {}
    note: str = ""
    seconds: Number = Field(0.0, description="What it took to measure.")


class StepReport(Record):
    technique: str
    cached: bool = False
    seconds: float = 0.0
    artifact: str = ""
    note: str = ""
    float_layers: list[str] = Field([], description="In scope, and left in floating point to keep the quality.")


class Timing(Record):
    """A finalist's playoff result: its time relative to the baseline's in the same interleaved run."""

    trial: int
    engine: EngineName
    ratio: Interval
    batch_ratio: Interval | None = None
    metrics: Measured = Field({}, description="What was timed: latencies, and throughput where asked for.")


class Report(Record):
    """A pod's whole output. Which parts are set follows from the stage."""

    version: str = WORK_VERSION
    stage: Stage
    trial: int | None = None
    error: WorkError | None = None
    skipped: str = Field("", description="Why the technique does not apply; the trial is no failure then.")
    artifact: str = ""
    steps: list[StepReport] = []
    measurements: list[Measurement] = []
    inspection: Inspection | None = None
    timings: list[Timing] = []
    control: Interval | None = None
    batch_control: Interval | None = None
    claim: Claim | None = None
    published: str = Field("", description="Where the winner can be loaded from.")
    hardware: Hardware | None = None
    seconds: float = 0.0
    peak_memory: int = Field(0, description="Bytes of resident memory at the most.")
    truncated: list[str] = Field([], description="What `compact` left out; the full report has it.")

    def compact(self) -> str:
        """The report as JSON of at most 4,096 bytes.

        What is left out, in the order of `_CUTS` until the rest fits, is named in `truncated`. What decisions read
        (digests, measurements, timings, claim) is never left out: `FINALISTS_LIMIT` timings fit. Raises ValueError
        if that is not enough.
        """
        report = self
        text = report._json()
        for name, cut in _CUTS.items():
            if len(text.encode()) <= MESSAGE_LIMIT:
                return text
            shorter = report.model_copy(update=cut(report))
            if shorter == report:
                continue
            report = shorter.model_copy(update={"truncated": [*report.truncated, name]})
            text = report._json()
        if len(text.encode()) > MESSAGE_LIMIT:
            raise ValueError(f"a report of {len(text.encode())} bytes does not fit {MESSAGE_LIMIT}")
        return text

    def _json(self) -> str:
        return _versioned(self)


def _fewer_operators(report: Report) -> dict[str, Any]:
    """Those that decide what is tried, and of the others the most frequent."""
    if not report.inspection:
        return {}
    counts = report.inspection.operators
    kept = {*list(counts)[:OPERATORS_KEPT], *DECISIVE_OPERATORS}
    operators = {name: count for name, count in counts.items() if name in kept}
    return {"inspection": report.inspection.model_copy(update={"operators": operators})}


def _without_inputs(report: Report) -> dict[str, Any]:
    inspection = report.inspection
    return {"inspection": inspection and inspection.model_copy(update={"inputs": {}})}


def _without_float_layers(report: Report) -> dict[str, Any]:
    return {"steps": [step.model_copy(update={"float_layers": []}) for step in report.steps]}


def _without_versions(report: Report) -> dict[str, Any]:
    hardware = report.hardware
    return {"hardware": hardware and hardware.model_copy(update={"versions": {}})}


def _without_notes(report: Report) -> dict[str, Any]:
    return {"measurements": [m.model_copy(update={"note": m.note[:80]}) for m in report.measurements]}


def _short_error(report: Report) -> dict[str, Any]:
    error = report.error
    return {"error": error and error.model_copy(update={"message": error.message[:512]})}


_CUTS: dict[str, Callable[[Report], dict[str, Any]]] = {
    "floatLayers": _without_float_layers,
    "operators": _fewer_operators,
    "versions": _without_versions,
    "steps": lambda report: {"steps": []},
    "inputs": _without_inputs,
    "notes": _without_notes,
    "error.message": _short_error,
    "skipped": lambda report: {"skipped": report.skipped[:512]},
}
