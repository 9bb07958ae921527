"""Make the example's model and data: `prepare.py FOLDER`.

A perceptron that scikit-learn trains on its Wisconsin breast cancer data (569 tumours, 30 measures each, malignant or
benign) is written as an ONNX graph by hand: the scaler is a subtraction and a division, each layer a matrix product.
So the model takes the measures as they are and answers with probabilities, as it would be served.

The network is small, and so is what can be gained; the holdout is small too (249 tumours), and the report says what
follows from that for the claim.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SIZES = {"train": 150, "calibration": 50, "evaluation": 120}
"""The rest is the holdout."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    measures, labels = load_breast_cancer(return_X_y=True)
    measures = measures.astype(np.float32)
    order = np.random.default_rng(0).permutation(len(labels))
    rows = dict(zip([*SIZES, "holdout"], np.split(order, np.cumsum([*SIZES.values()])), strict=True))
    train = rows.pop("train")
    scaler, network = StandardScaler(), MLPClassifier((256, 256), random_state=0, max_iter=400)
    right = make_pipeline(scaler, network).fit(measures[train], labels[train]).score
    onnx.save(graph(scaler, network), folder / "model.onnx")
    for name, part in rows.items():
        np.savez(folder / f"{name}.npz", measures=measures[part], labels=labels[part])
    print(f"{folder}/model.onnx: {right(measures[rows['holdout']], labels[rows['holdout']]):.1%} right of the holdout")


def graph(scaler: StandardScaler, network: MLPClassifier) -> onnx.ModelProto:
    """measures [N, 30] to probabilities [N, 2]: Sub, Div, then Gemm and Relu for each layer."""
    weights = {"mean": scaler.mean_, "scale": scaler.scale_}
    nodes = [
        helper.make_node("Sub", ["measures", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "scale"], ["active"]),
    ]
    for number, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        weights |= {f"w{number}": weight, f"b{number}": bias}
        nodes.append(helper.make_node("Gemm", [nodes[-1].output[0], f"w{number}", f"b{number}"], [f"layer{number}"]))
        nodes.append(helper.make_node("Relu", [f"layer{number}"], [f"active{number}"]))
    # The last layer has one output, the log odds of class 1, and no Relu.
    odds = nodes.pop().input[0]
    nodes.append(helper.make_node("Sigmoid", [odds], ["benign"]))
    nodes.append(helper.make_node("Sub", ["one", "benign"], ["malignant"]))
    nodes.append(helper.make_node("Concat", ["malignant", "benign"], ["probabilities"], axis=1))
    weights["one"] = np.ones(1)
    made = helper.make_graph(
        nodes,
        "tumours",
        [helper.make_tensor_value_info("measures", TensorProto.FLOAT, ["N", 30])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
