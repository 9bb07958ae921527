"""Addresses, digests, and the store: what a job's pods hand to each other.

Artifacts are named by the digest of their content, so writing one twice is writing it once, and two pods that make
the same model meet in the same folder. The cache says what a step once made of a parent.

    artifacts/<hex>/              a model's folder
    cache/<hex>.json              {"artifact": ..., "note": ..., "float_layers": [...]}
    reports/<job uid>/<stage>-<trial>.json
    inputs/<hex>/                 what was fetched from other machines (`inputs`)
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import unquote

from trimtab.api.work import VOLUMES_VARIABLE, Report, report_folder
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.model import Model, open_model

_ALGORITHM = "sha256:"


def resolve(uri: str, field: str) -> Path:
    """The path behind a file:// or pvc:// address.

    `pvc://claim/path` is under the folder that `TRIMTAB_VOLUMES` (JSON, `{claim: folder}`) gives for the claim.
    Raises InvalidInput naming `field` for an unknown claim, and for a path that leaves its claim by `..` or a link.
    """
    scheme, _, rest = uri.partition("://")
    rest = unquote(rest)
    if scheme == "file":
        if not rest.startswith("/"):
            raise InvalidInput(f"{field}: {uri} is not absolute: write file:///path, with three slashes")
        return Path(rest)
    if scheme != "pvc":
        raise InvalidInput(f"{field}: {uri} is no folder on a disk: name a file:// or pvc:// address")
    claim, _, inside = rest.partition("/")
    root = _volume(claim, uri, field)
    path = root / inside.lstrip("/")
    if not path.resolve().is_relative_to(root.resolve()):
        raise InvalidInput(f"{field}: {uri} leaves its claim, by .. or a link: name a path inside {claim!r}")
    return path


def _volume(claim: str, uri: str, field: str) -> Path:
    volumes = json.loads(os.environ.get(VOLUMES_VARIABLE, "{}"))
    if claim not in volumes:
        known = ", ".join(sorted(volumes)) or "none"
        raise InvalidInput(f"{field}: {uri} names claim {claim!r}, which is not mounted: mounted are {known}")
    root = Path(volumes[claim])
    if not root.is_dir():  # or a store would be written into the container, and lost with it
        raise InvalidInput(f"{field}: {uri}: there is no folder {root}: mount claim {claim!r} there")
    return root


def digest_bytes(content: bytes) -> str:
    """`sha256:` and the hex digest."""
    return _ALGORITHM + hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    with path.open("rb") as stream:
        return _ALGORITHM + hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """The digest over the sorted relative names and digests of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()}\0{digest_file(path)}\n" for path in files]
    return digest_bytes("".join(lines).encode())


def hexdigits(digest: str) -> str:
    """A digest without its algorithm: what folders are named by."""
    return digest.removeprefix(_ALGORITHM)


def cache_key(*parts: object) -> str:
    """The digest of everything a result depends on, as JSON."""
    return digest_bytes(json.dumps(parts, sort_keys=True).encode())


@dataclass(frozen=True)
class Cached:
    """What a step once made."""

    artifact: str
    note: str
    float_layers: list[str] = field(default_factory=list)


class Store:
    """The folder, on a disk that pods share. Raises what `SharedFolder` does where it cannot be written.

    `bucket_store` has the one in a bucket.
    """

    def __init__(self, root: Path) -> None:
        self.files = SharedFolder(root, "store")

    def put(self, folder: Path) -> str:
        """Keep a copy of a folder; its digest. Putting the same content again changes nothing."""
        digest = digest_folder(folder)
        if not self.files.place(folder, artifact_name(digest)):
            self.files.used(artifact_name(digest))
        return digest

    def has(self, digest: str) -> bool:
        """Whether there is such an artifact."""
        return self._artifact(digest).is_dir()

    def folder(self, digest: str) -> Path:
        """Where an artifact is."""
        folder = self._artifact(digest)
        self.files.used(artifact_name(digest))
        if not self.has(digest):
            raise InvalidInput(f"store: {self.files.root} has no artifact {digest}: was it cleaned? create a new job")
        return folder

    def model(self, digest: str) -> Model:
        """The model that an artifact holds."""
        return open_model(self.folder(digest))

    def cached(self, key: str) -> Cached | None:
        """What was remembered under a key, if its artifact is still there."""
        content = self._read(_cache_name(key))
        if content is None:
            return None
        found = Cached(**json.loads(content))
        if not self.has(found.artifact):
            return None
        self.files.used(_cache_name(key))
        self.files.used(artifact_name(found.artifact))
        return found

    def remember(self, key: str, made: Cached) -> None:
        self._write(_cache_name(key), json.dumps(asdict(made)))

    def save_report(self, uid: str, report: Report) -> None:
        """Keep the full report of a job's stage, or of its trial."""
        name = f"{report_folder(uid)}/{report.stage.value}-{report.trial or 0}.json"
        self._write(name, report.model_dump_json(by_alias=True, indent=1))

    def reports(self, uid: str) -> list[Report]:
        """The full reports that a job's pods have left."""
        paths = sorted((self.files.root / report_folder(uid)).glob("*.json"))
        return [Report.model_validate_json(path.read_bytes()) for path in paths]

    def clean(self, seconds: float) -> int:
        """Remove what no pod has used for so long; how much there was. A cache without its artifact is none."""
        return self.files.clean(("artifacts", "cache", "inputs", "reports"), seconds)

    def _artifact(self, digest: str) -> Path:
        return self.files.root / artifact_name(digest)

    def _read(self, name: str) -> bytes | None:
        path = self.files.root / name
        return path.read_bytes() if path.is_file() else None

    def _write(self, name: str, text: str) -> None:
        self.files.write(name, text)


def artifact_name(digest: str) -> str:
    """Where in the store an artifact is."""
    return f"artifacts/{hexdigits(digest)}"


def _cache_name(key: str) -> str:
    return f"cache/{hexdigits(key)}.json"
