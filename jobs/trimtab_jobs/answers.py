"""What a model answered to a split, remembered, so that it is run once however often others are compared with it.

A guarded quantization asks a dozen times how far a model is from the original, and half of that time was the original
answering the same samples again. Its answers lie in a file without a name, which goes with the process, and are read
back batch by batch: memory does not grow with the number of samples. What does not fit that (answers whose shape
follows from the sample, text, more than LIMIT bytes, a full disk) is run again each time.
"""

from __future__ import annotations

from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from trimtab_jobs.data import Array, Split
from trimtab_jobs.engines import Session

LIMIT = 2**30
"""Bytes on the disk for temporary files, which a pod shares with the other pods of its node."""


class Answers:
    """One session's answers to one split."""

    def __init__(self, session: Session, split: Split) -> None:
        self._session = session
        self._samples = len(split)
        self._file: IO[bytes] | None = None
        self._form = np.dtype([])
        """Of one sample: a field for each output."""
        self._kept = 0
        """The answers to so many first samples are in the file."""
        self._given_up = False

    def to(self, inputs: dict[str, Array], start: int) -> list[Array]:
        """The outputs for a batch of the split that begins at sample `start`. Raises as `Session.run` does."""
        count = len(next(iter(inputs.values())))
        if self._file and start + count <= self._kept:
            return self._read(self._file, start, count)
        outputs = self._session.run(inputs)
        if start == self._kept and not self._given_up:
            self._given_up = not self._keep(outputs, count)
        return outputs

    def _read(self, file: IO[bytes], start: int, count: int) -> list[Array]:
        file.seek(start * self._form.itemsize)
        rows = np.fromfile(file, self._form, count)
        fields = (rows[name] for name in self._form.names or ())
        return [np.array(field[0] if count == 1 else field[:, 0]) for field in fields]

    def _keep(self, outputs: list[Array], count: int) -> bool:
        """Whether the outputs could be added to the file."""
        form = _form(outputs, count)
        if form is None or form.itemsize * self._samples > LIMIT or (self._kept and form != self._form):
            return False
        rows = np.empty(count, form)
        for name, output in zip(form.names or (), outputs, strict=True):
            rows[name] = output.reshape(rows[name].shape)
        with suppress(OSError):
            self._file = self._file or TemporaryFile()  # noqa: SIM115 (it lives as long as this does)
            self._file.seek(self._kept * form.itemsize)
            rows.tofile(self._file)
            self._file.flush()
            self._form = form
            self._kept += count
            return True
        return False


def _form(outputs: list[Array], count: int) -> np.dtype[np.void] | None:
    """One sample's outputs as fields, each as it is when that sample is run alone; None if they can't be told apart."""
    fields = []
    for index, output in enumerate(outputs):
        if output.dtype.kind not in "fiub" or (count > 1 and (output.ndim == 0 or len(output) != count)):
            return None
        shape = output.shape if count == 1 else (1, *output.shape[1:])
        fields.append((str(index), output.dtype, shape))
    size = sum(output.nbytes for output in outputs) // count
    return np.dtype(fields) if size <= LIMIT else None  # numpy refuses a form of more than 2 GiB
