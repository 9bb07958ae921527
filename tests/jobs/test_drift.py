"""Drift on real data: handwritten digits, and the bytes of files as magika reads them."""

from __future__ import annotations

import json
import os
import random
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from trimtab_jobs.data import Array
from trimtab_jobs.drift.calibration import BINS, OTHER, WINDOWS, bin_counts, psi
from trimtab_jobs.drift.detector import Detector
from trimtab_jobs.drift.profile import COLUMNS, Profile, load_profile, make_profile
from trimtab_jobs.errors import InvalidInput

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def images() -> Array:
    """[1797, 64], shuffled: the writers of the last digits are others than those of the first."""
    found = load_digits().data.astype(np.float32)
    return np.random.default_rng(0).permutation(found)


@pytest.fixture(scope="module")
def profile(images: Array) -> Profile:
    return make_profile({"image": images[:900]}, None, seed=1)


def score(profile: Profile, inputs: dict[str, Array], predictions: Array | None = None, window: int = 256) -> float:
    detector = Detector(profile, window)
    detector.update(profile.codes(inputs, predictions))
    assert detector.score is not None
    return detector.score


def file_rows(paths: list[Path]) -> Array:
    """int32 [files, 2048]: the first and last 1,024 bytes of files, 256 where there are fewer."""
    rows = np.full((len(paths), 2048), 256, np.int32)
    for row, path in zip(rows, paths, strict=True):
        content = path.read_bytes().strip()
        first, last = np.frombuffer(content[:1024], np.uint8), np.frombuffer(content[-1024:], np.uint8)
        row[: len(first)], row[2048 - len(last) :] = first, last
    return rows


@pytest.fixture(scope="module")
def files() -> dict[str, Array]:
    """Installed files by their suffix."""
    counts = {".py": 900, ".h": 600, ".so": 60, ".pyc": 60}
    found: dict[str, list[Path]] = {suffix: [] for suffix in counts}
    for folder, _, names in os.walk(sysconfig.get_path("purelib")):
        for name in names:
            if Path(name).suffix in found:
                found[Path(name).suffix].append(Path(folder, name))
    draw = random.Random(7)
    return {suffix: file_rows(draw.sample(sorted(paths), counts[suffix])) for suffix, paths in found.items()}


@pytest.fixture(scope="module")
def files_profile(files: dict[str, Array]) -> Profile:
    return make_profile({"bytes": np.concatenate([files[".py"][:600], files[".h"][:400]])}, None, seed=1)


def test_undrifted_windows_hardly_ever_alarm(images: Array) -> None:
    """A fixed PSI > 0.1 would alarm on most of these windows; the stated rate is one in a thousand."""
    alarms, naive, windows = 0, 0, 0
    for seed in range(4):
        rows = np.random.default_rng(seed).permutation(images)
        frozen = make_profile({"image": rows[:900]}, None, seed)
        codes = frozen.codes({"image": rows[900:]}, None)
        for window in (64, 128, 256):
            for start in range(0, len(codes) - window + 1, window):
                found = psi(bin_counts(codes[start : start + window]), frozen.counts).max()
                alarms += found > frozen.thresholds[window]
                naive += found > 0.1
                windows += 1
    assert windows == 96
    assert alarms <= 1
    assert naive > windows / 2


SHIFTS: dict[str, Callable[[Array], Array]] = {
    "inverted": lambda rows: 16 - rows,
    "one image in ten inverted": lambda rows: np.where(np.arange(len(rows))[:, None] % 10 == 0, 16 - rows, rows),
    "darker by a fifth": lambda rows: 0.8 * rows,
    "turned": lambda rows: np.rot90(rows.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64),
    "moved by a pixel": lambda rows: np.roll(rows.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64),
    "noisy": lambda rows: np.clip(rows + RNG.normal(0, 1, rows.shape).round(), 0, 16),
    "broken": lambda rows: np.where(np.arange(len(rows))[:, None] % 10 == 0, np.nan, rows),
}


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_images_that_changed_are_seen(profile: Profile, images: Array, shift: Callable[[Array], Array]) -> None:
    held_out = images[900 : 900 + 256]
    assert score(profile, {"image": held_out}) < profile.thresholds[256]
    assert score(profile, {"image": shift(held_out)}) > 1.5 * profile.thresholds[256]


@pytest.mark.parametrize(
    ("mixture", "drifted"),
    [
        pytest.param({".py": 154, ".h": 102}, False, id="the same mixture"),
        pytest.param({".py": 118, ".h": 78, ".so": 60}, True, id="a quarter libraries"),
        pytest.param({".py": 118, ".h": 78, ".pyc": 60}, True, id="a quarter bytecode"),
        pytest.param({".py": 246, ".h": 10}, True, id="hardly any headers"),
    ],
)
def test_files_of_other_types_are_seen(
    files: dict[str, Array], files_profile: Profile, mixture: dict[str, int], drifted: bool
) -> None:
    stream = np.concatenate([files[suffix][-count:] for suffix, count in mixture.items()])
    assert (score(files_profile, {"bytes": stream}) > files_profile.thresholds[256]) is drifted


def test_predictions_alone_may_drift(images: Array) -> None:
    classes = RNG.integers(0, 10, 900)
    frozen = make_profile({"image": images[:900]}, classes, seed=1)
    held_out, later = {"image": images[900:1156]}, RNG.integers(0, 10, 256)
    assert score(frozen, held_out, later) < frozen.thresholds[256]
    assert score(frozen, held_out, np.where(later < 5, 3, later)) > frozen.thresholds[256]
    detector = Detector(frozen, 256)
    detector.update(frozen.codes(held_out, np.full(256, 3)))
    assert detector.column == "prediction"


# What a column had in 200 rows, what comes, and the bin it goes to.
COLUMN_BINS: dict[str, tuple[list[float], dict[float, int]]] = {
    "a constant": ([4] * 200, {4: 0, 3: OTHER, 5: OTHER, np.nan: OTHER}),
    "few values": ([0, 1, 1, 1] * 50, {0: 0, 1: 1, 0.5: OTHER, 2: OTHER, -1: OTHER}),
    "tenths": ([*range(200)], {0: 0, 19: 0, 20: 1, 100: 5, 199: 9, -1: OTHER, 200: OTHER, np.inf: OTHER}),
    "mostly one value": ([0] * 188 + [*range(1, 13)], {0: 0, 5: 1, 12: 1, 13: OTHER}),
    "nothing finite": ([np.nan, -np.inf] * 100, {0: OTHER, np.nan: OTHER}),
    "some of it missing": ([np.nan] * 180 + [*range(20)], {0: 0, 1: 0, 2: 1, 19: 9, np.nan: OTHER}),
}


def test_bins() -> None:
    reference = np.array([had for had, _ in COLUMN_BINS.values()], np.float64).T
    frozen = make_profile({"x": reference}, None, seed=0)
    for index, (name, (_, comes)) in enumerate(COLUMN_BINS.items()):
        codes = frozen.codes({"x": np.tile(np.array([*comes])[:, None], len(COLUMN_BINS))}, None)
        assert codes[:, index].tolist() == [*comes.values()], name


def test_rare_classes_share_a_bin() -> None:
    classes = np.repeat(np.arange(30), np.arange(30))
    frozen = make_profile({"x": np.zeros((len(classes), 1))}, classes, seed=0)
    codes = frozen.codes({"x": np.zeros((3, 1))}, np.array([29, 20, 3]))
    assert codes[:, 1].tolist() == [BINS - 1, 0, OTHER]
    assert frozen.counts[1, OTHER] == sum(range(20))


@pytest.mark.parametrize(
    ("predictions", "column"),
    [
        (np.eye(4, dtype=np.float32)[[0, 3, 3]], [0, 3, 3]),
        (np.array([7, 8, 9]), [7, 8, 9]),
        (np.array([[0.5], [1.5], [2.5]]), [0.5, 1.5, 2.5]),
        (np.zeros((3, 5, 4)), None),
        (None, None),
    ],
)
def test_what_is_watched_of_predictions(predictions: Array | None, column: list[float] | None) -> None:
    inputs = {"x": np.zeros((3, 1))}
    columns = make_profile(inputs, predictions, seed=0).columns
    assert columns.predictions is (column is not None)
    if column:
        assert columns.numbers(inputs, predictions)[:, -1].tolist() == column


def test_the_score_is_that_of_the_last_rows_however_they_came(profile: Profile, images: Array) -> None:
    window, codes = 64, profile.codes({"image": images}, None)
    detector, seen = Detector(profile, window), 0
    for size in [1, 2, 60, 1, 1, 7, 64, 65, 200, 3, *RNG.integers(1, 90, 8)]:
        detector.update(codes[seen : seen + size])
        seen += size
        expected = psi(bin_counts(codes[seen - window : seen]), profile.counts).max() if seen >= window else None
        assert detector.score == (pytest.approx(expected, rel=1e-9) if expected is not None else None)
        assert detector.rows == min(seen, window)


def test_a_profile_survives_its_file(profile: Profile, images: Array, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile.save(path)
    loaded = load_profile(path)
    assert (loaded.thresholds, loaded.columns.names) == (profile.thresholds, profile.columns.names)
    assert (loaded.counts == profile.counts).all()
    assert (loaded.codes({"image": images}, None) == profile.codes({"image": images}, None)).all()
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert path.stat().st_size < 200_000


def test_the_same_seed_freezes_the_same_profile(images: Array, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_profile({"image": images[:100]}, None, seed=3).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_wide_inputs_are_watched_through_at_most_32_columns(files: dict[str, Array]) -> None:
    inputs = {"bytes": files[".so"], "length": np.arange(60)}
    columns = make_profile(inputs, None, seed=0).columns
    assert len(columns.names) == COLUMNS
    assert columns.names[0] == "bytes[0]"
    assert columns.names[COLUMNS // 2 - 1 :] == ["length[0]", *(f"projection {i}" for i in range(COLUMNS // 2))]


def test_inputs_of_another_length_are_cut_or_missing(profile: Profile, images: Array) -> None:
    rows = images[:5]
    codes = profile.codes({"image": rows}, None)
    assert (profile.codes({"image": np.tile(rows, 2)}, None) == codes).all()
    shorter = profile.codes({"image": rows[:, :32]}, None)
    watched = profile.columns.elements < 32
    assert (shorter[:, :16][:, watched] == codes[:, :16][:, watched]).all()
    assert (shorter[:, :16][:, ~watched] == OTHER).all()


def test_small_references_raise_the_threshold(images: Array, profile: Profile) -> None:
    small = make_profile({"image": images[:100]}, None, seed=1).thresholds
    assert set(small) == set(profile.thresholds) == set(WINDOWS)
    assert all(small[window] > profile.thresholds[window] for window in (64, 128, 256, 512))
    assert list(small.values()) == sorted(small.values(), reverse=True)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "columns": []}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=rf"{path}: no drift profile of version 1 .*: publish the model again"):
        load_profile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"profile\.json: no drift profile"):
        load_profile(tmp_path / "profile.json")


def test_only_calibrated_windows_are_watched(profile: Profile) -> None:
    with pytest.raises(InvalidInput, match=r"window: 100 is not calibrated: choose one of \[64, 128, 256"):
        Detector(profile, 100)


def test_a_profile_holds_no_rows(profile: Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "profile.json")
    content = json.loads((tmp_path / "profile.json").read_text())
    assert {key for column in content["columns"] for key in column} == {"name", "discrete", "low", "cuts", "counts"}
