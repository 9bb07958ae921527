"""One handle over every kind of model: a folder with a `model.json` that says what is in it.

A folder, because an ONNX model may have external data, an OpenVINO model is a graph beside its weights, and a pruned
PyTorch model is weights *and* the record of what was cut from the architecture. A technique receives a Model and
writes another into an empty folder; it never changes the one it was given.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab.api.model import MODEL_FILES, ModelFormat

MANIFEST = "model.json"
ONNX_FILE = MODEL_FILES[ModelFormat.ONNX]
WEIGHTS_FILE = MODEL_FILES[ModelFormat.PYTORCH]
IR_FILE = MODEL_FILES[ModelFormat.OPENVINO]
CODE_FOLDER = "code"
PRECISION = "precision"
"""The detail that names a FloatPrecision to compute in, where it is not the one that the graph says."""


@dataclass(frozen=True)
class Model:
    """A model on disk. `details` holds what its format needs to be loaded again, as JSON."""

    folder: Path
    format: ModelFormat
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The file that names the others, if there are others: what a loader of the format opens."""
        return self.folder / MODEL_FILES[self.format]

    @property
    def onnx(self) -> Path:
        """The ONNX file. Only for models in that format."""
        assert self.format == ModelFormat.ONNX, self.format
        return self.file

    @property
    def weights(self) -> Path:
        assert self.format == ModelFormat.PYTORCH, self.format
        return self.file

    @property
    def as_stored(self) -> Model:
        """The same files, to be computed in the precision that the graph says, which every engine can."""
        return replace(self, details={name: value for name, value in self.details.items() if name != PRECISION})

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file() and p.name != MANIFEST)

    def save_manifest(self) -> Model:
        """Write `model.json`; the last thing a technique does to its output folder."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        (self.folder / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        return self


def open_model(folder: Path) -> Model:
    """The model a folder holds, by its manifest."""
    content = json.loads((folder / MANIFEST).read_text())
    return Model(folder, ModelFormat(content["format"]), content["details"])
