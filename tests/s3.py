"""A real S3 server on a folder, for the tests of inputs and of what is published in buckets."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import apiserver
from ports import free_port

DEADLINE = 120.0


@dataclass(frozen=True)
class S3:
    """A bucket is a folder of `root`, and an object a file in it."""

    root: Path
    port: int

    @property
    def variables(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "trimtab",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        }

    def bucket(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        return folder


@contextmanager
def s3_server(root: Path) -> Iterator[S3]:
    """Serve `root` by S3 until the block ends."""
    server = S3(root, free_port())
    given = server.variables
    login = {"ROOT_ACCESS_KEY_ID": given["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_ACCESS_KEY": given["AWS_SECRET_ACCESS_KEY"]}
    command = [apiserver.tool("versitygw"), "--port", f"127.0.0.1:{server.port}", "--quiet", "posix", root]
    process = subprocess.Popen(command, env=login, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, server.port)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("the S3 server does not listen")
