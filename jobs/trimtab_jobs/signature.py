"""What a model takes and what it answers with, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from trimtab.api.model import ModelFormat
from trimtab_jobs.model import Model


@dataclass(frozen=True)
class Input:
    """One input of a graph. A size that may vary is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.form}"

    @property
    def form(self) -> str:
        """Such as `float32[N,64]`."""
        return f"{self.dtype}[{','.join(str(size) for size in self.shape)}]"

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of samples fits: the first axis counts samples, the others must be the graph's."""
        if len(shape) != len(self.shape):
            return False
        pairs = zip(self.shape[1:], shape[1:], strict=True)
        return all(isinstance(want, str) or want == size for want, size in pairs)


class _Reader(Protocol):
    def inputs(self, file: Path) -> list[Input]: ...

    def outputs(self, file: Path) -> list[Input]: ...


READERS = {ModelFormat.ONNX: "trimtab_jobs.onnx_model", ModelFormat.OPENVINO: "trimtab_jobs.openvino_model"}
"""The module that reads a format; its library is imported with it."""


def inputs(model: Model) -> list[Input]:
    """What a split must feed."""
    return _reader(model).inputs(model.file)


def outputs(model: Model) -> list[Input]:
    """What the model answers with, in its order, described as its inputs are."""
    return _reader(model).outputs(model.file)


def _reader(model: Model) -> _Reader:
    return cast(_Reader, import_module(READERS[model.format]))
