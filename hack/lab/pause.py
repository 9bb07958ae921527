"""The image of a pod's sandbox, put together by hand: one static binary needs no image builder."""

import hashlib
import io
import json
import platform
import tarfile

from lab import containerd, paths, tools

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def load() -> None:
    """Import the image into the node's containerd, if it is not there."""
    if containerd.PAUSE_IMAGE in containerd.images():
        return
    archive = paths.state() / "pause.tar"
    archive.write_bytes(_archive())
    containerd.import_archive(archive)


def _archive() -> bytes:
    """An image as `docker save` writes it: a layer, a configuration that names it, and a manifest over both."""
    layer = _tar({"pause": tools.path("pause").read_bytes()})
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [containerd.PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    return _tar(
        {"layer.tar": layer, "config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    )


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
