"""An archive for a node holds the image that is in the store, less what the node has."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from lab import paths, store
from lab.shell import LabError

IMAGE = "localhost/app:dev"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put_layer(identifier: str, files: dict[str, str]) -> bytes:
    """Keep a layer as buildah's store does, and return the archive that it came in."""
    root = paths.cache() / "buildah" / "root"
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
            kept = root / "overlay" / identifier / "diff" / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text)
    (root / "overlay-layers").mkdir(exist_ok=True)
    split = root / "overlay-layers" / f"{identifier}.tar-split.gz"
    split.write_bytes(gzip.compress("\n".join(map(json.dumps, tar_split(whole.getvalue()))).encode()))
    return whole.getvalue()


def tar_split(content: bytes) -> list[dict[str, object]]:
    """The entries for an archive: its files by name, and the bytes between them."""
    entries: list[dict[str, object]] = []
    position = 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            between = content[position : member.offset_data]
            entries.append({"type": 2, "payload": base64.b64encode(between).decode()})
            entries.append({"type": 1, "name": member.name, "size": member.size})
            position = member.offset_data + member.size
    return [*entries, {"type": 2, "payload": base64.b64encode(content[position:]).decode()}]


@pytest.fixture
def layers(lab: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The two layers of an image in a store, as archives."""
    made = [put_layer("base", {"etc/os": "debian"}), put_layer("source", {"app.py": "pass", "empty": ""})]
    names = [{"id": name, "diff-digest": digest(layer)} for name, layer in zip(("base", "source"), made, strict=True)]
    (paths.cache() / "buildah/root/overlay-layers/layers.json").write_text(json.dumps(names))
    config = json.dumps({"config": {"Labels": {"key": "value"}}})
    manifest = json.dumps({"mediaType": "manifest", "layers": [{"digest": digest(layer)} for layer in made]})
    monkeypatch.setattr(store, "_inspect", lambda image: {"Config": config, "Manifest": manifest})
    monkeypatch.setattr(store, "buildah", lambda *words: IMAGE)
    return made


def blob(layer: bytes) -> str:
    return f"blobs/{digest(layer).replace(':', '/')}"


def test_layers_are_put_together_as_they_came(layers: list[bytes], tmp_path: Path) -> None:
    store.pack(IMAGE, set(), tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        for layer in layers:
            file = archive.extractfile(blob(layer))
            assert file is not None
            assert file.read() == layer


def test_a_node_gets_only_what_it_lacks(layers: list[bytes], tmp_path: Path) -> None:
    store.pack(IMAGE, {digest(layers[0])}, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        names = archive.getnames()
    assert blob(layers[0]) not in names
    assert blob(layers[1]) in names


def test_the_index_names_the_image_for_containerd(layers: list[bytes], tmp_path: Path) -> None:
    store.pack(IMAGE, {digest(layer) for layer in layers}, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        index = json.load(archive.extractfile("index.json") or io.BytesIO())
    (entry,) = index["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": IMAGE}
    assert entry["digest"] == store.digest(IMAGE)


def test_a_damaged_layer_is_refused(layers: list[bytes], tmp_path: Path) -> None:
    (paths.cache() / "buildah/root/overlay/source/diff/app.py").write_text("fail")
    with pytest.raises(LabError, match=r"is damaged; remove that folder and build again"):
        store.pack(IMAGE, set(), tmp_path / "image.tar")


def test_labels_are_read(layers: list[bytes]) -> None:
    assert store.label(IMAGE, "key") == "value"
    assert store.label(IMAGE, "other") is None
    assert store.label("localhost/other:dev", "key") is None
