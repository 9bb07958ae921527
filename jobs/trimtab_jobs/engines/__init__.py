"""The table of engines: what loads an ONNX model and runs it.

An engine is a class with one method, `load`, that returns a `Session` or raises `NotExecutable` when it could build
for its target but not run here (TensorRT without a GPU). Adding one touches `EngineName`, a file, a line here and the
shared suite `tests/jobs/test_engines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trimtab.api.model import ComputeCapability, EngineName

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
    def load(self, model: Path, options: EngineOptions) -> Session:
        """Open an ONNX file. Raises `NotExecutable`, or `trimtab_jobs.errors.InvalidInput` if the engine refuses it."""
        ...


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
