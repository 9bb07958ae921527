"""From PyTorch to ONNX: the same answers, the same bytes, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from networks import HEAD, RESIDUAL, empty, import_network, make_splits, stripes
from trimtab.api.model import ModelFormat
from trimtab_jobs.convert import convert
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.torch_model import load


def converted(folder: Path, code: str, **evaluation: Any) -> tuple[Model, Model]:
    model = import_network(folder, code)
    splits = make_splits(folder, evaluation=evaluation)
    return model, convert(model, ModelFormat.ONNX, empty(folder / "onnx"), splits)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """A module and its export."""
    return converted(tmp_path_factory.mktemp("both"), RESIDUAL, **stripes(20, seed=0))


def run(model: Model, inputs: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_the_export_answers_as_the_module_does_for_any_batch(both: tuple[Model, Model]) -> None:
    module = load(both[0])
    for samples in (1, 3, 20):
        image = stripes(samples, seed=1)["image"]
        with torch.no_grad():
            expected = module(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(run(both[1], {"image": image})[0], expected, atol=1e-5)


def test_the_graph_is_one_file_with_the_splits_names_and_no_batch_normalization(both: tuple[Model, Model]) -> None:
    graph = onnx.load(both[1].onnx).graph
    assert sorted(file.name for file in both[1].folder.iterdir()) == ["model.json", "model.onnx"]
    assert [given.name for given in graph.input] == ["image"]
    assert [given.name for given in graph.output] == ["output"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_what_is_written_follows_from_the_model_alone(both: tuple[Model, Model], tmp_path: Path) -> None:
    """Not from the folder, the samples, or what was exported before."""
    _, again = converted(tmp_path, RESIDUAL, **stripes(1, seed=5))
    content = both[1].onnx.read_bytes()
    assert content == again.onnx.read_bytes()
    assert not [word for word in (b".py", b"torch", b"/tmp") if word in content]


def test_several_inputs_and_outputs_keep_forwards_order(tmp_path: Path) -> None:
    code = HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(3, 2)\n"
        "    def forward(self, left, right):\n"
        "        return self.layer(left), left - right\n"
        "def build():\n"
        "    return Net()\n"
    )
    left, right = np.ones((5, 3), np.float32), np.zeros((5, 3), np.float32)
    _, exported = converted(tmp_path, code, right=right, left=left)
    assert [given.name for given in onnx.load(exported.onnx).graph.input] == ["left", "right"]
    assert [given.name for given in onnx.load(exported.onnx).graph.output] == ["output_0", "output_1"]
    np.testing.assert_array_equal(run(exported, {"left": left, "right": right})[1], left - right)


def network(forward: str) -> str:
    return HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, 4)\n"
        "    def forward(self, image):\n"
        f"        {forward}\n"
        "def build():\n"
        "    return Net()\n"
    )


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            "return self.layer(image)",
            r"fails on samples of data.evaluation \(image \[8, 1, 8, 8\]\): RuntimeError",
        ),
        ("return image if image.sum() > 0 else -image", r"cannot export its module \(.*data-dependent"),
        ("return torch.linalg.eigvals(image[:, 0]).real", r"cannot export its module \(.*linalg_eig.*: use operators"),
        ("return image - image.mean(0)", "answers differently, by .* for a batch of 1: let no sample depend on others"),
        ("return image + torch.rand_like(image)", "answers differently, by .* for a batch of 8"),
    ],
)
def test_a_module_that_would_not_be_the_same_is_refused_in_one_line(tmp_path: Path, forward: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"model.factory net:build: .*{message}") as refusal:
        converted(tmp_path, network(forward), **stripes(10, seed=0))
    assert "\n" not in str(refusal.value)


def test_there_is_no_way_back_to_a_module(both: tuple[Model, Model], tmp_path: Path) -> None:
    splits = make_splits(tmp_path, evaluation=stripes(4, seed=0))
    with pytest.raises(NotApplicable, match=r"needs a PyTorch model and gets ONNX.*put the steps that prune or train"):
        convert(both[1], ModelFormat.PYTORCH, empty(tmp_path / "back"), splits)
