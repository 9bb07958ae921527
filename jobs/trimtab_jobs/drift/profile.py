"""The reference profile: what a model's inputs and predictions looked like when it was published, frozen.

A profile watches at most 32 numbers per row, and the predicted class. A model with more input elements gets half of
them as elements at even distances, which see what happens at a place (the magic number at the start of a file, the
corner of an image), and half as sparse random projections (Li, Hastie and Church 2006), which see what happens
everywhere a little (brightness, another alphabet). Neither does alone: measured on bytes of files, projections miss
an unfamiliar first byte, and elements often miss a text with familiar letters.

Every column is cut into ten bins of equal mass, or one per value where it has at most ten. An eleventh bin takes what
the reference never had: NaN, beyond its range, an unseen value or class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab_jobs.data import Array
from trimtab_jobs.drift.calibration import BINS, FALSE_ALARM_RATE, OTHER, bin_counts, thresholds
from trimtab_jobs.errors import InvalidInput

COLUMNS = 32
TERMS = 128
"""Elements per projection: the cost of a row is bounded, whatever the size of the input."""
MAX_ROWS = 2048
"""More reference rows than this are sampled: they hardly move a threshold, and calibration takes time with them."""
PREDICTION = "prediction"
VERSION = 1


@dataclass(frozen=True)
class Columns:
    """How a row becomes numbers, and numbers become bins."""

    widths: dict[str, int]
    """How many elements each input has; the inputs follow each other in this order."""
    elements: Array
    """int64 [e]: the elements watched as they are."""
    terms: Array
    """int64 [p, t]: the elements of each projection."""
    weights: Array
    """float64 [p, t]: a random sign over the element's standard deviation."""
    predictions: bool
    """Whether the last column is what the model predicted."""

    def numbers(self, inputs: dict[str, Array], predictions: Array | None) -> Array:
        """float64 [rows, columns]."""
        flat = np.concatenate([_flat(inputs[name], width) for name, width in self.widths.items()], axis=1)
        projections = np.einsum("npt,pt->np", flat.take(self.terms, axis=1), self.weights)
        parts = [flat[:, self.elements], projections]
        if self.predictions:
            assert predictions is not None, "the profile watches predictions"
            parts.append(predicted(predictions)[:, None])
        return np.concatenate(parts, axis=1, dtype=np.float64)

    @property
    def names(self) -> list[str]:
        """Such as `bytes[136]`, `projection 3` and `prediction`."""
        places = [f"{name}[{index}]" for name, width in self.widths.items() for index in range(width)]
        named = [places[element] for element in self.elements]
        return named + [f"projection {i}" for i in range(len(self.terms))] + [PREDICTION] * self.predictions


@dataclass(frozen=True)
class Bins:
    """The bins of all columns as one table, so that a row is binned in a few array operations."""

    low: Array
    """float64 [columns]: the reference's smallest number."""
    cuts: Array
    """float64 [columns, BINS]: the upper end of each bin, the last repeated where there are fewer."""
    discrete: Array
    """bool [columns]: a bin is one value, not a range."""

    def codes(self, numbers: Array) -> Array:
        """The bin of each number, uint8 [rows, columns]."""
        codes: Array = (numbers[:, :, None] > self.cuts).sum(-1).astype(np.uint8)
        cut = self.cuts[np.arange(len(self.cuts)), np.minimum(codes, BINS - 1)]
        codes[~(numbers >= self.low) | (self.discrete & (cut != numbers))] = OTHER
        return codes


@dataclass(frozen=True)
class Profile:
    """The reference of one published model."""

    columns: Columns
    bins: Bins
    counts: Array
    """int64 [columns, BINS + 1]: the reference rows in each bin."""
    thresholds: dict[int, float]
    """The score that an undrifted window of so many rows exceeds at `FALSE_ALARM_RATE`."""

    def codes(self, inputs: dict[str, Array], predictions: Array | None) -> Array:
        """The bin numbers of rows, uint8 [rows, columns]; `predictions` is the model's first output for them."""
        return self.bins.codes(self.columns.numbers(inputs, predictions))

    def save(self, path: Path) -> None:
        columns, bins = self.columns, self.bins
        table = zip(columns.names, bins.discrete, bins.low, bins.cuts, self.counts, strict=True)
        content = {
            "version": VERSION,
            "inputs": columns.widths,
            "elements": columns.elements.tolist(),
            "projections": {"terms": columns.terms.tolist(), "weights": columns.weights.tolist()},
            "columns": [
                {"name": name, "discrete": bool(d), "low": float(low), "cuts": cuts.tolist(), "counts": counts.tolist()}
                for name, d, low, cuts, counts in table
            ],
            "falseAlarmRate": FALSE_ALARM_RATE,
            "thresholds": self.thresholds,
        }
        path.write_text(json.dumps(content) + "\n")


def make_profile(inputs: dict[str, Array], predictions: Array | None, seed: int) -> Profile:
    """Freeze a reference: arrays with the rows on their first axis, and the model's first output for them.

    Predictions are class scores [N, K], classes [N], or numbers [N] or [N, 1]; other shapes are not watched.
    """
    rng = np.random.default_rng(seed)
    rows = len(next(iter(inputs.values())))
    kept = np.sort(rng.permutation(rows)[:MAX_ROWS])
    inputs = {name: array[kept] for name, array in inputs.items()}
    predictions = predictions[kept] if predictions is not None and predictions.ndim <= 2 else None
    columns = _choose_columns(inputs, predictions is not None, rng)
    numbers = columns.numbers(inputs, predictions)
    bins = _cut(numbers, classes=predictions is not None and predicted(predictions).dtype.kind in "iub")
    codes = bins.codes(numbers)
    return Profile(columns, bins, bin_counts(codes), thresholds(codes, seed))


def load_profile(path: Path) -> Profile:
    """Raises InvalidInput naming the file if it is no profile of this version."""
    try:
        content = json.loads(path.read_text())
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        return _read(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path}: no drift profile of version {VERSION} ({error!r}): publish the model again"
        ) from None


def predicted(predictions: Array) -> Array:
    """One number per row: the class of the highest score, or the number that was predicted."""
    scores = predictions.ndim == 2 and predictions.shape[1] > 1
    numbers: Array = predictions.argmax(-1) if scores else predictions.reshape(len(predictions))
    return numbers


def _choose_columns(inputs: dict[str, Array], predictions: bool, rng: np.random.Generator) -> Columns:
    widths = {name: int(np.prod(array.shape[1:])) for name, array in inputs.items()}
    total = sum(widths.values())
    if total <= COLUMNS:
        nothing = np.zeros((0, 0))
        return Columns(widths, np.arange(total), nothing.astype(np.int64), nothing, predictions)
    elements = np.linspace(0, total - 1, COLUMNS // 2).round().astype(np.int64)
    size = (COLUMNS - len(elements), min(TERMS, total))
    terms = np.stack([rng.choice(total, size[1], replace=False) for _ in range(size[0])])
    flat = np.concatenate([_flat(inputs[name], width) for name, width in widths.items()], axis=1)
    deviation = flat[:, terms.ravel()].std(0, dtype=np.float64).reshape(size)
    weights = rng.choice([-1.0, 1.0], size) / np.where(deviation > 0, deviation, 1)
    return Columns(widths, elements, terms, weights, predictions)


def _cut(numbers: Array, classes: bool) -> Bins:
    last = numbers.shape[1] - 1
    cut = [_cut_column(column, classes and index == last) for index, column in enumerate(numbers.T)]
    low, cuts, discrete = (np.array(part) for part in zip(*cut, strict=True))
    return Bins(low, cuts, discrete)


def _cut_column(numbers: Array, classes: bool) -> tuple[float, Array, bool]:
    """Bins of one value each, the most frequent ones, for classes and where there are few; else of equal mass."""
    values, times = np.unique(numbers[np.isfinite(numbers)], return_counts=True)
    if not len(values):
        return np.inf, np.zeros(BINS), True
    discrete = classes or len(values) <= BINS
    if discrete:
        cuts = np.sort(values[np.argsort(-times, kind="stable")[:BINS]])
    else:
        tenths = np.arange(1, BINS + 1) / BINS
        cuts = np.unique(np.quantile(np.repeat(values, times), tenths, method="inverted_cdf"))
    return float(cuts[0] if discrete else values[0]), np.pad(cuts, (0, BINS - len(cuts)), "edge"), discrete


def _flat(array: Array, width: int) -> Array:
    """[rows, width]: inputs of a varying length are cut, or continued with NaN."""
    flat = array.reshape(len(array), -1)
    missing = width - flat.shape[1]
    if missing > 0:
        return np.pad(flat.astype(np.float64), ((0, 0), (0, missing)), constant_values=np.nan)
    return flat[:, :width]


def _read(content: dict[str, Any]) -> Profile:
    terms, weights = content["projections"]["terms"], content["projections"]["weights"]
    shape = (len(terms), -1 if terms else 0)
    table = content["columns"]
    return Profile(
        Columns(
            widths=content["inputs"],
            elements=np.array(content["elements"], np.int64),
            terms=np.array(terms, np.int64).reshape(shape),
            weights=np.array(weights, np.float64).reshape(shape),
            predictions=table[-1]["name"] == PREDICTION,
        ),
        Bins(
            low=np.array([column["low"] for column in table]),
            cuts=np.array([column["cuts"] for column in table], np.float64),
            discrete=np.array([column["discrete"] for column in table]),
        ),
        counts=np.array([column["counts"] for column in table]),
        thresholds={int(window): threshold for window, threshold in content["thresholds"].items()},
    )
