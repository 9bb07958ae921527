"""The node: containerd with runc, the kubelet, kube-proxy and kube-router, all with their state in the lab's folder.

Pods are real here: namespaces, cgroups, seccomp, security contexts, volumes. The node's cgroups are under one of the
lab's own, which is also how `down` knows the pods' processes from everybody else's.
"""

from pathlib import Path

import yaml

from lab import containerd, control, network, paths, pause, pki, policies, processes
from lab.processes import Daemon
from lab.shell import LabError, require, wait_for, write

CGROUPS = Path("/sys/fs/cgroup")


def check() -> None:
    """Fail early when the machine lacks something."""
    require("runc", "ip", "nft", *policies.PROGRAMS)
    if not (network.PLUGINS / "bridge").exists():
        raise LabError(f"{network.PLUGINS}/bridge is missing; apt-get install containernetworking-plugins")


def start() -> None:
    """Start what doesn't run yet, and wait until the node is Ready."""
    for client in ("kubelet", "kube-proxy", "kube-router"):
        pki.write_kubeconfig(control.kubeconfig(client), client, api_address().url)
    for hierarchy in hierarchies():
        (hierarchy / paths.identity()).mkdir(exist_ok=True)
    containerd.start()
    pause.load()
    processes.ensure(_kubelet())
    processes.ensure(network.kube_proxy())
    wait_for("the node to be ready", _ready, 120)
    processes.ensure(policies.kube_router())


def api_address() -> control.Address:
    """Where the API server of a cluster with a node listens: on the bridge, for the pods."""
    return control.Address(network.NODE_ADDRESS, 6443)


def hierarchies() -> list[Path]:
    """The roots of the cgroup file systems: one per controller in version 1, a single one in version 2."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


def _ready() -> bool:
    processes.check()
    condition = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    return control.kubectl("get", "nodes", f"--output={condition}") == "True"


def _kubelet() -> Daemon:
    config, client = paths.state() / "kubelet.yaml", control.kubeconfig("kubelet")
    write(config, yaml.safe_dump(_kubelet_settings()))
    return Daemon(
        "kubelet",
        [
            f"--config={config}",
            f"--kubeconfig={client}",
            f"--root-dir={paths.state() / 'kubelet'}",
            f"--hostname-override={pki.NODE}",
            f"--node-ip={network.NODE_ADDRESS}",
        ],
        [config, client],
    )


def _kubelet_settings() -> dict[str, object]:
    state = paths.state()
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.NODE_ADDRESS,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(pki.certificate("ca"))}},
        "tlsCertFile": str(pki.certificate("kubelet-serving")),
        "tlsPrivateKeyFile": str(pki.key("kubelet-serving")),
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket()}",
        "podLogsDir": str(state / "pod-logs"),
        "volumePluginDir": str(state / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{paths.identity()}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,  # kube-proxy's nftables need none
        # A developer's disk is fuller than a node's, and images that no registry holds must never be collected.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 250,
    }
