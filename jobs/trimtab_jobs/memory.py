"""How much memory a model needs to serve: measured in a process that does nothing else.

A trial's own memory says little: techniques, other engines and the data are in it too. So a fresh process loads the
model on one engine, runs one sample and tells its peak of resident memory, the interpreter and the engine included: it
is what a container of the model would need.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from trimtab.api.model import EngineName
from trimtab_jobs.data import Split
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput, Temporary, WorkFailure
from trimtab_jobs.hardware import peak_memory
from trimtab_jobs.model import Model, open_model

RUNS = 3
"""An engine may get memory for its second run that the first did without."""
NO_MEMORY = ("MemoryError", "bad_alloc", "bad allocation", "Cannot allocate memory")
"""How Python, C++ and the system say that memory ran out."""


def loaded_memory(name: EngineName, model: Model, split: Split, options: EngineOptions) -> int:
    """Bytes of resident memory, at the most, of a process that runs a saved model on one sample.

    Raises Temporary where that process was killed or memory ran out, InvalidInput where the engine fails in it.
    """
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        sample = Path(scratch) / "sample.npz"
        np.savez(sample, allow_pickle=False, **next(split.batches(1)))
        given = [name.value, str(model.folder), str(sample), str(options.threads)]
        try:
            done = subprocess.run([sys.executable, "-m", __name__, *given], capture_output=True, text=True, check=False)
        except OSError as error:
            raise Temporary(f"peakMemory: no process to load the model in: {error.strerror}") from error
    if done.returncode:
        raise _failure(name, done.returncode, done.stderr)
    return int(done.stdout.split()[-1])


def _failure(name: EngineName, code: int, stderr: str) -> WorkFailure:
    """What the end of the process means. A crash that is the engine's own would come again at every attempt."""
    ended = f"it ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"
    told = (stderr.strip().splitlines() or [ended])[-1] if code > 0 else ended
    what = f"peakMemory: the process that loads the model in {name} failed: {told}"
    if code == -signal.SIGKILL or any(sign in stderr for sign in NO_MEMORY):
        return Temporary(f"{what}: raise the memory limit")
    return InvalidInput(what)


def main(name: str, folder: str, sample: str, threads: str) -> int:
    """Load, run, and return the peak."""
    session = engine(EngineName(name)).load(open_model(Path(folder)), EngineOptions(int(threads)))
    with np.load(sample) as stored:
        inputs = dict(stored)
    for _ in range(RUNS):
        session.run(inputs)
    return peak_memory()


if __name__ == "__main__":
    sys.stdout.write(f"{main(*sys.argv[1:])}\n")
