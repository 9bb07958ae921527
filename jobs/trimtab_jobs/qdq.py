"""Where QuantizeLinear and DequantizeLinear go, so that an engine finds an integer kernel between them.

An engine fuses DequantizeLinear, operator, QuantizeLinear into one integer operator, and what it cannot fuse costs
more than it saves. So pairs are placed by what lies between them:

- A layer (an operator with weights) is quantized at its input. At its output too if it is a convolution, whose
  integer kernels give integers; a matrix product gives floats as gladly, so it is rounded only for another integer
  operator.
- The pair comes after a Relu or Clip, which the range of unsigned integers then stands for. Signed ones are symmetric
  here, as TensorRT wants them, and cannot say "not below zero": there the pair comes before, and another one after.
- An operator without weights (MaxPool, the Add of a residual, Concat, Reshape) is integer where its inputs are and
  someone needs it to be; between floats it is left alone. So a layer that goes back to float takes its pairs along.

Measured in ONNX Runtime 1.31 on AVX2 without VNNI, time relative to FP32 in one interleaved run: a residual CNN of ten
convolutions 0.65, MiniLM 0.66; with pairs around each layer, as onnxruntime.quantization places them, unsigned 0.67
and 0.79, signed 1.33 and 2.16.

Weights are INT8 or UINT8 with the zero point in the middle, behind a DequantizeLinear: a quarter of the size. Biases
stay FLOAT32, because TensorRT refuses INT32 ones and ONNX Runtime quantizes them itself as it loads; but not that of
a Gemm with a FLOAT32 output, so with unsigned activations, which TensorRT refuses anyway, that one is INT32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trimtab.api.techniques import IntegerType
from trimtab_jobs.data import Array
from trimtab_jobs.onnx_graph import attribute

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVERS = frozenset({"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""They change no value, so output and input share a scale, and the pairs around them fall away."""
COMBINERS = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"})
CARRIERS = MOVERS | COMBINERS
"""Integer between integers."""
ALONE = COMBINERS | {"LeakyRelu", "Mul", "Sigmoid", "Softmax"}
"""What has an integer kernel and may be told to use it among floats, too."""
BOUNDS = frozenset({"Clip", "Relu"})
WEIGHT = 1
"""The input of a layer that holds its weights."""
BIAS = 2

DTYPES = {IntegerType.INT8: np.int8, IntegerType.UINT8: np.uint8}
TINY = 1e-30
"""A range below this counts as none: dividing by its scale would overflow."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Scheme:
    """The integers that a graph is quantized to."""

    activation: IntegerType
    weight: IntegerType
    per_channel: bool
    bits: int
    """Of weights."""


class Network:
    """A graph that is quantized, perhaps several times: which tensors matter, and the result for a choice of nodes."""

    def __init__(self, model: onnx.ModelProto, floats: Set[str]) -> None:
        self.model = model
        self.floats = floats
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = {value.name for value in model.graph.output}

    def quantizable(self, node: NodeProto) -> bool:
        """Whether a node of LAYERS or ALONE can be: in FLOAT32, a layer with weights, another not ending the graph."""
        output = node.output[0]
        return output in self.floats and (node.op_type in LAYERS or output not in self.outputs) and self.weighted(node)

    def weighted(self, node: NodeProto) -> bool:
        """Whether a node of LAYERS has constant weights; the product of two activations has none. Others need none."""
        if node.op_type not in LAYERS:
            return True
        weight = self.constants.get(node.input[WEIGHT])
        return weight is not None and weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1

    def operands(self, node: NodeProto) -> Sequence[str]:
        """The first inputs of a node, which are quantized for it; its bias, shape, axes or bounds come after them."""
        count = len(node.input) if node.op_type == "Concat" else 2 if node.op_type in LAYERS | {"Add", "Mul"} else 1
        return list(node.input[:count])

    def end(self, node: NodeProto, scheme: Scheme) -> str:
        """The tensor that leaves a node and the Relu or Clip after it."""
        name: str = node.output[0]
        while scheme.activation == IntegerType.UINT8 and name not in self.outputs and len(self.consumers[name]) == 1:
            after = self.consumers[name][0]
            if after.op_type not in BOUNDS or after.input[0] != name:
                break
            name = after.output[0]
        return name


@dataclass(frozen=True)
class Plan:
    """Which nodes of a network become integer, and where the pairs go."""

    scheme: Scheme
    integer: dict[str, NodeProto]
    """By name."""
    read: frozenset[str]
    """Tensors with a pair that only integer nodes read from."""
    made: frozenset[str]
    """Tensors with a pair that everybody reads from, for an integer node makes them."""

    @property
    def tensors(self) -> frozenset[str]:
        """What `quantized` needs the ranges of."""
        return self.read | self.made


def plan(network: Network, chosen: Collection[str], scheme: Scheme) -> Plan:
    """The plan for the nodes of these names, and the carriers between them."""
    integer = {
        node.name: node
        for node in network.model.graph.node
        if node.name in chosen or (node.op_type in CARRIERS and node.output[0] in network.floats)
    }
    while idle := _idle(network, chosen, integer, scheme):
        for name in idle:
            del integer[name]
    nodes = integer.values()
    made = frozenset(network.end(node, scheme) for node in nodes if not _gives_floats(network, node, integer, scheme))
    read = frozenset(name for node in nodes for name in network.operands(node)) & network.floats
    return Plan(scheme, integer, read - made, made)


def _idle(network: Network, chosen: Collection[str], integer: Mapping[str, NodeProto], scheme: Scheme) -> list[str]:
    """The carriers with an operand that no integer node makes, or with no integer node to carry to."""
    ends = {network.end(node, scheme): name for name, node in integer.items()}
    useful = {name for end, name in ends.items() if any(one.name in integer for one in network.consumers[end])}
    return [
        name
        for name, node in integer.items()
        if name not in chosen and not (name in useful and {*network.operands(node)} <= ends.keys())
    ]


def _gives_floats(network: Network, node: NodeProto, integer: Mapping[str, NodeProto], scheme: Scheme) -> bool:
    """Whether a matrix product leaves its result in floating point, as somebody needs it so."""
    if node.op_type != "MatMul" and not (node.op_type == "Gemm" and scheme.activation == IntegerType.UINT8):
        return False
    end = network.end(node, scheme)
    return end in network.outputs or not all(one.name in integer for one in network.consumers[end])


def quantized(network: Network, plan: Plan, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """The model with Q/DQ pairs where the plan has them. `ranges` has every tensor of the plan."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    writer = _Writer(network, plan, ranges)
    nodes = writer.rewritten(model.graph)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    needed = {name for node in nodes for name in node.input} | network.outputs
    kept = [tensor for tensor in (*model.graph.initializer, *writer.constants.values()) if tensor.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


class _Writer:
    """Writes the nodes of one quantized graph in their order, and collects the constants they need."""

    def __init__(self, network: Network, plan: Plan, ranges: Mapping[str, Range]) -> None:
        self.network, self.plan, self.ranges = network, plan, ranges
        self.constants: dict[str, TensorProto] = {}
        self._scales: dict[str, tuple[np.float32, int]] = {}

    def rewritten(self, graph: onnx.GraphProto) -> list[NodeProto]:
        nodes = [new for value in graph.input for new in self._pair(value.name, None)]
        for node in graph.node:
            if node.name in self.plan.integer:
                nodes += self._read_integers(node)
            nodes.append(node)
            for index, name in enumerate(node.output):
                if name in self.plan.made:
                    node.output[index] = f"{name}_float"
                nodes += self._pair(name, node)
        return nodes

    def _pair(self, tensor: str, producer: NodeProto | None) -> list[NodeProto]:
        """Q and DQ after a tensor, where the plan has them."""
        if tensor not in self.plan.tensors:
            return []
        scale, zero = self._scales[tensor] = self._scale(tensor, producer)
        source, result = (f"{tensor}_float", tensor) if tensor in self.plan.made else (tensor, f"{tensor}_dequantized")
        self._keep(f"{tensor}_scale", np.float32(scale))
        self._keep(f"{tensor}_zero_point", np.array(zero, DTYPES[self.plan.scheme.activation]))
        names = [f"{tensor}_scale", f"{tensor}_zero_point"]
        return [
            helper.make_node("QuantizeLinear", [source, *names], [f"{tensor}_quantized"], f"{tensor}_QuantizeLinear"),
            helper.make_node(
                "DequantizeLinear", [f"{tensor}_quantized", *names], [result], f"{tensor}_DequantizeLinear"
            ),
        ]

    def _scale(self, tensor: str, producer: NodeProto | None) -> tuple[np.float32, int]:
        if producer and producer.op_type in MOVERS and producer.name in self.plan.integer:
            before = _plain(producer.input[0])
            if before in self._scales:
                return self._scales[before]
        return activation_scale(*self.ranges[tensor], self.plan.scheme.activation)

    def _read_integers(self, node: NodeProto) -> list[NodeProto]:
        """Let an integer node read what was dequantized; returns the nodes that dequantize its constants."""
        made = []
        for index, name in enumerate(self.network.operands(node)):
            constant = self.network.constants.get(name)
            if constant is not None and f"{name}_quantized" not in self.constants:
                made.append(self._weight(constant, node) if node.op_type in LAYERS else self._constant(constant))
            if constant is not None or name in self.plan.read:
                node.input[index] = f"{name}_dequantized"
        if node.op_type == "Gemm" and self.plan.scheme.activation == IntegerType.UINT8:
            made += self._bias(node)
        return made

    def _weight(self, tensor: TensorProto, layer: NodeProto) -> NodeProto:
        """INT8 or UINT8 weights, symmetric around the zero point."""
        scheme, weights = self.plan.scheme, numpy_helper.to_array(tensor)
        axis = _channel_axis(layer, weights.ndim) if scheme.per_channel else None
        levels = 2 ** (scheme.bits - 1) - 1
        others = tuple(other for other in range(weights.ndim) if other != axis)
        peaks = np.abs(weights).max(axis=others, keepdims=True)
        scales = np.where(peaks > TINY, peaks / levels, 1).astype(np.float32)
        zero = 128 if scheme.weight == IntegerType.UINT8 else 0
        steps = np.rint(weights / scales) + zero
        flat = scales.reshape(-1) if axis is not None else scales.reshape(())
        return self._dequantize(tensor.name, steps.astype(DTYPES[scheme.weight]), flat, zero, axis)

    def _constant(self, tensor: TensorProto) -> NodeProto:
        """A constant operand of an operator that is no layer; integer kernels want it typed like the other operand."""
        values = np.atleast_1d(numpy_helper.to_array(tensor))  # TensorRT refuses to reshape what has no axis
        kind = self.plan.scheme.activation
        scale, zero = activation_scale(float(values.min()), float(values.max()), kind)
        return self._dequantize(tensor.name, _steps(values, scale, zero, kind), np.array(scale), zero, None)

    def _bias(self, gemm: NodeProto) -> list[NodeProto]:
        """An INT32 bias for a Gemm, in steps of the product of its operands' scales, unless it is scaled otherwise."""
        constant = self.network.constants.get(gemm.input[BIAS]) if len(gemm.input) > BIAS else None
        if constant is None or attribute(gemm, "alpha", 1.0) != 1 or attribute(gemm, "beta", 1.0) != 1:
            return []
        weights = numpy_helper.to_array(self.constants[f"{_plain(gemm.input[WEIGHT])}_scale"])
        scales = (self._scales[_plain(gemm.input[0])][0] * weights).astype(np.float32)
        limits = np.iinfo(np.int32)
        steps = np.clip(np.rint(numpy_helper.to_array(constant) / scales.astype(np.float64)), limits.min, limits.max)
        gemm.input[BIAS] = f"{gemm.name}_bias_dequantized"
        axis = 0 if scales.ndim else None
        return [self._dequantize(f"{gemm.name}_bias", steps.astype(np.int32), scales, 0, axis)]

    def _dequantize(self, name: str, steps: Array, scales: Array, zero: int, axis: int | None) -> NodeProto:
        self._keep(f"{name}_quantized", steps)
        self._keep(f"{name}_scale", scales)
        self._keep(f"{name}_zero_point", np.full(scales.shape, zero, steps.dtype))
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        return helper.make_node(
            "DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DequantizeLinear", axis=axis
        )

    def _keep(self, name: str, values: Array | np.float32) -> None:
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)


def activation_scale(low: float, high: float, kind: IntegerType) -> tuple[np.float32, int]:
    """Scale and zero point for values in [low, high] and zero, which is always exact.

    INT8 is symmetric (zero point 0, as TensorRT wants it), UINT8 spends its 256 steps on the range.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if kind == IntegerType.INT8:
        peak = max(-low, high)
        return np.float32(peak / 127 if peak > TINY else 1.0), 0
    scale = (high - low) / 255 if high - low > TINY else 1.0
    return np.float32(scale), round(-low / scale)


def _steps(values: Array, scale: np.float32, zero: int, kind: IntegerType) -> Array:
    limits = np.iinfo(DTYPES[kind])
    steps: Array = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(DTYPES[kind])
    return steps


def _plain(name: str) -> str:
    """A tensor's name before a node was made to read it dequantized."""
    return name.removesuffix("_dequantized")


def _channel_axis(layer: NodeProto, axes: int) -> int | None:
    """The axis of a layer's weights that counts output channels."""
    match layer.op_type:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if attribute(layer, "transB", 0) else 1
        case "MatMul" if axes > 2:
            return None  # a stack of matrices
        case _:
            return 1
