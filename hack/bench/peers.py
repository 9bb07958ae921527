"""The tools that `trimtab optimize` is compared with, each as its own documentation says to use it.

A peer is a function from a problem to a model inside an empty folder, by the tool's public interface alone. `-tuned`
ones do what an expert of that tool does: repair the graph first, quantize what computes, and try the few settings that
matter under the same gate as everybody, on the evaluation split. What an expert would catch is caught; any other crash
is the tool's result.

    python -m bench.peers PEER FOLDER OUT [--max-drop 0.01] [--threads 1]

leaves the model in OUT and writes where to OUT/made.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnxruntime import quantization

from bench.problem import Problem, as_it_comes
from bench.wheels import olive_python
from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.data import Array, Split
from trimtab_jobs.engines import Session
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.hardware import hardware
from trimtab_jobs.model import Model
from trimtab_jobs.openvino_model import cause, openvino, save

COMPUTE = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
Attempt = Callable[[Path], Model]


class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    """A split, one sample at a time."""

    def __init__(self, split: Split) -> None:
        self._batches = split.batches(1)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def ort_static(problem: Problem, out: Path) -> Model:
    """`quantize_static` with nothing but a data reader."""
    model = fresh(out)
    quantization.quantize_static(problem.model.file, model.file, Samples(problem.splits.calibration))
    return model


def ort_static_tuned(problem: Problem, out: Path) -> Model:
    """Preprocessed, only what computes, three calibrators, activations with and without a sign; the best of those six.

    Per tensor where per channel crashes.
    """
    prepared = preprocessed(problem, out)

    def attempt(method: quantization.CalibrationMethod, activations: quantization.QuantType) -> Attempt:
        def make(folder: Path) -> Model:
            model = Model(folder, ModelFormat.ONNX)
            try:
                quantize(model, method, activations, per_channel=True)
            except ValueError:  # ONNX Runtime 1.31 compares a bias's scales as if they were one (magika's Gemm)
                quantize(model, method, activations, per_channel=False)
            return model

        return make

    def quantize(
        model: Model,
        method: quantization.CalibrationMethod,
        activations: quantization.QuantType,
        per_channel: bool,
    ) -> None:
        quantization.quantize_static(
            prepared,
            model.file,
            Samples(problem.splits.calibration),
            op_types_to_quantize=COMPUTE,
            per_channel=per_channel,
            reduce_range=saturates(),
            activation_type=activations,
            calibrate_method=method,
        )

    methods, types = quantization.CalibrationMethod, quantization.QuantType
    settings = product((methods.MinMax, methods.Entropy, methods.Percentile), (types.QUInt8, types.QInt8))
    return best(problem, out, EngineName.ONNXRUNTIME, starmap(attempt, settings))


def ort_dynamic(problem: Problem, out: Path) -> Model:
    """`quantize_dynamic` with nothing at all."""
    model = fresh(out)
    quantization.quantize_dynamic(problem.model.file, model.file)
    return model


def ort_dynamic_tuned(problem: Problem, out: Path) -> Model:
    """Preprocessed, no convolutions (slower in integers if ranges are found at run time), the better weight type."""
    prepared = preprocessed(problem, out)

    def attempt(weights: quantization.QuantType) -> Attempt:
        def make(folder: Path) -> Model:
            model = Model(folder, ModelFormat.ONNX)
            quantization.quantize_dynamic(
                prepared,
                model.file,
                op_types_to_quantize=["MatMul", "Gemm", "LSTM", "Attention"],
                per_channel=True,
                reduce_range=saturates(),
                weight_type=weights,
            )
            return model

        return make

    types = (quantization.QuantType.QInt8, quantization.QuantType.QUInt8)
    return best(problem, out, EngineName.ONNXRUNTIME, map(attempt, types))


def nncf_default(problem: Problem, out: Path) -> Model:
    """`nncf.quantize` with nothing but a dataset."""
    import nncf

    return save(nncf.quantize(read(problem), dataset(problem.splits.calibration)), fresh(out).folder)


def nncf_tuned(problem: Problem, out: Path) -> Model:
    """For this CPU, transformers as such, asymmetric activations too, and the slow correction of biases too."""
    import nncf

    transformer = {"Softmax", "LayerNormalization"} <= {
        node.op_type for node in onnx.load(problem.model.file).graph.node
    }

    def attempt(preset: Any, fast: bool) -> Attempt:
        def make(folder: Path) -> Model:
            quantized = nncf.quantize(
                read(problem),
                dataset(problem.splits.calibration),
                preset=preset,
                target_device=nncf.TargetDevice.CPU,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                fast_bias_correction=fast,
            )
            return save(quantized, folder)

        return make

    presets = nncf.QuantizationPreset
    choices = ((presets.PERFORMANCE, True), (presets.MIXED, True), (presets.MIXED, False))
    return best(problem, out, EngineName.OPENVINO, (attempt(*choice) for choice in choices))


def nncf_accuracy_aware(problem: Problem, out: Path) -> Model:
    """`nncf.quantize_with_accuracy_control`: layers go back to float until the gate holds."""
    import nncf

    evaluation = problem.splits.evaluation
    rows = list(range(len(evaluation)))

    def value(compiled: Any, chosen: Any) -> tuple[float, list[float] | None]:
        indices = list(chosen)
        some = Split("evaluation", {name: array[indices] for name, array in evaluation.inputs.items()}, labels(indices))
        scores = problem.judge.rows(_Compiled(compiled), some)[problem.metric][0].astype(float)
        return float(scores.mean()), scores.tolist()

    def labels(indices: list[int]) -> Array | None:
        return None if evaluation.labels is None else evaluation.labels[indices]

    quantized = nncf.quantize_with_accuracy_control(
        read(problem),
        calibration_dataset=dataset(problem.splits.calibration),
        validation_dataset=nncf.Dataset(rows),
        validation_fn=value,
        max_drop=problem.max_drop,
    )
    return save(quantized, fresh(out).folder)


def olive(problem: Problem, out: Path) -> Model:
    """Olive's own search, in an environment of its own."""
    model = fresh(out)
    words: list[str | Path] = [olive_python(), Path(__file__).with_name("olive_search.py")]
    switches = {"OLIVE_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    words += [problem.folder, model.file, str(problem.max_drop)]
    done = subprocess.run(words, check=False, env=os.environ | switches)
    if done.returncode:
        sys.exit(done.returncode)  # its last words are why
    return model


@dataclass(frozen=True)
class Peer:
    """A tool used in one way, and the engine that its models are for."""

    make: Callable[[Problem, Path], Model]
    engine: EngineName = EngineName.ONNXRUNTIME


PEERS = {
    "ort-static": Peer(ort_static),
    "ort-static-tuned": Peer(ort_static_tuned),
    "ort-dynamic": Peer(ort_dynamic),
    "ort-dynamic-tuned": Peer(ort_dynamic_tuned),
    "nncf": Peer(nncf_default, EngineName.OPENVINO),
    "nncf-tuned": Peer(nncf_tuned, EngineName.OPENVINO),
    "nncf-accuracy-aware": Peer(nncf_accuracy_aware, EngineName.OPENVINO),
    "olive": Peer(olive),
}


class NoneWorked(Exception):
    pass


def best(problem: Problem, out: Path, name: EngineName, attempts: Iterable[Attempt]) -> Model:
    """The fastest attempt that passes the gate, else the one that loses least. One that crashes is left out."""
    found: list[tuple[bool, float, int, Model]] = []
    crash: Exception | None = None
    for number, attempt in enumerate(attempts):
        try:
            model = attempt(fresh(out, f"attempt-{number}").folder)
            session = problem.load(as_it_comes(model, name), name)
            drop = problem.judge.drop(session)
            passed = drop <= problem.max_drop
            found.append((not passed, seconds(problem, session) if passed else drop, number, model))
        except Exception as error:
            crash = error
    if not found:
        raise NoneWorked(str(crash)) from crash
    return min(found, key=lambda one: one[:3])[3]


def fresh(out: Path, name: str = "model") -> Model:
    """A folder for an ONNX model and nothing else: a model's size is that of its folder."""
    (out / name).mkdir()
    return Model(out / name, ModelFormat.ONNX)


def seconds(problem: Problem, session: Session) -> float:
    """The median of twenty calls."""
    sample, taken = next(problem.splits.evaluation.batches(1)), []
    for _ in range(20):
        started = time.perf_counter()
        session.run(sample)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def preprocessed(problem: Problem, out: Path) -> Path:
    """Opset 13 at least, which scales per channel need; shapes inferred, symbolically where that works."""
    upgraded, prepared = out / "upgraded.onnx", out / "prepared.onnx"
    model = onnx.load(problem.model.file)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    onnx.save(onnx.version_converter.convert_version(model, 13) if opset < 13 else model, upgraded)
    try:
        quantization.quant_pre_process(upgraded, prepared)
    except Exception:  # symbolic inference asserts on many graphs, and the documentation says to skip it then
        quantization.quant_pre_process(upgraded, prepared, skip_symbolic_shape=True)
    return prepared


def saturates() -> bool:
    """Without VNNI, x86 adds 8-bit products in 16 bits, and the documentation says to use 7 bits for weights."""
    return not {"avx_vnni", "avx512_vnni"} & {*hardware().flags}


def read(problem: Problem) -> Any:
    return openvino.Core().read_model(problem.model.file)


def dataset(split: Split) -> Any:
    import nncf

    return nncf.Dataset(list(split.batches(1)))


class _Compiled:
    """A compiled OpenVINO model as a session."""

    size = 0

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def run(self, inputs: Any) -> list[Array]:
        try:
            return [array.copy() for array in self._compiled(inputs).to_tuple()]
        except RuntimeError as error:  # such as a batch that the graph does not take
            raise InvalidInput(cause(error)) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    problem = Problem(given.folder, given.max_drop, given.threads)
    peer = PEERS[given.peer]
    given.out.mkdir(parents=True)
    made = as_it_comes(peer.make(problem, given.out), peer.engine)
    told = {"name": given.peer, "folder": str(made.folder), "engine": peer.engine}
    told |= {"format": made.format, "details": made.details}
    (given.out / "made.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
