"""Writing into a folder that others share: every file and folder appears under its final name whole, or not at all.

Each is written under a name of its own in `.tmp/`, flushed to disk, and renamed, which is one step in one file
system. A pod killed at any moment leaves rubbish in `.tmp/` only, and the next ones sweep it.

Whoever shares the folder may have put a link where ours go; none is followed out of it.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab_jobs.errors import InvalidInput, OutOfSpace, Temporary

_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
_RUBBISH_AGE = 24 * 3600.0
"""Seconds after which nobody writes a temporary file any more: a pod's `activeDeadline` is hours at the most."""


class SharedFolder:
    """A folder to write into. Raises InvalidInput where it is not writable, Temporary where it is not writable now.

    Links are looked at before each write, not during it: who puts one there in that moment is not caught.

    `field` is the Task's name for it, for messages.
    """

    def __init__(self, root: Path, field: str) -> None:
        self.root = root
        self._field = field
        with self._told():
            self._make(self._tmp)
            _sweep(self._tmp)

    @property
    def _tmp(self) -> Path:
        return self.root / ".tmp"

    def place(self, folder: Path, name: str) -> bool:
        """Copy a folder to `name`, unless something is there. Whether it was copied.

        Two pods may race: renaming onto a folder with files in it fails, and the first one's copy stays.
        """
        if (self.root / name).exists():
            return False
        with self.scratch() as scratch:
            _copy(folder, scratch)
            return self.adopt(scratch, name)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder in the same file system, to fill and then to `adopt`; gone afterwards."""
        scratch = self._tmp / uuid.uuid4().hex
        with self._told():
            try:
                self._make(scratch)
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def adopt(self, scratch: Path, name: str) -> bool:
        """Give a `scratch` folder its final name, unless something has it. Whether it did."""
        final = self.root / name
        with self._told():
            for path in scratch.rglob("*"):
                if path.is_file():
                    _flush(path)
            self._make(final.parent)
            try:
                scratch.rename(final)
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                raise
        return True

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file, replacing the one that is there."""
        final, scratch = self.root / name, self._tmp / uuid.uuid4().hex
        with self._told():
            try:
                self._make(final.parent)
                scratch.write_bytes(content.encode() if isinstance(content, str) else content)
                _flush(scratch)
                scratch.rename(final)
            finally:
                scratch.unlink(missing_ok=True)

    def used(self, name: str) -> None:
        """Somebody needs what is there: `clean` leaves it for as long again. A folder of others' may not be told."""
        with suppress(OSError):
            os.utime(self.root / name)

    def clean(self, places: Iterable[str], seconds: float) -> int:
        """Remove what has not been used for so long from folders in this one; how many were removed.

        Each is given another name first, so that whoever looks for it finds it whole or not at all.
        """
        before = time.time() - seconds
        with self._told():
            return sum(self._removed(path, before) for place in places for path in self._in(place))

    def _removed(self, path: Path, before: float) -> bool:
        rubbish = self._tmp / uuid.uuid4().hex
        try:
            if path.lstat().st_mtime >= before:
                return False
            path.rename(rubbish)
        except FileNotFoundError:  # another pod cleans as well
            return False
        _remove(rubbish)
        return True

    def _in(self, place: str) -> list[Path]:
        folder = self.root / place
        return sorted(folder.iterdir()) if folder.is_dir() and self._holds(folder) else []

    def _holds(self, folder: Path) -> bool:
        return folder.resolve().is_relative_to(self.root.resolve())

    def _make(self, folder: Path) -> None:
        """Have a folder in this one."""
        if not self._holds(folder):
            raise InvalidInput(f"{self._field}: {folder} leads out of {self.root} by a link: remove the link")
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = f"{self._field}: {self.root}"
            if error.errno in _NOT_ALLOWED:
                raise InvalidInput(f"{place} cannot be written ({error}): mount it writable for this user") from None
            if error.errno in FULL:
                raise OutOfSpace(f"{place} cannot be written ({error.strerror}): free space, or name another") from None
            raise Temporary(f"{place} cannot be written now ({error}): mend the volume") from None


def _copy(folder: Path, to: Path) -> None:
    for path in sorted(folder.rglob("*")):
        copy = to / path.relative_to(folder)
        if path.is_dir():
            copy.mkdir()
        else:
            shutil.copyfile(path, copy)


def _flush(path: Path) -> None:
    """To disk before the rename: after a power cut, a renamed file may otherwise be empty."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sweep(tmp: Path) -> None:
    for path in tmp.iterdir():
        try:
            old = time.time() - path.stat().st_mtime > _RUBBISH_AGE
        except FileNotFoundError:  # another pod's, renamed since it was listed
            continue
        if old:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
