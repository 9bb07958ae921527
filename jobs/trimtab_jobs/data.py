"""Splits: .npz files of arrays keyed by the model's input names, and `labels` where the metric needs them.

Pickled arrays are never unpickled. Everything a person can get wrong about a file is told here in one line, before
a technique sees it: what the file is, whether it fits the model, and whether two splits share samples. The last is
what makes the claim honest: a model is not judged on what it was tuned on.

What `numpy.savez` wrote is mapped and not read into memory, and what was looked at is let go, so that a split may be
larger than what a pod may hold. Only `numpy.savez_compressed` leaves nothing to map.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.lib import format as npy

from trimtab_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from trimtab_jobs.signature import Input

Array = np.ndarray[Any, Any]

LABELS = "labels"
MAPPED_BYTES = 1 << 20
"""Smaller arrays are read."""
HELD_BYTES = 1 << 24
"""Of what is mapped, this much is looked at before it is let go."""
JUDGES = ("evaluation", "holdout")
"""The splits a model is judged on: they need what labels the metric needs, and share no sample with any other."""


@dataclass(frozen=True)
class Split:
    """One split. Every array has the samples on its first axis; a large one is in its file until it is used."""

    name: str
    inputs: dict[str, Array]
    labels: Array | None
    file: str = ""
    """Where it was read from, for messages."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """The inputs in batches of `size` samples; the last may be smaller."""
        held = 0
        for start in range(0, len(self), size):
            # A mapped array begins anywhere in its file; engines want numbers where a processor loads them at once.
            batch = {name: np.require(array[start : start + size], None, "A") for name, array in self.inputs.items()}
            held += sum(array.nbytes for array in batch.values())
            yield batch
            if held > HELD_BYTES:
                held = 0
                _let_go(self.inputs.values())

    def spread(self, count: int) -> Split:
        """At most `count` of the samples, evenly spread: files are often sorted."""
        rows = np.unique(np.linspace(0, len(self) - 1, count).astype(int)) if count < len(self) else slice(None)
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return Split(self.name, inputs, None if self.labels is None else self.labels[rows], self.file)

    def refuse(self, problem: str) -> InvalidInput:
        """The error that says what is wrong with this split."""
        return InvalidInput(f"data.{self.name}: {self.file}: {problem}")


@dataclass(frozen=True)
class Splits:
    """A job's splits, read when first asked for. Raises InvalidInput as `read_split` does."""

    paths: Mapping[str, Path]

    @cached_property
    def calibration(self) -> Split:
        return self._read("calibration")

    @cached_property
    def train(self) -> Split:
        return self._read("train")

    @cached_property
    def evaluation(self) -> Split:
        return self._read("evaluation")

    @cached_property
    def holdout(self) -> Split:
        return self._read("holdout")

    def all(self) -> list[Split]:
        """Every split that was given."""
        return [getattr(self, name) for name in self.paths]

    def _read(self, name: str) -> Split:
        if name not in self.paths:
            raise InvalidInput(f"data.{name} is not given, and a technique needs it: add it to the spec")
        return read_split(name, self.paths[name])


def read_split(name: str, path: Path) -> Split:
    """Read `data.<name>` from an .npz file. Raises InvalidInput naming the file, what is wrong and the remedy."""
    try:
        arrays = _read_arrays(path)
    except _Unreadable as unreadable:
        raise InvalidInput(f"data.{name}: {path}: {unreadable}") from None
    labels = arrays.pop(LABELS, None)
    if labels is not None and labels.dtype.kind in "iu" and labels.shape[1:] == (1,):
        labels = labels[:, 0]  # a column of classes, as tables hand them over
    split = Split(name, arrays, labels, str(path))
    for problem in _problems(split):
        raise split.refuse(problem)
    return split


class _Unreadable(Exception):
    pass


def _read_arrays(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise _Unreadable("there is no such file: check the address")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {member.removesuffix(".npy"): _read_array(stored, member, path) for member in stored.zip.namelist()}
    except (PermissionError, _Unreadable):
        raise
    except Exception:  # whatever zipfile and numpy come to while they read something else
        raise _Unreadable("not a whole .npz file: write it with numpy.savez") from None


def _read_array(stored: Any, member: str, path: Path) -> Array:
    name = member.removesuffix(".npy")
    try:
        mapped = _map(stored.zip, member, path)
        array = stored[member] if mapped is None else mapped
    except MemoryError as error:
        raise _Unreadable(
            f"array {name!r} does not fit into memory ({error}): save fewer samples, or allow more memory"
        ) from None
    except Exception as error:  # a damaged header or member ends in any of a dozen types
        if "allow_pickle" in str(error):
            raise _Unreadable(
                f"array {name!r} is pickled Python objects, which are never loaded: save it as numbers of one dtype"
            ) from None
        raise _Unreadable(f"array {name!r} is damaged ({_cause(error)}): write the file again") from None
    if not isinstance(array, np.ndarray):
        raise _Unreadable(f"member {name!r} is not a numpy array: write the file with numpy.savez")
    return array


def _map(archive: ZipFile, member: str, path: Path) -> Array | None:
    """The array where it lies in the file, once its checksum was found right; None where it must be read.

    Copied on write: nothing that is done to it reaches the file.
    """
    info = archive.getinfo(member)
    if info.compress_type != ZIP_STORED or info.file_size < MAPPED_BYTES or not member.endswith(".npy"):
        return None
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
        begins = stream.tell()
        while stream.read(1 << 20):
            pass
    if dtype.hasobject or 0 in shape:
        return None
    with path.open("rb") as file:
        file.seek(info.header_offset)
        names = struct.unpack("<26xHH", file.read(30))  # how long the member's name and its extra field are
    offset = info.header_offset + 30 + sum(names) + begins
    return np.asarray(np.memmap(path, dtype, "c", offset, shape, "F" if fortran else "C"))


def _let_go(arrays: Iterable[Array]) -> None:
    """Of mapped arrays: the kernel reads a page again from its cache or the file when somebody asks for it."""
    for array in arrays:
        owner: Any = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            owner.madvise(mmap.MADV_DONTNEED)


def _cause(error: Exception) -> str:
    """One short line: numpy repeats a damaged header, whatever its length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _problems(split: Split) -> Iterator[str]:
    """What is wrong with the arrays in themselves; each finding takes for granted that there was none before."""
    arrays = split.inputs | ({} if split.labels is None else {LABELS: split.labels})
    if not split.inputs:
        yield "it holds no input arrays: save one array per input of the model, by the input's name"
    for name in (name for name, array in arrays.items() if array.ndim == 0):
        yield f"array {name!r} is a single number: every array needs the samples on its first axis"
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        yield f"its arrays have different numbers of samples ({lengths}): save one row per sample in each"
    if len(split) == 0:
        yield "it is empty: save at least one sample"
    for name, array in split.inputs.items():
        if array.dtype.kind == "f" and (bad := _not_finite(array)):
            yield f"array {name!r} has NaN or infinity in {bad} of {len(array)} samples: remove or fill them"
    labels = split.labels
    if labels is not None and labels.dtype.kind not in "iuf":
        yield f"labels are {labels.dtype}: save one integer class per sample, or numbers"
    elif labels is not None and labels.dtype.kind == "f" and (bad := _not_finite(labels)):
        yield f"labels have NaN or infinity in {bad} of {len(labels)} samples: remove or fill them"


def _not_finite(array: Array) -> int:
    """How many samples have NaN or infinity in them."""
    size = max(1, HELD_BYTES // max(1, array[:1].nbytes))
    parts = (part["x"] for part in Split("", {"x": array}, None).batches(size))
    return sum(int((~np.isfinite(part)).reshape(len(part), -1).any(axis=1).sum()) for part in parts)


def check_inputs(split: Split, inputs: Sequence[Input]) -> None:
    """Raise InvalidInput unless the split has exactly the model's inputs, in its dtypes and shapes."""
    wanted = ", ".join(str(i) for i in inputs)
    names = {i.name for i in inputs}
    if names != split.inputs.keys():
        found = ", ".join(sorted(split.inputs))
        raise split.refuse(f"its arrays are {found}, the model's inputs {wanted}: rename, add or remove arrays")
    for spec in inputs:
        array = split.inputs[spec.name]
        if str(array.dtype) != spec.dtype:
            raise split.refuse(f"array {spec.name!r} is {array.dtype}, the model wants {spec}: convert it with astype")
        if not spec.accepts(array.shape):
            shape = ",".join(str(size) for size in array.shape)
            raise split.refuse(f"array {spec.name!r} has shape [{shape}], the model wants {spec}: reshape it")


def check_labels(split: Split, classes: int) -> None:
    """Raise InvalidInput unless the labels are one integer class per sample, each of which the model has."""
    labels = split.labels
    if labels is None:
        return
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise split.refuse(f"labels are {labels.dtype} with {labels.ndim} axes: save one integer class per sample")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise split.refuse(
            f"labels reach from {low} to {high}, and the model has {classes} classes: number them 0 to {classes - 1}"
        )


def check_disjoint(splits: Sequence[Split]) -> None:
    """Raise InvalidInput if a split that judges shares samples with another one.

    Two samples are the same when the bytes of all their inputs are, whatever their labels. Calibration may overlap
    train: neither judges.
    """
    rows = {split.name: set(row_digests(split)) for split in splits}
    files = {split.name: split for split in splits}
    for first, second in combinations(rows, 2):
        shared = len(rows[first] & rows[second])
        if shared and (first in JUDGES or second in JUDGES):
            raise files[second].refuse(
                f"{shared} distinct samples are also in data.{first}: remove them from one of the two"
            )


def row_digests(split: Split) -> list[bytes]:
    """A digest of each sample's inputs. 16 bytes: collisions among a billion samples have odds below 1e-20."""
    names = sorted(split.inputs)
    return [
        hashlib.blake2b(b"".join(sample[name].tobytes() for name in names), digest_size=16).digest()
        for sample in split.batches(1)
    ]
