"""A certificate authority of the cluster's own, and who is who in it.

Kubernetes reads a client's identity from its certificate: the common name is the user and the organization the
group. So the whole cast, with its rights, is the table below; the roles behind the names are built into the API
server. The `openssl` program does the work, as every Debian has it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab import paths
from lab.shell import run, write

NODE = "lab"

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "365")


@dataclass(frozen=True)
class Identity:
    """A certificate to make; one with `addresses` serves, one without is a client."""

    file: str
    subject: str
    addresses: Sequence[str] = ()


def identities(api_addresses: Sequence[str], node_address: str) -> list[Identity]:
    """Everybody in the cluster."""
    dns = [f"DNS:{name}" for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")]
    return [
        Identity("admin", "/O=system:masters/CN=admin"),
        Identity("apiserver", "/CN=kube-apiserver", [*dns, *(f"IP:{address}" for address in api_addresses)]),
        Identity("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver"),
        Identity("controller-manager", "/CN=system:kube-controller-manager"),
        Identity("scheduler", "/CN=system:kube-scheduler"),
        Identity("kubelet", f"/O=system:nodes/CN=system:node:{NODE}"),
        Identity("kubelet-serving", f"/O=system:nodes/CN=system:node:{NODE}", [f"IP:{node_address}"]),
        Identity("kube-proxy", "/CN=system:kube-proxy"),
        # No role that is built in reads NetworkPolicies and may not do far more.
        Identity("kube-router", "/O=system:masters/CN=kube-router"),
    ]


def folder() -> Path:
    """Where certificates and keys are."""
    return paths.state() / "pki"


def certificate(name: str) -> Path:
    return folder() / f"{name}.crt"


def key(name: str) -> Path:
    return folder() / f"{name}.key"


def create(everybody: Sequence[Identity]) -> None:
    """Make what is missing: the authority, the key that signs service account tokens, and the certificates."""
    folder().mkdir(parents=True, exist_ok=True)
    if not certificate("ca").exists():
        run("openssl", "req", "-x509", *_CURVE, "-subj", f"/CN={paths.NAME}", *_files("ca"))
    if not key("service-accounts").exists():
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key("service-accounts"))
    for identity in everybody:
        if not certificate(identity.file).exists():
            _sign(identity)


def write_kubeconfig(path: Path, identity: str, server: str) -> None:
    """A kubeconfig that holds its certificates, so that it works wherever it is copied to."""
    cluster = {"server": server, "certificate-authority-data": _base64(certificate("ca"))}
    user = {"client-certificate-data": _base64(certificate(identity)), "client-key-data": _base64(key(identity))}
    settings = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": paths.NAME,
        "clusters": [{"name": paths.NAME, "cluster": cluster}],
        "users": [{"name": identity, "user": user}],
        "contexts": [{"name": paths.NAME, "context": {"cluster": paths.NAME, "user": identity}}],
    }
    write(path, yaml.safe_dump(settings))
    path.chmod(0o600)


def _sign(identity: Identity) -> None:
    extensions = ["basicConstraints=critical,CA:FALSE"]
    if identity.addresses:
        extensions += ["extendedKeyUsage=serverAuth", f"subjectAltName={','.join(identity.addresses)}"]
    else:
        extensions += ["extendedKeyUsage=clientAuth"]
    options = [word for extension in extensions for word in ("-addext", extension)]
    subject = ["-subj", identity.subject]
    authority = ["-CA", str(certificate("ca")), "-CAkey", str(key("ca"))]
    run("openssl", "req", "-x509", *authority, *_CURVE, *subject, *options, *_files(identity.file))


def _files(name: str) -> list[str]:
    return ["-keyout", str(key(name)), "-out", str(certificate(name))]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
