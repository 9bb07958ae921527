"""Whether data, model and metrics fit each other: what is refused, and what is said and then believed.

Inspect and `look` ask here, so a job that is written can run. A refusal is for what is surely wrong. That a model is no
better than somebody who has never seen a sample is not: labels may be shifted by one or sorted otherwise than the
outputs, and a drop of such a number means nothing; or the classes may be very unequal, and the model good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from trimtab.api.metrics import Metrics
from trimtab.api.model import Metric, show_metric
from trimtab_jobs.data import JUDGES, Array, Split, check_disjoint, check_inputs
from trimtab_jobs.metrics import CLASSIFIES, COMPARES, check, quality
from trimtab_jobs.signature import Input


def check_splits(splits: Sequence[Split], inputs: Sequence[Input]) -> None:
    """Raise InvalidInput where a split does not fit the model's inputs, or one that judges shares samples."""
    for split in splits:
        check_inputs(split, inputs)
    check_disjoint(splits)


def check_metrics(
    metrics: Collection[Metric], settings: Metrics, splits: Sequence[Split], outputs: Sequence[Array], model: str
) -> None:
    """Raise InvalidInput where one cannot be computed. `outputs` are those for one sample, `model` is an address."""
    for metric in metrics:
        for split in splits:
            check(metric, settings, split, outputs, model)


def doubts(splits: Sequence[Split], metric: Metric, value: float, settings: Metrics) -> Iterator[str]:
    """What makes the quality of the input model doubtful, a line each. `value` is that on the evaluation split."""
    alike = [split for split in splits if split.name in JUDGES and metric in CLASSIFIES and _one_class(split)]
    for split in alike:
        yield (
            f"data.{split.name}: every label is {_first(split)}, so a model that always answers so is right: "
            "add samples of other classes"
        )
    evaluation = next(split for split in splits if split.name == "evaluation")
    blind = None if evaluation in alike else _blind(evaluation, metric, settings)
    if blind is not None and not _better(value, blind[0], metric, settings):
        remedy = "number the classes alike" if metric in CLASSIFIES else "have the same order and scale"
        yield (
            f"data.evaluation: the input model's {metric} is {show_metric(metric, value)}, and {blind[1]} has "
            f"{show_metric(metric, blind[0])}: check that labels and outputs {remedy}"
        )


def _one_class(split: Split) -> bool:
    return split.labels is not None and bool((split.labels == split.labels[0]).all())


def _first(split: Split) -> int:
    return int(np.asarray(split.labels)[0])


def _better(value: float, other: float, metric: Metric, settings: Metrics) -> bool:
    return value > other if settings.higher_is_better(metric) else value < other


def _blind(split: Split, metric: Metric, settings: Metrics) -> tuple[float, str] | None:
    """What the best answer that is the same for every sample reaches, and that answer; None where none is known."""
    labels = split.labels
    if labels is None or metric not in CLASSIFIES | COMPARES:
        return None
    if metric in COMPARES:
        rows = labels.reshape(len(labels), -1).astype(np.float64)
        off = rows - (rows.mean(axis=0) if metric == Metric.MSE else np.median(rows, axis=0))
        loss = np.square(off) if metric == Metric.MSE else np.abs(off)
        return float(loss.mean()), f"always answering the labels' {'mean' if metric == Metric.MSE else 'median'}"
    if metric == Metric.AUROC:
        return 0.5, "a score that knows nothing"
    classes, counts = np.unique(labels, return_counts=True)
    if metric == Metric.TOP_K:
        share = np.sort(counts)[::-1][: settings.top_k].sum() / len(labels)
        return float(share), f"always naming the {settings.top_k} most frequent classes"
    most = classes[counts.argmax()]
    if metric == Metric.F1:
        return quality(metric, settings).value((np.full_like(labels, most),), labels), f"always answering {most}"
    return float(counts.max() / len(labels)), f"always answering {most}"
