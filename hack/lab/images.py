"""The project's images, without a container daemon and without a registry.

`debootstrap` makes the base (Debian with its Python), buildah the targets of the Dockerfile, and containerd gets the
layers that it lacks. A key over all that goes into an image tells whether to build it again; and as the Dockerfile
installs dependencies before it copies sources, a change of sources costs seconds.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import cluster, containerd, paths, store
from lab.shell import LabError, lock, require, run

TARGETS = ("operator", "jobs", "server")
NAME = "localhost/trimtab-{target}:dev"

# The label with the key of all that went into an image.
_KEY = "dev.trimtab.inputs"
# Of every file in a layer: the Dockerfile's SOURCE_DATE_EPOCH. A commit's would not reach layers that are in the store
# already; one that never changes makes the same bytes everywhere, and a layer of dependencies outlives a release.
_TIME = 315532800
_SUITE, _PACKAGES = "bookworm", "python3,python3-venv,ca-certificates"
_INPUTS = (
    *("operator", "jobs", "locks", "hack/image", "pyproject.toml"),
    *("Dockerfile", ".dockerignore", "README.md", "LICENSE"),
)


def build(*targets: str, name: str = NAME) -> list[str]:
    """Build targets of the Dockerfile (`TARGETS` if none is named), load them into the node, return their names."""
    with _building():
        return [_load(_provide(target, name.format(target=target))) for target in targets or TARGETS]


def export(target: str, image: str, layout: Path) -> None:
    """Write a target's image into a folder, as an OCI layout."""
    with _building():
        _provide(target, image)
        store.buildah("push", image, f"oci:{layout}:{image}")


def push(target: str, to: str) -> None:
    """Push a target's image to a registry of this machine, which has no TLS."""
    with _building():
        image = _provide(target, NAME.format(target=target))
        store.buildah("push", "--tls-verify=false", image, f"docker://{to}")


@contextmanager
def _building() -> Iterator[None]:
    require("buildah", "debootstrap", "git")
    if os.geteuid():
        raise LabError("building images needs root: debootstrap makes device files; run as root")
    with lock("images"):
        yield


def _provide(target: str, image: str) -> str:
    key = _digest(image, target, _base(), *_inputs())
    if store.label(image, _KEY) != key:
        with _timed(f"built {image}"):
            _build(target, image, key)
    return image


def _load(image: str) -> str:
    if cluster.has_node() and containerd.images().get(image) != store.digest(image):
        with _timed(f"loaded {image}"):
            containerd.load(image)
    return image


def _build(target: str, image: str, key: str) -> None:
    _provide_base()
    # Pip needs this machine's certificates, which may know an authority that the base does not.
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"
    options = ["--layers", "--isolation=chroot", "--network=host", "--pull-never", f"--volume={certificates}"]
    options.append(f"--timestamp={_TIME}")
    names = [f"--build-arg=BASE={_base()}", f"--target={target}", f"--tag={image}", f"--label={_KEY}={key}"]
    store.buildah("build", *options, *names, paths.CHECKOUT)


def _provide_base() -> None:
    """Have the base in buildah's store: it is there, or in an archive beside the store, or made anew."""
    archive = paths.cache() / "images" / f"{_base().rpartition(':')[2]}.tar"
    made = not archive.exists()
    if made:
        with _timed(f"built {_base()}"):
            _bootstrap()
            _export(archive)
    # Pulled where it was made, too: an image names its base by a digest, and that of one which was pulled is another.
    if made or not store.has(_base()):
        store.buildah("pull", f"docker-archive:{archive}")


def _bootstrap() -> None:
    root = paths.cache() / "debootstrap"
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root, *_mirror())
    shutil.rmtree(root / "var" / "cache" / "apt")
    container = store.buildah("from", "scratch").strip()
    store.buildah("copy", container, root, "/")
    store.buildah("commit", "--rm", container, _base())
    shutil.rmtree(root)


def _mirror() -> list[str]:
    """The mirror that this machine's own packages come from, if it runs the same release."""
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {_SUITE}", "Created-By: Packages")
    return found.split()[:1]


def _export(archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(".partial")
    store.buildah("push", _base(), f"docker-archive:{partial}:{_base()}")
    partial.rename(archive)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    print(f"{what} in {time.monotonic() - begun:.1f} s", flush=True)


def _base() -> str:
    return f"localhost/python-base:{_digest(_SUITE, _PACKAGES)}"


def _inputs() -> list[str]:
    """Names and contents of what the Dockerfile can see: files that git tracks or would."""
    listed = run(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_INPUTS, cwd=paths.CHECKOUT
    )
    files = {name: paths.CHECKOUT / name for name in sorted(listed.split("\0")) if name}
    return [f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for name, file in files.items() if file.is_file()]


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
