"""ONNX Runtime on the CPU: the engine the others are compared with.

Threads: `options.threads` work inside an operator and none run operators side by side. They do not spin while they
wait. A spinning pool is faster on an idle machine, but here models are timed in turns: right after a spinning
session of two threads the next model took 40 ms instead of 20 (magika, two busy cores), and in a pod with a CPU limit
spinning eats the quota that the next request needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.engines import check_format
from trimtab_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from trimtab_jobs.engines import Arrays, EngineOptions, Session
    from trimtab_jobs.model import Model

QUIET = 4
"""Only fatal messages are logged: whatever else goes wrong is raised too."""


class OnnxRuntime:
    def load(self, model: Model, options: EngineOptions) -> Session:
        check_format(EngineName.ONNXRUNTIME, model, ModelFormat.ONNX)
        try:
            session = onnxruntime.InferenceSession(
                model.file, session_options(options.threads), ["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise InvalidInput(f"{model.file.name}: ONNX Runtime refuses this model: {_cause(error)}") from error
        return _Session(session, model.size)


def session_options(threads: int) -> Any:
    """How sessions run here, with every graph optimization."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = QUIET
    return options


class _Session:
    def __init__(self, session: Any, size: int) -> None:
        self._session = session
        self.size = size

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        try:
            outputs: list[np.ndarray[Any, Any]] = self._session.run(None, inputs)
        except Exception as error:
            raise InvalidInput(f"ONNX Runtime refuses the inputs: {_cause(error)}") from error
        return outputs


def _cause(error: Exception) -> str:
    """`[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid input name: y` without its first three parts."""
    text = str(error)
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
