"""One published revision in memory: it answers rows, and watches whether they still look like its reference."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.api.model import EngineName
from trimtab_jobs import signature
from trimtab_jobs.data import Array
from trimtab_jobs.drift.detector import Detector
from trimtab_jobs.drift.profile import Profile, load_profile
from trimtab_jobs.engines import EngineOptions, Session, engine
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.model import open_model
from trimtab_jobs.publish import PROFILE
from trimtab_jobs.serve.capture import Capture
from trimtab_jobs.signature import Input

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Revision:
    """What `current.json` points at. A model published again for new data is a new revision of the same digest."""

    digest: str
    profile: str
    path: str
    engine: EngineName

    @property
    def id(self) -> str:
        return f"{self.digest}/{self.profile}"


@dataclass(frozen=True)
class Options:
    """How revisions are served."""

    threads: int
    window: int
    capture: SharedFolder | None
    capture_rows: int


def read_revision(text: str) -> Revision:
    """The content of `current.json`. Raises ValueError if it names no model."""
    content = json.loads(text)
    try:
        return Revision(content["digest"], content["profile"], content["path"], EngineName(content["engine"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None


class Served:
    """A loaded revision. `run` and `observe` are for one thread; the attributes may be read from any.

    Raises InvalidInput, OSError or NotExecutable if the folder holds no model that its engine can run here.
    """

    def __init__(self, folder: Path, revision: Revision, options: Options, background: Executor) -> None:
        model = open_model(folder / revision.path)
        self.revision = revision
        self.format = model.format
        self.inputs = signature.inputs(model)
        self.outputs = signature.outputs(model)
        self.score: float | None = None
        """The drift score; None while the window fills."""
        self._profile = _profile_for(self.inputs, model.folder / PROFILE)
        self._detector = Detector(self._profile, options.window)
        self._session = engine(revision.engine).load(model, EngineOptions(threads=options.threads))
        self.capture: Capture | None = None
        if options.capture:
            self.capture = Capture(options.capture, options.capture_rows, revision.id, background)
        _warm_up(self._session, self.inputs)

    @property
    def threshold(self) -> float:
        return self._detector.threshold

    @property
    def window_rows(self) -> int:
        return self._detector.rows

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The outputs by name. Raises InvalidInput where the engine refuses the rows."""
        return dict(zip((spec.name for spec in self.outputs), self._session.run(inputs), strict=True))

    def observe(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        """Take rows and their answers into the drift window, and into the capture if they drift."""
        was = self._drifted
        self._detector.update(self._profile.codes(inputs, outputs[self.outputs[0].name]))
        self.score = self._detector.score
        if self._drifted and not was:
            log.info("drift score %.3g above %.3g, most in %s", self.score, self.threshold, self._detector.column)
        if self.capture:
            self.capture.observe(inputs, self._drifted)

    @property
    def _drifted(self) -> bool:
        return self.score is not None and self.score > self.threshold


def _profile_for(inputs: list[Input], path: Path) -> Profile:
    profile = load_profile(path)
    watched, names = profile.columns.widths.keys(), {spec.name for spec in inputs}
    if watched != names:
        raise InvalidInput(f"{path}: it watches {sorted(watched)}, and the model takes {sorted(names)}: publish again")
    return profile


def _warm_up(session: Session, inputs: list[Input]) -> None:
    """The first run allocates, and should not be somebody's request. A model that wants other sizes stays cold."""
    shapes = {spec.name: [size if isinstance(size, int) else 1 for size in spec.shape] for spec in inputs}
    with suppress(InvalidInput):
        session.run({spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in inputs})
