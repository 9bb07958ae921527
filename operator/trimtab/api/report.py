"""The report of a whole job: what `report.json` holds, and all that the HTML page and the summary are rendered from.

A status answers a controller; a report answers a colleague who was not there: what was asked, what was tried, what was
chosen and why, on which machine, and how to use it. Whatever needs words is worded here once (`headline`, `reason`,
`verdict`, ...), so that every rendering says the same. Numbers are decimal strings in fractions, seconds and bytes, as
in the status; what is unknown is left out.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field

from trimtab.api.base import Record
from trimtab.api.model import EngineName, Metric
from trimtab.api.quantities import Decimal
from trimtab.api.status import Claim, Cost, Hardware, Interval, Outcome, Published
from trimtab.api.work import JobIdentity, Report, StepReport

REPORT_VERSION: Literal["v1alpha1"] = "v1alpha1"


class SplitUsed(Record):
    """A part of the data, as Inspect found it."""

    name: str
    uri: str
    samples: int = 0
    digest: str = ""


class Promise(Record):
    """One constraint."""

    metric: Metric
    text: str = Field(description="Such as: accuracy drops by at most 1%.")
    limit: Decimal | None = Field(None, description="The bound in the metric's own unit, if it is no drop.")
    drop: Decimal | None = Field(None, description="Of quality: the bound as a drop from the input model.")


class Asked(Record):
    """What the job's spec says, and the data behind its addresses."""

    model: str = Field(description="The address of the input model.")
    format: str
    data: list[SplitUsed] = []
    promises: list[Promise] = []
    objectives: list[str] = []
    engines: list[EngineName] = []
    device: str = ""
    techniques: list[str] = Field([], description="The pipeline, a step each with its space of settings.")
    derived: bool = Field(False, description="Whether the techniques come from a recipe, as the spec names none.")
    search: str = Field("", description="How that space was explored.")


class Candidate(Record):
    """One trial's model on one engine, or a trial that made no model."""

    name: str = Field(description="Such as: trial 2 on ONNXRuntime.")
    trial: int
    engine: EngineName | None = None
    settings: dict[str, str] = {}
    outcome: Outcome | None = Field(None, description="Left out while the job is under way.")
    reason: str = ""
    note: str = Field("", description="What the techniques said of the model, such as how many nodes they quantized.")
    metrics: dict[str, Decimal] = Field({}, description="By metric name: fractions, seconds, bytes, plain numbers.")
    drop: Decimal | None = Field(
        None,
        description="Quality lost against the input model on the evaluation split, below 0 if gained.",
    )
    time_ratio: Interval | None = Field(None, description="Time relative to the input model's, from the playoff.")
    batch_ratio: Interval | None = Field(None, description="The same for a batch, where throughput is asked for.")


class TrialWork(Record):
    """How a trial's model was made, as its pod reported it."""

    trial: int
    seconds: float = 0.0
    peak_memory: int = Field(0, description="Bytes of resident memory at the most.")
    steps: list[StepReport] = []


def trial_work(pods: Iterable[Report]) -> list[TrialWork]:
    """What the full reports of a job's pods say of its trials."""
    return [
        TrialWork(trial=pod.trial, seconds=pod.seconds, peak_memory=pod.peak_memory, steps=pod.steps)
        for pod in pods
        if pod.trial is not None
    ]


class Winner(Record):
    """The chosen candidate. Both names point into `candidates`."""

    name: str
    trial: int
    engine: EngineName
    artifact: str
    speed_up: Interval | None = Field(
        None, description="The input model's time over the winner's: of a batch where throughput is the objective."
    )
    batches: bool = Field(False, description="Whether the speed-up is that of a batch.")
    published: Published | None = None
    load: str = Field("", description="Python that loads the winner and runs it once.")


class Lineage(Record):
    """What the result was made of and where: enough to ask for it again."""

    model: str = Field("", description="The digest of the input model.")
    hardware: Hardware | None = None
    operators: dict[str, int] = {}
    inputs: dict[str, str] = {}


class JobReport(Record):
    """How an OptimizationJob ended, explained."""

    version: Literal["v1alpha1"] = REPORT_VERSION
    job: JobIdentity
    state: str = Field(description="The reason of the job's summary condition, such as Published.")
    headline: str = Field(description="The verdict in one sentence.")
    started: str = ""
    ended: str = ""
    quality: Metric = Field(description="The metric that the plot, the promise and the claim speak of.")
    higher_is_better: bool = Field(True, description="Whether more of that metric is better.")
    asked: Asked
    warnings: list[str] = Field([], description="What makes the input model's quality doubtful.")
    winner: Winner | None = None
    nearest_miss: str = Field("", description="Where nothing is feasible: the closest candidate and what binds it.")
    claim: Claim | None = None
    verdict: str = Field("", description="The claim in words.")
    batches: bool = Field(
        False, description="Whether the ratios of time that count are those of batches: throughput is the objective."
    )
    control: Interval | None = Field(
        None, description="The input model against itself in the playoff: in batches where throughput is the objective."
    )
    noise: str = Field("", description="What the control says of this machine, in words.")
    candidates: list[Candidate] = []
    work: list[TrialWork] = []
    lineage: Lineage = Lineage()
    cost: Cost = Cost()

    def packed(self) -> str:
        """The report as text to be carried in a Task: Linux gives one variable of a process 128 KiB."""
        return b64encode(zlib.compress(self.model_dump_json(by_alias=True, exclude_defaults=True).encode())).decode()

    @classmethod
    def unpacked(cls, text: str) -> Self:
        return cls.model_validate_json(zlib.decompress(b64decode(text)))

    def ratio(self, candidate: Candidate) -> Interval | None:
        """A candidate's time relative to the input model's, in the race that counts."""
        return candidate.batch_ratio if self.batches else candidate.time_ratio

    @property
    def ratio_name(self) -> str:
        return ratio_name(self.batches)


def ratio_name(batches: bool) -> str:
    """What that ratio is called where there is little room."""
    return "batch ratio" if batches else "time ratio"
