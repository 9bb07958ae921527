"""One session in which any one layer at a time is rounded, to see how far that moves the answers.

To make and load a model for every layer took most of a guarded quantization's time: MiniLM has 91 MB and 37 layers to
rank. Here the graph is loaded once. A tensor that a layer alone would quantize also goes through Q and DQ beside
itself, and a switch per layer says which of the two is read; constants are inputs, rounded when their layer's turn
comes. It is the rounding that is simulated, in floating point: no integer kernel runs, and none saturates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trimtab_jobs.data import Array, Split
from trimtab_jobs.engines.onnxruntime import session_options
from trimtab_jobs.onnx_graph import read

Pair = tuple[np.float32, Array]
"""A scale, and a zero point in its integer type."""


@dataclass(frozen=True)
class Rounding:
    """What quantizing one layer alone rounds. Tensors are told by name."""

    constants: Mapping[str, Callable[[], Array]]
    """Its own, and what makes them rounded."""
    reads: Mapping[str, Pair | None]
    """What only this layer reads rounded; without a pair the range is measured at run time."""
    makes: Mapping[str, Pair] = field(default_factory=dict)
    """What everybody reads rounded."""


class Simulation:
    """A graph with a switch for each of its layers, which are told by their nodes' names."""

    def __init__(self, model: onnx.ModelProto, layers: Mapping[str, Rounding], threads: int) -> None:
        self._layers = layers
        own = {name for rounding in layers.values() for name in rounding.constants}
        self._constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer if one.name in own}
        graph = _switched(model, layers, self._constants).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, session_options(threads), ["CPUExecutionProvider"])

    def answers(self, samples: Split, layer: str | None = None) -> list[Array]:
        """Every output for each sample by itself, with one layer rounded or none."""
        settings: dict[str, Array] = {}
        for name, rounding in self._layers.items():
            settings[_switch(name)] = np.array(name == layer)
            for constant, rounded in rounding.constants.items():
                settings[_beside(name, constant)] = rounded() if name == layer else self._constants[constant]
        # A batch may be more than the graph takes.
        return [output for sample in samples.batches(1) for output in self._session.run(None, sample | settings)]


def _switched(
    model: onnx.ModelProto, layers: Mapping[str, Rounding], constants: Mapping[str, Array]
) -> onnx.ModelProto:
    graph = onnx.GraphProto(name=model.graph.name, input=model.graph.input, output=model.graph.output)
    for layer, rounding in layers.items():
        graph.input.append(helper.make_tensor_value_info(_switch(layer), TensorProto.BOOL, []))
        for name in rounding.constants:
            given = helper.make_tensor_value_info(_beside(layer, name), TensorProto.FLOAT, constants[name].shape)
            graph.input.append(given)
    writer = _Writer(layers)
    graph.node.extend(new for node in model.graph.node for new in writer.rewritten(node))
    graph.initializer.extend(writer.parameters)
    still_read = read(onnx.ModelProto(graph=graph))
    graph.initializer.extend(one for one in model.graph.initializer if one.name in still_read)
    head = {"ir_version": model.ir_version, "opset_import": model.opset_import, "functions": model.functions}
    return onnx.ModelProto(graph=graph, **head)


class _Writer:
    """Writes the nodes in their order, and collects the scales and zero points they need."""

    def __init__(self, layers: Mapping[str, Rounding]) -> None:
        self._layers = layers
        self._makers: dict[str, list[str]] = defaultdict(list)
        for layer, rounding in layers.items():
            for tensor in rounding.makes:
                self._makers[tensor].append(layer)
        self.parameters: list[TensorProto] = []

    def rewritten(self, original: NodeProto) -> Iterator[NodeProto]:
        node = NodeProto()
        node.CopyFrom(original)
        rounding = self._layers.get(node.name)
        for tensor, pair in rounding.reads.items() if rounding else ():
            yield from self._choice(node.name, tensor, pair, tensor, _beside(node.name, tensor))
        if rounding:
            changed = rounding.reads.keys() | rounding.constants.keys()
            node.input[:] = [_beside(node.name, name) if name in changed else name for name in node.input]
        for index, tensor in enumerate(original.output):
            if tensor in self._makers:
                node.output[index] = f"{tensor}::0"
        yield node
        for tensor in original.output:
            yield from self._made(tensor)

    def _made(self, tensor: str) -> Iterator[NodeProto]:
        """The tensor as one of those layers makes it that are said to."""
        makers = self._makers.get(tensor, [])
        for index, layer in enumerate(makers, 1):
            result = tensor if index == len(makers) else f"{tensor}::{index}"
            yield from self._choice(layer, tensor, self._layers[layer].makes[tensor], f"{tensor}::{index - 1}", result)

    def _choice(self, layer: str, tensor: str, pair: Pair | None, source: str, result: str) -> Iterator[NodeProto]:
        """`source`, or the same rounded, by the layer's switch."""
        name = f"{layer}::{tensor}::choice"
        integers, rounded, scale, zero = (f"{name}::{part}" for part in ("integers", "rounded", "scale", "zero"))
        if pair is None:
            yield helper.make_node("DynamicQuantizeLinear", [source], [integers, scale, zero], integers)
        else:
            self.parameters += [
                numpy_helper.from_array(np.asarray(one), at) for one, at in zip(pair, (scale, zero), strict=True)
            ]
            yield helper.make_node("QuantizeLinear", [source, scale, zero], [integers], integers)
        yield helper.make_node("DequantizeLinear", [integers, scale, zero], [rounded], rounded)
        yield helper.make_node("Where", [_switch(layer), rounded, source], [result], name)


def _switch(layer: str) -> str:
    return f"{layer}::switch"


def _beside(layer: str, tensor: str) -> str:
    """What a layer reads in place of a tensor."""
    return f"{layer}::{tensor}"
