"""One model on one engine over one split: how good its answers are, and a first look at what they cost.

The latencies here steer the search and are taken while other trials may run on the same node; the claim on speed is
made in the playoff (`timing`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from trimtab.api.metrics import Metrics
from trimtab.api.model import QUALITY, EngineName, Metric
from trimtab.api.work import Measurement
from trimtab_jobs import progress
from trimtab_jobs.answers import Answers
from trimtab_jobs.data import Array, Split, Splits
from trimtab_jobs.engines import EngineOptions, NotExecutable, Session, engine
from trimtab_jobs.errors import InvalidInput, NotOpened, Temporary, WorkFailure, not_installed
from trimtab_jobs.memory import loaded_memory
from trimtab_jobs.metrics import Batch, NoMetric, Rows, join, quality
from trimtab_jobs.model import Model
from trimtab_jobs.timing import Bounds, Call, Race, race

BATCH = 16
SAMPLES_TIMED = 64
"""How many samples of the split the latency is taken over, in turn."""
GLANCE = Bounds(rounds=1, min_rounds=1, calls_per_turn=200, least_turn_seconds=0.0, turn_seconds=2.0)
"""400 calls at most, so that 20 lie above the 95th percentile; a slow model gets 2 seconds per turn."""


class Judge:
    """What is measured of a model in one job, and the original model that quality refers to."""

    def __init__(
        self,
        metrics: Sequence[Metric],
        settings: Metrics,
        original: Callable[[], Session],
        splits: Splits,
        code: Path | None = None,
    ) -> None:
        """The first quality metric is the one that counts. `original` is called when that model is first needed."""
        self.metrics = frozenset(metrics)
        self.settings = settings
        self.qualities = {metric: quality(metric, settings, code) for metric in metrics if metric in QUALITY}
        self._load = original
        self._splits = splits
        self._remembered: dict[int, tuple[Split, Answers, int]] = {}
        """The original's answers and how many it gives at once, by the identity of the split, kept with them."""

    @property
    def primary(self) -> Metric:
        """The quality metric that counts."""
        return next(iter(self.qualities))

    def rows(self, session: Session, split: Split, metrics: Collection[Metric] = ()) -> dict[Metric, Rows]:
        """What each of the quality metrics, or of those given, keeps of the session's answers. Raises NotANumber."""
        wanted = {metric: how for metric, how in self.qualities.items() if metric in metrics or not metrics}
        rival, most = self._answers(split) if Metric.COSINE in wanted else (None, BATCH)
        size = min(batch_size(session, split), most)
        kept: dict[Metric, list[Rows]] = {metric: [] for metric in wanted}
        for start, inputs in zip(range(0, len(split), size), split.batches(size), strict=True):
            progress.part(f"{start} of {len(split)} samples answered")
            labels = None if split.labels is None else split.labels[start : start + size]
            original = rival.to(inputs, start) if rival else ()
            batch = Batch(min(size, len(split) - start), _numbers(session.run(inputs)), labels, original)
            for metric, how in wanted.items():
                kept[metric].append(how.rows(batch))
        return {metric: join(parts) for metric, parts in kept.items()}

    def value(self, metric: Metric, rows: Rows, split: Split) -> float:
        """One metric of the rows of a whole split. Raises NoMetric if it is no number."""
        found = self.qualities[metric].value(rows, split.labels)
        if not math.isfinite(found):
            custom = self.settings.custom if metric == Metric.CUSTOM else None
            told = f"metrics.custom.function {custom.function} returned {found}" if custom else f"{metric} is {found}"
            cause = "the function" if custom else "the labels"
            raise NoMetric(f"{told} on data.{split.name}: check {cause}, or name another metric")
        return found

    def values(self, session: Session, split: Split) -> dict[Metric, float]:
        """Every metric of a session's answers."""
        return {metric: self.value(metric, rows, split) for metric, rows in self.rows(session, split).items()}

    def drop(self, session: Session) -> float:
        """How much of the metric that counts a session loses on the evaluation split, as `Metrics.drop` says.

        Infinity where it does not answer with numbers. The original is loaded and run at the first call.
        """
        try:
            return self.settings.drop(self.primary, self._before, self._primary_of(session))
        except NotANumber:
            return math.inf

    @cached_property
    def _original(self) -> Session:
        return self._load()

    def _answers(self, split: Split) -> tuple[Answers, int]:
        if id(split) not in self._remembered:
            original = self._original
            self._remembered[id(split)] = split, Answers(original, split), batch_size(original, split)
        _, answers, size = self._remembered[id(split)]
        return answers, size

    @cached_property
    def _before(self) -> float:
        return self._primary_of(self._original)

    def _primary_of(self, session: Session) -> float:
        split = self._splits.evaluation
        return self.value(self.primary, self.rows(session, split, {self.primary})[self.primary], split)


class NotANumber(InvalidInput):
    """A model answered with NaN."""


def measure(name: EngineName, model: Model, split: Split, options: EngineOptions, judge: Judge) -> Measurement:
    """Quality, latency and size of a model on one engine, and what else the job asks for.

    An engine that cannot run the model is a finding, not a failure: `executed` is False and `note` says why. Raises
    NoMetric, which is not about the engine.
    """
    started = time.monotonic()
    found = _measure(name, model, split, options, judge)
    return found.model_copy(update={"seconds": time.monotonic() - started})


def _measure(name: EngineName, model: Model, split: Split, options: EngineOptions, judge: Judge) -> Measurement:
    try:
        session = engine(name).load(model, options)
        metrics = judge.values(session, split) | _glance(session, split, judge)
        metrics[Metric.SIZE] = session.size
        if Metric.PEAK_MEMORY in judge.metrics:
            metrics[Metric.PEAK_MEMORY] = loaded_memory(name, model, split, options)
        return Measurement(engine=name, metrics=metrics)
    except NotExecutable as built:
        return Measurement(engine=name, executed=False, metrics={Metric.SIZE: built.size}, note=str(built))
    except (NoMetric, Temporary, MemoryError):
        raise
    except NotOpened as refused:
        return Measurement(engine=name, executed=False, opened=False, note=one_line(refused))
    except ModuleNotFoundError as missing:
        return Measurement(engine=name, executed=False, opened=False, note=one_line(not_installed(missing)))
    except Exception as error:  # every engine has its own exceptions, and one engine's must not sink the others
        return Measurement(engine=name, executed=False, note=one_line(error))


def _glance(session: Session, split: Split, judge: Judge) -> dict[Metric, float]:
    found = latencies(race([caller(session, split)], GLANCE), 0, judge.metrics)
    if Metric.THROUGHPUT in judge.metrics:
        size = throughput_batch(session, split, judge.settings)
        found[Metric.THROUGHPUT] = size / race([caller(session, split, size)], GLANCE).percentile(0, 50)
    return found


def latencies(raced: Race, contestant: int, wanted: Collection[Metric]) -> dict[Metric, float]:
    """The percentiles of one contestant's calls: the 50th, the 95th and, where wanted, the 99th."""
    percents = {Metric.LATENCY_P50: 50, Metric.LATENCY_P95: 95, Metric.LATENCY_P99: 99}
    return {
        metric: raced.percentile(contestant, percent)
        for metric, percent in percents.items()
        if metric != Metric.LATENCY_P99 or metric in wanted
    }


def batch_size(session: Session, split: Split) -> int:
    """How many samples a session is given at once: a few, or 1 where it takes no more or answers not one by one.

    A graph may say that its batch is free and yet hold a shape for one sample; so two are tried.
    """
    inputs = next(split.batches(2))
    try:
        outputs = session.run(inputs)
    except InvalidInput:
        return 1
    samples = len(next(iter(inputs.values())))
    return BATCH if all(output.ndim > 0 and len(output) == samples for output in outputs) else 1


def throughput_batch(session: Session, split: Split, settings: Metrics) -> int:
    """How many samples are run at once where throughput is measured."""
    return 1 if batch_size(session, split) == 1 else min(settings.throughput_batch, len(split))


def caller(session: Session, split: Split, size: int = 1) -> Call:
    """A function that runs `size` samples, taking turns among the split's first batches of so many."""
    samples = [part for part in islice(split.batches(size), SAMPLES_TIMED) if len(next(iter(part.values()))) == size]
    return lambda index: session.run(samples[index % len(samples)])


def _numbers(outputs: list[Array]) -> list[Array]:
    for index, output in enumerate(outputs):
        if output.dtype.kind == "f" and np.isnan(output).any():
            raise NotANumber(f"output {index} of the model has NaN: check the model, or the range of its inputs")
    return outputs


def one_line(error: Exception) -> str:
    """What an error says in a finding."""
    said = str(error) if isinstance(error, WorkFailure) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:300]
