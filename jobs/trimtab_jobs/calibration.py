"""How far each activation reaches: what static quantization must know of the data.

MinMax takes the least and the largest value seen. Percentile and Entropy clip outliers, to spend the steps on the
rest; they count magnitudes in a histogram whose bins the first pass has fixed, so a second pass is all they need.

ONNX Runtime has calibrators too. Those of 1.31 keep every activation of every batch until the end, or, told to keep
fewer, forget the others; their Entropy compares one threshold with itself, having as many bins as levels; and their
histograms grow without bound when a later batch is larger than the first. Here memory is one sample's activations
and one histogram per tensor, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from trimtab.api.techniques import CalibrateMethod
from trimtab_jobs import progress
from trimtab_jobs.data import Array, Split
from trimtab_jobs.onnx_prepare import observe

BINS = 2048
LEVELS = 128
"""What a symmetric INT8 tensor has on each side of zero, and a UINT8 one whose values are both has about as many."""
STRIDE = 8
"""Entropy tries every eighth bin as a threshold: 241 candidates, 0.4% of the range apart."""
EMPTY = 1e-4
"""The count of an empty bin: an outlier clipped into one costs much, but not everything."""
PERCENTILE = 0.99999


def ranges(
    model: onnx.ModelProto, tensors: Sequence[str], split: Split, method: CalibrateMethod, threads: int
) -> dict[str, tuple[float, float]]:
    """The range that each named tensor of the graph is clipped to; it includes zero."""
    session = observe(model, tensors, threads)
    reach = dict.fromkeys(tensors, (0.0, 0.0))
    for tensor, values in _activations(session, tensors, split):
        low, high = reach[tensor]
        reach[tensor] = min(low, float(values.min(initial=0))), max(high, float(values.max(initial=0)))
    if method == CalibrateMethod.MINMAX:
        return reach
    peaks = {tensor: max(-low, high) for tensor, (low, high) in reach.items()}
    histograms = {tensor: np.zeros(BINS, np.int64) for tensor in tensors}
    for tensor, values in _activations(session, tensors, split):
        bins = (np.abs(values) * (BINS / (peaks[tensor] or 1))).astype(np.intp)
        histograms[tensor] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)  # faster than np.histogram
    clip = entropy if method == CalibrateMethod.ENTROPY else percentile
    limits = {tensor: peaks[tensor] * clip(histogram) for tensor, histogram in histograms.items()}
    return {tensor: (max(low, -limits[tensor]), min(high, limits[tensor])) for tensor, (low, high) in reach.items()}


def percentile(histogram: Array) -> float:
    """The fraction of the range below which PERCENTILE of the magnitudes lie."""
    below = np.cumsum(histogram) / histogram.sum()
    return (int(np.searchsorted(below, PERCENTILE)) + 1) / BINS


def entropy(histogram: Array) -> float:
    """The fraction of the range at which clipping and rounding lose the least information.

    Migacz, "8-bit Inference with TensorRT", GTC 2017: for each threshold, the Kullback-Leibler divergence of the
    rounded distribution from the clipped one. Zeros are exact at any threshold; where a ReLU made most values zero,
    counting them would drown the rest.
    """
    counts = histogram.copy()
    counts[0] = counts[1]
    if not counts.any():
        return 1.0
    widths = range(LEVELS, BINS + 1, STRIDE)
    losses = [_divergence(counts, width) for width in widths]
    return widths[int(np.argmin(losses))] / BINS


def _divergence(counts: Array, width: int) -> float:
    inside = counts[:width]
    clipped = inside.copy()
    clipped[-1] += counts[width:].sum()
    level = np.arange(width) * LEVELS // width
    mass = np.bincount(level, inside, LEVELS)
    occupied = np.bincount(level, inside > 0, LEVELS)
    rounded = np.where(inside > 0, (mass / np.maximum(occupied, 1))[level], EMPTY)
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


def _activations(session: Any, tensors: Sequence[str], split: Split) -> Iterator[tuple[str, Array]]:
    """Sample by sample; an attention mask's infinities are no activations."""
    for number, sample in enumerate(split.batches(1)):
        progress.part(f"{number} of {len(split)} samples calibrated on")
        for tensor, values in zip(tensors, session.run(tensors, sample), strict=True):
            finite = np.isfinite(values)
            yield tensor, values.reshape(-1) if finite.all() else values[finite]
