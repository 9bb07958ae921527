"""`down` leaves nothing behind: what the machine shows before and after a cluster with a pod is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lab import paths

VISIT = Path(__file__).with_name("visit.py")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the lab's node is a kubelet with containerd"),
]


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, list[str]]]:
    # The cluster's folder is inside one that only this test uses; pytest's own path is too long for unix sockets.
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        settings = {"TRIMTAB_LAB": f"{folder}/lab", "PYTHONPATH": str(paths.CHECKOUT / "hack")}
        command = ["unshare", "--net", "--mount", sys.executable, str(VISIT)]
        done = subprocess.run(command, env=os.environ | settings, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    views: dict[str, dict[str, list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return views


@pytest.mark.parametrize("view", ["mounts", "links", "rules", "processes", "cgroups", "files", "settings"])
def test_down_leaves_nothing_behind(seen: dict[str, dict[str, list[str]]], view: str) -> None:
    assert seen["after"][view] == seen["before"][view]


@pytest.mark.parametrize("view", ["mounts", "links", "rules", "processes", "cgroups", "files"])
def test_the_views_do_see_a_cluster(seen: dict[str, dict[str, list[str]]], view: str) -> None:
    assert seen["during"][view] != seen["before"][view]
