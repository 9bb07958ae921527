"""NetworkPolicies: kube-router, of which only the part that turns them into rules of iptables runs.

The CNI's bridge lets everything pass. The SIG's own agent decides in user space, on packets from a queue of nftables,
which the kernel must be built with; iptables and its sets of addresses are more common.
"""

import re
from collections.abc import Collection

from lab import control, pki
from lab.processes import Daemon
from lab.shell import run

PROGRAMS = ("ipset", "iptables")
_CHAINS = re.compile(r"\bKUBE-(ROUTER|POD-FW|NWPLCY)-")
_SETS = ("KUBE-SRC-", "KUBE-DST-")


def kube_router() -> Daemon:
    """It asks for its node once, at its start: the kubelet must have brought it."""
    client = control.kubeconfig("kube-router")
    flags = [
        f"--kubeconfig={client}",
        f"--hostname-override={pki.NODE}",
        f"--service-cluster-ip-range={control.SERVICE_RANGE}",
        "--run-router=false",
        "--run-service-proxy=false",
        "--enable-cni=false",
        "--health-port=0",
    ]
    return Daemon("kube-router", flags, [client])


def delete() -> None:
    """Remove its rules, the table that they made, and the sets that they named."""
    saved = run("iptables-save", "--table", "filter").splitlines()
    others = [line for line in saved if not _CHAINS.search(line)]
    if others != saved:
        run("iptables-restore", "--table", "filter", stdin="\n".join([*others, ""]))
        if _is_idle(others):
            run("nft", "delete", "table", "ip", "filter")
    for name in run("ipset", "list", "-name").split():
        if name.startswith(_SETS):
            run("ipset", "destroy", name)


def _is_idle(table: Collection[str]) -> bool:
    """Whether a table has no rule, no chain of its own, and lets everything pass: as good as none."""
    chains = (line for line in table if line.startswith(":"))
    return not any(line.startswith("-") for line in table) and all(" ACCEPT " in chain for chain in chains)
