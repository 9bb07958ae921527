"""A graph as quantization wants it: opset 13 or newer, constants folded, and the FLOAT32 tensors known by name.

ONNX Runtime's basic optimizations fold what is constant and fuse what every engine fuses, batch normalization into the
convolution before it above all: quantized apart, the two would each cost a rounding. Types come from ONNX Runtime
too, which infers them whenever it loads a graph. The shape inference of onnx and the symbolic one of ONNX Runtime
give up, or assert, on graphs that run; nothing here needs shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from onnx import numpy_helper

from trimtab_jobs.engines.onnxruntime import session_options
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.onnx_graph import attribute, load, normalize, save

OPSET = 13
"""The first whose QuantizeLinear can have a scale per channel."""


def prepare(source: Path) -> onnx.ModelProto:
    """The normalized, upgraded and folded model. Raises NotApplicable where onnx cannot upgrade its opset."""
    model = load(source)
    del model.graph.value_info[:]  # torch describes weights here too, which Dynamic transposes and then trips over
    folded = by_runtime(_upgrade(model), onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    prepared = normalize(folded)  # once more, for the nodes it made have no names
    _flatten_biases(prepared.graph)
    _sum_as_add(prepared.graph)
    return prepared


def by_runtime(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel) -> onnx.ModelProto:
    """What ONNX Runtime makes of a model when it loads it, up to a level. Basic keeps to standard operators."""
    with TemporaryDirectory() as scratch:
        given, optimized = save(model, Path(scratch)), Path(scratch, "optimized.onnx")
        options = session_options(threads=1)
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(given.onnx, options, ["CPUExecutionProvider"])
        return onnx.load(optimized)


def observe(model: onnx.ModelProto, tensors: Sequence[str], threads: int, optimized: bool = True) -> Any:
    """An ONNX Runtime session whose outputs are the named tensors."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    observed.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors)
    options = session_options(threads)
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(observed.SerializeToString(), options, ["CPUExecutionProvider"])


def float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """The inputs of the graph and outputs of its nodes that are FLOAT32."""
    names = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output if name]
    session = observe(model, names, threads=1, optimized=False)
    return frozenset(output.name for output in session.get_outputs() if output.type == "tensor(float)")


def _upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if opset >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # ConvertError, or RuntimeError with the C++ assertion that failed
        why = str(error).rpartition(" failed: ")[2]
        raise NotApplicable(
            f"quantize: the model has opset {opset}, quantization needs {OPSET}, and onnx cannot convert it ({why}): "
            f"export it with opset {OPSET} or newer"
        ) from error


def _flatten_biases(graph: onnx.GraphProto) -> None:
    """Give each Gemm a bias of shape [N]: integer kernels refuse [1, N], which ONNX Runtime's own fusions make."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm" and {*node.input[1:3]} <= constants.keys() and len(node.input) == 3:
            channels = constants[node.input[1]].dims[0 if attribute(node, "transB", 0) else 1]
            bias = numpy_helper.to_array(constants[node.input[2]])
            if bias.shape != (channels,):
                node.input[2] += "_flat"
                flat = np.broadcast_to(bias.reshape(-1), channels)
                graph.initializer.append(numpy_helper.from_array(flat, node.input[2]))


def _sum_as_add(graph: onnx.GraphProto) -> None:
    """Caffe2 wrote residuals as Sum, which has no integer kernel; of two it is an Add."""
    for node in graph.node:
        if node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"
