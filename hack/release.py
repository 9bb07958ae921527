"""`make release`: wheel, chart and images of one version, with bills of materials and checksums, in dist/.

The version is pyproject.toml's, and the chart's and the code's are held to it before anything is built. What is written
depends on the commit, the locks and the base image: files in it have the time of the commit or, in an image, one that
never changes, so whoever builds the same commit on the same base can compare checksums.

    release.py [TARGET ...]     # targets of the Dockerfile; all of them if none is named
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import images, store, tools
from lab.paths import CHECKOUT
from lab.shell import LabError, run
from trimtab import __version__
from trimtab.api.schema.__main__ import files, version

TARGETS = ("operator", "jobs", "jobs-torch", "jobs-tensorrt", "server")
DIST = CHECKOUT / "dist"
SBOM = "/opt/trimtab/sbom.cdx.json"


def main(targets: list[str]) -> None:
    check_versions(version())
    if changed := run("git", "status", "--porcelain", cwd=CHECKOUT).strip():
        raise LabError(f"a release is of a commit, and this checkout has changes: commit or stash them\n{changed}")
    DIST.mkdir(exist_ok=True)
    epoch = time_of("HEAD")
    with unpacked("HEAD") as sources:
        made = [wheel(sources, epoch, DIST), chart(sources, epoch, DIST)]
    for target in targets or TARGETS:
        made += image(target, version(), epoch)
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in sorted(made))
    (DIST / "SHA256SUMS").write_text(sums)
    print(sums, end="")


def check_versions(wanted: str) -> None:
    """Raises LabError where something is of another version than pyproject.toml."""
    if __version__ != wanted:
        raise LabError(f"trimtab.__version__ is {__version__}, and pyproject.toml says {wanted}: change the first")
    stale = [name for name, text in files().items() if (CHECKOUT / name).read_text() != text]
    if stale:
        raise LabError(f"{', '.join(stale)}: stale; make generate")


def time_of(commit: str) -> int:
    return int(run("git", "log", "-1", "--format=%ct", commit, cwd=CHECKOUT))


@contextmanager
def unpacked(commit: str) -> Iterator[Path]:
    """A commit's files, away from the checkout, where an earlier build's could get among them."""
    with tempfile.TemporaryDirectory() as folder:
        run("git", "archive", "--output", f"{folder}/sources.tar", commit, cwd=CHECKOUT)
        run("tar", "-xf", f"{folder}/sources.tar", "-C", folder)
        Path(folder, "sources.tar").unlink()
        yield Path(folder)


def wheel(sources: Path, epoch: int, into: Path) -> Path:
    """Built by the locked setuptools."""
    constraints = ("--require-hashes", "--build-constraints", CHECKOUT / "locks" / "setuptools.txt")
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": str(epoch),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = ("uv", "build", "--quiet", "--wheel", "--out-dir", folder, "--no-create-gitignore")
        run(*command, *constraints, cwd=sources, env=environment)
        [built] = Path(folder).iterdir()
        return Path(shutil.copy(built, into))


def chart(sources: Path, epoch: int, into: Path) -> Path:
    """What helm packages, with the commit's time in place of now."""
    tools.build(["helm"])
    with tempfile.TemporaryDirectory() as folder:
        run(tools.path("helm"), "package", sources / "charts" / "trimtab", "--destination", folder)
        [packaged] = Path(folder).iterdir()
        target = into / packaged.name
        target.write_bytes(retimed(packaged.read_bytes(), epoch))
    return target


def retimed(archive: bytes, epoch: int) -> bytes:
    """A .tgz with the same files, ordered by name, all of the time `epoch`."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=plain, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            content = old.extractfile(member)
            member.mtime, member.pax_headers = epoch, {}
            new.addfile(member, content)
    return gzip.compress(plain.getvalue(), mtime=epoch)


def image(target: str, tag: str, epoch: int) -> list[Path]:
    """The image as an OCI archive, and its bill of materials."""
    name = f"localhost/trimtab-{target}:{tag}"
    archive, sbom = DIST / f"trimtab-{target}-{tag}.oci.tar", DIST / f"trimtab-{target}-{tag}.cdx.json"
    with tempfile.TemporaryDirectory(dir=DIST) as folder:
        images.export(target, name, Path(folder))
        pack(Path(folder), archive, epoch)
        known_by = digests(Path(folder))
    bom = json.loads(store.read(name, SBOM))
    sbom.write_text(json.dumps(of_image(bom, target, tag, known_by), indent=1) + "\n")
    return [archive, sbom]


def pack(layout: Path, archive: Path, epoch: int) -> None:
    """Write an OCI layout as a .tar of files ordered by name, all of the time `epoch`."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(path for path in layout.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(str(path.relative_to(layout)))
            member.size, member.mtime = path.stat().st_size, epoch
            with path.open("rb") as content:
                tar.addfile(member, content)


def digests(layout: Path) -> dict[str, str]:
    """What the image in an OCI layout is known by, and the base that it was built on.

    The lab's base is one layer, and is named by that of its files: the digest of a manifest, or of what was compressed,
    depends on who wrote it.
    """

    def blob(digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        return found

    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = blob(entry["digest"])
    return {
        "oci:manifest:digest": entry["digest"],
        "oci:base:name": manifest["annotations"]["org.opencontainers.image.base.name"],
        "oci:base:layer": blob(manifest["config"]["digest"])["rootfs"]["diff_ids"][0],
    }


def of_image(bom: dict[str, object], target: str, tag: str, known_by: dict[str, str]) -> dict[str, object]:
    """The image's own bill of materials, which knows its packages, with what it is the bill of."""
    about = {"type": "container", "name": f"trimtab-{target}", "version": tag, "bom-ref": f"trimtab-{target}"}
    properties = [{"name": name, "value": value} for name, value in known_by.items()]
    code = {"type": "application", "name": "trimtab", "version": tag, "purl": f"pkg:pypi/trimtab@{tag}"}
    metadata, components = bom["metadata"], bom["components"]
    assert isinstance(metadata, dict)
    assert isinstance(components, list)
    component = {"metadata": metadata | {"component": about | {"properties": properties}}}
    return bom | component | {"components": [code, *components]}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"release: {error}")
