"""OpenVINO on the CPU: one request at a time, tuned for its latency.

Precision is a technique's decision, never an engine's: where the CPU has bfloat16 units, OpenVINO would compute a
float32 model in bfloat16, and the baseline's accuracy would depend on the node. `INFERENCE_PRECISION_HINT` stops that,
unless a technique asked for it in the model's details.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.techniques import FloatPrecision
from trimtab_jobs.engines import check_format
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import PRECISION, Model
from trimtab_jobs.openvino_model import cause, dtype, openvino

if TYPE_CHECKING:
    import numpy as np

    from trimtab_jobs.engines import Arrays, EngineOptions, Session

HINTS: dict[str, str] = {FloatPrecision.BFLOAT16: "bf16"}
"""On a CPU without such units OpenVINO takes the hint for f32."""


class OpenVino:
    def load(self, model: Model, options: EngineOptions) -> Session:
        check_format(EngineName.OPENVINO, model, ModelFormat.ONNX, ModelFormat.OPENVINO, precisions=HINTS)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": options.threads,
            "ENABLE_CPU_PINNING": False,  # pods that share a node would pin their threads to the same cores
            "INFERENCE_PRECISION_HINT": HINTS.get(model.details.get(PRECISION, ""), "f32"),
        }
        core = openvino.Core()
        try:
            compiled = core.compile_model(core.read_model(model.file), "CPU", settings)
        except RuntimeError as error:
            raise InvalidInput(f"{model.file.name}: OpenVINO refuses this model: {cause(error)}") from error
        return OpenVinoSession(compiled, model.size)


class OpenVinoSession:
    """One request at a time to a compiled model, whoever compiled it."""

    def __init__(self, compiled: Any, size: int) -> None:
        self._request = compiled.create_infer_request()
        self._dtypes = {port.any_name: dtype(port) for port in compiled.inputs}
        self.size = size

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        self._check(inputs)
        try:
            outputs = self._request.infer(inputs, share_inputs=True)
        except RuntimeError as error:
            raise InvalidInput(f"OpenVINO refuses the inputs: {cause(error)}") from error
        return list(outputs.to_tuple())

    def _check(self, inputs: Arrays) -> None:
        """OpenVINO would fill a missing input with the last request's, and cast another dtype without a word."""
        given = {name: array.dtype for name, array in inputs.items()}
        if given != self._dtypes:
            raise InvalidInput(f"OpenVINO refuses the inputs: {_show(given)} instead of {_show(self._dtypes)}")


def _show(dtypes: dict[str, np.dtype[Any]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items()) or "nothing"
