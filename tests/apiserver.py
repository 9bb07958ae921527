"""A control plane of the tests' own, for those that only ask what a real API server accepts.

It has no node and shares nothing with a cluster that may be up on the machine: tests here install CRDs and charts
that would be in the way there. It starts in seconds, once per test run, and goes with it.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import cluster, processes, tools
from lab.shell import wait_for

REPOSITORY = Path(__file__).resolve().parents[1]


@functools.cache
def kubeconfig() -> Path:
    """The administrator's kubeconfig of the running control plane."""
    for name in tools.CONTROL_PLANE:
        tool(name)
    folder = tempfile.mkdtemp(prefix="trimtab-api-")
    with _lab_in(folder):
        path = cluster.up(with_node=False)
    atexit.register(_down, folder)
    return path


@functools.cache
def tool(name: str) -> Path:
    """One of the lab's programs, built if need be."""
    if tools.missing([name]) and shutil.which("go") is None:
        pytest.skip("needs Go to build the lab's programs")
    tools.build([name])
    return tools.path(name)


def kubectl(*words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl to its end, whatever it says."""
    return _run("kubectl", *words, stdin=stdin)


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm to its end, whatever it says."""
    return _run("helm", *words)


def _run(program: str, *words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    where = () if "--kubeconfig" in words else ("--kubeconfig", kubeconfig())
    command = [tool(program), *where, *words]
    return subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)


def install_crds(config: Path | None = None) -> None:
    """In the cluster of this kubeconfig, else the test run's."""
    apply_crds("---\n".join(path.read_text() for path in sorted((REPOSITORY / "crds").glob("*.yaml"))), config)


def apply_crds(documents: str, config: Path | None = None) -> None:
    """CRDs as YAML, whatever was there before."""
    where = ("--kubeconfig", config or kubeconfig())
    done = kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", *where, stdin=documents)
    assert done.returncode == 0, done.stderr
    words = ("wait", "--for=condition=Established", "--timeout=300s", "-f", "-")
    established = kubectl(*words, *where, stdin=documents)
    assert established.returncode == 0, established.stderr
    served(*re.findall(r"/(\S+) condition met", established.stdout), config=config)


def served(*crds: str, config: Path | None = None) -> None:
    """Until objects of these kinds, or all of ours, may be asked for: that is a moment after their CRDs are stored."""
    ours = (f"{path.stem}.trimtab.dev" for path in (REPOSITORY / "crds").glob("*.yaml"))
    names, where = ",".join(crds or ours), ("--kubeconfig", config or kubeconfig())
    wait_for(f"{names} to be served", lambda: kubectl("get", names, *where).returncode == 0, 300)


@dataclass(frozen=True)
class ControlPlane:
    """One that a test may break."""

    folder: str
    kubeconfig: Path

    def kill(self) -> None:
        """End the API server as a crash would."""
        with _lab_in(self.folder):
            running = processes.recorded("kube-apiserver")
            assert running
            os.kill(running.pid, signal.SIGKILL)
            wait_for("the API server is gone", lambda: not running.alive(), 60)

    def start(self) -> None:
        """Start what does not run, and wait until it answers."""
        with _lab_in(self.folder):
            cluster.up(with_node=False)


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with our CRDs that no other test has."""
    for name in tools.CONTROL_PLANE:
        tool(name)
    folder = tempfile.mkdtemp(prefix="trimtab-api-")
    try:
        with _lab_in(folder):
            made = ControlPlane(folder, cluster.up(with_node=False))
        install_crds(made.kubeconfig)
        yield made
    finally:
        _down(folder)


@contextmanager
def _lab_in(folder: str) -> Iterator[None]:
    before = os.environ.get("TRIMTAB_LAB")
    os.environ["TRIMTAB_LAB"] = folder
    try:
        yield
    finally:
        os.environ.pop("TRIMTAB_LAB")
        if before is not None:
            os.environ["TRIMTAB_LAB"] = before


def _down(folder: str) -> None:
    with _lab_in(folder):
        cluster.down()
