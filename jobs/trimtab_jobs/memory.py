"""How much memory a model needs to serve: measured in a process that does nothing else.

A trial's own memory says little: techniques, other engines and the data are in it too. So a fresh process loads the
model on one engine, runs one sample and tells its peak of resident memory, the interpreter and the engine included: it
is what a container of the model would need.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.data import Split
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import Temporary
from trimtab_jobs.hardware import peak_memory
from trimtab_jobs.model import Model

RUNS = 3
"""An engine may get memory for its second run that the first did without."""


def loaded_memory(name: EngineName, model: Model, split: Split, options: EngineOptions) -> int:
    """Bytes of resident memory, at the most, of a process that runs the model on one sample."""
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        sample = Path(scratch) / "sample.npz"
        np.savez(sample, allow_pickle=False, **next(split.batches(1)))
        given = [name.value, str(model.folder), model.format.value, str(sample), str(options.threads)]
        done = subprocess.run([sys.executable, "-m", __name__, *given], capture_output=True, text=True, check=False)
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise Temporary(f"peakMemory: the process that loads the model failed: {told[-1]}")
    return int(done.stdout.split()[-1])


def main(name: str, folder: str, form: str, sample: str, threads: str) -> int:
    """Load, run, and return the peak."""
    model = Model(Path(folder), ModelFormat(form))
    session = engine(EngineName(name)).load(model, EngineOptions(int(threads)))
    with np.load(sample) as stored:
        inputs = dict(stored)
    for _ in range(RUNS):
        session.run(inputs)
    return peak_memory()


if __name__ == "__main__":
    sys.stdout.write(f"{main(*sys.argv[1:])}\n")
