"""Look at a model and its data before there is a job: `python -m trimtab_jobs.look MODEL DATA FOLDER`.

What is seen is printed as one JSON document (`trimtab.api.look.Look`). What Inspect would refuse is refused here
already, in one line on standard error and with exit code 2, so `trimtab optimize` and `trimtab init` never write a job
that cannot run. Splits that DATA lacks are dealt from its evaluation split into FOLDER (`trimtab_jobs.deal`).
MODEL and DATA may be elsewhere: they are fetched to where the job's pods will look for them.
"""

from __future__ import annotations

import argparse
import posixpath
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from trimtab.api.look import Look
from trimtab.api.metrics import Metrics
from trimtab.api.model import URI, EngineName, Metric, ModelFormat, ModelSource, is_address, is_local, scheme_of
from trimtab.api.work import INVALID_INPUT_EXIT
from trimtab_jobs.data import Split, read_split
from trimtab_jobs.deal import choose_files, complete, split_files
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import InvalidInput, Temporary
from trimtab_jobs.files import FULL, SharedFolder
from trimtab_jobs.hardware import hardware
from trimtab_jobs.inputs import fetch
from trimtab_jobs.metrics import choose
from trimtab_jobs.model import Model
from trimtab_jobs.onnx_model import external_files, import_source, operators
from trimtab_jobs.remote import again, locate, told
from trimtab_jobs.signature import inputs, outputs
from trimtab_jobs.soundness import check_metrics, check_splits
from trimtab_jobs.store import resolve

LIBRARIES = {EngineName.ONNXRUNTIME: "onnxruntime", EngineName.OPENVINO: "openvino"}
"""The engines that run models here, by the library they need. TensorRT only builds."""
_PICKLED = "a pickled module, which is never loaded: save its weights as .safetensors and write a job, or export ONNX"
OTHERS = {
    ".safetensors": "weights without their architecture: write a job with model.format PyTorch and model.factory",
    ".pt": _PICKLED,
    ".pth": _PICKLED,
    ".xml": "OpenVINO's own format, which is made here and not read: give the ONNX model that it was made from",
}


def main(arguments: list[str] | None = None) -> int:
    """Look, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trimtab_jobs.look", description="Look at a model and its data.")
    parser.add_argument("model", help="a path, or an address that is fetched into the store beside FOLDER")
    parser.add_argument("data", help="likewise; a file, or a folder with one for each split")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", type=Metric)
    given = parser.parse_args(arguments)
    try:
        cache = partial(SharedFolder, given.folder.parent / "store", "--out")
        model, data = _model_here(given.model, cache), _data_here(given.data, cache)
        seen = look(model, data, _dealt(data, given.folder), given.metric)
    except (InvalidInput, Temporary) as refused:
        return _refuse(str(refused))
    except OSError as error:
        if error.errno not in FULL and not isinstance(error, PermissionError):
            raise
        remedy = "free space" if error.errno in FULL else "let this user read and write it"
        return _refuse(f"{error.filename or given.folder}: {error.strerror}: {remedy}")
    sys.stdout.write(seen.model_dump_json(by_alias=True, indent=1) + "\n")
    return 0


@dataclass(frozen=True)
class Place:
    """A split's file on this machine, and the address it was fetched from, if any."""

    path: Path
    address: str = ""


def _model_here(model: str, cache: Callable[[], SharedFolder]) -> Path:
    return fetch(_checked(model, "MODEL"), "MODEL", cache(), external_files) if is_address(model) else Path(model)


def _data_here(data: str, cache: Callable[[], SharedFolder]) -> dict[str, Place]:
    """The splits that somebody made, as `split_files` finds them."""
    if not is_address(data) or is_local(data):
        folder = resolve(_checked(data, "--data"), "--data") if is_address(data) else Path(data)
        return {name: Place(path) for name, path in split_files(folder).items()}
    addresses = _addresses(_checked(data, "--data").rstrip("/"))
    return {name: Place(fetch(uri, "--data", cache()), uri) for name, uri in addresses.items()}


def _addresses(data: str) -> dict[str, str]:
    """Those of the splits, one for each. The web has no folders."""
    if data.endswith(".npz") or scheme_of(data) in ("http", "https"):
        return {"evaluation": data}
    files, address = locate(data, "--data")
    with told(data, "--data"):
        there = [posixpath.basename(name) for name in again(partial(files.ls, address, detail=False))]
    return {name: f"{data}/{name}.npz" for name in choose_files(data, there)}


def _checked(address: str, field: str) -> str:
    try:
        return URI.check(address)
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}") from None


def _dealt(data: Mapping[str, Place], folder: Path) -> Path:
    """Where splits are dealt: for what was fetched, its version has a folder of its own."""
    evaluation = data["evaluation"]
    return folder / evaluation.path.parent.name[:12] if evaluation.address else folder


def _refuse(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return INVALID_INPUT_EXIT


def look(path: Path, data: Mapping[str, Place], folder: Path, metric: Metric | None = None) -> Look:
    """See what a model is and which splits there are. Raises InvalidInput as Inspect does."""
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        model = _import(path, Path(scratch))
        given = {name: read_split(name, place.path) for name, place in data.items()}
        metric = _check(list(given.values()), model, metric, path)
        splits = complete(given, folder)
        labels = splits["evaluation"].labels
        return Look(
            format=model.format,
            size=model.size,
            inputs={one.name: one.form for one in inputs(model)},
            outputs={one.name: one.form for one in outputs(model)},
            operators=operators(model.onnx),
            data={name: _source(data.get(name), split) for name, split in splits.items()},
            samples={name: len(split) for name, split in splits.items()},
            labels="" if labels is None else f"{labels.dtype}[{','.join(['N', *map(str, labels.shape[1:])])}]",
            metric=metric,
            engines=[name for name, library in LIBRARIES.items() if find_spec(library)],
            hardware=hardware(),
        )


def _source(place: Place | None, split: Split) -> str:
    """What a job calls a split by: the address it was fetched from, unless another was dealt from it."""
    fetched = place is not None and place.address and str(place.path) == split.file
    return place.address if place and fetched else str(Path(split.file).resolve())


def _import(path: Path, scratch: Path) -> Model:
    if path.suffix in OTHERS:
        raise InvalidInput(f"{path}: {OTHERS[path.suffix]}")
    source = ModelSource(uri=path.resolve().as_uri(), format=ModelFormat.ONNX)
    return import_source(source, path, None, scratch)


def _check(splits: list[Split], model: Model, metric: Metric | None, path: Path) -> Metric:
    """The metric to promise. Raises InvalidInput where splits do not fit the model or the metric, or share samples."""
    check_splits(splits, inputs(model))
    evaluation = next(split for split in splits if split.name == "evaluation")
    session = engine(EngineName.ONNXRUNTIME).load(model, EngineOptions())
    first = session.run(next(evaluation.batches(1)))
    chosen = metric or choose(evaluation, first)
    check_metrics([chosen], Metrics(), splits, first, str(path))
    return chosen


if __name__ == "__main__":
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings would be lines beside the one that counts
    sys.exit(main())
