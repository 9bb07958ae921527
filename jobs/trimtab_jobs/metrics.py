"""The quality metrics: what is kept of a model's answers, and the number that comes of it.

A metric is two functions. `keep` makes small rows of a batch's outputs, one per sample: a score where the metric is a
mean over samples, else what the whole needs, such as the predicted class for f1. `value` makes one number of all rows.
So a split is run once, the outputs of a large model are never all in memory, and a claim can draw samples again with
the rows of two models paired. Only a custom metric that wants all outputs gets them.

Classes are told by the first output: the highest of [N, classes] scores, the first where several are equally high, or
the integers [N] themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.api.metrics import CustomMetric, Metrics
from trimtab.api.model import Metric
from trimtab_jobs.data import JUDGES, Array, Split, check_labels
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.user_code import attribute

CLASSIFIES = frozenset({Metric.ACCURACY, Metric.TOP_K, Metric.F1, Metric.AUROC})
"""Labels are one integer class per sample."""
COMPARES = frozenset({Metric.MSE, Metric.MAE})
"""Labels are the numbers that the first output should have."""

MANY = 2**31
"""How many classes there may be where the model answers with a class and no scores."""

Rows = tuple[Array, ...]
"""What is kept of a split, one row per sample. One array, but for a custom metric that wants all outputs."""


class NoMetric(InvalidInput):
    """A metric cannot be computed of what a model answered, by whichever engine."""


@dataclass(frozen=True)
class Batch:
    """A model's answers to some samples."""

    samples: int
    outputs: Sequence[Array]
    """In the graph's order, the samples on the first axis; a batch of one sample may have any shape."""
    labels: Array | None
    original: Sequence[Array] = ()
    """The original model's outputs, for the metric that compares with them."""


@dataclass(frozen=True)
class Quality:
    """How a metric is computed."""

    keep: Callable[[Batch], Array | Rows]
    value: Callable[[Rows, Array | None], float]

    def rows(self, batch: Batch) -> Rows:
        kept = self.keep(batch)
        return kept if isinstance(kept, tuple) else (kept,)


def quality(metric: Metric, settings: Metrics, code: Path | None = None) -> Quality:
    """The functions of a metric. `code` is the file of a custom one. Raises InvalidInput where that has no function."""
    if metric == Metric.CUSTOM:
        assert settings.custom
        return _custom(settings.custom, code)
    if metric == Metric.TOP_K:
        return Quality(partial(_in_top, settings.top_k), _mean)
    return _TABLE[metric]


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of consecutive batches as those of one."""
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def choose(split: Split, outputs: Sequence[Array]) -> Metric:
    """What a split's labels, and a model's outputs for one sample, let one measure where no metric is named."""
    labels = split.labels
    if labels is not None and labels.dtype.kind == "f":
        return Metric.MSE
    if labels is not None and labels.ndim == 1 and (_classes(outputs[0]) or _names_class(outputs[0])):
        return Metric.ACCURACY
    return Metric.COSINE


def check(metric: Metric, settings: Metrics, split: Split, outputs: Sequence[Array], model: str) -> None:
    """Raise InvalidInput unless a metric can be computed on a split from a model's outputs for one sample.

    Splits that do not judge may have no labels. `model` is the model's address, for messages.
    """
    if metric in CLASSIFIES | COMPARES and split.labels is None:
        if split.name in JUDGES:
            raise split.refuse(f"it has no labels: {metric} is measured on it, so save an array named 'labels'")
    elif metric in CLASSIFIES:
        _check_classes(metric, settings, split, outputs[0], model)
    elif metric in COMPARES and split.name in JUDGES:
        _check_numbers(metric, split, outputs[0])
    elif metric == Metric.COSINE and not any(output.dtype.kind == "f" for output in outputs):
        raise InvalidInput(f"model.uri: {model}: cosine needs outputs of floating point: name another metric")


def _check_classes(metric: Metric, settings: Metrics, split: Split, output: Array, model: str) -> None:
    classes = _classes(output)
    if metric == Metric.AUROC and output.size == 1 and output.dtype.kind == "f":
        classes = 2  # one score, of the second class
    if classes is None and not (metric in (Metric.ACCURACY, Metric.F1) and _names_class(output)):
        raise InvalidInput(
            f"model.uri: {model}: the first output for one sample has shape {list(output.shape)}, and {metric} needs "
            "[1, classes]: put the scores of the classes first, or name another metric"
        )
    check_labels(split, classes or MANY)
    if metric == Metric.TOP_K and classes and settings.top_k >= classes:
        raise InvalidInput(
            f"metrics.topK: {settings.top_k}, and the model has {classes} classes: every answer would be right; "
            f"give at most {classes - 1}"
        )
    labels = np.asarray(split.labels)
    if metric == Metric.AUROC and split.name in JUDGES and (labels == labels[0]).all():
        raise split.refuse(f"all labels are {labels[0]}, and auroc needs samples of two classes at least: add some")


def _check_numbers(metric: Metric, split: Split, output: Array) -> None:
    labels = split.labels
    assert labels is not None
    if output.dtype.kind not in "iuf" or output.size * len(labels) != labels.size:
        raise split.refuse(
            f"labels are {_form(labels)}, and the model's first output for one sample is {_form(output)}: {metric} "
            "compares them number by number: reshape the labels, save one integer class per sample for accuracy, "
            "or name another metric"
        )


def _form(array: Array) -> str:
    return f"{array.dtype}[{','.join(str(size) for size in array.shape)}]"


def _classes(output: Array) -> int | None:
    """How many classes the scores of one sample tell apart; None if they are no such scores."""
    scores = output.ndim == 2 and len(output) == 1 and output.shape[1] > 1
    return int(output.shape[1]) if scores else None


def _names_class(output: Array) -> bool:
    return output.dtype.kind in "iu" and output.shape == (1,)


def _predicted(batch: Batch) -> Array:
    first = batch.outputs[0]
    return first if first.ndim == 1 else first.argmax(axis=-1)


def _right(batch: Batch) -> Array:
    return np.asarray(_predicted(batch) == batch.labels)


def _in_top(k: int, batch: Batch) -> Array:
    """Whether fewer than `k` classes come before the label's. An equal score comes first if its class does."""
    scores, labels = batch.outputs[0], np.asarray(batch.labels)[:, None]
    own = np.take_along_axis(scores, labels, axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels))
    return np.asarray(before.sum(axis=1) < k)


def _differences(batch: Batch) -> Array:
    labels = np.asarray(batch.labels).reshape(batch.samples, -1)
    return np.asarray(batch.outputs[0].reshape(batch.samples, -1).astype(np.float64) - labels)


def _cosine(batch: Batch) -> Array:
    """Of each sample's outputs, as one long vector, with the original model's.

    The shorter of two vectors is continued with zeros: a detector may find less than its original.
    """
    dot, norms = np.zeros(batch.samples), np.zeros((2, batch.samples))
    for pair in zip(batch.outputs, batch.original, strict=True):
        if pair[1].dtype.kind == "f":
            a, b = (output.reshape(batch.samples, -1) for output in pair)
            shared = min(a.shape[1], b.shape[1])
            dot += _dot(a[:, :shared], b[:, :shared])
            norms += _dot(a, a), _dot(b, b)
    length = np.sqrt(norms.prod(axis=0))
    alike: Array = np.divide(dot, length, out=(norms[0] == norms[1]).astype(np.float64), where=length > 0)
    return alike.clip(-1, 1)


def _dot(a: Array, b: Array) -> Array:
    """Row by row, summed in float64 without a float64 copy of the rows."""
    return np.asarray(np.einsum("ij,ij->i", a, b, dtype=np.float64))


def _scores(batch: Batch) -> Array:
    """What the classes are ranked by, [samples, classes]; of two classes the difference, [samples, 1]."""
    scores: Array = batch.outputs[0].reshape(batch.samples, -1).astype(np.float32, copy=False)
    return np.asarray(scores[:, 1:] - scores[:, :1] if scores.shape[1] == 2 else scores)


def _mean(rows: Rows, _labels: Array | None) -> float:
    return float(rows[0].mean())


def _f1(rows: Rows, labels: Array | None) -> float:
    """The mean over all classes that were predicted or are labels."""
    (predicted,) = rows
    _, numbers = np.unique(np.concatenate([predicted, np.asarray(labels)]), return_inverse=True)
    guess, truth = np.split(numbers, 2)
    size = int(numbers.max()) + 1
    hits, guesses, truths = (np.bincount(which, minlength=size) for which in (truth[guess == truth], guess, truth))
    return float(np.mean(2 * hits / (guesses + truths)))


def _auroc(rows: Rows, labels: Array | None) -> float:
    """The mean of each class against the rest, over the classes that some labels name and others do not."""
    (scores,) = rows
    if scores.shape[1] == 1:
        return _area(scores[:, 0], labels == 1)
    areas = np.array([_area(scores[:, index], labels == index) for index in range(scores.shape[1])])
    known = areas[~np.isnan(areas)]
    return float(known.mean()) if len(known) else float("nan")


def _area(scores: Array, positive: Any) -> float:
    """Mann and Whitney's statistic, ties counted half (Hanley and McNeil, Radiology 143 (1982) 29-36)."""
    hits = int(positive.sum())
    if hits in (0, len(scores)):
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * (len(scores) - hits)))


def _custom(given: CustomMetric, code: Path | None) -> Quality:
    where = f"metrics.custom.function {given.function}"
    if code is not None and not code.is_file():
        raise InvalidInput(f"metrics.custom.code: {code}: there is no such file: check the address")

    def call(outputs: Sequence[Array], labels: Array | None, form: tuple[int, ...]) -> Array:
        try:
            found = np.asarray(attribute(given.function, code)(list(outputs), labels), np.float64)
        except (Exception, SystemExit) as error:  # the user's code raises what it likes
            raise NoMetric(f"{where}: {type(error).__name__}: {error}") from error
        if found.shape != form:
            wanted = f"{form[0]} numbers, one per sample" if form else "one number"
            raise NoMetric(f"{where} returned an array of shape {list(found.shape)}: it must return {wanted}")
        return found

    if given.per_sample:
        return Quality(lambda batch: call(batch.outputs, batch.labels, (batch.samples,)), _mean)
    return Quality(lambda batch: tuple(batch.outputs), lambda rows, labels: float(call(rows, labels, ())))


_TABLE = {
    Metric.ACCURACY: Quality(_right, _mean),
    Metric.F1: Quality(_predicted, _f1),
    Metric.AUROC: Quality(_scores, _auroc),
    Metric.MSE: Quality(lambda batch: np.square(_differences(batch)).mean(axis=1), _mean),
    Metric.MAE: Quality(lambda batch: np.abs(_differences(batch)).mean(axis=1), _mean),
    Metric.COSINE: Quality(_cosine, _mean),
}
