"""A planned graph with its Q/DQ pairs and integer weights written into it.

Weights are INT8 or UINT8 with the zero point in the middle, behind a DequantizeLinear: a quarter of the size. Biases
stay FLOAT32, because TensorRT refuses INT32 ones and ONNX Runtime quantizes them itself as it loads; but not that of
a Gemm with a FLOAT32 output, so with unsigned activations, which TensorRT refuses anyway, that one is INT32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trimtab.api.techniques import IntegerType
from trimtab_jobs.data import Array
from trimtab_jobs.onnx_graph import attribute, graphs
from trimtab_jobs.qdq import LAYERS, MOVERS, WEIGHT, Network, Plan, Scheme

BIAS = 2
"""The input of a Gemm that holds its bias."""
DTYPES = {IntegerType.INT8: np.int8, IntegerType.UINT8: np.uint8}
TINY = 1e-30
"""A range below this counts as none: dividing by its scale would overflow."""

Range = tuple[float, float]


def quantized(network: Network, plan: Plan, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """The model with Q/DQ pairs where the plan has them. `ranges` has every tensor of the plan."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    writer = _Writer(network, plan, ranges)
    nodes = writer.rewritten(model.graph)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    needed = {name for graph in graphs(model.graph) for node in graph.node for name in node.input}
    needed |= {value.name for graph in graphs(model.graph) for value in graph.output}
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
        scheme = self.plan.scheme
        steps, scales, axis = weight_steps(numpy_helper.to_array(tensor), layer, scheme)
        zero = 128 if scheme.weight == IntegerType.UINT8 else 0
        flat = scales.reshape(-1) if axis is not None else scales.reshape(())
        return self._dequantize(tensor.name, (steps + zero).astype(DTYPES[scheme.weight]), flat, zero, axis)

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


def weight_steps(weights: Array, layer: NodeProto, scheme: Scheme) -> tuple[Array, Array, int | None]:
    """INT8 or UINT8 weights in steps from the zero point, around which they are symmetric; the scales, and their axis.

    The scales broadcast against the weights.
    """
    axis = _channel_axis(layer, weights.ndim) if scheme.per_channel else None
    levels = 2 ** (scheme.bits - 1) - 1
    others = tuple(other for other in range(weights.ndim) if other != axis)
    peaks = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(peaks > TINY, peaks / levels, 1).astype(np.float32)
    return np.rint(weights / scales), scales, axis


def rounded_weights(tensor: TensorProto, layer: NodeProto, scheme: Scheme) -> Array:
    """Weights as the integers say them, in floating point."""
    steps, scales, _ = weight_steps(numpy_helper.to_array(tensor), layer, scheme)
    return np.asarray(steps * scales, np.float32)


def rounded_constant(tensor: TensorProto, scheme: Scheme) -> Array:
    """The same of an operand of what is no layer."""
    values = numpy_helper.to_array(tensor)
    scale, zero = activation_scale(float(values.min()), float(values.max()), scheme.activation)
    return np.asarray((_steps(values, scale, zero, scheme.activation).astype(np.float32) - zero) * scale, np.float32)


def pair(low: float, high: float, kind: IntegerType) -> tuple[np.float32, Array]:
    """Scale and zero point for an activation, typed as its integers are."""
    scale, zero = activation_scale(low, high, kind)
    return scale, np.array(zero, DTYPES[kind])


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
