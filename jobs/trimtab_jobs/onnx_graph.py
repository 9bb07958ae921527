"""ONNX graphs as strangers export them, brought to one form before a technique looks at them.

Exporters put weights into initializers, into Constant nodes, or into initializers that are inputs as well (IR version
3 wanted that), and do the same in the bodies of If, Loop and Scan; they leave nodes without a name or give two the
same. Each of these has made a library lose weights or build an invalid graph. After `load` weights are initializers,
only what a split feeds is an input, and every node has a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from trimtab.api.model import ModelFormat
from trimtab_jobs.model import ONNX_FILE, Model

ONE_FILE = 2**30
"""Bytes of weights above which they get a file of their own: protobuf ends at 2 GiB."""
WEIGHTS = "model.onnx.data"
INLINE = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
"""How a Constant node may hold numbers other than as a tensor."""


def load(path: Path) -> onnx.ModelProto:
    """The normalized model, external data in memory."""
    return normalize(onnx.load(path))


def normalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, brought to the one form."""
    model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input
    names = {node.name for graph in graphs(model.graph) for node in graph.node}
    fresh = (name for number in count() if (name := f"node_{number}") not in names)
    seen: set[str] = set()
    for graph in graphs(model.graph):
        _drop_filled_inputs(graph)
        _lift_constants(graph)
        for node in graph.node:
            if not node.name or node.name in seen:
                node.name = next(fresh)
            seen.add(node.name)
    return model


def save(model: onnx.ModelProto, out: Path, details: dict[str, Any] | None = None, one_file: int = ONE_FILE) -> Model:
    """Write the model into the folder `out`; weights of more than `one_file` bytes beside the graph.

    `details` are the Model's: a technique passes on those of the model it was given.
    """
    held = sum(len(tensor.raw_data) for graph in graphs(model.graph) for tensor in graph.initializer)
    onnx.save(model, out / ONNX_FILE, save_as_external_data=held > one_file, location=WEIGHTS)
    return Model(out, ModelFormat.ONNX, details or {}).save_manifest()


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph itself, then the graphs within its nodes, outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds: the branches of an If, the body of a Loop or Scan."""
    for held in node.attribute:
        if held.HasField("g"):
            yield held.g
        yield from held.graphs


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def read(model: onnx.ModelProto) -> set[str]:
    """The tensors that some node reads or some graph answers with."""
    every = list(graphs(model.graph))
    read_by_nodes = {name for graph in every for node in graph.node for name in node.input}
    return read_by_nodes | {value.name for graph in every for value in graph.output}


def drop_unread_weights(model: onnx.ModelProto) -> None:
    used = read(model)
    for graph in graphs(model.graph):
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the graph's nodes; they may be the graph's own."""
    kept = [*nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _drop_filled_inputs(graph: onnx.GraphProto) -> None:
    filled = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in filled]
    del graph.input[:]
    graph.input.extend(given)


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, but for those that are an output: engines want a node there."""
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant(node) if node.op_type == "Constant" and not node.domain else None
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    replace_nodes(graph, kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, if it is a tensor of numbers."""
    held = node.attribute[0]
    if held.name == "value":
        return held.t
    if held.name in INLINE:
        return numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(held), INLINE[held.name]))
    return None
