"""Offline graph optimization: a smaller graph that answers the same.

Three programs rewrite graphs, each better on other exports: onnxslim folds, shares and fuses within standard ONNX;
ONNX Runtime saves what it would make of the graph as it loads it, which spares every start that work and shows it to
other engines; onnxruntime.transformers fuses attention, embeddings and skip connections that ONNX Runtime itself
leaves alone.

ONNX Runtime's level All is left out: it adds layouts of convolutions that fit the vector width of the CPU it runs on
(NCHWc), and the file would be wrong on the next node.

Every one of them has bugs on graphs its authors never saw. So the result has to answer like the model before, one
sample at a time and in a batch, or the trial fails.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from trimtab.api.techniques import GraphOptimizer, OptimizeGraph, chosen
from trimtab_jobs.errors import NotApplicable, WrongResult
from trimtab_jobs.model import Model
from trimtab_jobs.onnx_graph import attribute, graphs, load, save
from trimtab_jobs.onnx_prepare import by_runtime
from trimtab_jobs.parity import flaw
from trimtab_jobs.techniques import Bench, counted

TOLERANCE = 1e-3
"""Fusing reorders sums: 1e-6 of the largest output on magika and MiniLM. A wrong mask or axis makes 0.1 and more."""


def optimize_graph(model: Model, config: OptimizeGraph, bench: Bench) -> Model:
    """Write the optimized model to `bench.out`.

    Raises NotApplicable where the optimizer changes nothing or cannot read the graph, WrongResult where its result
    answers differently.
    """
    optimizer = chosen(config.optimizer)
    given = load(model.onnx)
    before = _operators(given)
    try:
        with _silence():
            optimized = OPTIMIZERS[optimizer](given)
    except NotApplicable:
        raise
    except Exception as error:  # these programs raise whatever went wrong first
        raise NotApplicable(f"optimizeGraph: {optimizer} cannot optimize this graph: {_first_line(error)}") from error
    after = _operators(optimized)
    if after.total() >= before.total():  # more, where ONNX Runtime casts around what it has no FLOAT16 kernel for
        raise NotApplicable(f"optimizeGraph: {optimizer} finds nothing to optimize in {before.total()} nodes")
    made = save(optimized, bench.out, model.details)
    _check_same(model, made, optimizer, bench)
    bench.note(_note(before, after))
    return made


def _check_same(model: Model, made: Model, optimizer: GraphOptimizer, bench: Bench) -> None:
    if wrong := flaw(model, made, bench.splits.evaluation, TOLERANCE):
        raise WrongResult(f"optimizeGraph: {optimizer} breaks this model ({wrong}): leave it out of optimizer")


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    slimmed: onnx.ModelProto = onnxslim.slim(model)
    return slimmed


def _basic(model: onnx.ModelProto) -> onnx.ModelProto:
    return by_runtime(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)


def _extended(model: onnx.ModelProto) -> onnx.ModelProto:
    return by_runtime(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)


def _by_transformers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fuse what is a transformer's. Its own way through ONNX Runtime needs torch; this one does not."""
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    folded = _basic(model)
    heads, hidden = _attention(folded.graph)
    fused = optimize_by_fusion(folded, "bert", heads, hidden)
    if not any(fused.get_fused_operator_statistics().values()):
        raise NotApplicable("optimizeGraph: Transformers finds no attention, GELU or layer normalization to fuse")
    optimized: onnx.ModelProto = fused.model
    return optimized


OPTIMIZERS: dict[GraphOptimizer, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    GraphOptimizer.ONNXSLIM: _slim,
    GraphOptimizer.ONNXRUNTIME_BASIC: _basic,
    GraphOptimizer.ONNXRUNTIME_EXTENDED: _extended,
    GraphOptimizer.TRANSFORMERS: _by_transformers,
}


def _attention(graph: onnx.GraphProto) -> tuple[int, int]:
    """Heads and hidden size of the attention, 0 and 0 where the fusion has to find them out.

    The fusion reads them off a Reshape to [.., heads, size], and newer exports say [.., -1, size] there. So the number
    of heads is the width of the projection before the Reshape, divided by the size.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Transpose" or attribute(node, "perm", None) != [0, 2, 1, 3]:
            continue
        reshape = producers.get(node.input[0])
        if reshape is None or reshape.op_type != "Reshape":
            continue
        shape, projected = producers.get(reshape.input[1]), producers.get(reshape.input[0])
        last = constants.get(shape.input[-1] if shape else reshape.input[1], np.zeros(1)).reshape(-1)[-1]
        widths = [constants[name].shape[-1] for name in projected.input if name in constants] if projected else []
        if widths and last > 0 and widths[0] % last == 0:
            return widths[0] // int(last), widths[0]
    return 0, 0


def _operators(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes there are of each operator, those of subgraphs included."""
    return Counter(node.op_type for graph in graphs(model.graph) for node in graph.node if node.op_type != "Constant")


def _note(before: Counter[str], after: Counter[str]) -> str:
    new = counted(after - before)
    return f"{before.total()} nodes to {after.total()}{f', new: {new}' if new else ''}"


@contextmanager
def _silence() -> Iterator[None]:
    """Without the warnings and log lines of libraries, which would say on every trial what is no one's concern."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
