"""Whether two models answer alike: asked wherever a library rewrote a graph and may have broken it.

A difference is relative to the largest number expected in the output, so that one tolerance fits logits,
probabilities and coordinates. What is not finite must be the same in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.api.model import EngineName
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.evaluate import batch_size
from trimtab_jobs.signature import inputs, outputs

if TYPE_CHECKING:
    from trimtab_jobs.data import Split
    from trimtab_jobs.model import Model

SAMPLES = 8
"""How many samples are compared: together as one batch where the model takes one, and the first alone."""


def difference(expected: Any, found: Any) -> float:
    """The largest difference, relative to the largest number expected; infinite where the two cannot be compared."""
    if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(expected, found) else np.inf
    if expected.shape != found.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        return np.inf
    true, given = expected[finite].astype(np.float64), found[finite].astype(np.float64)
    largest = float(np.abs(true).max(initial=0)) or 1.0
    return float(np.abs(true - given).max(initial=0) / largest)  # NaN where only `found` is


def disagreement(before: Model, after: Model, split: Split, tolerance: float) -> str:
    """How the ONNX model `after` answers otherwise than `before`, in a few words; nothing where they agree.

    Both run in ONNX Runtime on the split's first samples, in the precision of their graphs. Raises InvalidInput if it
    cannot load or run one of them.
    """
    if inputs(before) != inputs(after):
        return f"its inputs are {_show(inputs(after))} instead of {_show(inputs(before))}"
    names, found = ([one.name for one in outputs(model)] for model in (before, after))
    if names != found:
        return f"its outputs are {', '.join(found)} instead of {', '.join(names)}"
    sessions = [engine(EngineName.ONNXRUNTIME).load(model.as_stored, EngineOptions()) for model in (before, after)]
    for size in sorted({1, min(SAMPLES, batch_size(sessions[0], split), len(split))}):
        samples = next(split.batches(size))
        for name, expected, got in zip(names, *(session.run(samples) for session in sessions), strict=True):
            if not (off := difference(expected, got)) <= tolerance:  # so that NaN is a difference too
                return f"output {name!r} differs by {off:.1g} of its largest value for a batch of {size}"
    return ""


def flaw(before: Model, after: Model, split: Split, tolerance: float) -> str:
    """What is wrong with `after`, in a few words: that it answers otherwise, or why ONNX Runtime refuses it."""
    try:
        return disagreement(before, after, split, tolerance)
    except InvalidInput as refusal:
        return str(refusal)


def _show(found: list[Any]) -> str:
    return ", ".join(map(str, found)) or "none"
