"""Taking the lab away so thoroughly that nothing tells it was there.

Nothing here asks the cluster to tidy up, because it may be broken: pods are killed through their cgroup, mounts found
in the kernel's table, containerd's shims recognised by the socket on their command line. What can't be told to be the
lab's is left alone.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from lab import network, node, paths, policies, record
from lab.record import Record
from lab.shell import LabError, run


def kill_pods() -> None:
    """Kill whatever runs in the lab's cgroups, and the shims that would report it."""
    for _ in range(100):
        alive = {*_shims(), *_members()}
        if not alive:
            return
        for pid in alive:
            _kill(pid)
        time.sleep(0.05)
    raise LabError(f"processes {sorted(alive)} of the lab's pods don't die; look at /proc/PID/stack")


def remove(before: Record) -> None:
    """Remove mounts, links, rules, cgroups, settings, and folders."""
    sockets = list(_shim_sockets())
    for mount in _mounts():
        run("umount", mount)
    if before.node:
        network.delete()
        policies.delete()
        _remove_cgroups()
        for name, value in before.settings.items():
            record.change(name, value)
        _remove_fixed(before, sockets)
    shutil.rmtree(paths.state())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _members() -> Iterator[int]:
    """The processes in the lab's cgroups."""
    for folder in _cgroups():
        try:
            yield from map(int, (folder / "cgroup.procs").read_text().split())
        except OSError:
            continue  # it went away with its last process


def _shims() -> Iterator[int]:
    """Containerd's helpers: one per pod, and orphans on purpose."""
    socket = os.fsencode(paths.containerd_socket())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and any(word.startswith(socket) for word in words):
            yield int(folder.name)


def _shim_sockets() -> Iterator[Path]:
    """Where the shims listen: in a folder that every containerd on the machine shares."""
    for file in (paths.state() / "containerd" / "state").glob("**/bootstrap.json"):
        yield Path(json.loads(file.read_text())["address"].removeprefix("unix://"))


def _mounts() -> list[str]:
    """What is mounted below the lab's folder, the innermost first."""
    inside = f"{paths.state().resolve()}/"
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in table]
    return [point for point in reversed(points) if point.startswith(inside)]


def _cgroups() -> list[Path]:
    """The lab's cgroups, the innermost first."""
    roots = [hierarchy / paths.identity() for hierarchy in node.hierarchies()]
    return [Path(folder) for root in roots for folder, _, _ in os.walk(root, topdown=False)]


def _remove_cgroups() -> None:
    for folder in _cgroups():
        folder.rmdir()


def _remove_fixed(before: Record, sockets: list[Path]) -> None:
    """Remove what is ours from the paths that are fixed in others' code, and those folders that are new and empty."""
    links = (link for link in Path("/var/log/containers").glob("*.log") if link.is_symlink())
    logs = [link for link in links if link.readlink().is_relative_to(paths.state())]
    # A pod that is ended in the middle of its start leaves these; that of its loopback is not named by our network.
    results = (file for file in Path("/var/lib/cni/results").glob("*") if str(paths.state()) in file.read_text())
    plugins = Path("/var/lib/kubelet/device-plugins").glob("kubelet*") if "/var/lib/kubelet" in before.absent else ()
    for file in (*sockets, *logs, *results, *plugins):
        file.unlink(missing_ok=True)
    for folder in before.absent:
        _remove_empty(folder)


def _remove_empty(top: str) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
