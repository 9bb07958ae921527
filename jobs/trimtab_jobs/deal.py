"""Dealing splits: from the data that somebody has to calibration, evaluation and holdout.

Samples are sorted by label and then by digest, and dealt in turn like cards. So every split has the same mix of
labels, the same data always give the same splits, and samples that are equal, which sort together, are dealt as one:
a model is never judged on a sample that it was tuned on. Of five samples one calibrates, two are for the search to
see, and two for the claim.
"""

from __future__ import annotations

import filecmp
from collections.abc import Collection, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from trimtab_jobs.data import LABELS, Array, Split, row_digests
from trimtab_jobs.errors import InvalidInput

NAMES = ("calibration", "evaluation", "holdout")
CALIBRATION_LIMIT = 500
"""Activation ranges hardly move after that (NNCF takes 300), and a calibrator's time is proportional."""
LEAST = 50
"""Distinct samples that can be dealt: 10 to calibrate with, 20 to search on, 20 to judge by."""
HAND = 5
"""Cards in a round: one of them calibrates."""


def split_files(data: Path) -> dict[str, Path]:
    """The splits that somebody made: an .npz file is the evaluation split, a folder has one file for each."""
    if not data.is_dir():
        return {"evaluation": data}
    names = choose_files(str(data), [path.name for path in data.iterdir() if path.is_file()])
    return {name: data / f"{name}.npz" for name in names}


def choose_files(data: str, present: Collection[str]) -> list[str]:
    """Whose files a folder has, of the names of those in it. Raises InvalidInput where evaluation's is missing."""
    found = [name for name in NAMES if f"{name}.npz" in present]
    if "evaluation" not in found:
        raise InvalidInput(f"{data}: there is no evaluation.npz in it: put the samples to judge a model by there")
    return found


def complete(splits: dict[str, Split], folder: Path) -> dict[str, Split]:
    """All three splits: what is missing is dealt from evaluation, and what was dealt is written into `folder`."""
    missing = [name for name in NAMES if name not in splits]
    if not missing:
        return splits
    dealt = deal(splits["evaluation"], missing)
    folder.mkdir(parents=True, exist_ok=True)
    whole = splits | {name: _keep(part, folder / f"{name}.npz") for name, part in dealt.items()}
    return {name: whole[name] for name in NAMES}


def deal(split: Split, missing: Sequence[str]) -> dict[str, Split]:
    """What is `missing` of calibration and holdout, and what remains for evaluation. Raises InvalidInput."""
    groups = _groups(split)
    if len(groups) < LEAST:
        raise split.refuse(
            f"it has {len(groups)} distinct samples, and {' and '.join(missing)} must be dealt from it: "
            f"give at least {LEAST}, better 1000"
        )
    rows: dict[str, list[int]] = {}
    for name, group in zip(_names(len(groups), missing), groups, strict=True):
        rows.setdefault(name, []).extend(group)
    return {name: _take(split, name, sorted(indices)) for name, indices in rows.items()}


def _names(count: int, missing: Sequence[str]) -> Iterator[str]:
    """Whose each of `count` cards is. Evaluation keeps what nobody lacks."""
    others = cycle(["evaluation", "holdout" if "holdout" in missing else "evaluation"])
    stride = max(HAND, -(-count // CALIBRATION_LIMIT)) if "calibration" in missing else count + 1
    for position in range(1, count + 1):
        yield "calibration" if position % stride == 0 else next(others)


def _groups(split: Split) -> list[list[int]]:
    """The rows of each distinct sample, sorted by label and digest."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(row_digests(split)):
        groups.setdefault(digest, []).append(row)
    labels = split.labels if split.labels is not None and split.labels.ndim == 1 else np.zeros(len(split))
    return [groups[digest] for digest in sorted(groups, key=lambda digest: (labels[groups[digest]].min(), digest))]


def _take(split: Split, name: str, rows: list[int]) -> Split:
    labels = None if split.labels is None else split.labels[rows]
    return Split(name, {key: array[rows] for key, array in split.inputs.items()}, labels)


def _keep(split: Split, path: Path) -> Split:
    """Save a split. A file that is there with the same content stays: its time tells a run that nothing changed."""
    arrays: dict[str, Array] = split.inputs | ({} if split.labels is None else {LABELS: split.labels})
    scratch = path.with_suffix(".part.npz")
    try:
        np.savez(scratch, allow_pickle=False, **arrays)
        if not path.is_file() or not filecmp.cmp(scratch, path, shallow=False):
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return Split(split.name, split.inputs, split.labels, str(path))
