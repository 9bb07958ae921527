"""What a job is given, as files on this machine: remote addresses are fetched once, into the store.

    inputs/<hex>/<name>    a file, and for a model its external data, as they were at the addresses in one version

The folder's name is the digest of the addresses and of what each server says of the version (ETag or digest, size), so
a pod asks for the versions and fetches only what no pod before it has. A server that says nothing is believed nothing:
its file is fetched by every pod, and named by its content. Which content a job is about, its pins decide.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from trimtab.api.model import is_local
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.remote import again, locate, told
from trimtab_jobs.store import cache_key, digest_file, hexdigits, resolve
from trimtab_jobs.web import Files, Info

MODEL_SUFFIXES = (".onnx", ".safetensors")
_CHUNK = 2**20
Beside = Callable[[Path], Sequence[str]]
"""The names of the files that belong to a fetched one, relative to its folder."""


def fetch(uri: str, field: str, cache: SharedFolder, beside: Beside = lambda path: ()) -> Path:
    """The file that an address leads to; where it leads to a folder, the one model in it.

    Raises InvalidInput naming `field` where somebody must act, Temporary where the network did not do.
    """
    if is_local(uri):
        return resolve(uri, field)
    files, address = locate(uri, field)
    with told(uri, field):
        source = _Source(uri, field, files, again(partial(_model_in, files, address)))
        path = source.keep([source.name], cache) / source.name
        names = [name for name in beside(path) if not posixpath.isabs(name) and ".." not in name.split("/")]
        return source.keep([source.name, *names], cache) / source.name if names else path


class Fetched(Mapping[str, Path]):
    """Files by name, each fetched when it is first asked for, as `fetch` does."""

    def __init__(self, uris: Mapping[str, str], field: str, cache: SharedFolder) -> None:
        self._uris, self._field, self._cache = uris, field, cache
        self._paths: dict[str, Path] = {}

    def __getitem__(self, name: str) -> Path:
        if name not in self._paths:
            self._paths[name] = fetch(self._uris[name], f"{self._field}.{name}", self._cache)
        return self._paths[name]

    def __contains__(self, name: object) -> bool:
        return name in self._uris

    def __iter__(self) -> Iterator[str]:
        return iter(self._uris)

    def __len__(self) -> int:
        return len(self._uris)


def _model_in(files: Files, address: str) -> str:
    """The address of the one model in a folder; that of a file as it is. Raises ValueError."""
    if files.info(address)["type"] == "file":
        return address
    names = files.ls(address, detail=False)
    found = [name for name in names if name.endswith(MODEL_SUFFIXES)]
    if len(found) != 1:
        there = ", ".join(posixpath.basename(name.rstrip("/")) for name in found or names[:8]) or "nothing"
        raise ValueError(f"it is a folder with {there}: name the file")
    return found[0]


@dataclass(frozen=True)
class _Source:
    """A file on another machine, and those beside it."""

    uri: str
    field: str
    files: Files
    address: str

    @property
    def name(self) -> str:
        return posixpath.basename(unquote(urlsplit(self.address).path)) or "file"

    def keep(self, names: Sequence[str], cache: SharedFolder) -> Path:
        """The folder that holds these files in their present version; they are fetched if no folder does."""
        infos = {name: again(partial(self.files.info, self._at(name))) for name in names}
        known = all(_version(info) for info in infos.values())
        if known and (folder := cache.root / self._folder(infos)).is_dir():
            cache.used(self._folder(infos))
            return folder
        with cache.scratch() as scratch, told(self.uri, self.field):
            for name, info in infos.items():
                again(partial(self._download, name, info, scratch / name))
            if not known:
                infos = {name: {"e_tag": digest_file(scratch / name)} for name in names}
            cache.adopt(scratch, self._folder(infos))
        return cache.root / self._folder(infos)

    def _at(self, name: str) -> str:
        if name == self.name:
            return self.address
        if self.address.startswith("http"):  # a query is that of the one file
            return urljoin(self.address, quote(name))
        return posixpath.join(posixpath.dirname(self.address), name)

    def _folder(self, infos: Mapping[str, Info]) -> str:
        versions = {name: [_version(info), info.get("size")] for name, info in infos.items()}
        return f"inputs/{hexdigits(cache_key(self.address, versions))}"

    def _download(self, name: str, info: Info, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.files.open(self._at(name), "rb") as source, to.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
            if info.get("size") not in (None, copy.tell()):
                raise OSError(f"{name} ended after {copy.tell()} of {info['size']} bytes")


def _version(info: Info) -> str:
    """What changes with the content, as far as anything is known: local files have only a time."""
    return str(info.get("e_tag") or info.get("last_modified") or info.get("mtime") or "")
