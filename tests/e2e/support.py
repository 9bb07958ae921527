"""A cluster for tests: kubectl, helm, namespaces under the restricted standard, and claims that are folders here."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import cluster, paths, tools

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"


def kubectl(*words: str | Path, stdin: str | None = None) -> str:
    """Run kubectl as the administrator; its output, or an AssertionError with what it complained about."""
    done = try_kubectl(*words, stdin=stdin)
    assert done.returncode == 0, f"kubectl {' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


def try_kubectl(*words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [tools.path("kubectl"), "--kubeconfig", paths.kubeconfig(), *words]
    return subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)


def helm(*words: str | Path) -> str:
    command = [tools.path("helm"), "--kubeconfig", paths.kubeconfig(), *words]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"helm {' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


def get(namespace: str, kind: str, which: str = "") -> Any:
    """One object by its name, or a list of them, all or by a selector such as `app=x`."""
    words = [] if not which else ["-l", which] if "=" in which else [which]
    found = json.loads(kubectl("-n", namespace, "get", kind, *words, "-o", "json"))
    return found["items"] if found["kind"] == "List" else found


def wait_for(what: str, test: Callable[[], Any], seconds: float, every: float = 0.5) -> Any:
    """Poll until `test` returns something true; its last answer is in the message if it never does."""
    end = time.monotonic() + seconds
    while not (answer := test()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}; the last answer was {answer!r}"
        time.sleep(every)
    return answer


def condition(item: dict[str, Any], kind: str) -> str:
    """The status of a condition; empty while there is none."""
    return next((c["status"] for c in item.get("status", {}).get("conditions", []) if c["type"] == kind), "")


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test module, and the folder its claims are in."""

    name: str
    folder: Path

    def claim(self, name: str) -> Path:
        """The folder behind a claim, writable for the pods' user, bound to the next claim of that name."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        self._volume(name, folder, "ReadWriteMany")
        return folder

    def read_only_claim(self, name: str, folder: Path) -> None:
        """A claim on an existing folder of this machine, and the claim itself."""
        self._volume(name, folder, "ReadOnlyMany")
        spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
        self.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})

    def _volume(self, claim: str, folder: Path, mode: str) -> None:
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{self.name}-{claim}"},
            "spec": {
                "accessModes": [mode],
                "capacity": {"storage": "10Gi"},
                "claimRef": {"namespace": self.name, "name": claim},
                "hostPath": {"path": str(folder), "type": "Directory"},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(volume))

    def apply(self, *documents: dict[str, Any] | Path) -> None:
        texts = [d.read_text() if isinstance(d, Path) else yaml.safe_dump(d) for d in documents]
        kubectl("-n", self.name, "apply", "-f", "-", stdin="\n---\n".join(texts))

    def job(self, name: str) -> Any:
        return get(self.name, "optimizationjobs.trimtab.dev", name)

    def wait_ended(self, name: str, seconds: float) -> Any:
        """The job once it is Complete or Failed."""

        def ended() -> Any:
            job = self.job(name)
            return job if "True" in (condition(job, "Complete"), condition(job, "Failed")) else None

        try:
            return wait_for(f"{name} in {self.name} ends", ended, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.story()}") from None

    def wait_complete(self, name: str, seconds: float) -> Any:
        """The job once it is Complete; if it fails instead, its story is in the AssertionError."""
        job = self.wait_ended(name, seconds)
        assert condition(job, "Complete") == "True", f"{yaml.safe_dump(job['status'])}\n{self.story()}"
        return job

    def story(self) -> str:
        """What a person would look at when something is stuck."""
        shown = [
            try_kubectl("-n", self.name, "get", "optimizationjobs.trimtab.dev,modelmonitors.trimtab.dev,jobs,pods,pvc"),
            try_kubectl("-n", self.name, "get", "events", "--sort-by=.lastTimestamp"),
            try_kubectl("-n", self.name, "logs", "-l", "trimtab.dev/managed=true", "--tail=20", "--prefix"),
        ]
        return "\n".join(s.stdout + s.stderr for s in shown)


def make_namespace(name: str) -> None:
    """A namespace that admits only restricted pods."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(made))


@contextmanager
def namespace(name: str, folder: Path, keep: bool = False) -> Iterator[Namespace]:
    """A namespace whose objects are gone again afterwards, and itself too unless it is to `keep`.

    The installed operator has a Role in each namespace it serves, so those last as long as it does.
    """
    make_namespace(name)
    try:
        yield Namespace(name, folder)
    finally:
        ours = "modelmonitors.trimtab.dev,optimizationjobs.trimtab.dev,deployments,jobs,persistentvolumeclaims"
        kubectl("-n", name, "delete", ours, "--all", "--timeout=120s")
        if not keep:
            kubectl("delete", "namespace", name, "--timeout=120s")
        _delete_volumes(name)


def _delete_volumes(of: str) -> None:
    volumes = (v for v in get("", "persistentvolumes") if v["spec"]["claimRef"]["namespace"] == of)
    for volume in volumes:
        kubectl("delete", "persistentvolume", volume["metadata"]["name"])


def ensure_cluster() -> None:
    cluster.up()
    assert cluster.has_node(), "needs root: the lab's node is a kubelet with containerd"


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """An example's one document with a change that a test needs."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    change(document)
    return document
