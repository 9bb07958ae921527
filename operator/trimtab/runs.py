"""A run's folder: who is in it, what it was asked, how far it came.

    lock          held while a run is in the folder
    status.json   the job as it was asked for and its status, after every change
    work/<name>/  a process's task.json, log and message (`trimtab.local`)
    store/        models, the cache, full reports (written by the processes)

A run that was killed goes on from here, and a run that ended is told again from here.
"""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import unquote

from pydantic import ValidationError

from trimtab.api.base import Record
from trimtab.api.job import ObjectMeta, OptimizationJob, OptimizationJobSpec
from trimtab.api.model import is_local
from trimtab.api.names import ConditionType
from trimtab.api.status import OptimizationJobStatus
from trimtab.conditions import is_finished, is_true

STATUS, LOCK = "status.json", "lock"


class CannotRun(Exception):
    """The job cannot be run as it was asked for. One line: what is wrong and the remedy."""


@contextmanager
def hold(folder: Path, name: str) -> Iterator[None]:
    """Make a folder for the job `name` and keep every other run out; one in which nothing was kept is gone afterwards.

    Raises CannotRun where another run is in it, where it keeps another job's run, or it cannot be written.
    """
    folder = folder.resolve()
    check_writable(f"--out {folder}", folder)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"--out {folder}: another run is using it; wait for that one or name another") from error
        try:
            _check_job(folder, name)
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def _check_job(folder: Path, name: str) -> None:
    """A run replaces what an earlier one left, which only the same job may do."""
    if (folder / STATUS).exists() and (kept := stored_run(folder / STATUS).name) != name:
        raise CannotRun(f"--out {folder}: holds the run of job {kept!r}: name another folder, or delete it")


def check_writable(said: str, folder: Path) -> None:
    """Raises CannotRun, which begins with `said`, for a folder that could not be written. It is not made."""
    try:
        with TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            pass
    except OSError as error:
        raise CannotRun(f"{said}: cannot be written: {error.strerror}; name another folder") from error


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raises CannotRun for what keeps a folder from being written, and only for that."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        remedy = "free space" if error.errno in _FULL else "name another folder"
        raise CannotRun(f"--out {folder}: cannot be written: {error.strerror}; {remedy}") from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, *_FULL}


def identified(job: OptimizationJob, folder: Path, volumes: Mapping[str, Path]) -> OptimizationJob:
    """The job with a UID made from its spec and its files, and the status that an earlier run of the same left.

    What is on other machines is known by its address alone, and of what a file here refers to only its `companions`
    are noticed: to begin again with new content, delete the run's folder.

    A run that failed is begun again: whoever asks for that has changed something, a file or the machine. For one that
    was interrupted no time has passed meanwhile.
    """
    wanted = [job.spec.wire(), [stamp(path) for path in _inputs(job, volumes)]]
    uid = sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
    metadata = ObjectMeta(name=job.metadata.name, namespace=job.metadata.namespace, uid=uid)
    return job.model_copy(update={"metadata": metadata, "status": _stored_status(folder / STATUS, uid)})


def _inputs(job: OptimizationJob, volumes: Mapping[str, Path]) -> Iterator[Path]:
    for where, uri in job.spec.addresses().items():
        if where != "spec.publish.uri" and is_local(uri):
            yield from companions(path_of(uri, volumes))


def companions(path: Path) -> list[Path]:
    """The file, and those beside it in which exporters put a model's tensors: x.onnx.data, x.onnx_data, x.data, x.bin.

    Tensors under other names are not noticed, for the graph would have to be read, nor is what code reads or imports.
    """
    tensors = {path.parent / f"{path.stem}{suffix}" for suffix in (".data", ".bin")}
    found = tensors.union(path.parent.glob(f"{escape(path.name)}*"))
    return sorted({path, *(other for other in found if other.is_file())})


def path_of(uri: str, volumes: Mapping[str, Path]) -> Path:
    """Where on this machine a file:// or pvc:// address leads; `volumes` maps claim names to folders."""
    scheme, _, rest = unquote(uri).partition("://")
    claim, _, inside = rest.partition("/")
    return volumes[claim] / inside if scheme == "pvc" else Path(rest)


def stamp(path: Path) -> list[int]:
    """As make does: a file with the old size and the old time has the old content, and a gigabyte need not be read."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _stored_status(path: Path, uid: str) -> OptimizationJobStatus:
    if not path.exists():
        return OptimizationJobStatus()
    stored = stored_run(path)
    status = stored.status if stored.uid == uid else OptimizationJobStatus()
    if is_true(status.conditions, ConditionType.FAILED):
        return OptimizationJobStatus()
    return status if is_finished(status.conditions) else status.model_copy(update={"start_time": None})


class Stored(Record):
    """What `status.json` holds."""

    uid: str
    name: str
    spec: OptimizationJobSpec
    status: OptimizationJobStatus

    @property
    def job(self) -> OptimizationJob:
        return OptimizationJob(metadata=ObjectMeta(name=self.name, uid=self.uid), spec=self.spec, status=self.status)


def stored_run(path: Path) -> Stored:
    """Raises CannotRun for a file that is not there, or that no run wrote."""
    try:
        return Stored.model_validate_json(path.read_bytes(), extra="ignore")  # a newer version may have run
    except FileNotFoundError as error:
        raise CannotRun(f"{path}: there is no such file; name the folder of a run, which --out named") from error
    except (OSError, ValidationError) as error:
        raise CannotRun(
            f"{path}: is not what a run wrote; name its folder, or delete the file to begin again"
        ) from error


def store(folder: Path, job: OptimizationJob) -> None:
    """Keep a job's status."""
    kept = Stored(uid=job.metadata.uid, name=job.metadata.name, spec=job.spec, status=job.status)
    write(folder / STATUS, json.dumps(kept.wire(), indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Atomically: a reader sees the old content or the new."""
    temporary = path.with_suffix(".part")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
