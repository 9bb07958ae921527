"""A published model as an OCI image, so that a pod mounts it as a volume (`volumes: [{image: {reference: ...}}]`).

Two layers, plain archives: the model's files, which are the same whenever the same model is published, and what is said
of it (profile, publication, report, and a current.json by which the model server finds them). A model is for no
architecture; container runtimes look for theirs, so an index offers the same layers to each.

    index (artifactType application/vnd.trimtab.model.v1, annotations)
    └── manifest per platform ── config (diff_ids), layer of the model, layer of what is said of it

`oras manifest fetch` and `oras discover` show artifact type and annotations; `oras pull` or `crane export` the files.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab_jobs.registry import Repository
from trimtab_jobs.store import digest_bytes, digest_file

ARTIFACT = "application/vnd.trimtab.model.v1"
INDEX, MANIFEST, CONFIG = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
)
LAYER = "application/vnd.oci.image.layer.v1.tar"
PLATFORMS = ({"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64"})
Json = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """An archive on disk."""

    path: Path
    digest: str
    size: int

    @property
    def descriptor(self) -> Json:
        return _descriptor(LAYER, self.digest, self.size)


def push(
    repository: Repository,
    folder: Path,
    about: Collection[str],
    annotations: Mapping[str, str],
    tags: Iterable[str],
) -> str:
    """Push a folder under every tag, the files named in `about` as a layer of their own. Returns the index's digest.

    What names a blob is pushed after it, and the tags last, so a reader never finds half of an image.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    apart = [path for path in files if path.relative_to(folder).as_posix() in about]
    model = [path for path in files if path not in apart]
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        layers = [_layer(folder, some, Path(scratch) / name) for name, some in (("model", model), ("about", apart))]
        for layer in layers:
            repository.put_blob(layer.digest, layer.path)
    manifests = [_put_manifest(repository, platform, layers, annotations) for platform in PLATFORMS]
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "artifactType": ARTIFACT,
        "manifests": manifests,
        "annotations": dict(annotations),
    }
    content = _encoded(index)
    for tag in tags:
        repository.put_manifest(tag, index, content)
    return digest_bytes(content)


def _put_manifest(
    repository: Repository, platform: Json, layers: Iterable[Layer], annotations: Mapping[str, str]
) -> Json:
    """Push one platform's config and manifest; its entry in the index."""
    config = _encoded(platform | {"config": {}, "rootfs": {"type": "layers", "diff_ids": [_.digest for _ in layers]}})
    repository.put_blob(digest_bytes(config), config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": _descriptor(CONFIG, digest_bytes(config), len(config)),
        "layers": [layer.descriptor for layer in layers],
        "annotations": dict(annotations),
    }
    content = _encoded(manifest)
    digest = digest_bytes(content)
    repository.put_manifest(digest, manifest, content)
    return _descriptor(MANIFEST, digest, len(content)) | {"artifactType": ARTIFACT, "platform": platform}


def _layer(folder: Path, files: Iterable[Path], archive: Path) -> Layer:
    """The archive of some files, which depends on their names and content alone."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as stream:
                tar.addfile(member, stream)
    return Layer(archive, digest_file(archive), archive.stat().st_size)


def _descriptor(kind: str, digest: str, size: int) -> Json:
    return {"mediaType": kind, "digest": digest, "size": size}


def _encoded(content: Json) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
