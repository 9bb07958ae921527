"""`make e2e-cluster` on the lab as on somebody's cluster, where nobody has another.

What the suite asks of a cluster comes from outside here: the node pulls the images from a registry, and volumes of the
default StorageClass are made while it runs, as a provisioner does. Afterwards nothing of the suite may be left.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lab import cluster, images, paths
from lab.control import kubectl
from lab.shell import LabError, wait_for
from registry import registry

CLASS = "foreign"
EVERY = 2.0
"""Seconds between two looks at the claims: kubectl takes a tenth of one."""
KEPT = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,persistentvolumes"


class Provisioner(threading.Thread):
    """Makes a folder for each claim of the class, and removes it when the claim is gone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(EVERY):
            with suppress(LabError):  # as any controller, it looks again
                self._look()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look(self) -> None:
        found = json.loads(kubectl("get", "persistentvolumeclaims,persistentvolumes", "-A", "-o", "json"))["items"]
        for item in (item for item in found if item["spec"].get("storageClassName") == CLASS):
            phase = item["status"]["phase"]
            if item["kind"] == "PersistentVolumeClaim" and phase == "Pending":
                self._provide(item)
            if item["kind"] == "PersistentVolume" and phase == "Released":
                kubectl("delete", "persistentvolume", item["metadata"]["name"])
                shutil.rmtree(item["spec"]["hostPath"]["path"])

    def _provide(self, claim: dict[str, Any]) -> None:
        about, spec = claim["metadata"], claim["spec"]
        folder = self._folder / about["uid"]
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        volume = {
            "accessModes": spec["accessModes"],
            "capacity": spec["resources"]["requests"],
            "claimRef": {field: about[field] for field in ("namespace", "name", "uid")},
            "hostPath": {"path": str(folder), "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
        }
        _apply("v1", "PersistentVolume", f"pvc-{about['uid']}", spec=volume)


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """A default StorageClass whose volumes are folders of this machine, which only we know."""
    folder.chmod(0o755)  # pods of another user walk this path
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    _apply("storage.k8s.io/v1", "StorageClass", CLASS, default, provisioner="trimtab.dev/foreign")
    provisioner = Provisioner(folder)
    provisioner.start()
    try:
        yield
    finally:
        provisioner.stop()
        kubectl("delete", "storageclass", CLASS)


def _apply(version: str, kind: str, name: str, annotations: dict[str, str] | None = None, **fields: Any) -> None:
    about = {"name": name, "annotations": annotations or {}}
    kubectl(
        "apply", "-f", "-", stdin=yaml.safe_dump({"apiVersion": version, "kind": kind, "metadata": about, **fields})
    )


def there() -> set[str]:
    return set(kubectl("get", KEPT, "-o", "name").split())


def run_suite(name: str) -> int:
    """What a person with a cluster does."""
    settings = {"KUBECONFIG": str(paths.kubeconfig()), "TRIMTAB_E2E_IMAGES": name}
    return subprocess.run(
        ["make", "e2e-cluster"], cwd=paths.CHECKOUT, env=os.environ | settings, check=False
    ).returncode


def check_gone(before: set[str]) -> None:
    """The volumes go last, after their claims."""
    try:
        wait_for("what the suite made to go", lambda: there() <= before, 60)
    except LabError:
        raise LabError(f"the suite left {', '.join(sorted(there() - before))}") from None


def targets() -> list[str]:
    return [*images.TARGETS, *(["jobs-torch"] if os.environ.get("TRIMTAB_E2E_TORCH_IMAGE") == "1" else [])]


def main() -> int:
    cluster.up()
    if not cluster.has_node():
        raise LabError("needs root: the lab's node is a kubelet with containerd")
    with tempfile.TemporaryDirectory(prefix="trimtab-foreign-") as name:
        volumes, blobs = Path(name) / "volumes", Path(name) / "registry"
        volumes.mkdir()
        blobs.mkdir()
        Path(name).chmod(0o755)
        with registry(blobs) as hub, storage(volumes):
            for target in targets():
                images.push(target, f"{hub.host}/trimtab-{target}:dev")
            before = there()
            failed = run_suite(f"{hub.host}/trimtab-{{target}}:dev")
            check_gone(before)
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"foreign: {error}")
