"""From one model format to another, with proof that the model is still the same.

An export is believed after ONNX Runtime has given the module's own answers on samples of the job's data, in two batch
sizes. What is written follows from the model alone: everything an exporter adds about where and how it ran is
removed, so the same model converted twice has the same digest.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.data import Array, Split, Splits
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.parity import difference

if TYPE_CHECKING:
    import torch

SAMPLES = 8
"""The batch that an export is traced with and compared on. Not 1: the exporter would take 1 for a constant."""
TOLERANCE = 1e-4
"""The largest difference allowed, relative to the largest output. Float32 summed in another order made 5e-7 of it in
the digits example."""
OPSET = 18
"""What torch.onnx writes; any other opset goes through a version converter afterwards."""
BATCH_AXIS = "N"
ORIGIN = frozenset({"doc_string", "metadata_props", "producer_name", "producer_version"})
"""Fields of an ONNX model that hold stack traces, paths and versions."""


def convert(model: Model, to: ModelFormat, out: Path, splits: Splits) -> Model:
    """Write the same model in the format `to` to the empty folder `out`.

    The first samples of `splits.evaluation` lend their shapes and are compared on; what is written does not depend
    on them. Raises NotApplicable where no conversion exists, InvalidInput where the model does not allow it.
    """
    conversion = CONVERSIONS.get((model.format, to))
    if conversion is None:
        raise NotApplicable(
            f"a step needs a {to} model and gets {model.format}, which cannot be turned back: "
            "put the steps that prune or train first, and the one that writes OpenVINO last"
        )
    return conversion(model, out, splits.evaluation)


def _torch_to_onnx(model: Model, out: Path, split: Split) -> Model:
    """Export with torch.onnx, which also folds batch normalization into the convolution before it."""
    from trimtab_jobs import torch_model

    module, factory = torch_model.load(model), model.details["factory"]
    example = {name: array.take(range(SAMPLES), axis=0, mode="wrap") for name, array in split.inputs.items()}
    inputs = torch_model.to_tensors(module, example)
    answers = _answers(module, inputs, factory)
    proto = _export(module, inputs, len(answers), factory)
    _forget_origin(proto)
    converted = Model(out, ModelFormat.ONNX)
    converted.onnx.write_bytes(proto.SerializeToString(deterministic=True))
    _check_same(converted, example, answers, factory)
    return converted.save_manifest()


CONVERSIONS: dict[tuple[ModelFormat, ModelFormat], Callable[[Model, Path, Split], Model]] = {
    (ModelFormat.PYTORCH, ModelFormat.ONNX): _torch_to_onnx,
}


def _answers(module: torch.nn.Module, inputs: dict[str, torch.Tensor], factory: str) -> list[Array]:
    """The module's outputs, in the order in which an export has them."""
    import torch

    from trimtab_jobs.torch_model import outputs

    try:
        with torch.no_grad():
            return [tensor.numpy() for tensor in outputs(module, inputs.values())]
    except Exception as error:  # it is the user's code
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        raise InvalidInput(
            f"model.factory {factory}: its module fails on samples of data.evaluation ({shapes}): "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error


def _export(module: torch.nn.Module, inputs: dict[str, torch.Tensor], outputs: int, factory: str) -> Any:
    """The ModelProto, weights included. The first axis of every input is free and counts samples."""
    import torch

    # It would tell every pod's log that torchvision is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    axis = torch.export.Dim(BATCH_AXIS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is its own: deprecations, names of axes
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[f"output_{index}" for index in range(outputs)] if outputs > 1 else ["output"],
                dynamic_shapes=tuple({0: axis} for _ in inputs),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's own errors share no public base class
        raise InvalidInput(
            f"model.factory {factory}: torch.onnx cannot export its module ({_first_line(_root(error))}): "
            "use operators that ONNX has, and no Python branch that depends on the data or on the batch size"
        ) from error
    return program.model_proto


def _forget_origin(message: Any) -> None:
    """Clear the fields named in ORIGIN in a protobuf message and all messages within it."""
    for field, value in message.ListFields():
        if field.name in ORIGIN:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                _forget_origin(inner)


def _check_same(model: Model, example: dict[str, Array], answers: list[Array], factory: str) -> None:
    """Raise InvalidInput unless ONNX Runtime answers as the module did, for the whole batch and for one sample."""
    session = engine(EngineName.ONNXRUNTIME).load(model, EngineOptions())
    for samples in (SAMPLES, 1):
        outputs = session.run({name: array[:samples] for name, array in example.items()})
        for answer, output in zip(answers, outputs, strict=True):
            off = difference(answer[:samples], output)
            if not off <= TOLERANCE:  # so that NaN is a difference too
                raise InvalidInput(
                    f"model.factory {factory}: exported to ONNX its module answers differently, by {off:.1g} "
                    f"of its largest output for a batch of {samples}: let no sample depend on others or on chance"
                )


def _root(error: BaseException) -> BaseException:
    """The exception that caused the others."""
    return error if error.__cause__ is None else _root(error.__cause__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
