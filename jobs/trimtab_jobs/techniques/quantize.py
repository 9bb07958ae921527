"""Post-training INT8 quantization of an ONNX model, by onnxruntime.quantization.

Static gives every engine one form: activations and weights signed and symmetric, weights in the file as INT8 behind a
DequantizeLinear (a quarter of the size; Q/DQ pairs around FLOAT32 weights gained nothing, in TensorRT neither), biases
left in FLOAT32, because TensorRT refuses INT32 ones and ONNX Runtime quantizes them itself as it loads. Dynamic has
integer operators that TensorRT does not know.

x86 without VNNI adds products of 8 bits in 16 and saturates without a word: a small CNN of 99.4% accuracy fell to
82.1% in ONNX Runtime on an AVX2-only machine. With weights of 7 bits it kept its 99.4% and its speed. So weights
get 7 bits where the CPU that quantizes has no VNNI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Set
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry, QLinearOpsRegistry

from trimtab.api.model import ModelFormat
from trimtab.api.techniques import OperatorScope, Quantize, QuantizeMethod, chosen
from trimtab_jobs.calibration import thresholds
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.hardware import hardware
from trimtab_jobs.model import ONNX_FILE, Model
from trimtab_jobs.techniques import Bench

OPSET = 13
"""The first whose QuantizeLinear can have a scale per channel."""
COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
KNOWN = {
    QuantizeMethod.STATIC: frozenset({*QDQRegistry, *QLinearOpsRegistry}),
    QuantizeMethod.DYNAMIC: frozenset({*IntegerOpsRegistry, "Gemm"}),
}
INTEGER_FORMS = {
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
    "QAttention": "Attention",
}
"""What Dynamic makes of an operator, after it made every Gemm a MatMul."""


def quantize(model: Model, config: Quantize, bench: Bench) -> Model:
    """Write the INT8 model to `bench.out`. Raises NotApplicable where there is nothing to quantize."""
    method = chosen(config.method)
    prepared = _prepare(model.onnx)
    present = _present(prepared.graph, KNOWN[method], chosen(config.operator_scope))
    run = {QuantizeMethod.STATIC: _static, QuantizeMethod.DYNAMIC: _dynamic}[method]
    result = run(prepared, sorted(present), config, bench)
    quantized = _quantized(result.graph, present)
    if not quantized:
        raise NotApplicable(f"quantize: ONNX Runtime left every {', '.join(present)} as it was")
    onnx.save(result, bench.out / ONNX_FILE)
    bench.note(_note(quantized, present))
    return Model(bench.out, ModelFormat.ONNX).save_manifest()


def _prepare(source: Path) -> onnx.ModelProto:
    """The model with a new enough opset, constants folded, and the type of every tensor known."""
    model = _upgrade(onnx.load(source))
    del model.graph.value_info[:]  # torch describes weights here too, which Dynamic transposes and then trips over
    with TemporaryDirectory() as scratch:
        given, prepared = Path(scratch, "given.onnx"), Path(scratch, "prepared.onnx")
        onnx.save(model, given)
        # Symbolic inference gives up on magika, imports torch where there is one, and finds shapes; here types do.
        quantization.quant_pre_process(given, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
    _flatten_biases(model.graph)
    return model


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
    """Give each Gemm a bias of shape [N]: the quantizer fails on [1, N], which ONNX Runtime's own fusions make."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm" and {*node.input[1:3]} <= constants.keys() and len(node.input) == 3:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            channels = constants[node.input[1]].dims[0 if transposed else 1]
            bias = numpy_helper.to_array(constants[node.input[2]])
            if bias.shape != (channels,):
                node.input[2] += "_flat"
                flat = np.broadcast_to(bias.reshape(-1), channels)
                graph.initializer.append(numpy_helper.from_array(flat, node.input[2]))


def _present(graph: onnx.GraphProto, known: Set[str], scope: OperatorScope) -> Counter[str]:
    """How many nodes there are of each operator to quantize."""
    wanted = known & COMPUTE if scope == OperatorScope.COMPUTE else known
    present = Counter(node.op_type for node in graph.node if node.op_type in wanted)
    if not present:
        raise NotApplicable(f"quantize: the model has none of {', '.join(sorted(wanted))}")
    return present


def _static(prepared: onnx.ModelProto, operators: list[str], config: Quantize, bench: Bench) -> onnx.ModelProto:
    found = thresholds(
        prepared,
        _activations(prepared.graph, operators),
        bench.splits.calibration,
        chosen(config.calibrate_method),
        bench.threads,
    )
    ranges = {tensor: (np.float32(-threshold), np.float32(threshold)) for tensor, threshold in found.items()}
    quantizer = quantization.QDQQuantizer(
        prepared,
        per_channel=chosen(config.per_channel),
        reduce_range=_saturates(hardware().flags),
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QInt8,
        tensors_range=quantization.TensorsData(quantization.CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=operators,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    quantized: onnx.ModelProto = quantizer.quantize_model()
    _give_scalars_an_axis(quantized.graph)
    return quantized


def _give_scalars_an_axis(graph: onnx.GraphProto) -> None:
    """Shape [1] for INT8 constants of shape []: they broadcast the same, and TensorRT refuses to reshape them."""
    dequantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for tensor in graph.initializer:
        if tensor.name in dequantized and not tensor.dims:
            tensor.dims.append(1)


def _dynamic(prepared: onnx.ModelProto, operators: list[str], config: Quantize, bench: Bench) -> onnx.ModelProto:
    with TemporaryDirectory() as scratch:
        path = Path(scratch, ONNX_FILE)
        quantization.quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=[*operators, "MatMul"] if "Gemm" in operators else operators,
            per_channel=chosen(config.per_channel),
            reduce_range=_saturates(hardware().flags),
        )
        return onnx.load(path)


def _activations(graph: onnx.GraphProto, operators: Collection[str]) -> list[str]:
    """The FLOAT32 tensors that nodes of these operators read or write, weights left out."""
    described = (*graph.input, *graph.value_info, *graph.output)
    floats = {value.name for value in described if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    touched = {name for node in graph.node if node.op_type in operators for name in (*node.input, *node.output)}
    return sorted(touched & floats - {tensor.name for tensor in graph.initializer})


def _saturates(flags: Collection[str]) -> bool:
    return "avx2" in flags and not {"avx_vnni", "avx512_vnni"} & {*flags}


def _quantized(graph: onnx.GraphProto, operators: Collection[str]) -> Counter[str]:
    """How many nodes of each operator now compute in integers, or will once an engine fuses the Q/DQ around them."""
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    names = [
        node.op_type if node.input[0] in dequantized else INTEGER_FORMS.get(node.op_type)
        for node in graph.node
        if node.input
    ]
    return Counter(name for name in names if name in {*operators, "MatMul"})


def _note(quantized: Counter[str], present: Counter[str]) -> str:
    counts = ", ".join(f"{count} {operator}" for operator, count in sorted(quantized.items()))
    bits = "; weights of 7 bits, as this CPU has no VNNI" if _saturates(hardware().flags) else ""
    return f"{counts} in INT8, of {present.total()} nodes in scope{bits}"
