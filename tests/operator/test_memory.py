"""Memory of real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from trimtab.memory import kill_tree, resident

HOLDER = "import sys; held = bytearray(64 * 2**20); print('ready', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDER!r}])"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose child holds 64 MiB."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process
        kill_tree(process.pid)


def test_what_a_child_holds_is_its_parents_too(parent: subprocess.Popen[bytes]) -> None:
    assert 64 * 2**20 < resident(parent.pid) < 256 * 2**20


def test_a_killed_tree_is_gone_and_holds_nothing(parent: subprocess.Popen[bytes]) -> None:
    kill_tree(parent.pid)
    assert parent.stdout
    assert parent.stdout.read() == b"", "the child has closed its end too"
    parent.wait()
    assert resident(parent.pid) == 0
    kill_tree(parent.pid)
