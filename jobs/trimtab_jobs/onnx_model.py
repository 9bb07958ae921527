"""ONNX models at the edge: from a file somebody made to a `Model` that every engine and technique may trust.

What can be wrong with such a file is told here, once, in one line with the remedy: ONNX Runtime loads the graph
unoptimized, and its refusals are turned into words by the table `_REFUSALS`. External data is copied beside the
graph, so that a Model is one folder, whole.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from trimtab.api.model import ModelFormat, ModelSource
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import MANIFEST, ONNX_FILE, Model
from trimtab_jobs.signature import Input

_REFUSALS = (
    (r"till opset (\d+)", "its opset is newer than {0}, the newest that ONNX Runtime runs: export it with opset {0}"),
    (r"max supported IR version: (\d+)", "its IR version is newer than {0}: save it with an older onnx"),
    (
        r"(\S+)\(-?\d+\) is not a registered function/op",
        "it uses the custom operator {0}, which no engine here has: export it with standard ONNX operators",
    ),
    (r"No Op registered for (\S+)", "ONNX has no operator {0} in its opset: export it with standard ONNX operators"),
)


def import_source(_source: ModelSource, path: Path, _code: Path | None, out: Path) -> Model:
    """Copy the model at `path` into the folder `out`, external data included. An ONNX model has no code.

    Raises InvalidInput unless it is an ONNX model that ONNX Runtime can load and a split can feed.
    """
    for name in external_files(path):
        data = path.parent / name
        if not data.is_file() or not data.resolve().is_relative_to(path.parent.resolve()):
            raise _refuse(path, f"its external data {name!r} is not beside it: put it there, or save in one file")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, out / name)
    shutil.copyfile(path, out / ONNX_FILE)
    _check_loads(out / ONNX_FILE, path)
    graph = _parse(out / ONNX_FILE).graph
    _check_types(graph, path)
    _check_inputs(graph, path)
    return Model(out, ModelFormat.ONNX).save_manifest()


def is_copy(folder: Path, path: Path) -> bool:
    """Whether `import_source` made the folder of the model at `path` as it is now, without reading its graph again."""
    sources = {ONNX_FILE: path}
    copies = (copy.relative_to(folder).as_posix() for copy in folder.rglob("*") if copy.is_file())
    sources |= {name: path.parent / name for name in copies if name not in (ONNX_FILE, MANIFEST)}
    return all(file.is_file() and filecmp.cmp(file, folder / name, shallow=False) for name, file in sources.items())


def external_files(path: Path) -> list[str]:
    """The files that a graph keeps tensors in, relative to its folder. Raises InvalidInput where it is no graph."""
    return _external_files(_parse(path).graph)


def inputs(model: Path) -> list[Input]:
    """What a split must feed: the inputs of the graph that no initializer fills."""
    return _fed(_parse(model).graph)


def _fed(graph: Any) -> list[Input]:
    constants = {initializer.name for initializer in graph.initializer}
    return [_described(value) for value in graph.input if value.name not in constants]


def outputs(model: Path) -> list[Input]:
    """What the graph answers with, in its order, described as its inputs are."""
    return [_described(value) for value in _parse(model).graph.output]


def operators(model: Path) -> dict[str, int]:
    """How many nodes of each operator, the most frequent first; operators of other domains by their full name."""
    from trimtab_jobs.onnx_graph import graphs

    nodes = (node for graph in graphs(_parse(model).graph) for node in graph.node)
    counts = Counter(f"{node.domain}:{node.op_type}" if node.domain else str(node.op_type) for node in nodes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check_loads(model: Path, title: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # the exception says it; a log line beside it would be a second message
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise _refuse(title, _explain(str(error))) from None


def _check_types(graph: Any, title: Path) -> None:
    """Splits are arrays of numbers, and so is what answers are compared as."""
    from onnx import TensorProto

    for value in (*graph.input, *graph.output):
        kind = value.type.WhichOneof("value") or "tensor_type"
        if kind != "tensor_type":
            what = kind.removesuffix("_type")
            remedy = "export it with tensors only; from scikit-learn, with zipmap=False"
            raise _refuse(title, f"{value.name!r} is a {what} and no tensor: {remedy}")
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.STRING:
            raise _refuse(
                title, f"input {value.name!r} takes strings: leave what makes numbers of them out of the graph"
            )


def _check_inputs(graph: Any, title: Path) -> None:
    given = _fed(graph)
    if not given:
        raise _refuse(title, "its graph has no inputs: export it with the data as an input")
    for one in given:
        if not one.shape or (isinstance(one.shape[0], int) and one.shape[0] != 1):
            raise _refuse(title, f"input {one} has a fixed batch: export it with a dynamic first axis")


def _parse(path: Path) -> Any:
    """The ModelProto without its external data."""
    import onnx

    if not path.is_file():
        raise _refuse(path, "there is no such file: check the address")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, or the file system's
        raise _refuse(path, f"not a whole ONNX model ({error}): export it again") from None
    if not model.graph.node:
        raise _refuse(path, "its graph is empty: export it again")
    return model


def _described(value: Any) -> Input:
    from onnx import helper

    tensor = value.type.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Input(value.name, dtype, tuple(_size(axis, dim) for axis, dim in enumerate(tensor.shape.dim)))


def _size(axis: int, dim: Any) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    return "N" if axis == 0 else dim.dim_param or "?"


def _external_files(graph: Any) -> list[str]:
    """The files its tensors are in, relative to the model's folder."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    from trimtab_jobs.onnx_graph import graphs

    tensors = []
    for one in graphs(graph):
        tensors += one.initializer
        for attribute in (attribute for node in one.node for attribute in node.attribute):
            tensors += [attribute.t, *attribute.tensors]
    return sorted({ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)})


def _explain(refusal: str) -> str:
    for pattern, words in _REFUSALS:
        if match := re.search(pattern, refusal):
            return words.format(*(group.rstrip(".") for group in match.groups()))
    what = refusal.strip().splitlines()[0].split(" failed:")[-1]
    return f"ONNX Runtime refuses it ({what[:300]}): check it with onnx.checker, and export it again"


def _refuse(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(f"model.uri: {path}: {problem}")
