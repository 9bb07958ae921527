"""Containerd, which runs the node's containers through runc and holds its images.

Its configuration keeps it off the paths that another containerd on the machine would use; what is left of those, the
sockets of its shims, is in `leftovers`.
"""

import shutil
from pathlib import Path

from lab import network, paths, processes, store, tools
from lab.processes import Daemon
from lab.shell import LabError, run, succeeds, wait_for, write

PAUSE_IMAGE = "localhost/trimtab-pause:lab"

_CONFIG = """\
version = 3
root = "{state}/containerd/root"
state = "{state}/containerd/state"

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{state}/containerd/opt"

[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
netns_mounts_under_state_dir = true
# The kubelet asks for negative OOM scores, which takes a capability that root may lack.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{state}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
Root = "{state}/containerd/runc"
"""


def start() -> None:
    """Start it, if need be, and wait until it answers."""
    processes.ensure(_daemon())
    wait_for("containerd", lambda: succeeds(*ctr(), "version"), 30)


def ctr() -> list[str | Path]:
    """The start of a `ctr` command line that speaks to the kubelet's part of this node's containerd."""
    return [tools.path("ctr"), "--address", paths.containerd_socket(), "--namespace", "k8s.io"]


def images() -> dict[str, str]:
    """The images that pods can use, and their digests."""
    rows = [line.split() for line in run(*ctr(), "images", "list").splitlines()[1:]]
    return {name: digest for name, _, digest, *_ in rows}


def load(image: str) -> None:
    """Bring an image of buildah's store into the node; only the blobs that it lacks travel."""
    archive = paths.state() / "image.tar"
    store.pack(image, set(run(*ctr(), "content", "list", "--quiet").split()), archive)
    try:
        import_archive(archive)
    except LabError:  # what nothing referred to any more may have been collected in between
        store.pack(image, set(), archive)
        import_archive(archive)


def import_archive(archive: Path) -> None:
    """Import an archive and remove it."""
    run(*ctr(), "images", "import", archive)
    archive.unlink()


def _daemon() -> Daemon:
    config = paths.state() / "containerd.toml"
    names = {"state": paths.state(), "socket": paths.containerd_socket()}
    write(config, _CONFIG.format(**names, plugins=network.PLUGINS, pause=PAUSE_IMAGE))
    network.write_cni(paths.state() / "cni")
    # Containerd looks for its shim, and the shim for runc, in the path.
    folders = [tools.path("containerd-shim-runc-v2").parent, Path(shutil.which("runc") or "").parent]
    search = ":".join([*map(str, folders), "/usr/sbin", "/usr/bin"])
    return Daemon("containerd", [f"--config={config}"], [config], {"PATH": search})
