"""OpenVINO models on disk, and the one place that imports openvino.

`import openvino` reports itself to a web analytics service, unless the reporting package is missing; so for this
process it is. OpenVINO then falls back on a stub of its own, and NNCF does the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.api.model import ModelFormat
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.model import IR_FILE, Model
from trimtab_jobs.signature import Input

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as openvino  # noqa: E402, PLC0414 (the alias says that others may have it from here)


def from_onnx(model: Model, title: str) -> Any:
    """An ONNX model as OpenVINO's graph; axes that vary still do. Raises NotApplicable, begun with `title`."""
    try:
        return openvino.Core().read_model(model.onnx)
    except RuntimeError as error:
        raise NotApplicable(f"{title}: OpenVINO cannot convert this model: {cause(error)}") from error


def save(graph: Any, folder: Path, details: dict[str, Any] | None = None) -> Model:
    """Write a graph as a Model, its weights in the types they have; `details` are the Model's.

    OpenVINO's own default rounds them to FP16 to halve the file, which is a quantization that nobody asked for: the
    CPU computes in FP32 all the same.
    """
    openvino.save_model(graph, folder / IR_FILE, compress_to_fp16=False)
    return Model(folder, ModelFormat.OPENVINO, details or {}).save_manifest()


def inputs(file: Path) -> list[Input]:
    """The parameters of a graph."""
    return [_described(port) for port in openvino.Core().read_model(file).inputs]


def outputs(file: Path) -> list[Input]:
    """The results of a graph, in its order."""
    return [_described(port) for port in openvino.Core().read_model(file).outputs]


def dtype(port: Any) -> np.dtype[Any]:
    """What numpy calls the type of an input or output."""
    found: np.dtype[Any] = np.dtype(port.element_type.to_dtype())
    return found


def cause(error: Exception) -> str:
    """The last line of what OpenVINO says: those before are a trail of source files."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _described(port: Any) -> Input:
    sizes = tuple(_size(axis, size) for axis, size in enumerate(port.partial_shape))
    return Input(port.any_name, str(dtype(port)), sizes)


def _size(axis: int, size: Any) -> int | str:
    if size.is_static:
        return int(size.get_length())
    return "?" if axis else "N"
