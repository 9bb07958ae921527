"""From a Task to a Report: the four stages of a job, as recipes.

    Inspect   what was given is sound: digests, operators, the baseline's measurements
    Trial     the pipeline's steps, then the result on every engine
    Playoff   the finalists' time relative to the baseline, interleaved
    Publish   the claim on the holdout split, and the winner where servers look

Trials never read holdout, and nothing but Publish measures on it. Every stage may be run again: what it wrote before
is found by its digest.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from trimtab.api.model import Metric
from trimtab.api.quantities import parse_duration
from trimtab.api.status import Claim, Inspection, Interval, Verdict, show_interval
from trimtab.api.work import VOLUMES_PATH, ErrorKind, Finalist, Report, Stage, Task, Timing, WorkError
from trimtab_jobs import progress
from trimtab_jobs import publish as publishing
from trimtab_jobs.bucket_store import open_store
from trimtab_jobs.claim import Compared, claim
from trimtab_jobs.data import Array, Split
from trimtab_jobs.desk import CODE_PIN, Desk
from trimtab_jobs.drift.profile import make_profile, predicted
from trimtab_jobs.engines import Session
from trimtab_jobs.errors import (
    Crashed,
    InvalidInput,
    NotApplicable,
    OutOfSpace,
    Temporary,
    WorkFailure,
    not_installed,
)
from trimtab_jobs.evaluate import batch_size, caller, latencies, throughput_batch
from trimtab_jobs.files import FULL
from trimtab_jobs.hardware import hardware, peak_memory
from trimtab_jobs.metrics import CLASSIFIES
from trimtab_jobs.onnx_model import operators
from trimtab_jobs.pipeline import Skipped, run_steps
from trimtab_jobs.ranks import helps
from trimtab_jobs.signature import inputs
from trimtab_jobs.soundness import check_metrics, check_splits, doubts
from trimtab_jobs.store import Store
from trimtab_jobs.timing import TAIL, Race, race, ratio

log = logging.getLogger(__name__)


def run(task: Task) -> Report:
    """Carry out a Task. Whatever goes wrong is in the Report; a bug's traceback is on standard error too."""
    started = time.monotonic()
    log.info("%s of %s/%s", task.stage.value, task.job.namespace, task.job.name)
    with ExitStack() as opened:
        report, store = _carry_out(task, opened)
        seconds = time.monotonic() - started
        report = report.model_copy(
            update={"trial": task.trial, "hardware": hardware(), "seconds": seconds, "peak_memory": peak_memory()}
        )
        if store and not helps(task):
            _keep(store, task, report)
        if store and task.keep and not report.error:
            _clean(store, task.keep)
    return report


def _carry_out(task: Task, opened: ExitStack) -> tuple[Report, Store | None]:
    """What came of it, and the store, if it could be opened."""
    store = None
    try:
        store = opened.enter_context(open_store(task.store))
        report = _STAGES[task.stage](Desk(task, store))
    except NotApplicable as reason:
        report = Report(stage=task.stage, skipped=str(reason))
    except WorkFailure as failure:
        report = failed(task.stage, failure)
    except MemoryError:
        report = failed(task.stage, Temporary("memory ran out: raise the runtime's memory limit"))
    except ModuleNotFoundError as missing:
        report = failed(task.stage, not_installed(missing))
    except PermissionError as denied:
        report = failed(task.stage, InvalidInput(f"{denied.filename}: no permission: let user {os.getuid()} read it"))
    except Exception as error:
        report = failed(task.stage, _unforeseen(error))
    return report, store


def _unforeseen(error: Exception) -> WorkFailure:
    if isinstance(error, OSError) and error.errno in FULL:
        place = error.filename2 or error.filename or tempfile.gettempdir()  # of a copy, the second is what is written
        return OutOfSpace(f"{place}: cannot be written ({error.strerror}): free space, or set TMPDIR to another folder")
    traceback.print_exc()
    return Crashed(f"{type(error).__name__}: {error}")


def failed(stage: Stage, failure: WorkFailure) -> Report:
    """The Report of a failure. Its type says whether to try again, and it names files by their addresses."""
    kind = ErrorKind.TEMPORARY if isinstance(failure, Temporary) else ErrorKind.PERMANENT
    message = str(failure).replace(f"{VOLUMES_PATH}/", "pvc://")
    return Report(stage=stage, error=WorkError(kind=kind, reason=failure.reason, message=message))


def inspect(desk: Desk) -> Report:
    progress.begin(1, 2, "checking the model and the data")
    splits = desk.splits.all()
    baseline = desk.baseline
    given = inputs(desk.model(baseline))
    task = desk.task
    check_splits(splits, given)
    check_metrics(desk.judge.qualities, task.metrics, splits, desk.first_outputs, task.model.uri)
    progress.begin(2, 2, "measuring the input model")
    measurements = desk.measure(baseline, reference=True)
    if not measurements[0].executed:
        first = measurements[0]
        raise InvalidInput(
            f"target.engines: the first, {first.engine.value}, cannot run the input model ({first.note}): "
            "put one first that can, for the baseline is measured on it"
        )
    found = Inspection(
        model_digest=desk.source,
        data_digests=desk.pinned(*desk.paths) | ({CODE_PIN: desk.code_digest} if desk.code else {}),
        samples={split.name: len(split) for split in splits},
        operators=operators(desk.model(baseline).onnx),
        inputs={one.name: one.form for one in given},
        size=desk.store.model(baseline).size,
        quality=desk.quality,
        warnings=list(doubts(splits, desk.quality, measurements[0].metrics[desk.quality], task.metrics)),
    )
    return Report(stage=Stage.INSPECT, artifact=baseline, measurements=measurements, inspection=found)


def trial(desk: Desk) -> Report:
    if desk.ranks and helps(desk.task):
        desk.ranks.help()
        return Report(stage=Stage.TRIAL)
    try:
        artifact, steps = run_steps(desk.source, desk.task.steps, desk.context)
    except Skipped as skipped:
        return Report(stage=Stage.TRIAL, skipped=str(skipped), steps=skipped.steps)
    progress.begin(len(steps) + 1, len(steps) + 1, "measuring")
    return Report(stage=Stage.TRIAL, artifact=artifact, steps=steps, measurements=desk.measure(artifact))


def playoff(desk: Desk) -> Report:
    races = 1 + (Metric.THROUGHPUT in desk.task.measure)
    progress.begin(1, 1 + races, "loading the finalists")
    desk.pinned("evaluation")
    finalists = desk.task.finalists
    split, measured = desk.splits.evaluation, desk.task.measure
    sessions = [desk.load(entrant) for entrant in [*finalists, finalists[0]]]  # the baseline once more, as the control
    rivals = range(1, len(finalists))
    progress.begin(2, 1 + races, "timing")
    bounds = TAIL if Metric.LATENCY_P99 in measured else None
    raced = race([caller(session, split) for session in sessions], bounds, droppable=rivals)
    ratios = _ratios(raced, desk.task.seed)
    timings = [
        Timing(trial=f.trial, engine=f.engine, ratio=ratios[i], metrics=latencies(raced, i, measured))
        for i, f in enumerate(finalists)
    ]
    for timing in timings[1:]:
        took = show_interval(timing.ratio)
        log.info("trial %d on %s: %s of the input model's time", timing.trial, timing.engine.value, took)
    report = Report(stage=Stage.PLAYOFF, timings=timings, control=ratios[-1])
    return _with_throughput(report, sessions, desk) if Metric.THROUGHPUT in measured else report


def _ratios(raced: Race, seed: int) -> list[Interval]:
    """Every contestant's time relative to the first one's."""
    return [ratio(raced.medians(index), raced.medians(0), seed) for index in range(len(raced.times))]


def _with_throughput(report: Report, sessions: list[Session], desk: Desk) -> Report:
    """Race once more, with batches. One size for all: the smallest that anybody is limited to."""
    progress.begin(3, 3, "timing batches")
    split, settings = desk.splits.evaluation, desk.task.metrics
    size = min(throughput_batch(session, split, settings) for session in sessions)
    raced = race([caller(session, split, size) for session in sessions])
    ratios = _ratios(raced, desk.task.seed)
    timings = [
        timing.model_copy(
            update={
                "batch_ratio": ratios[index],
                "metrics": timing.metrics | {Metric.THROUGHPUT: size / raced.percentile(index, 50)},
            }
        )
        for index, timing in enumerate(report.timings)
    ]
    return report.model_copy(update={"timings": timings, "batch_control": ratios[-1]})


def publish(desk: Desk) -> Report:
    task = desk.task
    assert task.winner
    assert task.baseline
    progress.begin(1, 2, "measuring on the holdout split")
    digests = desk.pinned("holdout", "calibration", "evaluation")
    found = _claim(desk, task.baseline, task.winner)
    log.info("claim %s: %s", found.verdict.value, found.message)
    if found.verdict == Verdict.VIOLATED or task.publish is None:
        return Report(stage=Stage.PUBLISH, artifact=task.winner.artifact, claim=found)
    progress.begin(2, 2, "publishing")
    return Report(
        stage=Stage.PUBLISH,
        artifact=task.winner.artifact,
        claim=found,
        published=_publish(desk, task.winner, found, digests),
    )


_STAGES: dict[Stage, Callable[[Desk], Report]] = {
    Stage.INSPECT: inspect,
    Stage.TRIAL: trial,
    Stage.PLAYOFF: playoff,
    Stage.PUBLISH: publish,
}


def _claim(desk: Desk, baseline: Finalist, winner: Finalist) -> Claim:
    """What the holdout says of both models, answering the same samples."""
    judge, holdout = desk.judge, desk.splits.holdout
    before, after = (judge.rows(desk.load(finalist), holdout) for finalist in (baseline, winner))
    compared = {
        metric: Compared(metric, quality.value, judge.settings, holdout.labels, before[metric], after[metric])
        for metric, quality in judge.qualities.items()
    }
    return claim(compared, desk.task.constraints, desk.task.seed, itself=winner == baseline)


def _publish(desk: Desk, winner: Finalist, found: Claim, digests: dict[str, str]) -> str:
    """Where the winner can be loaded from now."""
    from trimtab_jobs.reporting import report_files  # with the page's templates, which no other stage needs

    task = desk.task
    assert task.publish
    reference = desk.splits.calibration if "calibration" in desk.paths else desk.splits.evaluation
    profile = make_profile(reference.inputs, _predictions(desk, desk.load(winner), reference), task.seed)
    publication = publishing.Publication(
        job=task.job,
        winner=winner,
        claim=found,
        digests=digests | {"model": task.pins.get("model", "")},
        hardware=desk.hardware,
    )
    place = publishing.place(task.publish)
    uri = place.address(publishing.edition_name(winner.artifact))
    model, pods = desk.model(winner.artifact), desk.store.reports(task.job.uid)
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        profile.save(Path(scratch) / publishing.PROFILE)
        return publishing.publish(
            place,
            model,
            Path(scratch) / publishing.PROFILE,
            publication,
            report_files(task.report, found, uri, model.format, pods) if task.report else {},
        )


def _predictions(desk: Desk, session: Session, split: Split) -> Array | None:
    """What drift is watched in beside the inputs, [N]: the predicted class, or the one number that was predicted.

    None where the first output is neither: the place of the highest number in an embedding means nothing.
    """
    size = batch_size(session, split)
    first = session.run(next(split.batches(size)))[0]
    numbers = first.ndim > 0 and first.size == len(first) == min(size, len(split))
    if not numbers and desk.quality not in CLASSIFIES:
        log.info("drift: the outputs are no class scores, so only the inputs are watched")
        return None
    return np.concatenate([predicted(session.run(part)[0]) for part in split.batches(size)])


def _keep(store: Store, task: Task, report: Report) -> None:
    try:
        store.save_report(task.job.uid, report)
    except WorkFailure as failure:  # what decisions need is in the termination message
        log.warning("the full report was not kept: %s", failure)


def _clean(store: Store, keep: str) -> None:
    try:
        removed = store.clean(parse_duration(keep))
    except WorkFailure as failure:  # the next job that ends tries again
        log.warning("the store was not cleaned: %s", failure)
    else:
        log.info("removed from the store, unused for %s: %d", keep, removed)
