"""Half the bits: FLOAT16 in the file, or bfloat16 in the arithmetic.

CPUs hardly compute in FLOAT16, so by default only the weights are stored in it, each behind a Cast that engines fold
as they load the model: half the file at equal speed (time ratios 0.93 and 0.98 on MiniLM and magika in ONNX Runtime,
1.0 and 1.0 in OpenVINO, on an AVX2 machine whose noise was 0.08), and no arithmetic in fewer bits. With scope All the
graph computes in FLOAT16. That changed nothing more on the same CPU, for both engines widen it again; it is what
TensorRT takes its precision from: a plan for magika of 3.1 MB instead of 4.7.

FLOAT16 ends at 65504, and exporters write masks of -3.4e38. A weight that does not survive the rounding stays in
FLOAT32, and so does every node that reads or writes a tensor beyond that range on samples of the evaluation split.
What types an operator takes is asked of ONNX's own schemas: the usual converter goes by a list of operators, and made
invalid graphs of magika and MiniLM.

BFLOAT16 has FLOAT32's range in half the bits, and needs no other graph: OpenVINO computes in it on CPUs with the
instructions, if the model's details say so: 0.35 of ONNX Runtime's FLOAT32 time on MiniLM and 0.44 on magika, where
OpenVINO's own FLOAT32 took 0.86 and 1.10 (one core with AMX).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence, Set
from itertools import islice

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trimtab.api.status import BFLOAT16
from trimtab.api.techniques import CastFloat, CastScope, FloatPrecision, chosen
from trimtab_jobs.data import Array, Split
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.hardware import hardware
from trimtab_jobs.model import PRECISION, Model
from trimtab_jobs.onnx_graph import drop_unread_weights, graphs, load, read, replace_nodes, save, subgraphs
from trimtab_jobs.onnx_prepare import observe
from trimtab_jobs.parity import SAMPLES, flaw
from trimtab_jobs.techniques import Bench

LARGEST = float(np.finfo(np.float16).max)
ROUNDING = 1e-3
"""What FLOAT16 may cost a tensor, relative to its largest value. Rounding costs at most 2^-11 = 5e-4 of it, unless
values overflow, or all of them are so small that FLOAT16 has few digits left for them."""
FEW = 256
"""Smaller tensors are parameters of operators rather than weights; engines want some of those as plain constants."""
TOLERANCE = 0.1
"""An answer further off than this, relative to its largest value, is no answer. Less is for the metrics to judge."""


def cast_float(model: Model, config: CastFloat, bench: Bench) -> Model:
    """Write the model in half the bits to `bench.out`.

    Raises NotApplicable where nothing is FLOAT32 or fits FLOAT16, where the model does not survive that, and for
    BFloat16 where the CPU has no such instructions.
    """
    if chosen(config.precision) == FloatPrecision.BFLOAT16:
        return _hint(model, bench)
    given = load(model.onnx)
    if chosen(config.scope) == CastScope.WEIGHTS:
        note = _cast_weights(given)
    else:
        note = _cast_all(given, bench.splits.evaluation)
    made = save(given, bench.out, model.details)
    _check_same(model, made, bench.splits.evaluation)
    bench.note(note)
    return made


def _hint(model: Model, bench: Bench) -> Model:
    """The same model, to be computed in bfloat16."""
    if BFLOAT16.isdisjoint(hardware().flags):
        raise NotApplicable(
            f"castFloat: this CPU has neither {' nor '.join(sorted(BFLOAT16))}, and would compute as before"
        )
    shutil.copytree(model.folder, bench.out, dirs_exist_ok=True)
    bench.note("computed in bfloat16, by OpenVINO only")
    return Model(bench.out, model.format, model.details | {PRECISION: FloatPrecision.BFLOAT16}).save_manifest()


def _cast_weights(model: onnx.ModelProto) -> str:
    """Store weights in FLOAT16, a Cast behind each. Returns what was done, in words."""
    cast, left = [], []
    for graph in graphs(model.graph):
        nodes = []
        for tensor in graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < FEW:
                continue
            weight = numpy_helper.to_array(tensor)
            half = _rounded(weight)
            if half is None:
                left.append(f"{tensor.name} ({np.abs(weight).max():.3g})")
                continue
            nodes.append(_cast(f"{tensor.name}_float16", tensor.name, TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}_float16"))
            cast.append(half.size)
        replace_nodes(graph, [*nodes, *graph.node])
    if not cast:
        raise NotApplicable(f"castFloat: the model has no FLOAT32 weight that fits FLOAT16{_but(left)}")
    return f"{len(cast)} weights of {sum(cast) / 1e6:.3g}M numbers in FLOAT16{_but(left)}"


def _rounded(weight: Array) -> Array | None:
    """The weight in FLOAT16, if that is close enough to it."""
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    close = np.abs(half.astype(np.float32) - weight).max() <= ROUNDING * np.abs(weight).max()
    return half if close else None


def _cast_all(model: onnx.ModelProto, split: Split) -> str:
    """Let nodes of the outer graph compute in FLOAT16 where types and values allow it. Returns what was done, in words.

    Nodes with graphs within them stay as they are, and so do ONNX Runtime's own operators, whose types ONNX does not
    know.
    """
    floats, large = _observe(model, split)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    twins: dict[str, str] = {}
    body: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        reads, writes = _halved(node, floats - large, opsets)
        for index in reads:
            name = node.input[index]
            if name not in twins:
                twins[name] = f"{name}_float16"
                body.append(_cast(name, twins[name], TensorProto.FLOAT16))
            node.input[index] = twins[name]
        body.append(node)
        for index in writes:
            name = node.output[index]
            node.output[index] = twins[name] = f"{name}_float16"
            body.append(_cast(twins[name], name, TensorProto.FLOAT))
        count += bool(writes)
    total = len(model.graph.node)
    replace_nodes(model.graph, body)
    _fold_casts(model.graph)
    _drop_unused(model)
    if not count:
        raise NotApplicable("castFloat: the model has no node that could compute in FLOAT16")
    beyond = f"; {len(large)} tensors are beyond {LARGEST:.0f}: {', '.join(sorted(large))}"[:200] if large else ""
    return f"{count} of {total} nodes compute in FLOAT16{beyond}"


def _halved(node: onnx.NodeProto, fitting: Set[str], opsets: dict[str, int]) -> tuple[list[int], list[int]]:
    """The inputs and the outputs of a node that become FLOAT16, by their position.

    An operator's schema gives each tensor a type variable (`T`) or a type. A variable becomes FLOAT16 where the schema
    allows it and all its tensors are FLOAT32 and within range; so the scales of Resize stay FLOAT32, for one. A node
    that would write nothing in FLOAT16, such as a comparison, gains nothing and stays as it is.
    """
    if any(subgraphs(node)):
        return [], []
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return [], []
    halves = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
    reads, writes = _typed(node.input, schema.inputs), _typed(node.output, schema.outputs)
    halves -= {kind for name, kind in (*reads, *writes) if name and name not in fitting}
    halves &= {kind for name, kind in reads if name}  # or an attribute says what an output is, as Cast's
    written = [index for index, (name, kind) in enumerate(writes) if name and kind in halves]
    return [index for index, (name, kind) in enumerate(reads) if name and kind in halves and written], written


def _typed(names: Sequence[str], parameters: Sequence[onnx.defs.OpSchema.FormalParameter]) -> list[tuple[str, str]]:
    """Each tensor with its type variable; the last parameter may stand for many."""
    return [(name, parameters[min(index, len(parameters) - 1)].type_str) for index, name in enumerate(names)]


def _observe(model: onnx.ModelProto, split: Split) -> tuple[Set[str], Set[str]]:
    """The FLOAT32 tensors of the outer graph, and those with values FLOAT16 does not have, on the first samples."""
    weights = [(tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
    floats, large = set(), set()
    for name, values in (*weights, *next(split.batches(SAMPLES)).items(), *_activations(model, split)):
        if isinstance(values, np.ndarray) and values.dtype == np.float32:
            floats.add(name)
            if (np.abs(values[np.isfinite(values)]) > LARGEST).any():
                large.add(name)
    return floats, large


def _activations(model: onnx.ModelProto, split: Split) -> Iterator[tuple[str, Array]]:
    names = sorted({name for node in model.graph.node for name in node.output if name})
    session = observe(model, names, threads=1)
    for sample in islice(split.batches(1), SAMPLES):
        yield from zip(names, session.run(names, sample), strict=True)


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=to)


def _fold_casts(graph: onnx.GraphProto) -> None:
    """Store in FLOAT16 the weights that are cast to it."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    body = []
    for node in graph.node:
        if node.name.endswith("_float16_cast") and node.input[0] in weights:
            half = numpy_helper.to_array(weights[node.input[0]]).astype(np.float16)
            graph.initializer.append(numpy_helper.from_array(half, node.output[0]))
        else:
            body.append(node)
    replace_nodes(graph, body)


def _drop_unused(model: onnx.ModelProto) -> None:
    """Each tensor that became FLOAT16 was also cast back, and its weights were copied; little of that is read."""
    used = read(model)
    casts = [node for node in model.graph.node if node.op_type != "Cast" or node.output[0] in used]
    replace_nodes(model.graph, casts)
    drop_unread_weights(model)


def _check_same(model: Model, made: Model, split: Split) -> None:
    if wrong := flaw(model, made, split, TOLERANCE):
        raise NotApplicable(f"castFloat: this model does not survive FLOAT16: {wrong}")


def _but(left: list[str]) -> str:
    return f"; left in FLOAT32, as rounding would change them: {', '.join(left)}"[:300] if left else ""
