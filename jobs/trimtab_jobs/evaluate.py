"""One model on one engine over one split: its answers, how many are right, and a first look at its latency.

The latencies here steer the search and are taken while other trials may run on the same node; the claim on speed is
made in the playoff (`timing`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import islice

import numpy as np

from trimtab.api.model import EngineName
from trimtab.api.work import Measurement
from trimtab_jobs.data import Array, Split, Splits
from trimtab_jobs.engines import EngineOptions, NotExecutable, Session, engine
from trimtab_jobs.errors import Temporary, WorkFailure
from trimtab_jobs.model import Model
from trimtab_jobs.signature import inputs
from trimtab_jobs.timing import Bounds, Call, race

BATCH = 16
SAMPLES_TIMED = 64
"""How many samples of the split the latency is taken over, in turn."""
GLANCE = Bounds(rounds=1, min_rounds=1, calls_per_turn=200, turn_seconds=2.0)
"""400 calls at most, so that 20 lie above the 95th percentile; a slow model gets 2 seconds per turn."""


def measure(name: EngineName, model: Model, split: Split, options: EngineOptions) -> Measurement:
    """Accuracy, latency and size of a model on one engine.

    An engine that cannot run the model is a finding, not a failure: `executed` is False and `note` says why.
    """
    try:
        session = engine(name).load(model, options)
        return _measured(name, session, split, batch_size(model))
    except NotExecutable as built:
        return Measurement(engine=name, executed=False, size=built.size, note=str(built))
    except (Temporary, MemoryError):
        raise
    except Exception as error:  # every engine has its own exceptions, and one engine's must not sink the others
        return Measurement(engine=name, executed=False, note=_one_line(error))


def _measured(name: EngineName, session: Session, split: Split, batch: int) -> Measurement:
    accuracy = _accuracy(session, split, batch)
    calls = race([caller(session, split)], GLANCE)
    return Measurement(
        engine=name,
        accuracy=accuracy,
        latency_p50=calls.percentile(0, 50),
        latency_p95=calls.percentile(0, 95),
        size=session.size,
    )


def judge(
    name: EngineName, original: Callable[[], Model], splits: Splits, options: EngineOptions
) -> Callable[[Session], float]:
    """A function that says how much accuracy a session loses on the evaluation split against the original model.

    Nothing is read or run before its first call, and the original (on the engine `name`) only then.
    """

    @cache
    def reference() -> tuple[float, int]:
        batch = batch_size(original())
        return _accuracy(engine(name).load(original(), options), splits.evaluation, batch), batch

    def drop(session: Session) -> float:
        before, batch = reference()
        return before - _accuracy(session, splits.evaluation, batch)

    return drop


def _accuracy(session: Session, split: Split, batch: int) -> float:
    return float(correctness(predict(session, split, batch), split).mean())


def batch_size(model: Model) -> int:
    """How many samples a model takes at once: 1 if an input is fixed to that, else a batch that keeps memory small."""
    return 1 if any(given.shape[0] == 1 for given in inputs(model)) else BATCH


def scores(session: Session, split: Split) -> Array:
    """The first output for the split's first sample, [1, classes]: it shows how many classes a model knows."""
    return session.run(next(split.batches(1)))[0]


def predict(session: Session, split: Split, batch: int) -> Array:
    """The predicted class of each sample: the argmax of the last axis of the first output."""
    return np.concatenate([session.run(part)[0].argmax(axis=-1) for part in split.batches(batch)])


def correctness(predictions: Array, split: Split) -> Array:
    """Whether each prediction is its label, as bools."""
    assert split.labels is not None, split.name
    correct: Array = predictions == split.labels
    return correct


def caller(session: Session, split: Split) -> Call:
    """A function that runs one sample, taking turns among the split's first ones."""
    samples = list(islice(split.batches(1), SAMPLES_TIMED))
    return lambda index: session.run(samples[index % len(samples)])


def _one_line(error: Exception) -> str:
    said = str(error) if isinstance(error, WorkFailure) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:300]
