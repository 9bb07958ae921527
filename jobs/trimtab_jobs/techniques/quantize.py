"""Post-training INT8 quantization of an ONNX model, static or dynamic, as much of it as keeps the quality.

Static takes the range of every activation from data and writes Q/DQ pairs (`trimtab_jobs.qdq`), which every engine
understands. Dynamic measures ranges at run time, in operators of ONNX Runtime's own that TensorRT does not know; it
needs no data, and is better where activations of one sample and another differ much. Its convolutions are slow: a small
CNN took 12 times as long as in FP32, magika, which has one convolution, 3.6 times; their matrix products alone did not.

x86 without VNNI adds products of 8 bits in 16 and saturates without a word: a small CNN of 99.4% accuracy fell to
82.1% in ONNX Runtime on an AVX2-only machine. With weights of 7 bits it kept its 99.4% and its speed. Unsigned
weights take another kernel, which neither saturates nor is fast: 0.95 of FP32's time where signed ones took 0.65. So
`Auto` gives signed weights 7 bits where the CPU that quantizes has no VNNI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import NodeProto
from onnxruntime import quantization
from onnxruntime.quantization.registry import IntegerOpsRegistry

from trimtab.api.metrics import keeps
from trimtab.api.model import EngineName
from trimtab.api.quantities import parse_percent
from trimtab.api.techniques import (
    IntegerType,
    OperatorScope,
    Quantize,
    QuantizeMethod,
    ReduceRange,
    chosen,
    chosen_int,
)
from trimtab_jobs import qdq, qdq_writer
from trimtab_jobs.calibration import ranges
from trimtab_jobs.engines import EngineOptions, Session, engine
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.hardware import hardware, saturates
from trimtab_jobs.mixed_precision import SAMPLES, fewest, ranked
from trimtab_jobs.model import ONNX_FILE, Model
from trimtab_jobs.onnx_graph import save
from trimtab_jobs.onnx_prepare import float_tensors, prepare
from trimtab_jobs.sensitivity import Rounding, Simulation
from trimtab_jobs.techniques import Bench, check_ignored, counted

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"Attention", "Gemm", "LSTM", "MatMul"})
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
SCOPES = {
    OperatorScope.ALL: CONVOLUTIONS | PRODUCTS | qdq.ALONE | {*IntegerOpsRegistry},
    OperatorScope.COMPUTE: CONVOLUTIONS | PRODUCTS,
    OperatorScope.CONV: CONVOLUTIONS,
    OperatorScope.MATMUL: PRODUCTS,
}
KNOWN = {
    QuantizeMethod.STATIC: qdq.LAYERS | qdq.ALONE,
    QuantizeMethod.DYNAMIC: frozenset({*IntegerOpsRegistry, "Gemm"}),
}
INTEGER_FORMS = {
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
    "QAttention": "Attention",
}
"""What Dynamic makes of an operator, after it made every Gemm a MatMul."""
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""Without this mark ONNX Runtime warns, each time, that a model should be prepared."""
WEIGHT_TYPES = {IntegerType.INT8: quantization.QuantType.QInt8, IntegerType.UINT8: quantization.QuantType.QUInt8}

WEIGHTS = {"EmbedLayerNormalization": (2, 3, 4), "Gather": (0,), "LSTM": (1, 2), "Transpose": ()}
"""Which inputs Dynamic takes for weights, where it is not the second."""
MULTIPLIES = CONVOLUTIONS | PRODUCTS
"""Of these it also makes integers of the first input, at run time; of others, tables above all, only of the weights."""


@dataclass(frozen=True)
class Method:
    """How a network is quantized: in part, or a single layer for the sake of its rank."""

    build: Callable[[Collection[str]], onnx.ModelProto]
    """Makes the model in which the nodes of these names are quantized."""
    alone: Callable[[NodeProto], Rounding]


def quantize(model: Model, config: Quantize, bench: Bench) -> Model:
    """Write the INT8 model to `bench.out`.

    Raises NotApplicable where there is nothing to quantize, no kernel for the types, or nothing left of it that keeps
    `max_drop`; InvalidInput where `ignored_layers` names no node.
    """
    _check_types(config)
    prepared = prepare(model.onnx)
    network = qdq.Network(prepared, float_tensors(prepared))
    nodes = _in_scope(network, config)
    method = _METHODS[chosen(config.method)](network, [node.name for node in nodes], config, bench)
    kept, result = _guarded(network, nodes, method, config, bench)
    operators = {node.op_type for node in kept}
    quantized = _quantized(result.graph, operators)
    if not quantized:
        raise NotApplicable(f"quantize: ONNX Runtime left every {', '.join(sorted(operators))} as it was")
    bench.float_layers.extend(node.name for node in nodes if node not in kept)
    bench.note(_note(quantized, nodes, len(nodes) - len(kept), config))
    if recurrent := Counter(node.op_type for node in prepared.graph.node if node.op_type in RECURRENT - operators):
        bench.note(f"{counted(recurrent)} in floating point: {chosen(config.method)} has no integer form of it")
    return save(result, bench.out, model.details)


def _check_types(config: Quantize) -> None:
    activation, weight = chosen(config.activation_type), chosen(config.weight_type)
    if chosen(config.method) == QuantizeMethod.DYNAMIC:
        if activation != IntegerType.UINT8:
            raise NotApplicable("quantize: Dynamic makes activations UInt8 at run time: leave Int8 to Static")
    elif (activation, weight) == (IntegerType.INT8, IntegerType.UINT8):
        raise NotApplicable("quantize: no engine has kernels for Int8 activations with UInt8 weights: leave one out")


def _in_scope(network: qdq.Network, config: Quantize) -> list[NodeProto]:
    """The nodes to quantize."""
    check_ignored("quantize", config.ignored_layers, [node.name for node in network.model.graph.node])
    method = chosen(config.method)
    operators = SCOPES[chosen(config.operator_scope)] & KNOWN[method]
    able = network.quantizable if method == QuantizeMethod.STATIC else network.weighted
    named = [node for node in network.model.graph.node if node.op_type in operators]
    found = [node for node in named if able(node) and node.name not in config.ignored_layers]
    if not found:
        raise NotApplicable(f"quantize: the model has none of {', '.join(sorted(operators))} that can be quantized")
    return found


def _scheme(config: Quantize) -> qdq.Scheme:
    return qdq.Scheme(
        activation=chosen(config.activation_type),
        weight=chosen(config.weight_type),
        per_channel=chosen(config.per_channel),
        bits=7 if _reduced(config) else 8,
    )


def _static(network: qdq.Network, names: Sequence[str], config: Quantize, bench: Bench) -> Method:
    scheme = _scheme(config)
    samples = bench.splits.calibration.spread(chosen_int(config.calibration_samples))
    tensors = sorted(qdq.plan(network, names, scheme).tensors)
    found = ranges(network.model, tensors, samples, chosen(config.calibrate_method), bench.threads)

    def alone(node: NodeProto) -> Rounding:
        plan = qdq.plan(network, [node.name], scheme)
        pairs = {tensor: qdq_writer.pair(*found[tensor], scheme.activation) for tensor in plan.tensors}
        constants = [network.constants[name] for name in network.operands(node) if name in network.constants]
        rounded = (
            partial(qdq_writer.rounded_weights, layer=node, scheme=scheme)
            if node.op_type in qdq.LAYERS
            else partial(qdq_writer.rounded_constant, scheme=scheme)
        )
        return Rounding(
            {tensor.name: partial(rounded, tensor) for tensor in constants},
            {tensor: pairs[tensor] for tensor in plan.read},
            {tensor: pairs[tensor] for tensor in plan.made},
        )

    return Method(lambda kept: qdq_writer.quantized(network, qdq.plan(network, kept, scheme), found), alone)


def _dynamic(network: qdq.Network, names: Sequence[str], config: Quantize, bench: Bench) -> Method:
    del bench  # it needs no data
    nodes = {node.name: node for node in network.model.graph.node}
    operators = {nodes[name].op_type for name in names}

    def build(kept: Collection[str]) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        onnx.helper.set_model_props(model, PREPARED)
        with TemporaryDirectory() as scratch:
            path = Path(scratch, ONNX_FILE)
            quantization.quantize_dynamic(
                model,
                path,
                op_types_to_quantize=sorted(operators | ({"MatMul"} if "Gemm" in operators else set())),
                # It makes a Gemm a MatMul of another name before it asks.
                nodes_to_exclude=[same for name in nodes if name not in kept for same in (name, f"{name}_MatMul")],
                per_channel=chosen(config.per_channel),
                reduce_range=_reduced(config),
                weight_type=WEIGHT_TYPES[chosen(config.weight_type)],
                # What ONNX Runtime's own operators answer with is unknown to onnx: fused attention, BiasGelu.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            return onnx.load(path)

    def alone(node: NodeProto) -> Rounding:
        multiplies = node.op_type in MULTIPLIES
        read = [node.input[at] for at in WEIGHTS.get(node.op_type, (qdq.WEIGHT,)) if at < len(node.input)]
        found = (network.constants.get(name) for name in read)
        weights = [one for one in found if one is not None and one.data_type == onnx.TensorProto.FLOAT]
        scheme = replace(_scheme(config), per_channel=chosen(config.per_channel) and multiplies)
        rounded = partial(qdq_writer.rounded_weights, layer=node, scheme=scheme)
        given = {node.input[0]} & network.floats if multiplies else ()
        return Rounding({one.name: partial(rounded, one) for one in weights}, dict.fromkeys(given))

    return Method(build, alone)


_METHODS = {QuantizeMethod.STATIC: _static, QuantizeMethod.DYNAMIC: _dynamic}


def _guarded(
    network: qdq.Network, nodes: list[NodeProto], method: Method, config: Quantize, bench: Bench
) -> tuple[list[NodeProto], onnx.ModelProto]:
    """The nodes that stay quantized, and the model: all of them, or as many as keep `max_drop`."""
    if config.max_drop is None:
        return nodes, method.build([node.name for node in nodes])
    order: list[str] = []

    def reverted(count: int) -> list[NodeProto]:
        if count and not order:
            order.extend(_order(network, nodes, method, bench))
        return [node for node in nodes if node.name not in order[:count]]

    def holds(count: int) -> bool:
        candidate = _load(method.build([node.name for node in reverted(count)]), bench)
        return keeps(bench.drop(candidate), parse_percent(config.max_drop or "0%"))

    count = fewest(len(nodes), holds, config.max_evaluations)
    if count is None:
        raise NotApplicable(
            f"quantize: in {config.max_evaluations} evaluations no choice of layers to leave in floating point loses "
            f"at most {config.max_drop}: allow more, or quantize less with operatorScope"
        )
    return reverted(count), method.build([node.name for node in reverted(count)])


def _order(network: qdq.Network, nodes: Sequence[NodeProto], method: Method, bench: Bench) -> list[str]:
    """The nodes' names, those whose quantization costs most first."""
    simulation = Simulation(network.model, {node.name: method.alone(node) for node in nodes}, bench.threads)
    samples = bench.splits.evaluation.spread(SAMPLES)
    return ranked([node.name for node in nodes], partial(simulation.answers, samples))


def _load(candidate: onnx.ModelProto, bench: Bench) -> Session:
    with TemporaryDirectory() as scratch:
        saved = save(candidate, Path(scratch))
        return engine(EngineName.ONNXRUNTIME).load(saved, EngineOptions(bench.threads))


def _reduced(config: Quantize) -> bool:
    """Whether weights get 7 bits."""
    match chosen(config.reduce_range):
        case ReduceRange.AUTO:
            return chosen(config.weight_type) == IntegerType.INT8 and saturates(hardware().flags)
        case setting:
            return setting == ReduceRange.ALWAYS


def _quantized(graph: onnx.GraphProto, operators: Collection[str]) -> Counter[str]:
    """How many nodes of each operator now compute in integers, or will once an engine fuses the Q/DQ around them."""
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    names = [
        node.op_type if node.input[0] in dequantized else INTEGER_FORMS.get(node.op_type)
        for node in graph.node
        if node.input
    ]
    return Counter(name for name in names if name in {*operators, "MatMul"})


def _note(quantized: Counter[str], nodes: Sequence[NodeProto], reverted: int, config: Quantize) -> str:
    said = [f"{counted(quantized)} in INT8, of {len(nodes)} nodes in scope"]
    if reverted:
        said.append(f"{reverted} of them left in floating point to lose at most {config.max_drop}")
    if _reduced(config):
        said.append("weights of 7 bits" + (", as this CPU has no VNNI" if saturates(hardware().flags) else ""))
    return "; ".join(said)
