"""A store in a bucket: no claim that pods share, which many clusters cannot give.

Engines map models from files, so each pod works on a copy on its own disk: it gets what it reads, and sends what it
made.

    artifacts/<hex>/...      a model's files
    artifacts/<hex>.json     their names and sizes: written last, so an artifact is there when this is
    cache/, reports/         as on a disk

Nothing is locked and no write need be conditional: an artifact's name is the digest of its content, so pods that make
the same at once write the same bytes, each object whole or not at all. A pod that is killed leaves files without
their list, and the next to make that model writes them again. What comes down is held against the digest it goes by.
Inputs are not shared: each pod fetches what it reads from where it is.
"""

from __future__ import annotations

import json
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.api.model import is_local
from trimtab.api.work import Report, report_folder
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.remote import Bucket
from trimtab_jobs.store import Store, artifact_name, digest_folder, resolve


@contextmanager
def open_store(uri: str) -> Iterator[Store]:
    """The store at an address. Raises InvalidInput for a folder that is not mounted or cannot be written."""
    if is_local(uri):
        yield Store(resolve(uri, "store"))
        return
    with tempfile.TemporaryDirectory(prefix="trimtab-store-") as copy:
        yield BucketStore(uri, Path(copy))


class BucketStore(Store):
    """A store whose folder is a copy of a part of the bucket. Raises what `remote.told` does about the bucket."""

    def __init__(self, uri: str, copy: Path) -> None:
        super().__init__(copy)
        self._bucket = Bucket(uri, "store")

    def put(self, folder: Path) -> str:
        digest = super().put(folder)
        if self._list(digest) is None:
            kept, name = self._artifact(digest), artifact_name(digest)
            sizes = {path.relative_to(kept).as_posix(): path.stat().st_size for path in _files(kept)}
            self._bucket.place(kept, name)
            self._bucket.write(f"{name}.json", json.dumps(sizes, sort_keys=True))
        return digest

    def has(self, digest: str) -> bool:
        return super().has(digest) or self._list(digest) is not None

    def folder(self, digest: str) -> Path:
        if not super().has(digest):
            self._get(digest)
        return super().folder(digest)

    def reports(self, uid: str) -> list[Report]:
        names = self._bucket.names(report_folder(uid))
        found = (self._bucket.read(name) for name in sorted(names))
        return [Report.model_validate_json(content) for content in found if content is not None]

    def clean(self, seconds: float) -> int:
        """Nothing: a bucket does this by rules of its own, and no runtime may ask for it here."""
        return 0

    def _read(self, name: str) -> bytes | None:
        return self._bucket.read(name)

    def _write(self, name: str, text: str) -> None:
        self._bucket.write(name, text)

    def _list(self, digest: str) -> dict[str, int] | None:
        content = self._bucket.read(f"{artifact_name(digest)}.json")
        return None if content is None else json.loads(content)

    def _get(self, digest: str) -> None:
        sizes = self._list(digest) or {}
        name = artifact_name(digest)
        with self.files.scratch() as scratch:
            for file in sizes:
                self._bucket.get(posixpath.join(name, file), scratch / file)
            if sizes and digest_folder(scratch) != digest:
                raise InvalidInput(
                    f"store: artifact {digest} in the bucket has other content: delete it, and run again"
                )
            if sizes:
                self.files.adopt(scratch, name)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
