"""See a model and its data through a process that may load model libraries; this one may not.

Starting that process and loading the model takes longer than telling the result of a finished run, so what was seen is
kept, with the size and time of every file that was looked at.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from trimtab import __version__
from trimtab.api.base import Record
from trimtab.api.look import Look
from trimtab.api.model import Metric, is_address
from trimtab.api.work import INVALID_INPUT_EXIT
from trimtab.documents import Refused
from trimtab.runs import stamp, write

MODULE = "trimtab_jobs.look"


class Kept(Record):
    """What was seen, and of what."""

    files: dict[str, list[int]]
    metric: Metric | None
    version: str = __version__
    look: Look


def look_again(model: str, data: Path, folder: Path, metric: Metric | None, memory: Path) -> Look:
    """The same as `look`, from the file `memory` if nothing has changed since it was written.

    A model on another machine is looked at again: only that machine knows whether it has changed.
    """
    if is_address(model):
        return look(model, data, folder, metric)
    files = {str(path.resolve()): stamp(path) for path in (Path(model), data, *sorted(data.glob("*.npz")))}
    try:
        kept = Kept.model_validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        kept = None
    if kept and (kept.files, kept.metric, kept.version) == (files, metric, __version__) and _still_there(kept.look):
        return kept.look
    seen = look(model, data, folder, metric)
    write(memory, Kept(files=files, metric=metric, look=seen).model_dump_json(by_alias=True, indent=1))
    return seen


def _still_there(seen: Look) -> bool:
    return all(Path(file).is_file() for file in seen.data.values())


def look(model: str, data: Path, folder: Path, metric: Metric | None = None) -> Look:
    """What `trimtab_jobs.look` sees; splits that `data` lacks are written into `folder`. Raises Refused."""
    command = [sys.executable, "-m", MODULE, model, str(data), str(folder)]
    command += ["--metric", metric] if metric else []
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Look.model_validate_json(done.stdout)
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == INVALID_INPUT_EXIT:
        raise Refused([last])
    if "ModuleNotFoundError" in last:
        raise Refused([f"{last}: models are run by libraries that are not installed: pip install 'trimtab[jobs]'"])
    raise Refused([f"{model}: looking at it ended with {last}: `python -m {MODULE}` with the same arguments says more"])
