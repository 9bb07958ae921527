"""Carry out one job's decisions on this machine, with a process for every pod.

The same plan and reconcile as in a cluster; only this module differs. What Kubernetes keeps as Jobs and a status,
a folder keeps (`trimtab.runs`), so a run that was killed goes on where it was: finished work is found by its message,
and interrupted work is started again under its own name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from time import monotonic
from typing import Protocol

from pydantic import ValidationError

from trimtab.api.doing import Doing, last_told
from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.model import MODEL_FILES, ModelFormat, is_local
from trimtab.api.names import Reason
from trimtab.api.quantities import parse_quantity, show_quantity
from trimtab.api.runtime import OptimizationRuntime, OptimizationRuntimeSpec, Store
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import (
    MESSAGE_VARIABLE,
    OUT_OF_SPACE,
    TASK_VARIABLE,
    VOLUMES_VARIABLE,
    ErrorKind,
    Report,
    Stage,
    Task,
    WorkError,
    report_folder,
)
from trimtab.conditions import is_finished
from trimtab.decisions import Decision, Event, Observed, ObservedWork, Work, WorkState
from trimtab.memory import resident
from trimtab.page import REPORT_FILES, files
from trimtab.processes import Process, Processes, until_one_ends
from trimtab.reconcile import reconcile
from trimtab.report import build
from trimtab.runs import CannotRun, check_writable, hold, identified, path_of, store, writable, write

TICK = 0.2
"""Seconds between two looks at the clock, and at the memory of trials, while nothing happens."""
LOG_END = 4096
"""Bytes of a log in which its last line on progress is looked for."""
PROGRAM = "trimtab_jobs"


class Follower(Protocol):
    """Who is told how a run goes."""

    def event(self, event: Event) -> None:
        """Something has happened."""

    def tick(self, status: OptimizationJobStatus, doing: Doing | None = None) -> None:
        """Time has passed, or the status has changed. `doing` is what the process that was started first says."""


def run_local(
    job: OptimizationJob, folder: Path, volumes: Mapping[str, Path], follower: Follower
) -> OptimizationJobStatus:
    """Run a job to its end in `folder`, which is made if needed. `volumes` maps claim names to folders.

    Raises CannotRun for a claim without a folder, a folder that cannot be written, and one that another run holds.
    """
    if job.spec.suspend:
        raise CannotRun("spec.suspend: true: nothing would run; set it to false")
    _check_claims(job, volumes)
    if job.spec.publish and is_local(uri := job.spec.publish.uri):
        check_writable(f"spec.publish.uri: {uri}", path_of(uri, volumes).resolve())
    with hold(folder, job.metadata.name), Processes() as processes:
        return run_held(job, folder, volumes, follower, processes)


def run_held(
    job: OptimizationJob, folder: Path, volumes: Mapping[str, Path], follower: Follower, processes: Processes
) -> OptimizationJobStatus:
    """The same in a folder that the caller holds, with what starts processes.

    However it ends, no process is left, and the next run finds what has finished.
    """
    folder = folder.resolve()
    with writable(folder):
        for name in REPORT_FILES:
            (folder / name).unlink(missing_ok=True)  # it may be of another job
        machine = Machine(identified(job, folder, volumes), folder, dict(volumes), processes)
        try:
            while not is_finished(machine.job.status.conditions):
                decision = reconcile(machine.job, machine.observe(), datetime.now(UTC))
                machine.carry_out(decision, follower)
                machine.wait(decision.requeue_after, follower)
        finally:
            machine.stop(list(machine.started))
        if machine.job.status.inspection:
            machine.explain()
    return machine.job.status


def _check_claims(job: OptimizationJob, volumes: Mapping[str, Path]) -> None:
    """Every claim needs a folder, and what is read must be there; the one that is published to is made."""
    for where, uri in job.spec.addresses().items():
        scheme, _, rest = uri.partition("://")
        claim = rest.partition("/")[0]
        if scheme != "pvc":
            continue
        if claim not in volumes:
            raise CannotRun(f"{where}: {uri}: no folder stands for the claim {claim!r}; add --volume {claim}=DIR")
        if where == "spec.publish.uri":
            volumes[claim].mkdir(parents=True, exist_ok=True)
        elif not volumes[claim].is_dir():
            raise CannotRun(f"--volume {claim}={volumes[claim]}: there is no such folder; {where} is in it")


@dataclass
class Machine:
    """This machine as a cluster of one: it observes, starts, stops and remembers, and decides nothing."""

    job: OptimizationJob
    folder: Path
    volumes: dict[str, Path]
    processes: Processes
    started: dict[str, Process] = field(default_factory=dict)
    """By the name of the work."""
    ended: set[str] = field(default_factory=set)
    """The processes that had ended before the last look: whatever ends after it is news."""

    @property
    def runtime(self) -> OptimizationRuntime:
        spec = OptimizationRuntimeSpec(image="none", store=Store(uri=f"{self.folder.as_uri()}/store"))
        return OptimizationRuntime(metadata=ObjectMeta(name=self.job.spec.target.runtime_ref.name), spec=spec)

    def observe(self) -> Observed:
        """Every piece of this job's work that runs or has ended.

        What an earlier run left interrupted or failed is as good as never started. The folder has no other job's work,
        and that of another version may be named otherwise but for the UID.
        """
        self.ended = {name for name, process in self.started.items() if process.poll() is not None}
        folders = sorted((self.folder / "work").glob(f"*-{self.job.metadata.uid[:8]}-*"))
        seen = (self._observe(path) for path in folders)
        return Observed(self.runtime, tuple(work for work in seen if work))

    def _observe(self, path: Path) -> ObservedWork | None:
        if not (path / "task.json").exists():
            return None
        task = Task.recorded((path / "task.json").read_text())
        work = Work(path.name, task, int(path.name.rsplit("-", 1)[1]))
        process = self.started.get(work.name)
        if process and process.poll() is None:
            return ObservedWork(work, WorkState.ACTIVE)
        report = self._within(path / "message")
        if process and report and report.error and report.error.reason == OUT_OF_SPACE:
            raise CannotRun(report.error.message)  # trying again cannot help before somebody has freed some
        if report and not report.error:
            return ObservedWork(work, WorkState.SUCCEEDED, report)
        message = _ending(process, path / "log") if process else ""
        return ObservedWork(work, WorkState.FAILED, report, message) if process else None

    def carry_out(self, decision: Decision, follower: Follower) -> None:
        """Start, stop, write the status once if it changed, then tell."""
        for work in decision.create:
            self._start(work)
        self.stop([name for name in decision.delete if name in self.started])
        if decision.status != self.job.status:
            self.job = self.job.model_copy(update={"status": decision.status})
            store(self.folder, self.job)
        for event in decision.events:
            follower.event(event)
        follower.tick(self.job.status)

    def _start(self, work: Work) -> None:
        path = self.folder / "work" / work.name
        path.mkdir(parents=True, exist_ok=True)
        (path / "message").unlink(missing_ok=True)
        task = work.task.text()
        write(path / "task.json", task)
        volumes = {claim: str(directory.resolve()) for claim, directory in self.volumes.items()}
        given = {
            TASK_VARIABLE: task,
            VOLUMES_VARIABLE: json.dumps(volumes),
            MESSAGE_VARIABLE: str(path / "message"),
        }
        with (path / "log").open("wb") as log:
            self.started[work.name] = self.processes.start([PROGRAM], log, given=given)

    def wait(self, seconds: float | None, follower: Follower) -> None:
        """Until a process ends or the time is over; meanwhile trials are held to the budget of memory."""
        until = monotonic() + (inf if seconds is None else seconds)
        while not self._wait(max(0.0, min(TICK, until - monotonic()))) and monotonic() < until:
            follower.tick(self.job.status, self._doing())
            if budget := self.job.spec.budget.memory:
                self._hold(budget)

    def _doing(self) -> Doing | None:
        """What the log of the process that has run the longest says of how far it is."""
        running = (name for name, process in self.started.items() if process.poll() is None)
        name = next(running, None)
        return last_told(_end_of(self.folder / "work" / name / "log")) if name else None

    def _hold(self, budget: str) -> None:
        """End the trials that hold more memory than the budget, and leave the message they can no longer leave."""
        for name, process in self.started.items():
            if process.poll() is not None:
                continue  # its number may be that of a stranger by now
            held, path = resident(process.pid), self.folder / "work" / name
            if held <= parse_quantity(budget):
                continue
            task = Task.recorded((path / "task.json").read_text())
            if task.stage == Stage.TRIAL:
                process.kill()
                write(path / "message", _over(budget, held, Report(stage=task.stage, trial=task.trial)).compact())

    def _within(self, message: Path) -> Report | None:
        """The report in a message. That of a trial which went over the budget between two looks is made to say so."""
        report, budget = _read_report(message), self.job.spec.budget.memory
        if not report or not budget or report.stage != Stage.TRIAL or report.error:
            return report
        if report.peak_memory <= parse_quantity(budget):
            return report
        over = _over(budget, report.peak_memory, report)
        write(message, over.compact())
        return over

    def _wait(self, seconds: float) -> bool:
        """Whether a process has ended since the last look, or does before the time is over, or none is left."""
        alive = {name: process for name, process in self.started.items() if process.poll() is None}
        if not alive or self.started.keys() - alive.keys() - self.ended:
            return True
        return until_one_ends(alive.values(), seconds)

    def explain(self) -> None:
        """Write the report of the job, which has ended."""
        kept = sorted((self.folder / "store" / report_folder(self.job.metadata.uid)).glob("*.json"))
        pods = [report for path in kept if (report := _read_report(path))]
        for name, text in files(build(self.job, str(self._winner()), pods)).items():
            write(self.folder / name, text)

    def _winner(self) -> Path:
        """The file to load the winner from: as published, or in the store."""
        status = self.job.status
        artifact = status.best.artifact if status.best else ""
        folder = self.folder / "store" / "artifacts" / artifact.removeprefix("sha256:")
        if status.published and is_local(status.published.uri):
            folder = path_of(status.published.uri, self.volumes).resolve()
        found = (folder / name for name in MODEL_FILES.values() if (folder / name).exists())
        return next(found, folder / MODEL_FILES[ModelFormat.ONNX])

    def stop(self, names: list[str]) -> None:
        """End work, wherever it is."""
        self.processes.stop([self.started.pop(name) for name in names])


def _over(budget: str, held: int, report: Report) -> Report:
    """What becomes of a trial's report."""
    said = f"spec.budget.memory: the trial held {show_quantity(held)}, more than {budget}"
    error = WorkError(kind=ErrorKind.PERMANENT, reason=Reason.WORK_FAILED, message=said)
    return Report(stage=report.stage, trial=report.trial, error=error)


def _read_report(path: Path) -> Report | None:
    try:
        return Report.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        return None


def _end_of(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_END))
        return stream.read().decode(errors="replace")


def _ending(process: Process, log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"exit code {process.returncode}: {lines[-1] if lines else 'nothing was printed'}"
