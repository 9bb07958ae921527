"""The programs of the lab, built from the Go modules pinned in `hack/tools`.

Building Kubernetes takes minutes, so the binaries stay in the cache folder, one folder per module and key. The key
covers whatever goes into a binary: the module's files, the compiler's version and the build settings. Nothing is
resolved at build time (`-mod=readonly`), so a checkout builds the same programs anywhere.
"""

import functools
import hashlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.shell import LabError, lock, run

SOURCES = paths.CHECKOUT / "hack" / "tools"


@dataclass(frozen=True)
class Tool:
    """One binary: the module that pins it, the package to build, and its build settings."""

    module: str
    package: str
    tags: str = ""
    stamp: str = ""  # the linker variable that takes the version


def _kubernetes(name: str) -> Tool:
    return Tool("kubernetes", f"k8s.io/kubernetes/cmd/{name}", stamp="k8s.io/component-base/version.gitVersion")


def _containerd(name: str) -> Tool:
    # These snapshotters need C libraries; the lab uses overlayfs.
    tags = "no_btrfs,no_devmapper,no_zfs"
    return Tool("containerd", f"github.com/containerd/containerd/v2/cmd/{name}", tags)


TOOLS = {
    "pause": Tool("pause", "trimtab.dev/hack/tools/pause"),
    "etcd": Tool("etcd", "go.etcd.io/etcd/server/v3"),
    "kubectl": _kubernetes("kubectl"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "containerd": _containerd("containerd"),
    "containerd-shim-runc-v2": _containerd("containerd-shim-runc-v2"),
    "ctr": _containerd("ctr"),
    "helm": Tool("helm", "helm.sh/helm/v4/cmd/helm"),
    "kube-router": Tool("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"),
    "registry": Tool("registry", "github.com/distribution/distribution/v3/cmd/registry"),
    "versitygw": Tool("s3", "github.com/versity/versitygw/cmd/versitygw"),
}
CONTROL_PLANE = ("etcd", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("pause", "kubelet", "kube-proxy", "kube-router", "containerd", "containerd-shim-runc-v2", "ctr")


def path(name: str) -> Path:
    """Where a tool is, built or not."""
    module = TOOLS[name].module
    return paths.cache() / "tools" / f"{module}-{_key(module)}" / name


def missing(names: Iterable[str] = tuple(TOOLS)) -> list[str]:
    """The tools that `build` would have to build."""
    return [name for name in names if not path(name).exists()]


def build(names: Iterable[str] = tuple(TOOLS)) -> None:
    """Build the tools that are missing, one after the other: each keeps all cores busy by itself."""
    if not missing(names):
        return
    with lock("tools"):
        for name in missing(names):
            print(f"building {name} ...", flush=True)
            begun = time.monotonic()
            _build(name)
            print(f"built {name} in {time.monotonic() - begun:.0f} s", flush=True)


def _build(name: str) -> None:
    tool, target = TOOLS[name], path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    run(
        "go",
        "build",
        "-tags",
        tool.tags,
        "-ldflags",
        _ldflags(tool),
        "-o",
        partial,
        tool.package,
        cwd=SOURCES / tool.module,
        env=os.environ | _settings(),
    )
    partial.rename(target)


def _settings() -> dict[str, str]:
    # Without C the binaries are static and need nothing of the machine's libraries.
    return {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}


def _ldflags(tool: Tool) -> str:
    return f"-s -w -X {tool.stamp}={_version(tool)}" if tool.stamp else "-s -w"


def _version(tool: Tool) -> str:
    """The version that a module pins its tool at."""
    module = tool.package.partition("/cmd/")[0]
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", _gomod(tool.module), re.MULTILINE)
    if found is None:
        raise LabError(f"{SOURCES / tool.module / 'go.mod'} does not require {module}; go get {module} there")
    return found[1]


def _gomod(module: str) -> str:
    return (SOURCES / module / "go.mod").read_text()


@functools.cache
def _key(module: str) -> str:
    files = sorted(file for file in (SOURCES / module).iterdir() if file.suffix in {".mod", ".sum", ".go"})
    tools = [tool for tool in TOOLS.values() if tool.module == module]
    inputs = [*(file.read_text() for file in files), *map(repr, tools), repr(_settings()), _compiler()]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:12]


@functools.cache
def _compiler() -> str:
    return run("go", "env", "GOVERSION", "GOOS", "GOARCH")
