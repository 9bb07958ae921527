"""What is seen of a model and its data, and what is refused before there is a job."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bad_inputs import CASES, make_samples, write_inputs
from trimtab.api.look import Look
from trimtab.api.model import EngineName, Metric, ModelFormat
from trimtab_jobs import look
from web import Answer, web_server


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_inputs(folder)
    return folder


@pytest.fixture
def seen(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Look at the inputs; the exit code, standard output and standard error."""

    def main(model: str = "model.onnx", data: str = ".", *options: str) -> tuple[int, str, str]:
        code = look.main([str(inputs / model), str(inputs / data), str(tmp_path / "dealt"), *options])
        return code, *capfd.readouterr()

    return main


Seen = Callable[..., tuple[int, str, str]]


def test_a_model_and_its_splits_are_described(seen: Seen, inputs: Path, tmp_path: Path) -> None:
    code, document, errors = seen()
    assert (code, errors) == (0, "")
    found = Look.model_validate_json(document)
    assert (found.format, found.metric, found.labels) == (ModelFormat.ONNX, Metric.ACCURACY, "int64[N]")
    assert found.inputs == {"x": "float32[N,8]"}
    assert found.operators == {"MatMul": 2, "Add": 1, "Relu": 1}
    assert found.samples == {"calibration": 200, "evaluation": 200, "holdout": 200}
    assert found.data["holdout"] == str(inputs / "holdout.npz")
    assert found.engines == [EngineName.ONNXRUNTIME, EngineName.OPENVINO]
    assert not (tmp_path / "dealt").exists()


def test_one_file_is_dealt(seen: Seen, tmp_path: Path) -> None:
    found = Look.model_validate_json(seen(data="evaluation.npz")[1])
    assert found.samples == {"calibration": 40, "evaluation": 80, "holdout": 80}
    assert found.data["evaluation"] == str(tmp_path / "dealt" / "evaluation.npz")


def test_a_file_at_an_address_is_fetched_and_dealt_for_each_of_its_versions(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def evaluation(version: str, file: str) -> Path:
        web.answers["/all.npz"] = Answer((inputs / file).read_bytes(), headers={"ETag": version})
        code = look.main([str(inputs / "model.onnx"), f"{web.url}/all.npz", str(tmp_path / "out" / "data-1")])
        document, errors = capfd.readouterr()
        assert (code, errors) == (0, "")
        return Path(Look.model_validate_json(document).data["evaluation"])

    with web_server({}) as web:
        old, new = evaluation('"1"', "evaluation.npz"), evaluation('"2"', "holdout.npz")
        assert evaluation('"1"', "evaluation.npz") == old
    assert old.parent != new.parent
    assert old.parent.parent == new.parent.parent == tmp_path / "out" / "data-1"


@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        (None, Metric.COSINE),
        (lambda n: np.zeros((n, 3), np.float32), Metric.MSE),
        (lambda n: np.arange(n) % 3, Metric.ACCURACY),
    ],
)
def test_the_labels_decide_what_quality_is(seen: Seen, inputs: Path, labels, metric: Metric) -> None:
    arrays = {"x": make_samples(5)["x"]}
    np.savez(inputs / "all.npz", **arrays, **({"labels": labels(len(arrays["x"]))} if labels else {}))
    assert Look.model_validate_json(seen(data="all.npz")[1]).metric == metric


def test_a_metric_can_be_asked_for(seen: Seen) -> None:
    assert Look.model_validate_json(seen("model.onnx", ".", "--metric", "f1")[1]).metric == Metric.F1


ADDRESSES = {"data-missing", "link-out-of-its-claim", "unknown-claim"}
"""What can only be wrong in a job."""


@pytest.mark.parametrize("name", sorted(CASES.keys() - ADDRESSES))
def test_what_inspect_would_refuse_is_refused_now(seen: Seen, inputs: Path, tmp_path: Path, name: str) -> None:
    CASES[name].spoil(inputs)
    code, document, errors = seen()
    assert (code, document) == (2, "")
    (line,) = errors.splitlines()
    assert all(words in line for words in CASES[name].says)
    assert not (tmp_path / "dealt").exists()


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("weights.safetensors", ".", "write a job with model.format PyTorch"),
        ("weights.pt", ".", "a pickled module, which is never loaded"),
        ("model.onnx", "none.npz", "none.npz: there is no such file"),
        ("model.onnx", "dictionary.npz", "dictionary.npz: not a whole .npz file: write it with numpy.savez"),
        ("model.onnx", "few.npz", "it has 20 distinct samples, and calibration and holdout must be dealt from it"),
    ],
)
def test_other_files_are_told_apart(seen: Seen, inputs: Path, tmp_path: Path, model: str, data: str, says: str) -> None:
    (inputs / "dictionary.npz").write_bytes(pickle.dumps({"x": 1}))
    np.savez(inputs / "few.npz", **make_samples(9, samples=20))
    code, _, errors = seen(model, data)
    assert code == 2
    assert says in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "dealt").exists()
