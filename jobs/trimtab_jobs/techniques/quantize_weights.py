"""Weight-only quantization: weights of 4 or 8 bits in blocks, activations in floating point.

Nothing has to be calibrated, and no activation is clipped. It is a matter of bytes: a model that waits for its weights
(one row at a time) gets faster, one that computes with them many times in a row does not. MiniLM on 64 tokens, one
thread of an AVX2 machine: 8 bits are 0.29 of FLOAT32's bytes with a cosine to its embeddings of 0.9999, 4 bits 0.16
with 0.97. OpenVINO takes 1.0 of its FLOAT32 time for either; ONNX Runtime 1.5 for 8 bits (2.6 without INT8
activations, level 0) and 1.1 for 4.

The form is ONNX Runtime's MatMulNBits and GatherBlockQuantized, which OpenVINO reads too. A Gemm becomes a product and
a sum. The blocks are made by `blockwise`: ONNX Runtime's own quantizer adds a weight that two nodes share twice, which
makes the model invalid, and leaves Gemm and embedding tables as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trimtab.api.model import EngineName
from trimtab.api.techniques import QuantizeWeights, chosen
from trimtab_jobs.blockwise import quantize
from trimtab_jobs.data import Array
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.evaluate import batch_size
from trimtab_jobs.model import Model
from trimtab_jobs.onnx_graph import attribute, drop_unread_weights, graphs, load, replace_nodes, save, subgraphs
from trimtab_jobs.techniques import Bench, check_ignored, counted

DOMAIN = "com.microsoft"
WEIGHTS_AT = {"MatMul": 1, "Gemm": 1, "Gather": 0}
"""Which input of an operator holds its weights."""


@dataclass(frozen=True)
class Weight:
    """A constant, and the graph it belongs to, which is where its quantized form goes."""

    graph: onnx.GraphProto
    tensor: onnx.TensorProto


Scope = Mapping[str, Weight]
"""The constants that a node can read: those of its graph and of the graphs around it."""


@dataclass
class Work:
    """The settings, and what was done with them so far."""

    config: QuantizeWeights
    done: Counter[str] = field(default_factory=Counter)
    """Quantized nodes by operator."""
    left: Counter[str] = field(default_factory=Counter)
    """Nodes that keep their weights, by reason."""
    made: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    """The inputs that stand for a weight now, by its graph and form: nodes may share it."""


def quantize_weights(model: Model, config: QuantizeWeights, bench: Bench) -> Model:
    """Write the quantized model to `bench.out`.

    Raises InvalidInput if a layer to ignore is not in the graph, NotApplicable if there is no weight to quantize or
    ONNX Runtime cannot run the result.
    """
    given = load(model.onnx)
    nodes = [node for graph in graphs(given.graph) for node in graph.node]
    check_ignored("quantizeWeights", config.ignored_layers, [node.name for node in nodes if node.op_type in WEIGHTS_AT])
    work = Work(config)
    _rewrite(given.graph, {}, work)
    if not work.done:
        raise NotApplicable(f"quantizeWeights: no weight to quantize{_left(work)}")
    drop_unread_weights(given)
    if all(entry.domain != DOMAIN for entry in given.opset_import):
        given.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    made = save(given, bench.out, model.details)
    _check_runs(model, made, bench)
    bench.note(_note(work))
    return made


def _rewrite(graph: onnx.GraphProto, around: Scope, work: Work) -> None:
    """Replace the nodes of a graph, and of those within it, whose weights can be quantized."""
    scope = {**around, **{tensor.name: Weight(graph, tensor) for tensor in graph.initializer}}
    body: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in subgraphs(node):
            _rewrite(inner, scope, work)
        if not _has_weights(node, scope, work.config):
            body.append(node)
        elif reason := next(_reasons(node, scope, work.config), None):
            work.left[reason] += 1
            body.append(node)
        else:
            work.done[node.op_type] += 1
            body += _lookup(node, scope, work) if node.op_type == "Gather" else _product(node, scope, work)
    replace_nodes(graph, body)


def _has_weights(node: onnx.NodeProto, scope: Scope, config: QuantizeWeights) -> bool:
    """Whether it is a node to speak of. Most Gathers pick a number from a shape."""
    if node.domain or node.op_type != "Gather":
        return not node.domain and node.op_type in WEIGHTS_AT
    table = scope.get(node.input[0])
    return chosen(config.embeddings) and table is not None and len(table.tensor.dims) == 2


def _reasons(node: onnx.NodeProto, scope: Scope, config: QuantizeWeights) -> Iterator[str]:
    """Why a node keeps its weights; each takes for granted that there was none before."""
    weight = scope.get(node.input[WEIGHTS_AT[node.op_type]])
    size, bits = chosen(config.block_size), chosen(config.bits)
    if node.name in config.ignored_layers:
        yield "ignored"
    if weight is None:
        yield "without constant weights"
        return
    if weight.tensor.data_type != TensorProto.FLOAT:
        yield "not in FLOAT32"
    if len(weight.tensor.dims) != 2:
        yield f"with weights of {len(weight.tensor.dims)} axes"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        yield "with transA"
    length = _rows(node, weight).shape[1]
    if node.op_type == "Gather" and (attribute(node, "axis", 0) != 0 or length % size):
        yield f"whose rows are not whole blocks of {size}"
    if -(-length // size) * (size * bits / 8 + 4) >= 4 * length:
        yield f"too short for a block of {size}"


def _rows(node: onnx.NodeProto, weight: Weight) -> Array:
    """The weights as MatMulNBits and GatherBlockQuantized have them: a row per output, or per word."""
    array: Array = numpy_helper.to_array(weight.tensor)
    if node.op_type == "Gather":
        return array
    rows = array if node.op_type == "Gemm" and attribute(node, "transB", 0) else array.T
    return np.ascontiguousarray(rows) * np.float32(attribute(node, "alpha", 1.0))


def _product(node: onnx.NodeProto, scope: Scope, work: Work) -> list[onnx.NodeProto]:
    """A MatMul in MatMulNBits; for a Gemm the rest of alpha A B + beta C behind it, alpha being in the weights."""
    weight = scope[node.input[1]]
    rows = _rows(node, weight)
    added = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] != ""
    result = f"{node.output[0]}_product" if added else node.output[0]
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], *_quantized(node, weight, work)],
        [result],
        node.name,
        domain=DOMAIN,
        K=rows.shape[1],
        N=rows.shape[0],
        bits=chosen(work.config.bits),
        block_size=chosen(work.config.block_size),
        accuracy_level=chosen(work.config.accuracy_level),
    )
    return [product, *(_bias(node, result, weight.graph) if added else [])]


def _bias(node: onnx.NodeProto, product: str, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    beta, term = attribute(node, "beta", 1.0), node.input[2]
    scaled = []
    if beta != 1:
        term = f"{node.output[0]}_bias"
        graph.initializer.append(numpy_helper.from_array(np.array(beta, np.float32), f"{term}_beta"))
        scaled.append(helper.make_node("Mul", [node.input[2], f"{term}_beta"], [term], f"{node.name}_beta"))
    return [*scaled, helper.make_node("Add", [product, term], [node.output[0]], f"{node.name}_bias")]


def _lookup(node: onnx.NodeProto, scope: Scope, work: Work) -> list[onnx.NodeProto]:
    table, *parameters = _quantized(node, scope[node.input[0]], work)
    return [
        helper.make_node(
            "GatherBlockQuantized",
            [table, node.input[1], *parameters],
            [node.output[0]],
            node.name,
            domain=DOMAIN,
            bits=chosen(work.config.bits),
            block_size=chosen(work.config.block_size),
            gather_axis=0,
            quantize_axis=1,
        )
    ]


def _quantized(node: onnx.NodeProto, weight: Weight, work: Work) -> list[str]:
    """The inputs that stand for a weight: values, scales and, unless symmetric, zeros."""
    flat = node.op_type == "Gather"
    form = f"{weight.tensor.name}_{'rows' if flat else 'columns'}"
    if node.op_type == "Gemm":
        form += f"_{attribute(node, 'transB', 0)}_{attribute(node, 'alpha', 1.0):g}"
    key = (id(weight.graph), form)
    if key not in work.made:
        rows, bits, size = _rows(node, weight), chosen(work.config.bits), chosen(work.config.block_size)
        # OpenVINO refuses a table where the zeros of a row, two to a byte, do not fill their last byte.
        symmetric = chosen(work.config.symmetric) or (flat and bits == 4 and rows.shape[1] // size % 2 == 1)
        blocks = quantize(rows, bits, size, symmetric)
        values = blocks.packed()
        arrays = {"values": values.reshape(len(values), -1) if flat else values, "scales": blocks.scales}
        if not symmetric:
            arrays["zeros"] = blocks.packed_zeros()
        tensors = [numpy_helper.from_array(array, f"{form}_{part}") for part, array in arrays.items()]
        weight.graph.initializer.extend(tensors)
        work.made[key] = [tensor.name for tensor in tensors]
    return work.made[key]


def _check_runs(model: Model, made: Model, bench: Bench) -> None:
    """How far off the answers are is for the metrics to say; here they have to come, in batches as before."""
    runtime, split, options = engine(EngineName.ONNXRUNTIME), bench.splits.evaluation, EngineOptions(bench.threads)
    sizes = {1, batch_size(runtime.load(model.as_stored, options), split)}
    try:
        session = runtime.load(made.as_stored, options)
        for size in sizes:
            session.run(next(split.batches(size)))
    except InvalidInput as refusal:
        raise NotApplicable(f"quantizeWeights: ONNX Runtime does not run the result: {refusal}") from refusal


def _note(work: Work) -> str:
    total = work.done.total() + work.left.total()
    return f"{counted(work.done)} of {total} nodes with weights in {chosen(work.config.bits)} bits{_left(work)}"


def _left(work: Work) -> str:
    return f"; left alone: {counted(work.left)}" if work.left else ""
