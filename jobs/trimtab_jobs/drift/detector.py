"""The detector: how far the last rows of a stream are from the reference.

It holds the bin numbers of the last W rows in a ring and their counts, so that a batch costs its own rows and the
score is that of exactly the window, however the rows were batched. A full window has a fixed size, so what each bin
adds to the score is looked up by its count: a logarithm per bin and request would cost more than small models do.
"""

from __future__ import annotations

import numpy as np

from trimtab_jobs.data import Array
from trimtab_jobs.drift.calibration import BINS, bias, divergence
from trimtab_jobs.drift.profile import Profile
from trimtab_jobs.errors import InvalidInput

_BINS = BINS + 2
"""The bins, and one that counts the empty places of a ring that is not full yet."""


class Detector:
    """A sliding window over the rows of one stream. Not thread-safe.

    `window` must be one that the profile has a threshold for; otherwise InvalidInput names those.
    """

    def __init__(self, profile: Profile, window: int) -> None:
        if window not in profile.thresholds:
            raise InvalidInput(f"window: {window} is not calibrated: choose one of {sorted(profile.thresholds)}")
        self.threshold = profile.thresholds[window]
        self.window = window
        self.rows = 0
        """How many rows the window holds."""
        self._names = profile.columns.names
        self._places = np.arange(len(self._names)) * _BINS
        self._ring = np.full((window, len(self._names)), _BINS - 1, np.uint8)
        self._next = 0
        self._counts = self._count(self._ring)
        self._terms, self._bias = _table(profile.counts, window)

    def update(self, codes: Array) -> None:
        """Take in rows by their bin numbers (`Profile.codes`), uint8 [rows, columns], the oldest first."""
        codes = codes[-self.window :]
        places = (self._next + np.arange(len(codes))) % self.window
        self._counts += self._count(codes) - self._count(self._ring[places])
        self._ring[places] = codes
        self._next = (self._next + len(codes)) % self.window
        self.rows = min(self.window, self.rows + len(codes))

    @property
    def score(self) -> float | None:
        """The largest debiased PSI of any column; None until the window is full."""
        return None if self.rows < self.window else float(self._scores().max())

    @property
    def column(self) -> str:
        """The name of the column with the largest score, for people who ask what drifted."""
        return self._names[int(self._scores().argmax())]

    def _count(self, codes: Array) -> Array:
        """How many rows are in each bin, int64 [columns * _BINS]."""
        return np.bincount((codes + self._places).ravel(), minlength=len(self._names) * _BINS)

    def _scores(self) -> Array:
        scores: Array = self._terms[np.arange(len(self._counts)), self._counts].reshape(-1, _BINS).sum(-1) - self._bias
        return scores


def _table(reference: Array, window: int) -> tuple[Array, Array]:
    """Each bin's part of the score by its count in a full window, [columns * _BINS, window + 1], and the bias."""
    m = reference.sum(-1, keepdims=True)
    terms = divergence(np.arange(window + 1), window, reference[..., None], m[..., None])
    padded = np.pad(terms, ((0, 0), (0, _BINS - terms.shape[1]), (0, 0)))
    return padded.reshape(-1, window + 1), bias(window, reference, m)[:, 0]
