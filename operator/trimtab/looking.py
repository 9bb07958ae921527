"""See a model and its data through a process that may load model libraries; this one may not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trimtab.api.look import Look
from trimtab.api.model import Metric
from trimtab.api.work import INVALID_INPUT_EXIT
from trimtab.documents import Refused

MODULE = "trimtab_jobs.look"


def look(model: Path, data: Path, folder: Path, metric: Metric | None = None) -> Look:
    """What `trimtab_jobs.look` sees; splits that `data` lacks are written into `folder`. Raises Refused."""
    command = [
        sys.executable,
        "-m",
        MODULE,
        str(model),
        str(data),
        str(folder),
        *(["--metric", metric] if metric else []),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Look.model_validate_json(done.stdout)
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == INVALID_INPUT_EXIT:
        raise Refused([last])
    if "ModuleNotFoundError" in last:
        raise Refused([f"{last}: models are run by libraries that are not installed: pip install 'trimtab[jobs]'"])
    raise Refused([f"{model}: looking at it ended with {last}: `python -m {MODULE}` with the same arguments says more"])
