"""Capture: drifted traffic, kept as the calibration split of the job that repairs the drift.

It is opt-in, and the only place where rows of requests are written down. Collecting begins when the drift score crosses
its threshold and starts over when it falls back, so a chance excursion leaves nothing. Once N rows are whole they
are written as `current.npz` and frozen, because the job that reads them pins their digest: not even a restart of
the server, or another replica with the same folder, replaces them before a new model is published. `current.json`
beside them says which revision they were captured for.
"""

from __future__ import annotations

import io
import json
import logging
from concurrent.futures import Executor

import numpy as np

from trimtab.api.names import CAPTURE_FILE
from trimtab_jobs.data import Array
from trimtab_jobs.errors import WorkFailure
from trimtab_jobs.files import SharedFolder

ABOUT_FILE = "current.json"

log = logging.getLogger(__name__)


class Capture:
    """The capture of one revision, `rows` of them at least: batches are kept whole.

    `background` does the writing, so that no request waits for a disk.
    """

    def __init__(self, folder: SharedFolder, rows: int, revision: str, background: Executor) -> None:
        self._folder = folder
        self._wanted = rows
        self._revision = revision
        self._background = background
        self._batches: list[dict[str, Array]] = []
        self._writing = False
        self.ready = self._is_taken()
        """Whether the rows are on disk and frozen."""

    def observe(self, inputs: dict[str, Array], drifted: bool) -> None:
        """See a request's rows, and whether the window that ends with them has drifted."""
        if self.ready or self._writing:
            return
        if not drifted:
            self._batches = []
            return
        self._batches.append(inputs)
        if sum(_rows(batch) for batch in self._batches) >= self._wanted:
            self._writing = True
            self._background.submit(self._write, self._batches)
            self._batches = []

    def _write(self, batches: list[dict[str, Array]]) -> None:
        try:
            if not self._is_taken():
                self._folder.write(CAPTURE_FILE, _npz(batches))
                about = {"revision": self._revision, "rows": sum(_rows(batch) for batch in batches)}
                self._folder.write(ABOUT_FILE, json.dumps(about) + "\n")
                log.info("captured %d drifted rows in %s", about["rows"], self._folder.root / CAPTURE_FILE)
            self.ready = True
        except WorkFailure as failure:
            log.error("%s; collecting anew", failure)
        finally:
            self._writing = False

    def _is_taken(self) -> bool:
        """Whether rows were captured for this revision before, or by another replica."""
        try:
            about = json.loads((self._folder.root / ABOUT_FILE).read_text())
        except (OSError, ValueError):
            return False
        return isinstance(about, dict) and about.get("revision") == self._revision


def _rows(batch: dict[str, Array]) -> int:
    return len(next(iter(batch.values())))


def _npz(batches: list[dict[str, Array]]) -> bytes:
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its flag allow_pickle
    return buffer.getvalue()
