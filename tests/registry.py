"""A real OCI registry (distribution) on a folder, for the tests of what is published as an image."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import apiserver
from ports import free_port

DEADLINE = 120.0
LOGIN = {"username": "trimtab", "password": "not-a-secret"}
HTPASSWD = "trimtab:$2b$04$luwYdPJYTb9M7Dym868IWe4pnB8X9H/Cokz05cIRrUo97U8FNxKy2\n"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Registry:
    """What it holds is read back here with requests of the test's own."""

    root: Path
    host: str

    def manifest(self, name: str, reference: str) -> Any:
        request = urllib.request.Request(f"http://{self.host}/v2/{name}/manifests/{reference}")
        request.add_header("Accept", f"{INDEX}, application/vnd.oci.image.manifest.v1+json")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer) | {"digest": answer.headers["Docker-Content-Digest"]}

    def blob(self, name: str, digest: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.host}/v2/{name}/blobs/{digest}") as answer:
            return bytes(answer.read())

    def unpack(self, name: str, reference: str, to: Path) -> Path:
        """What a pod would find mounted: the layers of the first platform, one over the other."""
        index = self.manifest(name, reference)
        manifest = self.manifest(name, index["manifests"][0]["digest"])
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(self.blob(name, layer["digest"]))) as tar:
                tar.extractall(to, filter="data")
        return to


@contextmanager
def registry(root: Path, auth: Mapping[str, Any] | None = None) -> Iterator[Registry]:
    """Serve `root` until the block ends; `auth` is the block of that name in its configuration."""
    host = f"127.0.0.1:{free_port()}"
    (root / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}},
        "http": {"addr": host, "secret": "tests"},
        "auth": dict(auth or {}),
    }
    (root / "config.yml").write_text(yaml.safe_dump(config))
    command = [apiserver.tool("registry"), "serve", root / "config.yml"]
    log = (root / "log").open("wb")
    process = subprocess.Popen(command, env={"OTEL_TRACES_EXPORTER": "none"}, stdout=log, stderr=log)
    try:
        _wait(process, host)
        yield Registry(root, host)
    finally:
        process.terminate()
        process.wait()
        log.close()


def _wait(process: subprocess.Popen[bytes], host: str) -> None:
    name, _, port = host.partition(":")
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection((name, int(port)), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("the registry does not listen")
