"""The control plane: etcd, the API server, the controller manager and the scheduler, as plain processes.

Etcd listens on a unix socket in the lab's folder, so nobody else on the machine can reach it, and it doesn't wait for
the disk: a cluster that is thrown away needs no durability.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import paths, pki, processes, tools
from lab.processes import Daemon
from lab.shell import LabError, run, wait_for

SERVICE_RANGE = "10.214.0.0/16"
KUBERNETES_SERVICE = "10.214.0.1"


@dataclass(frozen=True)
class Address:
    """Where the API server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"


def start(address: Address) -> None:
    """Start what doesn't run yet, and wait until pods can be created."""
    for client in ("controller-manager", "scheduler"):
        pki.write_kubeconfig(kubeconfig(client), client, address.url)
    pki.write_kubeconfig(paths.kubeconfig(), "admin", address.url)
    # The controller manager gives up after 10 s without its rights, which the API server makes last; and a pod needs
    # its namespace's service account, which the controller manager makes.
    _start(_etcd(), _apiserver(address), until=("get", "--raw=/readyz"))
    _start(_controller_manager(), _scheduler(), until=("get", "serviceaccount", "default"))


def kubeconfig(name: str) -> Path:
    """A component's own kubeconfig."""
    return paths.state() / f"{name}.kubeconfig"


def kubectl(*words: str | Path, stdin: str | None = None) -> str:
    """Ask the cluster something as its administrator."""
    settings = {"KUBECONFIG": str(paths.kubeconfig()), "KUBECACHEDIR": str(paths.state() / "kubectl-cache")}
    return run(tools.path("kubectl"), *words, env=os.environ | settings, stdin=stdin)


def _start(*daemons: Daemon, until: Sequence[str]) -> None:
    for daemon in daemons:
        processes.ensure(daemon)
    wait_for(" and ".join(daemon.name for daemon in daemons), lambda: _answers(until), 120)


def _answers(question: Sequence[str]) -> bool:
    processes.check()
    try:
        return bool(kubectl(*question))
    except LabError:
        return False


def _etcd() -> Daemon:
    # It insists on a port in what it tells its peers; there are none, and as a socket's name anything will do.
    peers = "unix://etcd-peers:0"
    return Daemon(
        "etcd",
        [
            "--name=lab",
            f"--data-dir={paths.state() / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls=unix://{_etcd_socket()}",
            f"--advertise-client-urls={peers}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=lab={peers}",
            "--log-level=warn",
        ],
    )


def _etcd_socket() -> Path:
    return paths.state() / "etcd.sock"


def _apiserver(address: Address) -> Daemon:
    return Daemon(
        "kube-apiserver",
        [
            f"--etcd-servers=unix://{_etcd_socket()}",
            f"--bind-address={address.host}",
            f"--advertise-address={address.host}",
            f"--secure-port={address.port}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--client-ca-file={pki.certificate('ca')}",
            f"--tls-cert-file={pki.certificate('apiserver')}",
            f"--tls-private-key-file={pki.key('apiserver')}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki.key('service-accounts')}",
            f"--service-account-signing-key-file={pki.key('service-accounts')}",
            # For logs, exec and port-forward, which the API server asks of the kubelet.
            f"--kubelet-certificate-authority={pki.certificate('ca')}",
            f"--kubelet-client-certificate={pki.certificate('apiserver-kubelet')}",
            f"--kubelet-client-key={pki.key('apiserver-kubelet')}",
            "--kubelet-preferred-address-types=InternalIP",
        ],
    )


def _controller_manager() -> Daemon:
    config = kubeconfig("controller-manager")
    return Daemon(
        "kube-controller-manager",
        [
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials",
            f"--root-ca-file={pki.certificate('ca')}",
            f"--service-account-private-key-file={pki.key('service-accounts')}",
        ],
        [config],
    )


def _scheduler() -> Daemon:
    config = kubeconfig("scheduler")
    flags = [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]
    return Daemon("kube-scheduler", flags, [config])
