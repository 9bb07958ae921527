"""OpenVINO on the CPU: one request at a time, tuned for its latency.

Precision is a technique's decision, never an engine's: where the CPU has bfloat16 units, OpenVINO would compute a
float32 model in bfloat16, and the baseline's accuracy would depend on the node. `INFERENCE_PRECISION_HINT` stops that.

`import openvino` reports itself to a web analytics service, unless the reporting package is missing; so for this
process it is. OpenVINO then falls back on a stub of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.api.model import ModelFormat
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import Model

if TYPE_CHECKING:
    from trimtab_jobs.engines import Arrays, EngineOptions, Session

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402


class OpenVino:
    def load(self, model: Path, options: EngineOptions) -> Session:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": options.threads,
            "ENABLE_CPU_PINNING": False,  # pods that share a node would pin their threads to the same cores
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        try:
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except RuntimeError as error:
            raise InvalidInput(f"{model.name}: OpenVINO refuses this model: {_cause(error)}") from error
        return _Session(compiled, Model(model.parent, ModelFormat.ONNX).size)


class _Session:
    def __init__(self, compiled: Any, size: int) -> None:
        self._request = compiled.create_infer_request()
        self._dtypes = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in compiled.inputs}
        self.size = size

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        self._check(inputs)
        try:
            outputs = self._request.infer(inputs, share_inputs=True)
        except RuntimeError as error:
            raise InvalidInput(f"OpenVINO refuses the inputs: {_cause(error)}") from error
        return list(outputs.to_tuple())

    def _check(self, inputs: Arrays) -> None:
        """OpenVINO would fill a missing input with the last request's, and cast another dtype without a word."""
        given = {name: array.dtype for name, array in inputs.items()}
        if given != self._dtypes:
            raise InvalidInput(f"OpenVINO refuses the inputs: {_show(given)} instead of {_show(self._dtypes)}")


def _show(dtypes: dict[str, np.dtype[Any]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items()) or "nothing"


def _cause(error: RuntimeError) -> str:
    """The last line: those before are a trail of source files."""
    return str(error).strip().splitlines()[-1]
