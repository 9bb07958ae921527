"""Every quality metric: its value against scikit-learn or by hand, and what all of them must do on a real model."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from sklearn import metrics as sklearn

from bad_inputs import make_model, make_samples
from trimtab.api.metrics import Metrics
from trimtab.api.model import QUALITY, EngineName, Metric, ModelFormat
from trimtab_jobs.data import Array, Split, Splits
from trimtab_jobs.engines import EngineOptions, Session, engine
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.evaluate import Judge, NotANumber
from trimtab_jobs.metrics import Batch, check, choose, join, quality
from trimtab_jobs.model import Model

from .conftest import one_split

RNG = np.random.default_rng(3)
CODE = """
import numpy as np

def likelihood(outputs, labels):
    scores = outputs[0] - outputs[0].max(1, keepdims=True)
    return float(np.mean(scores[np.arange(len(labels)), labels] - np.log(np.exp(scores).sum(1))))

def likelihoods(outputs, labels):
    return [likelihood([outputs[0][i:i + 1]], labels[i:i + 1]) for i in range(len(labels))]

def matrix(outputs, labels):
    return outputs[0]

def fails(outputs, labels):
    raise KeyError("no such class")
"""


def settings(function: str = "score:likelihood", **custom: Any) -> Metrics:
    return Metrics.model_validate({"topK": 2, "custom": {"function": function} | custom})


def value(metric: Metric, scores: Array, labels: Array | None, original: Array | None = None, **fields: Any) -> float:
    """The metric of one output, kept in batches of 7."""
    how = quality(metric, Metrics.model_validate(fields))
    parts = [
        Batch(
            samples=len(scores[start : start + 7]),
            outputs=[scores[start : start + 7]],
            labels=None if labels is None else labels[start : start + 7],
            original=[] if original is None else [original[start : start + 7]],
        )
        for start in range(0, len(scores), 7)
    ]
    return how.value(join([how.rows(part) for part in parts]), labels)


def probabilities(samples: int, classes: int) -> Array:
    """Rounded, so that there are ties."""
    raw = RNG.random((samples, classes)).round(1) + 0.05
    return (raw / raw.sum(1, keepdims=True)).astype(np.float32)


SCORES, LABELS = probabilities(200, 5), RNG.integers(0, 5, 200)
TWO, BINARY = probabilities(150, 2), RNG.integers(0, 2, 150)
NUMBERS, TRUTH = RNG.normal(size=(60, 2, 3)).astype(np.float32), RNG.normal(size=(60, 2, 3))
REFERENCE: dict[str, tuple[float, float]] = {
    "accuracy": (
        value(Metric.ACCURACY, SCORES, LABELS),
        sklearn.accuracy_score(LABELS, SCORES.argmax(1)),
    ),
    "classes": (
        value(Metric.ACCURACY, SCORES.argmax(1), LABELS),
        sklearn.accuracy_score(LABELS, SCORES.argmax(1)),
    ),
    "top 1 is accuracy": (
        value(Metric.TOP_K, SCORES, LABELS, topK=1),
        value(Metric.ACCURACY, SCORES, LABELS),
    ),
    "top 3": (
        value(Metric.TOP_K, NUMBERS[:, 0] @ np.eye(3, 5, dtype=np.float32) + SCORES[:60], LABELS[:60], topK=3),
        sklearn.top_k_accuracy_score(LABELS[:60], NUMBERS[:, 0] @ np.eye(3, 5) + SCORES[:60], k=3, labels=range(5)),
    ),
    "f1": (
        value(Metric.F1, SCORES, LABELS),
        sklearn.f1_score(LABELS, SCORES.argmax(1), average="macro"),
    ),
    "f1 of a class never predicted": (
        value(Metric.F1, SCORES[:, :4], LABELS),
        sklearn.f1_score(LABELS, SCORES[:, :4].argmax(1), average="macro"),
    ),
    "auroc": (
        value(Metric.AUROC, SCORES, LABELS),
        sklearn.roc_auc_score(LABELS, SCORES.astype(np.float64), multi_class="ovr"),
    ),
    "auroc of two": (value(Metric.AUROC, TWO, BINARY), sklearn.roc_auc_score(BINARY, TWO[:, 1])),
    "auroc of two logits": (value(Metric.AUROC, np.log(TWO), BINARY), sklearn.roc_auc_score(BINARY, TWO[:, 1])),
    "auroc of one": (value(Metric.AUROC, TWO[:, 1:], BINARY), sklearn.roc_auc_score(BINARY, TWO[:, 1])),
    "mse": (
        value(Metric.MSE, NUMBERS, TRUTH),
        sklearn.mean_squared_error(TRUTH.reshape(60, -1), NUMBERS.reshape(60, -1)),
    ),
    "mae of one number": (
        value(Metric.MAE, NUMBERS[:, 0, :1], TRUTH[:, 0, 0]),
        sklearn.mean_absolute_error(TRUTH[:, 0, 0], NUMBERS[:, 0, 0]),
    ),
    "cosine": (
        value(Metric.COSINE, NUMBERS, None, TRUTH.astype(np.float32)),
        float(np.diag(sklearn.pairwise.cosine_similarity(NUMBERS.reshape(60, -1), TRUTH.reshape(60, -1))).mean()),
    ),
    "cosine of nothing": (value(Metric.COSINE, np.zeros((9, 2), np.float32), None, np.zeros((9, 2), np.float32)), 1),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_values(name: str) -> None:
    ours, theirs = REFERENCE[name]
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_scores_of_several_outputs_count_together(tmp_path: Path) -> None:
    a, b = np.array([[3.0, 0.0]]), np.array([[4.0]])
    batch = Batch(1, [a, b, np.array([7])], None, [a, -b, np.array([9])])
    (rows,) = quality(Metric.COSINE, Metrics()).rows(batch)
    assert rows == pytest.approx([(9 - 16) / 25])


class Models:
    """A classifier of three noisy centers and others of its shape, in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "score.py").write_text(CODE)

    def load(self, activation: str = "Relu") -> Session:
        folder = self.folder / activation
        folder.mkdir(exist_ok=True)
        onnx.save(make_model(activation=activation), folder / "model.onnx")
        return engine(EngineName.ONNXRUNTIME).load(Model(folder, ModelFormat.ONNX), EngineOptions())

    def split(self, metric: Metric, name: str = "evaluation") -> Split:
        """With the labels that a metric needs; numbers are the model's own, a little off."""
        given = make_samples(5)
        if metric in (Metric.MSE, Metric.MAE):
            answers = self.load().run({"x": given["x"]})[0]
            given["labels"] = answers + np.random.default_rng(0).normal(scale=0.1, size=answers.shape)
        return one_split(name, given)

    def judge(self, metric: Metric, split: Split, function: str = "score:likelihood", **custom: Any) -> Judge:
        splits = Splits({})
        splits.__dict__["evaluation"] = split
        return Judge([metric], settings(function, **custom), self.load, splits, self.folder / "score.py")


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


every_metric = pytest.mark.parametrize("metric", sorted(QUALITY))


@every_metric
class TestEveryMetric:
    def test_the_same_model_loses_nothing(self, models: Models, metric: Metric) -> None:
        assert models.judge(metric, models.split(metric)).drop(models.load()) == pytest.approx(0, abs=1e-9)

    def test_a_worse_model_loses(self, models: Models, metric: Metric) -> None:
        assert models.judge(metric, models.split(metric)).drop(models.load("Abs")) > 0.01

    def test_a_model_without_numbers_loses_everything(self, models: Models, metric: Metric) -> None:
        split = models.split(metric)
        judge, broken = models.judge(metric, split), models.load("Log")
        assert judge.drop(broken) == math.inf
        with pytest.raises(NotANumber, match=r"^output 0 of the model has NaN: .*$"):
            judge.rows(broken, split)

    def test_the_batch_does_not_matter(self, models: Models, metric: Metric) -> None:
        split = models.split(metric)
        judge = models.judge(metric, split)
        whole = judge.values(models.load("Tanh"), split)
        assert whole == pytest.approx(judge.values(OneByOne(models.load("Tanh")), split))

    def test_labels_are_asked_for_where_they_are_needed(self, models: Models, metric: Metric) -> None:
        split = Split("holdout", models.split(metric).inputs, None, "holdout.npz")
        outputs = models.load().run(next(split.batches(1)))
        if metric in (Metric.COSINE, Metric.CUSTOM):
            check(metric, settings(), split, outputs, "pvc://m")
        else:
            with pytest.raises(InvalidInput, match=f"data.holdout: holdout.npz: it has no labels: {metric} is"):
                check(metric, settings(), split, outputs, "pvc://m")


class OneByOne:
    """A session that takes one sample at a time."""

    size = 0

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        if len(inputs["x"]) > 1:
            raise InvalidInput("one at a time")
        return self._session.run(inputs)


def outputs(*shape: int, dtype: str = "float32") -> list[Array]:
    return [np.zeros(shape, dtype)]


def labelled(labels: Any, name: str = "evaluation") -> Split:
    return Split(name, {"x": np.zeros((len(labels), 1))}, np.array(labels), "e.npz")


@pytest.mark.parametrize(
    ("metric", "split", "answer", "says"),
    [
        (Metric.ACCURACY, labelled([0, 3]), outputs(1, 3), "labels reach from 0 to 3, and the model has 3 classes"),
        (Metric.F1, labelled([0.5, 1]), outputs(1, 3), "labels are float64 with 1 axes: save one integer class"),
        (Metric.AUROC, labelled([[0], [1]]), outputs(1, 3), "labels are int64 with 2 axes"),
        (Metric.AUROC, labelled([2, 2]), outputs(1, 3), "all labels are 2, and auroc needs samples of two classes"),
        (Metric.AUROC, labelled([0, 2]), outputs(1, 1), "labels reach from 0 to 2, and the model has 2 classes"),
        (Metric.ACCURACY, labelled([0, 1]), outputs(1, 7, 3), "has shape \\[1, 7, 3\\], and accuracy needs \\[1, cla"),
        (Metric.AUROC, labelled([0, 1]), outputs(1, dtype="int64"), "has shape \\[1\\], and auroc needs"),
        (Metric.TOP_K, labelled([0, 1]), outputs(1, 2), "metrics.topK: 2, and the model has 2 classes: .* at most 1"),
        (
            Metric.MSE,
            labelled([0.5, 1]),
            outputs(1, 3),
            "labels are .* is float32\\[1,3\\]: mse compares",
        ),
        (Metric.COSINE, labelled([0, 1]), outputs(1, dtype="int64"), "cosine needs outputs of floating point"),
    ],
)
def test_what_does_not_fit_is_told(metric: Metric, split: Split, answer: list[Array], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check(metric, settings(), split, answer, "pvc://m")


@pytest.mark.parametrize(
    ("labels", "answer", "chosen"),
    [
        ([0, 1], outputs(1, 3), Metric.ACCURACY),
        ([0, 1], outputs(1, dtype="int64"), Metric.ACCURACY),
        ([0, 1], outputs(1, 7, 3), Metric.COSINE),
        ([[0], [1]], outputs(1, 3), Metric.COSINE),
        ([0.5, 1], outputs(1, 1), Metric.MSE),
        (None, outputs(1, 3), Metric.COSINE),
    ],
)
def test_the_data_choose_where_nobody_does(labels: Any, answer: list[Array], chosen: Metric) -> None:
    split = Split("evaluation", {"x": np.zeros((2, 1))}, None if labels is None else np.array(labels))
    assert choose(split, answer) == chosen


def test_a_function_that_scores_each_sample_gives_the_same(models: Models) -> None:
    split = models.split(Metric.CUSTOM)
    whole = models.judge(Metric.CUSTOM, split).values(models.load(), split)
    each = models.judge(Metric.CUSTOM, split, "score:likelihoods", perSample=True)
    assert each.values(models.load(), split) == pytest.approx(whole)
    assert [row.shape for row in each.rows(models.load(), split)[Metric.CUSTOM]] == [(200,)]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("score:fails", "metrics.custom.function score:fails: KeyError: 'no such class'"),
        (
            "score:missing",
            "metrics.custom.function score:missing: AttributeError: .*score.py has no attribute 'missing'",
        ),
        ("score:matrix", "score:matrix returned an array of shape \\[200, 3\\]: it must return one number"),
    ],
)
def test_a_function_that_fails_is_named(models: Models, function: str, says: str) -> None:
    split = models.split(Metric.CUSTOM)
    with pytest.raises(InvalidInput, match=says):
        models.judge(Metric.CUSTOM, split, function).values(models.load(), split)


SEQUENCE = "y = Max(x, t)"
BOXES = "p = Greater(x, t)  n = NonZero(p)  f = Cast<to = 1>(n)  y = Transpose<perm = [1, 0]>(f)"


@pytest.mark.parametrize(
    ("body", "form"),
    [
        pytest.param(SEQUENCE, "[N,4,3] y", id="sequences"),
        pytest.param(SEQUENCE + "  a = Tanh(x)", "[N,4,3] y, float[N,4,3] a", id="two outputs"),
        pytest.param(BOXES, "[M,3] y", id="as many rows as were detected"),
    ],
)
def test_any_outputs_can_be_compared_with_the_originals(tmp_path: Path, body: str, form: str) -> None:
    inputs = {"x": RNG.normal(size=(20, 4, 3)).astype(np.float32)}
    split = Split("evaluation", inputs, None)
    original, other = (_graph(tmp_path / str(t), body, form, t) for t in (0.5, 0.6))
    judge = Judge([Metric.COSINE], Metrics(), partial(lambda one: one, original), Splits({}))
    assert judge.values(original, split)[Metric.COSINE] == pytest.approx(1)
    assert judge.values(other, split)[Metric.COSINE] < 0.999


def _graph(folder: Path, body: str, form: str, threshold: float) -> Session:
    folder.mkdir()
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,3] x)'
    text = f"{head} => (float{form}) <float t = {{{threshold}}}> {{{body}}}"
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return engine(EngineName.ONNXRUNTIME).load(Model(folder, ModelFormat.ONNX), EngineOptions())


Comparison = Callable[[float, float], float]


@pytest.mark.parametrize(
    ("metric", "before", "after", "drop"),
    [
        (Metric.ACCURACY, 0.95, 0.94, 0.01),
        (Metric.COSINE, 1.0, 1.0, 0.0),
        (Metric.MSE, 0.2, 0.21, 0.05),
        (Metric.MAE, 0.2, 0.1, -0.5),
        (Metric.CUSTOM, -0.5, -0.6, 0.2),
    ],
)
def test_what_a_drop_is(metric: Metric, before: float, after: float, drop: float) -> None:
    assert settings().drop(metric, before, after) == pytest.approx(drop)


def test_a_users_error_is_worse_when_it_rises() -> None:
    assert settings(goal="Minimize").drop(Metric.CUSTOM, 0.5, 0.6) == pytest.approx(0.2)
