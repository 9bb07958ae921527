"""Where things are: the cache that outlives a cluster, and the one folder a cluster lives in."""

import hashlib
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

# A machine, or rather a network namespace, has one node: its bridge is called so.
NAME = "trimtab-lab"


def cache() -> Path:
    """Tools, the base image and the image layers: slow to make, so kept outside the checkout."""
    return Path(os.environ.get("TRIMTAB_CACHE") or Path.home() / ".cache" / "trimtab").absolute()


def state() -> Path:
    """The running cluster's folder. Only root may have a node, so only root gets the system-wide place."""
    default = Path("/var/lib") / NAME if os.geteuid() == 0 else Path.home() / ".local" / "state" / NAME
    return Path(os.environ.get("TRIMTAB_LAB") or default).absolute()


def identity() -> str:
    """The name of what is this one lab's outside its folder: its cgroup and its CNI network."""
    return f"{NAME}-{hashlib.sha256(bytes(state())).hexdigest()[:8]}"


def kubeconfig() -> Path:
    """The administrator's kubeconfig; it exists once a cluster is up."""
    return state() / "kubeconfig"


def containerd_socket() -> Path:
    """Containerd's socket, for `ctr --address` and `crictl`."""
    return state() / "containerd.sock"
