"""The node's network: one bridge that is at once the node's address and the pods' gateway.

A node may not register a loopback address, and a bridge is the one kind of link that can be made anywhere. The API
server listens on it too, so the cluster can be reached from its pods and from this machine, and from nowhere else.
Pods have no way out of the machine: nothing in the lab needs one.
"""

import json
import socket
from pathlib import Path

import yaml

from lab import control, paths, pki, record
from lab.processes import Daemon
from lab.shell import LabError, run, succeeds, write

NODE_ADDRESS = "10.213.0.1"
POD_RANGE = "10.213.0.0/16"
PLUGINS = Path("/usr/lib/cni")
# A bridge borrows the lowest hardware address of its pods, and changes it as they come and go, unless it has its own.
_HARDWARE_ADDRESS = "02:74:72:69:6d:01"


def create() -> None:
    """Make the bridge and let packets pass it."""
    if not exists():
        run("ip", "link", "add", paths.NAME, "address", _HARDWARE_ADDRESS, "type", "bridge")
    run("ip", "address", "replace", f"{NODE_ADDRESS}/16", "dev", paths.NAME)
    run("ip", "link", "set", paths.NAME, "up")
    # Gives processes on this machine the bridge's address when they speak to a Service.
    run("ip", "route", "replace", control.SERVICE_RANGE, "dev", paths.NAME)
    _change("net/ipv4/ip_forward")
    # Answers of a Service's pod to a pod beside it must pass the translation on their way back.
    _change("net/bridge/bridge-nf-call-iptables")


def exists() -> bool:
    """Whether a lab's bridge is there, this lab's or another's."""
    return paths.NAME in (name for _, name in socket.if_nameindex())


def delete() -> None:
    """Remove the bridge and what kube-proxy put into the kernel."""
    if exists():
        run("ip", "link", "delete", paths.NAME)
    for family in ("ip", "ip6"):
        if succeeds("nft", "list", "table", family, "kube-proxy"):
            run("nft", "delete", "table", family, "kube-proxy")


def write_cni(folder: Path) -> None:
    """What containerd tells the CNI plugins to do for a pod."""
    folder.mkdir(parents=True, exist_ok=True)
    addresses = {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "dataDir": str(paths.state() / "addresses")}
    bridge = {"type": "bridge", "bridge": paths.NAME, "isDefaultGateway": True, "hairpinMode": True, "ipam": addresses}
    network = {"cniVersion": "1.0.0", "name": paths.identity(), "plugins": [bridge]}
    write(folder / "10-lab.conflist", json.dumps(network, indent=2))


def kube_proxy() -> Daemon:
    """Services, as rules of nftables: kube-proxy keeps to one table per family, which `delete` drops whole."""
    config = paths.state() / "kube-proxy.yaml"
    client = control.kubeconfig("kube-proxy")
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_RANGE,
        "clientConnection": {"kubeconfig": str(client)},
        "metricsBindAddress": "",
        "healthzBindAddress": "",
        "oomScoreAdj": 0,  # a negative one needs a capability that root may lack
        # Zeros leave the kernel's connection tracking as it is.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    write(config, yaml.safe_dump(settings))
    return Daemon("kube-proxy", [f"--config={config}", f"--hostname-override={pki.NODE}"], [config, client])


def _change(setting: str) -> None:
    try:
        record.change(setting, "1")
    except FileNotFoundError:
        raise LabError(f"the kernel has no {setting}; modprobe br_netfilter") from None
