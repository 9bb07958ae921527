"""Buildah, with a store of the lab's own, and the way from there into a node.

`buildah push` reads and hashes every layer of an image each time: half a minute on busy cores for 500 MB, of which a
change of sources touches two. The store has what it takes to do less: each layer's files in a folder and, as
*tar-split*, the rest of the archive that they came in. So an archive for a node is put together here, with only the
layers that the node lacks.
"""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lab import paths
from lab.shell import LabError, run

# The kinds of entries in a tar-split.
_FILE, _BYTES = 1, 2


def buildah(*words: str | Path) -> str:
    """Run buildah on the lab's store, which is in the cache folder."""
    return run("buildah", "--root", _root(), "--runroot", _root().with_name("run"), *words)


def has(image: str) -> bool:
    """Whether an image is in the store."""
    return image in buildah("images", "--format={{.Name}}:{{.Tag}}").split()


def label(image: str, name: str) -> str | None:
    """The value of an image's label, or None for want of the label or the image."""
    if not has(image):
        return None
    config = json.loads(_inspect(image)["Config"])
    found: str | None = config["config"].get("Labels", {}).get(name)
    return found


def digest(image: str) -> str:
    """The digest of an image's manifest, by which a node knows it."""
    return _digest(_inspect(image)["Manifest"].encode())


def read(image: str, path: str) -> str:
    """A file of an image."""
    container = buildah("from", "--pull-never", image).strip()
    try:
        return (Path(buildah("mount", container).strip()) / path.lstrip("/")).read_text()
    finally:
        buildah("rm", container)


def pack(image: str, known: set[str], target: Path) -> None:
    """Write an archive of an image for a node that has the `known` blobs already."""
    inspected = _inspect(image)
    manifest, config = inspected["Manifest"].encode(), inspected["Config"].encode()
    described = json.loads(manifest)
    entry = {"mediaType": described["mediaType"], "digest": _digest(manifest), "size": len(manifest)}
    index = {"schemaVersion": 2, "manifests": [entry | {"annotations": {"io.containerd.image.name": image}}]}
    with tarfile.open(target, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        _add(archive, _blob(_digest(manifest)), manifest)
        _add(archive, _blob(_digest(config)), config)
        for layer in {layer["digest"] for layer in described["layers"]} - known:
            with tempfile.TemporaryFile() as file:
                _unpack(layer, file)
                _add_file(archive, _blob(layer), file)


def _unpack(layer: str, target: IO[bytes]) -> None:
    """Write a layer's archive, and make sure that it is the one its digest names."""
    seen = hashlib.sha256()
    for part in _parts(layer):
        target.write(part)
        seen.update(part)
    if f"sha256:{seen.hexdigest()}" != layer:
        raise LabError(f"layer {layer} in {_root()} is damaged; remove that folder and build again")


def _parts(layer: str) -> Iterator[bytes]:
    """A layer's archive piece by piece: headers and padding from the tar-split, contents from the files."""
    identifier = _identifier(layer)
    files = _root() / "overlay" / identifier / "diff"
    with gzip.open(_root() / "overlay-layers" / f"{identifier}.tar-split.gz") as split:
        for entry in map(json.loads, split):
            if entry["type"] == _BYTES:
                yield base64.b64decode(entry["payload"])
            elif entry["type"] == _FILE and entry.get("size"):
                yield (files / entry["name"]).read_bytes()


def _identifier(layer: str) -> str:
    """The name that the store has for a layer of this digest."""
    layers = json.loads((_root() / "overlay-layers" / "layers.json").read_text())
    names = [known["id"] for known in layers if known.get("diff-digest") == layer]
    if not names:
        raise LabError(f"layer {layer} is not in {_root()}; remove that folder and build again")
    return str(names[0])


def _inspect(image: str) -> dict[str, Any]:
    inspected: dict[str, Any] = json.loads(buildah("inspect", "--type=image", image))
    return inspected


def _root() -> Path:
    return paths.cache() / "buildah" / "root"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    _add_file(archive, name, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    archive.addfile(member, file)
