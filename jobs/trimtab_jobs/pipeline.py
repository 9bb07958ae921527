"""A trial's steps, each taken once: parent in the store, technique, child in the store.

Models are handed on by digest. What a step depends on is its cache key (the parent, the technique, its settings, the
data it may read, the original model, the seed, library versions, our own code, CPU flags), so a trial that was killed
goes on after its last finished step, two trials that share a beginning share the work, and nothing else is ever
mistaken for it. The evaluation split is in the key of a step that looks at it: of a technique whose table entry says
so, and of one that guards quality (its config has `max_drop` set), which has what quality is in it too. Conversions
between formats are cached the same way.

There is no case for any technique here: the table `techniques.TECHNIQUES` says what function and which format. Where a
runtime has several processes for steps that train, `ranks` takes those; their number is in the key.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from trimtab.api.base import Spec
from trimtab.api.model import ModelFormat
from trimtab.api.status import Hardware
from trimtab.api.techniques import Step
from trimtab.api.work import StepReport
from trimtab_jobs import progress
from trimtab_jobs.data import Splits
from trimtab_jobs.engines import RUNNABLE, Session
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.ranks import Order, Ranks
from trimtab_jobs.store import Cached, Store, cache_key, digest_file
from trimtab_jobs.techniques import TECHNIQUES, Bench

log = logging.getLogger(__name__)

TUNING = ("calibration", "train")
"""The splits that every technique may read."""


@dataclass(frozen=True)
class Context:
    """What every step of a trial shares."""

    store: Store
    original: str
    """The digest of the model the job was given."""
    splits: Splits
    data: dict[str, str]
    """Digests by split name."""
    seed: int
    hardware: Hardware
    drop: Callable[[Session], float]
    """What `Bench.drop` is."""
    quality: object
    """What `drop` depends on beside the models and the evaluation split, as JSON."""
    ranks: Ranks | None = None
    """Who takes steps that train, if not this process."""

    def key(self, parent: str, action: str, settings: object, evaluation: bool = False, guards: bool = False) -> str:
        """The cache key of an action on a parent.

        `evaluation` where the action looks at that split; `guards` where it may call `drop`, which does so too.
        """
        readable = (*TUNING, "evaluation") if evaluation or guards else TUNING
        data = {name: self.data[name] for name in readable if name in self.data}
        if guards:
            settings = [settings, self.quality]
        machine = [self.hardware.versions, self.hardware.flags, _code()]
        return cache_key(parent, action, settings, data, self.original, self.seed, machine)


class Skipped(NotApplicable):
    """A pipeline that did not come to its end. `steps` are those taken, the last the one that had nothing to do."""

    def __init__(self, message: str, steps: list[StepReport]) -> None:
        super().__init__(message)
        self.steps = steps


def run_steps(parent: str, steps: Sequence[Step], context: Context) -> tuple[str, list[StepReport]]:
    """Take the steps from the parent artifact on. Returns the digest of the last model, in a format that engines open.

    They are told as all but the last of the trial, which is to measure what they made.
    Raises Skipped where a technique has nothing to do, or no conversion to its format exists.
    """
    reports: list[StepReport] = []
    for number, step in enumerate(steps):
        started = time.monotonic()
        progress.begin(number + 1, len(steps) + 1, step.technique)
        try:
            parent = convert(parent, TECHNIQUES[step.technique].accepts, context)
            taken, cached = _take(parent, step, number, context)
        except NotApplicable as reason:
            refused = StepReport(technique=step.technique, seconds=time.monotonic() - started)
            raise Skipped(str(reason), [*reports, refused]) from reason
        seconds = time.monotonic() - started
        log.info("%s: %s%s, %.1f s", step.technique, taken.note, " (from the cache)" if cached else "", seconds)
        reports.append(StepReport(technique=step.technique, cached=cached, seconds=seconds, **asdict(taken)))
        parent = taken.artifact
    return _runnable(parent, context), reports


def _runnable(digest: str, context: Context) -> str:
    return digest if context.store.model(digest).format in RUNNABLE else convert(digest, ModelFormat.ONNX, context)


def convert(digest: str, to: ModelFormat, context: Context) -> str:
    """The same model in another format. Raises NotApplicable if no conversion exists."""
    model = context.store.model(digest)
    if model.format == to:
        return digest

    def work(out: Path) -> tuple[Model, str, list[str]]:
        from trimtab_jobs.convert import convert as converted

        return converted(model, to, out, context.splits), "", []

    return _once(context.key(digest, "convert", to.value), work, context)[0].artifact


def _take(parent: str, step: Step, number: int, context: Context) -> tuple[Cached, bool]:
    model, original = context.store.model(parent), context.store.model(context.original)
    entry = TECHNIQUES[step.technique]
    ranks = context.ranks if step.trains else None

    def work(out: Path) -> tuple[Model, str, list[str]]:
        if ranks:
            return ranks.train(Order(number, parent, context.original), out)
        notes: list[str] = []
        threads = context.hardware.threads
        bench = Bench(out, original, context.splits, context.seed, threads, notes.append, context.drop)
        made = entry.load()(model, step.config, bench)
        return made, "; ".join(notes), bench.float_layers

    settings = [step.config.wire(), ranks.size] if ranks else step.config.wire()
    key = context.key(parent, step.technique, settings, entry.evaluation, _guards(step.config))
    return _once(key, work, context)


def _guards(config: Spec) -> bool:
    return getattr(config, "max_drop", None) is not None


@cache
def _code() -> str:
    """The digest of this package: two builds are two programs, even if somebody forgot to raise the version."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return cache_key([digest_file(file) for file in files])


def _once(key: str, work: Callable[[Path], tuple[Model, str, list[str]]], context: Context) -> tuple[Cached, bool]:
    """What `work` makes in an empty folder (the model, a note, layers left in floating point), from the cache if it
    was made before; and whether it was."""
    if found := context.store.cached(key):
        return found, True
    with tempfile.TemporaryDirectory(prefix="trimtab-") as out:
        made, note, float_layers = work(Path(out))
        taken = Cached(context.store.put(made.folder), note, float_layers)
    context.store.remember(key, taken)
    return taken, False
