"""Small real models, trained in a second: what tests optimize when the model itself does not matter."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

SPLITS = {
    "calibration": slice(0, 200),
    "train": slice(200, 900),
    "evaluation": slice(900, 1300),
    "holdout": slice(1300, 1797),
}


def make_digits(folder: Path) -> Path:
    """A perceptron on scikit-learn's digits (8×8 images) as ONNX, its splits, and a job.yaml over claim `digits`."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train = SPLITS["train"]
    trained = MLPClassifier((64,), max_iter=60, random_state=0, early_stopping=False, tol=1e-3, n_iter_no_change=60)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # sixty epochs are enough here
        trained.fit(images[train], labels[train])
    onnx.save(_perceptron(trained.coefs_, trained.intercepts_), folder / "model.onnx")
    for name, part in SPLITS.items():
        np.savez(folder / f"{name}.npz", image=images[part], labels=labels[part])
    (folder / "job.yaml").write_text(yaml.safe_dump(_job()))
    return folder


def _perceptron(weights: list[np.ndarray], biases: list[np.ndarray]) -> onnx.ModelProto:
    """Gemm, Relu, Gemm: what scikit-learn trained, as a graph."""
    arrays = {"w0": weights[0], "b0": biases[0], "w1": weights[1], "b1": biases[1]}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["image", "w0", "b0"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "w1", "b1"], ["logits"]),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _job() -> dict:
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "OptimizationJob",
        "metadata": {"name": "digits"},
        "spec": {
            "model": {"uri": "pvc://digits/model.onnx", "format": "ONNX"},
            "data": {name: {"uri": f"pvc://digits/{name}.npz"} for name in ("calibration", "evaluation", "holdout")},
            "constraints": [{"metric": "accuracy", "maxDrop": "2%"}],
            "techniques": [{"quantize": {"operatorScope": ["All", "Compute"]}}],
        },
    }
