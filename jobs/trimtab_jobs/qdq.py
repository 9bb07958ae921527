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
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from trimtab.api.techniques import IntegerType

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
