"""See a model and its data through a process that may load model libraries; this one may not.

Starting that process and loading the model takes longer than telling the result of a finished run, so what was seen is
kept, with the size and time of every file that was looked at.

Splits are dealt into a folder that is named by the data, so that no two data sets ever share one: a job that was
written for some data keeps its splits, whatever the model is looked at with later. Those that no job can refer to any
more are removed; that somebody was given a job, a file beside the splits says.
"""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

from pydantic import ValidationError

from trimtab import __version__
from trimtab.api.base import Record
from trimtab.api.look import Look
from trimtab.api.model import Metric, is_address
from trimtab.api.work import INVALID_INPUT_EXIT
from trimtab.documents import Refused
from trimtab.processes import Processes
from trimtab.runs import companions, stamp, write

MODULE = "trimtab_jobs.look"
KEPT = "kept"
"""The file beside splits to which a job somewhere refers."""
_DEALT, _DIGITS = "data-", 12


class Kept(Record):
    """What was seen, and of what."""

    files: dict[str, list[int]]
    metric: Metric | None
    version: str = __version__
    look: Look


def look_again(model: str, data: str, folder: Path, metric: Metric | None, processes: Processes) -> Look:
    """The same as `look`, from the file look.json in `folder` if nothing has changed since it was written.

    What is on another machine is looked at again: only that machine knows whether it has changed.
    """
    if is_address(model) or is_address(data):
        return look(model, data, folder, metric, processes)
    files, memory = _stamps(*companions(Path(model))) | _data_stamps(data), folder / "look.json"
    try:
        kept = Kept.model_validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        kept = None
    if kept and (kept.files, kept.metric, kept.version) == (files, metric, __version__) and _still_there(kept.look):
        return kept.look
    seen = look(model, data, folder, metric, processes)
    write(memory, Kept(files=files, metric=metric, look=seen).model_dump_json(by_alias=True, indent=1))
    return seen


def _still_there(seen: Look) -> bool:
    return all(Path(file).is_file() for file in seen.data.values())


def dealt(data: str, folder: Path) -> Path:
    """Where the splits that `data` lacks are written: of the same files, unchanged, it is the same folder.

    Of an address, `trimtab_jobs.look` makes a folder in it for each version that it fetched.
    """
    stamps = {data: []} if is_address(data) else _data_stamps(data)
    digest = sha256(json.dumps(stamps, sort_keys=True).encode()).hexdigest()
    return folder / f"{_DEALT}{digest[:_DIGITS]}"


def keep(data: str, folder: Path) -> None:
    """Keep what was dealt of `data` for good: somebody has a job that refers to it."""
    if (splits := dealt(data, folder)).is_dir():
        (splits / KEPT).touch()


def forget(data: str, folder: Path) -> None:
    """Remove what was dealt of other data than `data` for jobs that nobody has: each replaced the one before it."""
    for splits in folder.glob(f"{_DEALT}{'[0-9a-f]' * _DIGITS}"):
        if splits != dealt(data, folder) and not (splits / KEPT).exists():
            shutil.rmtree(splits)


def _data_stamps(data: str) -> dict[str, list[int]]:
    path = Path(data)
    return _stamps(*path.glob("*.npz")) if path.is_dir() else _stamps(path)


def _stamps(*paths: Path) -> dict[str, list[int]]:
    return {str(path.resolve()): stamp(path) for path in paths}


def look(model: str, data: str, folder: Path, metric: Metric | None, processes: Processes) -> Look:
    """What `trimtab_jobs.look` sees; what it fetches and deals is kept in `folder`, a run's. Raises Refused."""
    words = [MODULE, model, data, str(dealt(data, folder))]
    words += ["--metric", metric] if metric else []
    code, said, errors = _finished(words, processes)
    if code == 0:
        return Look.model_validate_json(said)
    last = (errors.strip().splitlines() or [f"exit code {code}"])[-1]
    if code == INVALID_INPUT_EXIT:
        raise Refused([last])
    if "ModuleNotFoundError" in last:
        raise Refused([f"{last}: models are run by libraries that are not installed: pip install 'trimtab[jobs]'"])
    raise Refused([f"{model}: looking at it ended with {last}: `python -m {MODULE}` with the same arguments says more"])


def _finished(words: list[str], processes: Processes) -> tuple[int | None, str, str]:
    """A process's exit code, output and errors."""
    with TemporaryFile() as out, TemporaryFile() as errors:
        code = processes.start(words, out, errors).wait()
        out.seek(0)
        errors.seek(0)
        return code, out.read().decode(errors="replace"), errors.read().decode(errors="replace")
