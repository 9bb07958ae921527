"""What `bad_inputs` does not reach: which overlaps are allowed, and damage inside an archive."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bad_inputs import make_samples
from trimtab_jobs.data import Array, Split, Splits, check_disjoint, check_inputs, read_split
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.signature import Input


def split(name: str, *rows: int) -> Split:
    """Two inputs, so that a sample is what all of them say together."""
    column = np.array(rows, np.int64)[:, None]
    return Split(name, {"a": column // 10, "b": column % 10}, np.zeros(len(rows), np.int64), f"{name}.npz")


def test_a_split_is_what_was_saved(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "e.npz", **make_samples(0, samples=10))
    found = read_split("evaluation", tmp_path / "e.npz")
    assert len(found) == 10
    assert [len(batch["x"]) for batch in found.batches(4)] == [4, 4, 2]
    assert found.labels is not None


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", ">f4", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_what_was_saved_and_stays_in_its_file(
    tmp_path: Path, dtype: str, order: Literal["C", "F"]
) -> None:
    path = tmp_path / "e.npz"
    wide = np.asarray(np.random.default_rng(0).integers(0, 100, (5000, 300)), dtype, order=order)
    np.savez(path, odd=np.zeros(5000, np.uint8), x=wide)
    before = path.read_bytes()
    found = read_split("evaluation", path).inputs["x"]
    assert (found.dtype, found.flags.owndata) == (wide.dtype, False)
    assert np.array_equal(found, wide)
    found[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("length", range(1, 9))
def test_a_batch_of_a_mapped_array_is_aligned(tmp_path: Path, length: int) -> None:
    """A member of an archive begins behind its name."""
    np.savez(tmp_path / "e.npz", **{"x" * length: np.ones((300, 1000))})
    split = read_split("evaluation", tmp_path / "e.npz")
    assert all(array.flags.aligned for batch in split.batches(7) for array in batch.values())


HOLD = """
import sys
from pathlib import Path
from trimtab_jobs.data import check_disjoint, read_split
from trimtab_jobs.hardware import peak_memory
before = peak_memory()
split = read_split("evaluation", Path(sys.argv[1]))
check_disjoint([split])
total = sum(float(batch["x"].sum()) for batch in split.batches(32))
assert total == len(split) * split.inputs["x"].shape[1], total
print(peak_memory() - before)
"""


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """400 MB are read, checked, compared and used in a tenth of that."""
    np.savez(tmp_path / "e.npz", x=np.ones((4000, 25_000), np.float32))
    done = subprocess.run([sys.executable, "-c", HOLD, tmp_path / "e.npz"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100e6


def _as_npy(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def _with_note(path: Path) -> None:
    np.savez(path, x=np.zeros((3, 2)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "notes")


def _with_flipped_bytes(path: Path) -> None:
    np.savez(path, x=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[500:600] = b"\xff" * 100
    path.write_bytes(content)


def _with_shortened_member(path: Path) -> None:
    whole = io.BytesIO()
    np.save(whole, np.arange(1000))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", whole.getvalue()[:1000])


def test_a_column_of_classes_is_one_class_per_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 2)), labels=np.array([[2], [0], [1]]))
    labels = read_split("evaluation", tmp_path / "s.npz").labels
    assert labels is not None
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_as_npy, "not a whole .npz file: .*numpy.savez"),
        (_with_note, "'readme.txt' is not a numpy array"),
        (_with_flipped_bytes, "array 'x' is damaged .*write the file again"),
        (_with_shortened_member, "array 'x' is damaged"),
        (lambda path: np.savez(path, x=np.float32(1)), "'x' is a single number: .*first axis"),
        (lambda path: path.write_bytes(b""), "not a whole .npz file"),
        (lambda path: np.savez(path, x=np.zeros((3, 2)), labels=np.array(["cat"] * 3)), "labels are <U3"),
    ],
)
def test_damaged_files(tmp_path: Path, write: Callable[[Path], Any], says: str) -> None:
    write(tmp_path / "e.npz")
    with pytest.raises(InvalidInput, match=rf"^data.train: .*/e.npz: .*{says}"):
        read_split("train", tmp_path / "e.npz")


def test_a_split_that_was_not_given_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match=r"^data.train is not given"):
        _ = Splits({}).train


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ([split("calibration", 1, 2), split("train", 1, 2), split("evaluation", 3), split("holdout", 4)], None),
        ([split("evaluation", 12, 21), split("holdout", 11, 22)], None),
        ([split("evaluation", 5, 5, 5), split("holdout", 6)], None),
        ([split("calibration", 1, 2), split("evaluation", 2, 2, 1)], "data.evaluation: .*2 .*data.calibration"),
        ([split("train", 1, 2), split("holdout", 2)], "data.holdout: .*1 .*data.train"),
        ([split("evaluation", 1, 2), split("holdout", 2)], "data.holdout: .*1 .*data.evaluation"),
    ],
)
def test_who_may_share_samples(splits: list[Split], says: str | None) -> None:
    if says is None:
        check_disjoint(splits)
    else:
        with pytest.raises(InvalidInput, match=f"^{says}"):
            check_disjoint(splits)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((5, 4, 7), np.float32), None),
        (np.zeros((5, 3, 7), np.float32), "shape .5,3,7., the model wants x float32.N,4,seq.: reshape"),
        (np.zeros((5, 4), np.float32), "shape .5,4."),
        (np.zeros((5, 4, 7), np.float16), "is float16"),
    ],
)
def test_arrays_fit_the_model(array: Array, says: str | None) -> None:
    given = Split("train", {"x": array}, None, "t.npz")
    wanted = [Input("x", "float32", ("N", 4, "seq"))]
    if says is None:
        check_inputs(given, wanted)
    else:
        with pytest.raises(InvalidInput, match=f"^data.train: t.npz: .*{says}"):
            check_inputs(given, wanted)


def _npz() -> bytes:
    whole = io.BytesIO()
    np.savez(whole, **make_samples(0, samples=4))
    return whole.getvalue()


def _zipped(header: str) -> bytes:
    """An archive of one array with a header of our own."""
    text, whole = header.encode() + b"\n", io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(96))
    return whole.getvalue()


GOOD = _npz()
HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 3), }",
    "{'descr': '<f4', 'fortran_order': 2, 'shape': 3, }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4, 3), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (4,), }",
    "((((",
    "[" * 5000,
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "evaluation.npz"


def assert_read_or_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    where = said = f"data.evaluation: {file}: "
    try:
        read_split("evaluation", file)
    except InvalidInput as refused:
        said = str(refused)
    assert said.startswith(where)


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@pytest.mark.parametrize("header", HEADERS, ids=lambda text: text[:70])
def test_whatever_a_header_claims(file: Path, header: str) -> None:
    assert_read_or_refused(file, _zipped(header))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"]))
def test_any_bytes(file: Path, content: bytes, magic: bytes) -> None:
    assert_read_or_refused(file, magic + content)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(0, 255), max_size=6), st.integers(0, 40))
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_any_damage(file: Path, bytes_at: dict[int, int], lost: int) -> None:
    content = bytearray(GOOD)
    for position, value in bytes_at.items():
        content[position] = value
    assert_read_or_refused(file, bytes(content[: len(content) - lost]))
