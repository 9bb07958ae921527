"""The table of engines: what loads a model and runs it.

An engine is a class with one method, `load`, that returns a `Session` or raises `NotExecutable` when it could build
for its target but not run here (TensorRT without a GPU). Adding one touches `EngineName`, a file, a line here and the
shared suite `tests/jobs/test_engines.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from trimtab.api.model import ComputeCapability, EngineName, ModelFormat
from trimtab_jobs.errors import NotOpened
from trimtab_jobs.model import PRECISION, Model

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class EngineOptions:
    threads: int = 1
    compute_capability: ComputeCapability = ComputeCapability.SM89


class Session(Protocol):
    """A loaded model."""

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """The model's outputs for a batch, in the graph's order."""
        ...

    @property
    def size(self) -> int:
        """Bytes the engine loads from disk: the model's files, or the built plan."""
        ...


class NotExecutable(Exception):
    """The engine was built but cannot run on this machine. `size` is the built plan's, in bytes."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class Engine(Protocol):
    def load(self, model: Model, options: EngineOptions) -> Session:
        """Open a model. Raises `NotExecutable`, or `trimtab_jobs.errors.InvalidInput` if the engine refuses it.

        Every engine opens ONNX. What else it opens is its own affair: `check_format` says no in the same words.
        """
        ...


RUNNABLE = frozenset({ModelFormat.ONNX, ModelFormat.OPENVINO})
"""The formats that some engine opens; a pipeline ends with one of them."""

ENGINES: dict[EngineName, str] = {
    EngineName.ONNXRUNTIME: "trimtab_jobs.engines.onnxruntime:OnnxRuntime",
    EngineName.OPENVINO: "trimtab_jobs.engines.openvino:OpenVino",
    EngineName.TENSORRT: "trimtab_jobs.engines.tensorrt:TensorRt",
}


def engine(name: EngineName) -> Engine:
    """The engine of that name; its library is imported now and not earlier."""
    module, attribute = ENGINES[name].split(":")
    made: Engine = getattr(import_module(module), attribute)()
    return made


def check_format(name: EngineName, model: Model, *formats: ModelFormat, precisions: Collection[str] = ()) -> None:
    """Raise NotOpened unless the engine opens the model's format and computes in the precision it asks for."""
    if model.format not in formats:
        raise NotOpened(f"{model.file.name}: {name} cannot run {model.format} models")
    precision = model.details.get(PRECISION)
    if precision and precision not in precisions:
        raise NotOpened(f"{model.file.name}: {name} computes in what the graph says, and not in {precision}")
