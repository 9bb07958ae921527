"""What a guarded quantization costs: `python hack/bench_guard.py FOLDER [MODEL...] [--max-drop 0.1%]`.

Every model of `python -m bench.models FOLDER` that is there is quantized by each method with `maxDrop`, in a process of
its own, and a line says what that took in CPU time (the machine may be busy) and in resident memory at the most, how
often the evaluation split was run, and how many layers went back. Run it from two checkouts in turn to compare them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = {"Static": "All", "Dynamic": "MatMul"}
"""With their operator scopes: the largest that is of use."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--max-drop", default="0.1%")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        print(quantized(given.folder, given.method, given.max_drop), flush=True)
        return
    found = {str(path.parent.relative_to(given.folder)): path.parent for path in given.folder.rglob("model.onnx")}
    print("| model | method | CPU | peak memory | evaluations | layers given back | |\n|---|---|---|---|---|---|---|")
    for name in given.models or sorted(found):
        for method in METHODS:
            words = [sys.executable, __file__, found[name], "--method", method, "--max-drop", given.max_drop]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
            print(f"| {name} | {method} | {said[-1] if said else done.returncode}", flush=True)


def quantized(folder: Path, method: str, max_drop: str) -> str:
    """The rest of a model's line. What is heavy is imported by the process that needs it."""
    from trimtab.api.metrics import Metrics
    from trimtab.api.model import EngineName, ModelSource, SourceFormat
    from trimtab.api.techniques import Quantize
    from trimtab_jobs.data import Splits
    from trimtab_jobs.engines import EngineOptions, Session, engine
    from trimtab_jobs.errors import NotApplicable
    from trimtab_jobs.evaluate import Judge
    from trimtab_jobs.hardware import peak_memory
    from trimtab_jobs.metrics import choose
    from trimtab_jobs.onnx_model import import_source
    from trimtab_jobs.techniques import Bench
    from trimtab_jobs.techniques.quantize import quantize

    splits = Splits({name: folder / f"{name}.npz" for name in ("calibration", "evaluation")})
    notes: list[str] = []
    drops: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "source"), Path(scratch, "out")
        source.mkdir()
        out.mkdir()
        file = (folder / "model.onnx").resolve()
        model = import_source(ModelSource(uri=file.as_uri(), format=SourceFormat.ONNX), file, None, source)

        def load() -> Session:
            return engine(EngineName.ONNXRUNTIME).load(model, EngineOptions())

        metric = choose(splits.evaluation, load().run(next(splits.evaluation.batches(1))))
        judge = Judge([metric], Metrics(), load, splits)

        def drop(session: Session) -> float:
            drops.append(judge.drop(session))
            return drops[-1]

        bench = Bench(out, model, splits, 0, 1, notes.append, drop)
        config = Quantize.model_validate({"method": [method], "operatorScope": [METHODS[method]], "maxDrop": max_drop})
        before = time.process_time()
        try:
            quantize(model, config, bench)
        except NotApplicable as reason:
            notes.append(str(reason))
        seconds = time.process_time() - before
    reverted = len(bench.float_layers)
    memory = peak_memory() / 1e6
    return f"{seconds:.1f} s | {memory:.0f} MB | {len(drops)} | {reverted} | {'; '.join(notes)} |"


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main()
