"""The cluster as a whole: up, down, and what is up."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from lab import containerd, control, leftovers, network, node, paths, pki, processes, record, tools
from lab.control import kubectl
from lab.record import Record
from lab.shell import LabError, lock, require

__all__ = ["down", "has_node", "kubectl", "status", "up"]

# A unix socket's path ends at 108 characters, and the longest of ours adds 45.
_LONGEST = 60


def up(with_node: bool | None = None) -> Path:
    """Start what is not up yet, and return the administrator's kubeconfig.

    Without root there can be no node: then, or if `with_node` is false, the API works but no pod runs.
    """
    require("openssl")
    with_node = os.geteuid() == 0 if with_node is None else with_node
    _check(with_node)
    tools.build([*tools.CONTROL_PLANE, *(tools.NODE if with_node else ())])
    with lock("cluster"):
        before = record.load() or _prepare(with_node)
        processes.forget_dead()
        address = _address(before)
        pki.create(pki.identities([address.host, control.KUBERNETES_SERVICE], network.NODE_ADDRESS))
        if before.node:
            network.create()
        control.start(address)
        if before.node:
            node.start()
    return paths.kubeconfig()


def down() -> bool:
    """Stop everything and remove every trace; False if there was nothing."""
    with lock("cluster"):
        before = record.load()
        if before is None:
            return False
        # The kubelet and containerd first, lest they start again what is being killed.
        for name in ("kube-proxy", "kubelet", "containerd"):
            processes.stop(name)
        if before.node:
            leftovers.kill_pods()
        for running in reversed(list(processes.everything())):
            processes.stop(running.name)
        leftovers.remove(before)
    return True


def has_node() -> bool:
    """Whether the cluster of this folder was brought up with a node."""
    before = record.load()
    return before is not None and before.node


def status() -> Iterator[str]:
    """A line for each thing that is up or should be."""
    for running in processes.everything():
        if running.alive():
            yield (
                f"{running.name:24} up    pid {running.pid:<8} {running.memory() >> 20:5} MiB {running.age():8.0f} s"
            )
        else:
            yield f"{running.name:24} DEAD  pid {running.pid}"
    if has_node():
        yield f"{'images':24} {', '.join(name for name in containerd.images() if '/' in name)}"


def _check(with_node: bool) -> None:
    if len(str(paths.state())) > _LONGEST:
        raise LabError(
            f"{paths.state()} is too long for unix sockets; set TRIMTAB_LAB to at most {_LONGEST} characters"
        )
    if not with_node or record.load():
        return
    if os.geteuid():
        raise LabError("a node needs root; run as root, or leave the node out")
    node.check()
    if network.exists():
        raise LabError(f"there is another lab's node on this machine (the link {paths.NAME}); take that lab down")


def _prepare(with_node: bool) -> Record:
    return record.save(with_node, node.api_address().port if with_node else _free_port())


def _address(before: Record) -> control.Address:
    return node.api_address() if before.node else control.Address("127.0.0.1", before.port)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
