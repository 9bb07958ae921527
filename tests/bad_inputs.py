"""Models and data files that are wrong, each in one way: the same table for a laptop, a pod and a cluster.

`write_inputs(folder)` writes a sound model and its splits. A case then spoils one thing in that folder and returns
what the spec must say instead of `sound_spec()`, which is mostly nothing. Addresses are `pvc://inputs/...`, so a
test says with `TRIMTAB_VOLUMES={"inputs": folder}` where the folder is, or mounts it as the claim `inputs`.

    spec = sound_spec() | CASES["text-for-a-model"].spoil(folder)

What a case `says` is in its one line of error, beside the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES, CLASSES, SAMPLES = 8, 3, 200
CENTERS = np.random.default_rng(7).normal(size=(CLASSES, FEATURES)).astype(np.float32)
SPLITS = ("calibration", "evaluation", "holdout")
Spec = dict[str, Any]


def sound_spec() -> Spec:
    """`model` and `data` of a job over the folder that `write_inputs` fills."""
    return {
        "model": {"uri": "pvc://inputs/model.onnx", "format": "ONNX"},
        "data": {name: {"uri": f"pvc://inputs/{name}.npz"} for name in SPLITS},
    }


def write_inputs(folder: Path) -> None:
    """A classifier of three noisy centers, and splits of 200 samples each."""
    onnx.save(make_model(), folder / "model.onnx")
    for seed, name in enumerate(SPLITS):
        np.savez(folder / f"{name}.npz", **make_samples(seed))


def make_samples(seed: int, samples: int = SAMPLES) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, samples)
    noise = rng.normal(scale=1.2, size=(samples, FEATURES))
    return {"x": (CENTERS[labels] + noise).astype(np.float32), "labels": labels}


def make_model(activation: str = "Relu", domain: str = "", opset: int = 17, batch: int | str = "N") -> Any:
    """Nearest center, as relu([x, -x]) @ [C; -C] - |C|²/2: two MatMuls for a quantizer to work on."""
    eye = np.eye(FEATURES, dtype=np.float32)
    weights = {
        "split": np.hstack([eye, -eye]),
        "centers": np.vstack([CENTERS.T, -CENTERS.T]),
        "bias": -(CENTERS**2).sum(1) / 2,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "split"], ["both"], name="split"),
        helper.make_node(activation, ["both"], ["hidden"], name="activation", domain=domain),
        helper.make_node("MatMul", ["hidden", "centers"], ["near"], name="centers"),
        helper.make_node("Add", ["near", "bias"], ["scores"], name="bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "centers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@dataclass(frozen=True)
class Case:
    """One thing wrong: `spoil` does it, and the error names it with every word of `says`."""

    spoil: Callable[[Path], Spec]
    says: tuple[str, ...]


def _model(**changes: Any) -> Callable[[Path], Spec]:
    def spoil(folder: Path) -> Spec:
        onnx.save(make_model(**changes), folder / "model.onnx")
        return {}

    return spoil


def _truncated_model(folder: Path) -> Spec:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:300])
    return {}


def _text_for_a_model(folder: Path) -> Spec:
    (folder / "model.onnx").write_text("This is a note about the model, not the model.\n" * 20)
    return {}


def _external_data_missing(folder: Path) -> Spec:
    onnx.save(make_model(), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return {}


def _external_data_outside(folder: Path) -> Spec:
    model = make_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return {}


def _no_inputs(folder: Path) -> Spec:
    value = numpy_helper.from_array(np.ones((1, CLASSES), np.float32))
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["scores"], value=value)],
        "constant",
        [],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    return {}


def _sequence(folder: Path) -> Spec:
    """What scikit-learn's classifiers are exported with by default is such."""
    model = make_model()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["scores"], ["each"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("each", TensorProto.FLOAT, ["N", CLASSES]))
    onnx.save(model, folder / "model.onnx")
    return {}


def _strings(folder: Path) -> Spec:
    model = make_model()
    model.graph.node.insert(0, helper.make_node("Cast", ["text"], ["x"], to=TensorProto.FLOAT))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("text", TensorProto.STRING, ["N", FEATURES]))
    onnx.save(model, folder / "model.onnx")
    return {}


def _no_file(name: str) -> Callable[[Path], Spec]:
    def spoil(folder: Path) -> Spec:
        (folder / name).unlink()
        return {}

    return spoil


def _arrays(split: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], Spec]:
    """Save a split again with its arrays changed."""

    def spoil(folder: Path) -> Spec:
        with np.load(folder / f"{split}.npz") as stored:
            arrays = dict(stored)
        np.savez(folder / f"{split}.npz", **(arrays | change(arrays)))
        return {}

    return spoil


def _only(split: str, choose: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], Spec]:
    """Save a split with other arrays."""

    def spoil(folder: Path) -> Spec:
        with np.load(folder / f"{split}.npz") as stored:
            arrays = choose(dict(stored))
        np.savez(folder / f"{split}.npz", **arrays)
        return {}

    return spoil


def _with_nan(arrays: dict[str, Any]) -> dict[str, Any]:
    x = arrays["x"].copy()
    x[[3, 5], 0] = np.nan
    return {"x": x}


def _truncated_data(folder: Path) -> Spec:
    path = folder / "evaluation.npz"
    path.write_bytes(path.read_bytes()[:1000])
    return {}


def _overlap(folder: Path) -> Spec:
    with np.load(folder / "evaluation.npz") as evaluation, np.load(folder / "holdout.npz") as holdout:
        arrays = {name: np.concatenate([holdout[name], evaluation[name][:7]]) for name in holdout}
    np.savez(folder / "holdout.npz", **arrays)
    return {}


def _data(**uris: str) -> Callable[[Path], Spec]:
    return lambda folder: {"data": sound_spec()["data"] | {name: {"uri": uri} for name, uri in uris.items()}}


def _link_out(folder: Path) -> Spec:
    (folder / "outside.onnx").symlink_to("/etc/hostname")
    return {"model": {"uri": "pvc://inputs/outside.onnx", "format": "ONNX"}}


CASES: dict[str, Case] = {
    "model-missing": Case(_no_file("model.onnx"), ("model.uri", "model.onnx", "no such file")),
    "model-truncated": Case(_truncated_model, ("model.uri", "model.onnx", "export it again")),
    "text-for-a-model": Case(_text_for_a_model, ("model.uri", "model.onnx", "not a whole ONNX model")),
    "opset-too-new": Case(_model(opset=99), ("model.uri", "opset", "export it with opset")),
    "external-data-missing": Case(_external_data_missing, ("model.uri", "'weights.bin'", "put it there")),
    "external-data-outside": Case(_external_data_outside, ("model.uri", "etc/hostname", "not beside it")),
    "custom-operator": Case(_model(activation="Mystery", domain="acme"), ("model.uri", "acme:Mystery", "standard")),
    "unknown-operator": Case(_model(activation="Mystery"), ("model.uri", "Mystery", "standard")),
    "no-inputs": Case(_no_inputs, ("model.uri", "no inputs", "export it")),
    "answers-in-a-sequence": Case(_sequence, ("model.uri", "'each' is a sequence", "zipmap=False")),
    "takes-strings": Case(_strings, ("model.uri", "'text' takes strings", "out of the graph")),
    "fixed-batch": Case(_model(batch=16), ("model.uri", "float32[16,8]", "dynamic first axis")),
    "data-missing": Case(_no_file("evaluation.npz"), ("data.evaluation", "evaluation.npz", "check the address")),
    "data-truncated": Case(_truncated_data, ("data.evaluation", "evaluation.npz", "numpy.savez")),
    "input-of-another-name": Case(
        _only("evaluation", lambda a: {"pixels": a["x"], "labels": a["labels"]}),
        ("data.evaluation", "pixels", "x float32[N,8]", "rename"),
    ),
    "another-shape": Case(_arrays("holdout", lambda a: {"x": a["x"][:, :5]}), ("data.holdout", "[200,5]", "reshape")),
    "another-dtype": Case(
        _arrays("calibration", lambda a: {"x": a["x"].astype(np.float64)}), ("data.calibration", "float64", "astype")
    ),
    "nan": Case(_arrays("evaluation", _with_nan), ("data.evaluation", "'x'", "2 of 200 samples", "remove or fill")),
    "empty-split": Case(
        _only("holdout", lambda a: {name: array[:0] for name, array in a.items()}),
        ("data.holdout", "empty", "save at least one sample"),
    ),
    "only-labels": Case(
        _only("holdout", lambda a: {"labels": a["labels"]}), ("data.holdout", "no input arrays", "save")
    ),
    "overlapping-splits": Case(_overlap, ("data.holdout", "7 distinct samples", "data.evaluation", "remove them")),
    "pickled-array": Case(
        _arrays("calibration", lambda a: {"x": a["x"].astype(object)}), ("data.calibration", "'x'", "pickled", "dtype")
    ),
    "label-out-of-range": Case(
        _arrays("evaluation", lambda a: {"labels": a["labels"] + 1}),
        ("data.evaluation", "1 to 3", "number them 0 to 2"),
    ),
    "labels-missing": Case(_only("holdout", lambda a: {"x": a["x"]}), ("data.holdout", "no labels", "save")),
    "labels-of-floats": Case(
        _arrays("evaluation", lambda a: {"labels": a["labels"] / 2}), ("data.evaluation", "float64", "integer class")
    ),
    "different-lengths": Case(
        _arrays("evaluation", lambda a: {"labels": a["labels"][:-1]}),
        ("data.evaluation", "x 200", "labels 199", "save one row per sample"),
    ),
    "link-out-of-its-claim": Case(_link_out, ("model.uri", "leaves its claim", "name a path inside")),
    "unknown-claim": Case(_data(evaluation="pvc://elsewhere/e.npz"), ("data.evaluation", "'elsewhere'", "mounted")),
}
