"""TensorRT: a real engine build for a GPU that need not be here.

TensorRT-RTX compiles a model for a named compute capability on a machine without any GPU, so parsing, Q/DQ handling,
optimization profiles and the plan's size are real. Executing a plan needs the GPU, and no machine this was written on
had one: rather than ship code that never ran, `load` always ends in `NotExecutable`.

Networks are strongly typed (`create_network(0)`): precision comes from the model's Q/DQ nodes, and there is no
calibrator and no precision flag to set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorrt_rtx as trt

from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.engines import NotExecutable, check_format
from trimtab_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from trimtab_jobs.engines import EngineOptions, Session
    from trimtab_jobs.model import Model

BATCHES = (1, 1, 64)
"""The smallest, the usual and the largest batch of a plan. Latency is measured at batch 1, so that is the usual."""
GPU_DEVICE = Path("/dev/nvidiactl")


class TensorRt:
    def load(self, model: Model, options: EngineOptions) -> Session:
        """Build a plan and raise `NotExecutable` with its size, or `InvalidInput` with what TensorRT said."""
        check_format(EngineName.TENSORRT, model, ModelFormat.ONNX)
        log = _Log()
        builder = trt.Builder(log)
        network = _parse(builder, model.file, log)
        config = _config(builder, network, options)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise InvalidInput(f"{model.file.name}: TensorRT cannot build this model: {log.text}")
        raise NotExecutable(_not_executed(options, plan.nbytes), plan.nbytes)


class _Log(trt.ILogger):  # type: ignore[misc]
    """Keeps what the builder calls an error; it returns only None."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(message)

    @property
    def text(self) -> str:
        return "; ".join(self._errors) or "no reason given"


def _parse(builder: Any, model: Path, log: _Log) -> Any:
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise InvalidInput(f"{model.name}: TensorRT refuses this model: {'; '.join(errors)}")
    return network


def _parser_error(error: Any) -> str:
    node = f"{error.node_operator()} {error.node_name()}: " if error.node_operator() else ""
    return node + str(error.desc())


def _config(builder: Any, network: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, options.compute_capability.value), 0)
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        profile.set_shape(tensor.name, *(_shape(tensor, batch) for batch in BATCHES))
    config.add_optimization_profile(profile)
    return config


def _shape(tensor: Any, batch: int) -> list[int]:
    """The input's shape with its first axis, where that is dynamic, at `batch`."""
    first, *rest = tensor.shape
    if -1 in rest:
        raise InvalidInput(
            f"input {tensor.name!r} has the shape {[first, *rest]}: for TensorRT only the first axis may vary; "
            "export the model with the others fixed"
        )
    return [batch if first == -1 else first, *rest]


def _not_executed(options: EngineOptions, size: int) -> str:
    why = "executing plans is not supported yet" if GPU_DEVICE.exists() else "there is no GPU here"
    return f"built for {options.compute_capability.value} as a plan of {size} bytes, not executed: {why}"
