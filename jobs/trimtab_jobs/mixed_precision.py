"""Which layers go back to floating point, so that a quantized model keeps its quality.

Most of what quantization costs is a few layers' fault. One at a time they are rounded alone (`sensitivity`), and a few
samples show how far the outputs move: that ranks them, without labels. Then the question is only how many of the worst
to revert. More reverted is taken to lose less, so bisection answers it in log2(layers) evaluations; what it answers was
itself evaluated, so where the assumption fails the answer is not the smallest, but it keeps the promise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trimtab_jobs import progress
from trimtab_jobs.data import Array

SAMPLES = 8
"""How many samples rank the layers."""


def fewest(count: int, holds: Callable[[int], bool], evaluations: int) -> int | None:
    """The least number below `count` for which `holds`, asked at most `evaluations` times; None if none was found.

    0 is asked first. `count` itself, which reverts everything, is never asked.
    """
    if holds(0):
        return 0
    misses, found = 0, count
    for _ in range(evaluations - 1):
        if found - misses == 1:
            break
        middle = (misses + found) // 2
        if holds(middle):
            found = middle
        else:
            misses = middle
    return found if found < count else None


def ranked(layers: Sequence[str], answers: Callable[[str | None], Sequence[Array]]) -> list[str]:
    """The layers, by how far the `answers` move when one of them is rounded instead of none, the worst first."""
    expected = floats(answers(None))
    moved: dict[str, float] = {}
    for layer in layers:
        progress.part(f"{len(moved)} of {len(layers)} layers ranked")
        moved[layer] = distance(expected, floats(answers(layer)))
    return sorted(layers, key=lambda layer: -moved[layer])


def floats(outputs: Sequence[Array]) -> list[Array]:
    """The floating-point ones, in float64, in which their squares have room."""
    return [output.astype(np.float64) for output in outputs if output.dtype.kind == "f"]


def distance(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """The noise-to-signal ratio over all outputs; infinite where one is not finite or has another shape."""
    if any(one.shape != other.shape for one, other in zip(expected, found, strict=True)):
        return np.inf
    noise = sum(float(np.square(one - other).sum()) for one, other in zip(expected, found, strict=True))
    signal = sum(float(np.square(one).sum()) for one in expected)
    return noise / (signal or 1.0) if np.isfinite(noise) else np.inf
