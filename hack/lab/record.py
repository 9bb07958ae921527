"""What the machine was like before the lab came, so that `down` can put it back.

The record is written before anything else is touched. That makes `down` work after an `up` that died half way, and
keeps what existed before: a kernel setting returns to its old value, a folder goes only if the lab brought it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import paths

# Set by the kubelet at its start, and by us for pods to reach one another through a Service.
SETTINGS = (
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/bridge/bridge-nf-call-iptables",
)

# Paths that Kubernetes, containerd and CNI have in their code, whatever their configuration says.
FIXED = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")


@dataclass(frozen=True)
class Record:
    """The lab's own choices (does it have a node, which port) and the machine's state before it."""

    node: bool
    port: int
    settings: dict[str, str]
    absent: list[str]


def load() -> Record | None:
    """The record of the lab in this folder, if there is one."""
    try:
        return Record(**json.loads(_file().read_text()))
    except FileNotFoundError:
        return None


def save(node: bool, port: int) -> Record:
    """Look at the machine and write down what `down` has to know."""
    settings = {name: _setting(name).read_text().strip() for name in SETTINGS if _setting(name).exists()}
    record = Record(node, port, settings, [path for path in FIXED if not Path(path).exists()])
    paths.state().mkdir(parents=True, exist_ok=True)
    paths.state().chmod(0o700)  # it holds the cluster's keys
    _file().write_text(json.dumps(asdict(record), indent=2))
    return record


def change(name: str, value: str) -> None:
    """Change a kernel setting."""
    if _setting(name).read_text().strip() != value:
        _setting(name).write_text(value)


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


def _file() -> Path:
    return paths.state() / "lab.json"
