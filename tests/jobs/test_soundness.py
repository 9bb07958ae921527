"""What is said of labels that contradict the model, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.api.metrics import Metrics
from trimtab.api.model import Metric
from trimtab.api.work import Report, Task
from trimtab_jobs.data import Split
from trimtab_jobs.soundness import doubts

from .conftest import Lab

SKEWED = np.repeat([0, 1, 2, 3], [60, 20, 10, 10])


def told(labels: np.ndarray | None, metric: Metric, value: float, holdout: np.ndarray | None = None) -> list[str]:
    def split(name: str, these: np.ndarray | None) -> Split:
        return Split(name, {"x": np.zeros((len(these) if these is not None else 9, 1))}, these, f"{name}.npz")

    splits = [split("evaluation", labels), split("holdout", labels if holdout is None else holdout)]
    return list(doubts(splits, metric, value, Metrics(top_k=2)))


@pytest.mark.parametrize(
    ("labels", "metric", "blind", "answer"),
    [
        (SKEWED, Metric.ACCURACY, 0.6, "always answering 0 has 60%"),
        (SKEWED, Metric.TOP_K, 0.8, "always naming the 2 most frequent classes has 80%"),
        (SKEWED, Metric.F1, 0.1875, "always answering 0 has 18.8%"),
        (SKEWED, Metric.AUROC, 0.5, "a score that knows nothing has 50%"),
        (np.array([[0.0, 4.0], [2.0, 0.0]]), Metric.MSE, 2.5, "always answering the labels' mean has 2.5"),
        (np.array([0.0, 0.0, 3.0]), Metric.MAE, 1.0, "always answering the labels' median has 1"),
    ],
)
def test_a_model_that_knows_nothing_is_doubted(labels: np.ndarray, metric: Metric, blind: float, answer: str) -> None:
    better = 1 if metric not in (Metric.MSE, Metric.MAE) else -1
    (line,) = told(labels, metric, blind)
    assert line.startswith(f"data.evaluation: the input model's {metric} is ")
    assert answer in line
    assert told(labels, metric, blind - 0.1 * better)
    assert not told(labels, metric, blind + 0.01 * better)


def test_one_class_says_nothing_of_a_model() -> None:
    ones = np.ones(20, np.int64)
    (line,) = told(ones, Metric.ACCURACY, 1.0, holdout=SKEWED)
    assert line.startswith("data.evaluation: every label is 1, so a model that always answers so is right: add")
    assert [line.partition(":")[0] for line in told(ones, Metric.F1, 1.0)] == ["data.evaluation", "data.holdout"]


def test_what_has_no_labels_is_not_doubted() -> None:
    assert not told(None, Metric.COSINE, 1.0)


def test_inspect_says_so(lab: Lab, succeed) -> None:
    """Shifted by one, the labels contradict a model that is right about nearly all."""
    task: Task = lab.task("Inspect")
    assert report(succeed, task).inspection.warnings == []
    for name in ("evaluation", "holdout"):
        path = lab.folder("inputs") / f"{name}.npz"
        arrays = dict(np.load(path))
        arrays["labels"] = (arrays["labels"] + 1) % (arrays["labels"].max() + 1)
        np.savez(path, **arrays)
    (line,) = report(succeed, task).inspection.warnings
    assert "check that labels and outputs number the classes alike" in line


def report(succeed, task: Task) -> Report:
    found: Report = succeed(task)
    assert found.inspection
    return found
