"""The Open Inference Protocol (v2), JSON form: requests to arrays, arrays to responses.

https://github.com/kserve/open-inference-protocol. Everything a client can get wrong is found here, before a model is
asked, and told in one line with its place in the request. An array that passes has the graph's dtype and shape and
finite numbers; a silent cast would serve answers to a question that nobody asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from trimtab_jobs.data import Array
from trimtab_jobs.signature import Input

DTYPES = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"} | {
    f"{kind.upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""Which kinds of JSON values a dtype takes: numbers are no booleans, and fractions no integers."""


class Refused(Exception):
    """The request cannot be answered. `code` is the HTTP status."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Request:
    inputs: dict[str, Array]
    outputs: list[str]
    """The names that were asked for, in that order; empty for all."""
    id: str | None = None


def read_request(body: bytes, signature: Sequence[Input]) -> Request:
    """Parse an inference request for a graph with these inputs. Raises Refused."""
    content = _object(body)
    given = {_name(tensor, f"inputs[{i}]"): tensor for i, tensor in enumerate(_list(content, "inputs"))}
    wanted = {spec.name: spec for spec in signature}
    if given.keys() != wanted.keys():
        raise Refused(f"inputs: {_names(given)} given, and the model takes {_names(wanted)}")
    arrays = {name: _array(given[name], spec) for name, spec in wanted.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        raise Refused("inputs: the first axis counts rows, and must be the same for all inputs")
    outputs = [_name(tensor, f"outputs[{i}]") for i, tensor in enumerate(_list(content, "outputs", optional=True))]
    return Request(arrays, outputs, content.get("id"))


def write_response(model: str, version: str, request: Request, outputs: dict[str, Array]) -> bytes:
    """The answer. Raises Refused for an output that was asked for and is not there, or that JSON cannot carry."""
    unknown = [name for name in request.outputs if name not in outputs]
    if unknown:
        raise Refused(f"outputs: there is no {unknown[0]!r}: the model has {_names(outputs)}")
    chosen = {name: outputs[name] for name in request.outputs or outputs}
    tensors = [
        {"name": name, "datatype": datatype(array.dtype), "shape": array.shape, "data": array.ravel().tolist()}
        for name, array in chosen.items()
    ]
    answer = {"model_name": model, "model_version": version, "outputs": tensors}
    if request.id is not None:
        answer["id"] = request.id
    try:
        return json.dumps(answer, allow_nan=False).encode()
    except ValueError:
        raise Refused("the model answered NaN or infinity, which JSON cannot carry", 500) from None


def datatype(dtype: object) -> str:
    """The protocol's name of a dtype: `FP32` for `float32`; whatever it has no name for is `BYTES`."""
    return DATATYPES.get(str(dtype), "BYTES")


def _array(tensor: dict[str, Any], spec: Input) -> Array:
    place = f"inputs.{spec.name}"
    if tensor.get("datatype") != datatype(spec.dtype):
        raise Refused(f"{place}.datatype: {tensor.get('datatype')!r} is not {datatype(spec.dtype)}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise Refused(f"{place}.shape: {shape!r} is not a list of sizes above 0")
    if not spec.accepts(shape) or (spec.shape[0] == 1 and shape[0] != 1):
        raise Refused(f"{place}.shape: {shape} does not fit {spec.form}")
    return _numbers(tensor.get("data"), np.dtype(spec.dtype), shape, f"{place}.data")


def _numbers(data: object, dtype: np.dtype[Any], shape: list[int], place: str) -> Array:
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError):
        raise Refused(f"{place}: its lists are not of one length") from None
    if found.dtype.kind not in _KINDS.get(dtype.kind, ""):
        raise Refused(f"{place}: it holds something else than numbers that fit {datatype(dtype)}")
    if found.size != np.prod(shape, dtype=object):
        raise Refused(f"{place}: {found.size} values do not fill the shape {shape}")
    with np.errstate(over="ignore"):
        array = found.astype(dtype).reshape(shape)
    same = np.isfinite(array) if dtype.kind == "f" else array.ravel() == found.ravel()
    if not same.all():
        raise Refused(f"{place}: a value is out of the range of {datatype(dtype)}")
    return array


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refused("the body is not a JSON object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _list(content: dict[str, Any], key: str, optional: bool = False) -> list[Any]:
    found = content.get(key, [] if optional else None)
    if not isinstance(found, list):
        raise Refused(f"{key}: {'not a list' if key in content else 'missing'}: give a list of tensors")
    return found


def _name(tensor: object, place: str) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise Refused(f"{place}: it is no tensor with a name")
    return name


def _names(named: dict[str, Any]) -> str:
    return ", ".join(named) or "nothing"
