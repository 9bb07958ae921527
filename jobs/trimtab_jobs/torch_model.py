"""PyTorch models on disk: a factory in the user's code, weights in safetensors, and what pruning changed.

Nothing is pickled, neither read nor written: a model from somebody else is code one can read and numbers one can
check. The factory builds the architecture as it was designed, so a pruned module needs a record beside its weights:
`details` holds how it differs from a fresh build, sizes by module (`out_channels`, `num_features`, ...) and shapes
by tensor. torch-pruning keeps a history of cuts instead, to be traced and cut again at every load; the difference
needs no example input, no pruning library and no particular version of it, and stays as short after ten prunings.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from trimtab.api.model import ModelFormat, ModelSource
from trimtab_jobs.data import Array
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import CODE_FOLDER, WEIGHTS_FILE, Model
from trimtab_jobs.user_code import attribute

NAMED_AT_MOST = 3
"""A message names so many of the tensors that do not fit; a wrong architecture has hundreds."""


def import_source(source: ModelSource, weights: Path, code: Path | None, out: Path) -> Model:
    """Make a Model in the empty folder `out` of a user's safetensors file, factory and the .py file that holds it.

    Without `code` the factory's module must be installed. Raises InvalidInput before anything is written.
    """
    assert source.factory is not None, source
    _fill(_build(source.factory, code), weights, source.factory)
    shutil.copyfile(weights, out / WEIGHTS_FILE)
    model = Model(out, ModelFormat.PYTORCH, {"factory": source.factory})
    if code is not None:
        _code_file(model).parent.mkdir()
        shutil.copyfile(code, _code_file(model))
    return model.save_manifest()


def load(model: Model) -> torch.nn.Module:
    """The module, in evaluation mode. Raises InvalidInput if the code or the weights no longer fit the record."""
    module = _fresh(model)
    _resize(module, model.details.get("sizes", {}), model.details.get("shapes", {}))
    _fill(module, model.weights, model.details["factory"])
    return module.eval()


def save(module: torch.nn.Module, like: Model, out: Path) -> Model:
    """Write `module`, a changed module of `like`, to the empty folder `out`."""
    # Cloned, because tied weights share memory and safetensors refuses that.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    # Not save_file, whose file only its owner can read.
    (out / WEIGHTS_FILE).write_bytes(to_bytes(weights))
    if (code := like.folder / CODE_FOLDER).is_dir():
        shutil.copytree(code, out / CODE_FOLDER)
    return Model(out, ModelFormat.PYTORCH, like.details | _difference(module, _fresh(like))).save_manifest()


def to_tensors(module: torch.nn.Module, inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """A split's arrays as tensors, in the order in which `module` takes them.

    A single array may have any name; several are matched with forward's first parameters by name. Raises
    InvalidInput if they don't match.
    """
    parameters = list(inspect.signature(module.forward).parameters)
    order = parameters[: len(inputs)] if len(inputs) > 1 else list(inputs)
    if set(order) != set(inputs):
        raise InvalidInput(
            f"data: the arrays {', '.join(inputs)} are not what forward({', '.join(parameters)}) takes first: "
            "name them as its parameters"
        )
    return {name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in order}


def outputs(module: torch.nn.Module, inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """All outputs for a batch. The first is the scores."""
    found = module(*inputs)
    return list(found) if isinstance(found, tuple | list) else [found]


def _fresh(model: Model) -> torch.nn.Module:
    code = _code_file(model)
    return _build(model.details["factory"], code if code.exists() else None)


def _code_file(model: Model) -> Path:
    module_name = model.details["factory"].split(":")[0]
    return model.folder / CODE_FOLDER / f"{module_name}.py"


def _build(factory: str, code: Path | None) -> torch.nn.Module:
    """Call the factory. What goes wrong inside is the user's code, whatever it raises."""
    if code is not None and not code.is_file():
        raise InvalidInput(f"model.code: {code}: there is no such file: check the address")
    try:
        # Initial weights are drawn and thrown away: neither they nor others' draws shall depend on it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = attribute(factory, code)()
    except (Exception, SystemExit) as error:
        remedy = "" if code else ": install its module, or name the file that holds it in model.code"
        raise InvalidInput(f"model.factory {factory}: {type(error).__name__}: {error}{remedy}") from error
    if not isinstance(module, torch.nn.Module):
        raise InvalidInput(
            f"model.factory {factory} returned {type(module).__name__}: it must build and return a torch.nn.Module"
        )
    return module


def _difference(module: torch.nn.Module, fresh: torch.nn.Module) -> dict[str, Any]:
    """What must be changed in a fresh build before `module`'s weights fit it."""
    before, after = _sizes(fresh), _sizes(module)
    sizes = {
        name: {key: value for key, value in after[name].items() if value != before[name].get(key, value)}
        for name in after
    }
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    designed = {name: list(tensor.shape) for name, tensor in fresh.state_dict().items()}
    return {
        "sizes": {name: changed for name, changed in sizes.items() if changed},
        "shapes": {name: shape for name, shape in shapes.items() if shape != designed[name]},
    }


def _sizes(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """By module, every attribute that is a whole number or a tuple of them."""
    return {
        name: {key: value for key, value in vars(child).items() if _is_size(value)}
        for name, child in module.named_modules()
    }


def _is_size(value: object) -> bool:
    # `type` and not isinstance: a bool such as `training` is an int too.
    return type(value) is int or (isinstance(value, tuple) and all(type(item) is int for item in value))


def _resize(module: torch.nn.Module, sizes: dict[str, dict[str, Any]], shapes: dict[str, list[int]]) -> None:
    for name, changed in sizes.items():
        for key, value in changed.items():
            setattr(module.get_submodule(name), key, tuple(value) if isinstance(value, list) else value)
    for name, shape in shapes.items():
        owner_name, _, key = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        old = getattr(owner, key)
        new = old.detach().new_empty(shape)
        setattr(owner, key, torch.nn.Parameter(new) if isinstance(old, torch.nn.Parameter) else new)


def _fill(module: torch.nn.Module, path: Path, factory: str) -> None:
    """Load the weights, all of them and nothing else."""
    weights = _read(path)
    expected = module.state_dict(keep_vars=True)
    # safetensors.torch.save_model writes tied tensors once, under one of their names.
    tied = {id(tensor): weights[name] for name, tensor in expected.items() if name in weights}
    weights = {name: tied[id(tensor)] for name, tensor in expected.items() if id(tensor) in tied} | weights
    reshaped = [
        f"{name} {list(weights[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    complaints = [
        _complaint("missing", [name for name in expected if name not in weights]),
        _complaint("unexpected", [name for name in weights if name not in expected]),
        _complaint("other shapes", reshaped),
    ]
    if any(complaints):
        raise _refuse(
            path,
            f"its tensors do not fit model.factory {factory} ({'; '.join(filter(None, complaints))}): "
            "give the weights and the code of the same model",
        )
    module.load_state_dict(weights)


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise _refuse(path, "there is no such file: check the address")
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _refuse(
            path, f"not a safetensors file, or a truncated one ({error}): write it with safetensors.torch.save_model"
        ) from None
    return weights


def _complaint(what: str, names: list[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return f"{what}: {', '.join(names[:NAMED_AT_MOST])}{more}" if names else ""


def _refuse(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(f"model.uri: {path}: {problem}")
