"""How splits are dealt: disjoint, in proportion, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bad_inputs import SPLITS, make_samples
from trimtab_jobs.data import Split, check_disjoint, read_split, row_digests
from trimtab_jobs.deal import LEAST, complete, deal, split_files
from trimtab_jobs.errors import InvalidInput

MISSING = {
    "one file": ((), {"calibration": 200, "evaluation": 400, "holdout": 400}),
    "no calibration": (("holdout",), {"calibration": 200, "evaluation": 800, "holdout": 1000}),
    "no holdout": (("calibration",), {"calibration": 1000, "evaluation": 500, "holdout": 500}),
    "nothing missing": (("calibration", "holdout"), {"calibration": 1000, "evaluation": 1000, "holdout": 1000}),
}


def save(folder: Path, *names: str, samples: int = 1000) -> Path:
    folder.mkdir()
    for name in names:
        np.savez(folder / f"{name}.npz", **make_samples(SPLITS.index(name), samples))
    return folder


def read(data: Path) -> dict[str, Split]:
    return {name: read_split(name, path) for name, path in split_files(data).items()}


def numbered(values: list[int], labels: list[int] | None = None) -> Split:
    column = np.array(values, np.int64)[:, None]
    return Split("evaluation", {"x": column}, None if labels is None else np.array(labels), "all.npz")


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_dealt_from_evaluation(tmp_path: Path, case: str) -> None:
    given, sizes = MISSING[case]
    data = save(tmp_path / "data", "evaluation", *given)
    splits = complete(read(data), tmp_path / "dealt")
    assert {name: len(split) for name, split in splits.items()} == sizes
    kept = {*given, *(("evaluation",) if len(given) == 2 else ())}
    assert {name for name, split in splits.items() if Path(split.file).parent == data} == kept
    check_disjoint(list(splits.values()))


def test_every_split_has_the_same_mix_of_labels(tmp_path: Path) -> None:
    data = save(tmp_path / "data", "evaluation") / "evaluation.npz"
    splits = deal(read(data)["evaluation"], ("calibration", "holdout"))
    shares = [np.bincount(split.labels) / len(split) for split in splits.values() if split.labels is not None]
    assert len(shares) == 3
    assert np.ptp(shares, axis=0).max() < 0.01


def test_calibration_is_bounded() -> None:
    splits = deal(numbered(list(range(10_000))), ("calibration", "holdout"))
    assert [len(splits[name]) for name in SPLITS] == [500, 4750, 4750]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=LEAST), st.integers(0, 3), st.randoms())
def test_equal_samples_stay_together_in_whatever_order(values: list[int], classes: int, random) -> None:
    values = [*values, *range(300, 300 + LEAST)]
    labels = [value % classes for value in values] if classes else None
    order = list(range(len(values)))
    random.shuffle(order)
    first = deal(numbered(values, labels), ("calibration", "holdout"))
    shuffled = numbered([values[i] for i in order], labels and [labels[i] for i in order])
    second = deal(shuffled, ("calibration", "holdout"))
    check_disjoint(list(first.values()))
    assert sum(map(len, first.values())) == len(values)
    assert all(set(row_digests(first[name])) == set(row_digests(second[name])) for name in first)


def test_dealt_again_the_files_stay_as_they_are(tmp_path: Path) -> None:
    data = save(tmp_path / "data", "evaluation") / "evaluation.npz"
    complete(read(data), tmp_path / "dealt")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dealt").iterdir()}
    complete(read(data), tmp_path / "dealt")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dealt").iterdir()} == before


def test_too_few_samples_say_how_many_it_takes() -> None:
    with pytest.raises(InvalidInput, match=r"all.npz: it has 2 distinct samples, .* give at least 50, better 1000"):
        deal(numbered([1, 2] * 100), ("calibration", "holdout"))


def test_a_folder_needs_evaluation(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"data: there is no evaluation.npz in it: put"):
        read(save(tmp_path / "data", "holdout"))
