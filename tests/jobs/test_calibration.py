"""Calibration: the ranges that tensors are clipped to, in memory that does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnx.parser
import pytest

from trimtab.api.techniques import CalibrateMethod
from trimtab_jobs.calibration import BINS, entropy, percentile, ranges
from trimtab_jobs.data import Split


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def identity() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> net (float[N,1000] x) => (float[N,1000] y) { y = Identity (x) }'
    )


def test_minmax_is_the_finite_range() -> None:
    x = normal(5, 1000)
    x[3, 7], x[4, 0] = -9, np.inf
    found = ranges(identity(), ["x", "y"], Split("calibration", {"x": x}, None), CalibrateMethod.MINMAX, 1)
    assert found["x"] == found["y"] == (-9, x[np.isfinite(x)].max())


@pytest.mark.parametrize("method", [CalibrateMethod.PERCENTILE, CalibrateMethod.ENTROPY])
def test_outliers_are_clipped(method: CalibrateMethod) -> None:
    """A normal distribution ends near 4.5 in a million samples; two values of a hundred would cost it 4 of 7 bits."""
    x = np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32)
    x[0, :2] = 100
    found = ranges(identity(), ["x"], Split("calibration", {"x": x}, None), method, 1)
    low, high = found["x"]
    assert -7 < low < -2.5
    assert 2.5 < high < 7


def test_a_tensor_of_zeros_has_a_range() -> None:
    zeros = Split("calibration", {"x": np.zeros((2, 1000), np.float32)}, None)
    for method in CalibrateMethod:
        assert ranges(identity(), ["x"], zeros, method, 1) == {"x": (0, 0)}


def test_a_histogram_without_outliers_keeps_its_range() -> None:
    flat = np.ones(BINS, np.int64)
    assert percentile(flat) == entropy(flat) == 1


def test_memory_does_not_grow_with_the_samples() -> None:
    def peak(samples: int) -> int:
        split = Split("calibration", {"x": normal(samples, 1000)}, None)
        tracemalloc.start()
        ranges(identity(), ["x", "y"], split, CalibrateMethod.ENTROPY, 1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(500) < 1.2 * peak(50)


def test_a_subset_is_spread_over_the_split() -> None:
    split = Split("calibration", {"x": np.arange(1000)}, np.arange(1000))
    few = split.spread(5)
    assert few.inputs["x"].tolist() == [0, 249, 499, 749, 999]
    assert few.labels is not None
    assert few.labels.tolist() == few.inputs["x"].tolist()
    assert len(split.spread(2000)) == 1000
