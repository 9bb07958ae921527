"""Carry out one job's decisions on this machine, with a process for every pod.

The same plan and reconcile as in a cluster; only this module differs. What Kubernetes keeps as Jobs and a status,
a folder keeps as `work/<name>/` and `status.json`, so a run that was killed goes on where it was: finished work is
found by its message, and interrupted work is started again under its own name.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

from pydantic import ValidationError

from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.names import ConditionType, Reason
from trimtab.api.quantities import parse_quantity, show_quantity
from trimtab.api.runtime import OptimizationRuntime, OptimizationRuntimeSpec, Store
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import (
    MESSAGE_VARIABLE,
    TASK_VARIABLE,
    VOLUMES_VARIABLE,
    ErrorKind,
    Report,
    Stage,
    Task,
    WorkError,
    report_folder,
)
from trimtab.conditions import is_finished, is_true
from trimtab.decisions import Decision, Event, Observed, ObservedWork, Work, WorkState
from trimtab.memory import kill_tree, resident
from trimtab.page import REPORT_FILES, files
from trimtab.reconcile import reconcile
from trimtab.report import build

Tell = Callable[[Event], None]
MODEL_FILES = ("model.onnx", "model.xml")
"""What an engine loads, by the formats an engine knows."""
MEMORY_EVERY = 0.2
"""Seconds between two looks at the memory of trials, where there is a budget of it."""


class CannotRun(Exception):
    """The job cannot be run as it was asked for. One line: what is wrong and the remedy."""


def run_local(job: OptimizationJob, folder: Path, volumes: Mapping[str, Path], tell: Tell) -> OptimizationJobStatus:
    """Run a job to its end in `folder`, which is made if needed. `volumes` maps claim names to folders.

    Raises CannotRun for a claim without a folder, a folder that cannot be written, and one that another run holds.
    """
    if job.spec.suspend:
        raise CannotRun("spec.suspend: true: nothing would run; set it to false")
    _check_claims(job, volumes)
    folder = folder.resolve()
    with _lock(folder):
        for name in REPORT_FILES:
            (folder / name).unlink(missing_ok=True)  # it may be of another job
        machine = Machine(identified(job, folder), folder, dict(volumes))
        try:
            while not is_finished(machine.job.status.conditions):
                decision = reconcile(machine.job, machine.observe(), datetime.now(UTC))
                machine.carry_out(decision, tell)
                machine.wait(decision.requeue_after)
        finally:
            machine.stop(list(machine.processes))
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


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "lock").open("w")
    except OSError as error:
        raise CannotRun(f"--out {folder}: cannot be written: {error.strerror}; name another folder") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"--out {folder}: another run is using it; wait for that one or name another") from error
        yield


def identified(job: OptimizationJob, folder: Path) -> OptimizationJob:
    """The job with a UID made from its spec, and the status an earlier run of the same spec left in the folder.

    A run that failed is begun again: whoever asks for that has changed something, a file or the machine. For one that
    was interrupted no time has passed meanwhile.
    """
    uid = sha256(json.dumps(job.spec.wire(), sort_keys=True).encode()).hexdigest()[:32]
    metadata = ObjectMeta(name=job.metadata.name, namespace=job.metadata.namespace, uid=uid)
    return job.model_copy(update={"metadata": metadata, "status": _stored_status(folder / "status.json", uid)})


def _stored_status(path: Path, uid: str) -> OptimizationJobStatus:
    if not path.exists():
        return OptimizationJobStatus()
    stored = json.loads(path.read_text())
    status = OptimizationJobStatus.model_validate(stored["status"] if stored["uid"] == uid else {})
    if is_true(status.conditions, ConditionType.FAILED):
        return OptimizationJobStatus()
    return status if is_finished(status.conditions) else status.model_copy(update={"start_time": None})


@dataclass
class Machine:
    """This machine as a cluster of one: it observes, starts, stops and remembers, and decides nothing."""

    job: OptimizationJob
    folder: Path
    volumes: dict[str, Path]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def runtime(self) -> OptimizationRuntime:
        spec = OptimizationRuntimeSpec(image="none", store=Store(uri=f"file://{self.folder}/store"))
        return OptimizationRuntime(metadata=ObjectMeta(name=self.job.spec.target.runtime_ref.name), spec=spec)

    def observe(self) -> Observed:
        """Every piece of this job's work that runs or has ended.

        What an earlier run left interrupted or failed is as good as never started.
        """
        folders = sorted((self.folder / "work").glob(f"{self.job.metadata.name}-{self.job.metadata.uid[:8]}-*"))
        seen = (self._observe(path) for path in folders)
        return Observed(self.runtime, tuple(work for work in seen if work))

    def _observe(self, path: Path) -> ObservedWork | None:
        if not (path / "task.json").exists():
            return None
        task = Task.model_validate_json((path / "task.json").read_text())
        work = Work(path.name, task, int(path.name.rsplit("-", 1)[1]))
        process = self.processes.get(work.name)
        if process and process.poll() is None:
            return ObservedWork(work, WorkState.ACTIVE)
        report = _read_report(path / "message")
        if report and not report.error:
            return ObservedWork(work, WorkState.SUCCEEDED, report)
        message = _ending(process, path / "log") if process else ""
        return ObservedWork(work, WorkState.FAILED, report, message) if process else None

    def carry_out(self, decision: Decision, tell: Tell) -> None:
        """Start, stop, write the status once if it changed, then tell."""
        for work in decision.create:
            self._start(work)
        self.stop([name for name in decision.delete if name in self.processes])
        if decision.status != self.job.status:
            self.job = self.job.model_copy(update={"status": decision.status})
            content = {"uid": self.job.metadata.uid, "status": decision.status.wire()}
            _write(self.folder / "status.json", json.dumps(content, indent=1) + "\n")
        for event in decision.events:
            tell(event)

    def _start(self, work: Work) -> None:
        path = self.folder / "work" / work.name
        path.mkdir(parents=True, exist_ok=True)
        (path / "message").unlink(missing_ok=True)
        task = work.task.model_dump_json(by_alias=True, exclude_none=True)
        _write(path / "task.json", task)
        volumes = {claim: str(directory.resolve()) for claim, directory in self.volumes.items()}
        given = {
            TASK_VARIABLE: task,
            VOLUMES_VARIABLE: json.dumps(volumes),
            MESSAGE_VARIABLE: str(path / "message"),
        }
        with (path / "log").open("wb") as log:
            self.processes[work.name] = subprocess.Popen(
                [sys.executable, "-m", "trimtab_jobs"],
                env=os.environ | given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (no threads are running here)
            )

    def wait(self, seconds: float | None) -> None:
        """Until a process ends or the time is over; meanwhile trials are held to the budget of memory."""
        budget, until = self.job.spec.budget.memory, time.monotonic() + (math.inf if seconds is None else seconds)
        while budget and not self._wait(MEMORY_EVERY) and time.monotonic() < until:
            self._hold(budget)
        if not budget:
            self._wait(seconds)

    def _hold(self, budget: str) -> None:
        """End the trials that hold more memory than the budget, and leave the message they can no longer leave."""
        for name, process in self.processes.items():
            held, path = resident(process.pid), self.folder / "work" / name
            if held <= parse_quantity(budget):
                continue
            task = Task.model_validate_json((path / "task.json").read_text())
            if task.stage == Stage.TRIAL:
                kill_tree(process.pid)
                process.wait()
                said = f"spec.budget.memory: the trial held {show_quantity(held)}, more than {budget}"
                error = WorkError(kind=ErrorKind.PERMANENT, reason=Reason.WORK_FAILED, message=said)
                _write(path / "message", Report(stage=task.stage, trial=task.trial, error=error).compact())

    def _wait(self, seconds: float | None) -> bool:
        """Whether a process ended before the time was over."""
        running = [process for process in self.processes.values() if process.poll() is None]
        if not running:
            return True
        with selectors.DefaultSelector() as selector:
            descriptors = [os.pidfd_open(process.pid) for process in running]
            for descriptor in descriptors:
                selector.register(descriptor, selectors.EVENT_READ)
            ended = selector.select(seconds)
            for descriptor in descriptors:
                os.close(descriptor)
        return bool(ended)

    def explain(self) -> None:
        """Write the report of the job, which has ended."""
        kept = sorted((self.folder / "store" / report_folder(self.job.metadata.uid)).glob("*.json"))
        pods = [report for path in kept if (report := _read_report(path))]
        for name, text in files(build(self.job, str(self._winner()), pods)).items():
            _write(self.folder / name, text)

    def _winner(self) -> Path:
        """The file to load the winner from: as published, or in the store."""
        status = self.job.status
        artifact = status.best.artifact if status.best else ""
        folder = self.folder / "store" / "artifacts" / artifact.removeprefix("sha256:")
        if status.published:
            scheme, _, rest = unquote(status.published.uri).partition("://")
            claim, _, inside = rest.partition("/")
            folder = self.volumes[claim].resolve() / inside if scheme == "pvc" else Path(rest)
        return next((folder / name for name in MODEL_FILES if (folder / name).exists()), folder / MODEL_FILES[0])

    def stop(self, names: list[str]) -> None:
        for name in names:
            process = self.processes.pop(name)
            if process.poll() is None:
                process.terminate()
                process.wait()


def _die_with_parent() -> None:
    """Linux ends the process with its parent: a killed run leaves nothing that competes with the next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _read_report(path: Path) -> Report | None:
    try:
        return Report.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        return None


def _ending(process: subprocess.Popen[bytes], log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"exit code {process.returncode}: {lines[-1] if lines else 'nothing was printed'}"


def _write(path: Path, text: str) -> None:
    """Atomically: a reader sees the old content or the new."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text)
    temporary.replace(path)
