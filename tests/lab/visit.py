"""A lab's whole life in namespaces of its own: `unshare --net --mount python visit.py` prints what could be seen.

Links, rules and mounts are then this visit's alone, whatever else the machine is doing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from lab import cluster, containerd, paths, record, shell

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "guest", "labels": {"app": "guest"}},
    "spec": {
        "containers": [
            {
                "name": "guest",
                "image": containerd.PAUSE_IMAGE,
                "imagePullPolicy": "Never",
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
                "resources": {"limits": {"cpu": "50m", "memory": "32Mi"}},
            }
        ],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
    },
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "guest"},
    "spec": {"selector": {"app": "guest"}, "ports": [{"port": 80}]},
}
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "guest"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "guest"}},
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}


def mounts() -> list[str]:
    """All but those of an image that is being built meanwhile: they came along, and go when their folder does."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if not point.startswith(str(paths.cache()))]


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()] + shell.run("ip", "route").splitlines()


def rules() -> list[str]:
    return shell.run("nft", "list", "ruleset").splitlines() + sets()


def sets() -> list[str]:
    """Addresses that rules of iptables name."""
    return shell.run("ipset", "list", "-name").split()


def processes() -> list[str]:
    """Those in this network, and those in the lab's cgroup, whose pods have networks of their own."""
    here, found = os.readlink("/proc/self/ns/net"), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mine = os.readlink(process / "ns/net") == here or paths.identity() in (process / "cgroup").read_text()
            found += [(process / "comm").read_text().strip()] if mine else []
        except OSError:
            continue
    return found


def cgroups() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{paths.identity()}*")]


def files() -> list[str]:
    """Entries of the places that are fixed in others' code, and of the folder that holds the lab's."""
    places = [Path(path) for path in (*record.FIXED, paths.state().parent)]
    return [str(path) for place in places for path in (place, *place.glob("*")) if path.exists()]


def settings() -> list[str]:
    found = {name: Path("/proc/sys") / name for name in record.SETTINGS}
    return [f"{name}={path.read_text().strip()}" for name, path in found.items() if path.exists()]


VIEWS: list[Callable[[], list[str]]] = [mounts, links, rules, processes, cgroups, files, settings]


def look() -> dict[str, list[str]]:
    return {view.__name__: sorted(view()) for view in VIEWS}


def main() -> None:
    shell.run("ip", "link", "set", "lo", "up")
    before = look()
    cluster.up()
    for document in (POD, SERVICE, POLICY):
        cluster.kubectl("apply", "--filename=-", stdin=json.dumps(document))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/guest", "--timeout=120s")
    shell.wait_for("the policy to be enforced", lambda: bool(sets()), 60)
    during = look()
    cluster.down()
    json.dump({"before": before, "during": during, "after": look()}, sys.stdout)


if __name__ == "__main__":
    main()
