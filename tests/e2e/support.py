"""A cluster for tests: kubectl, helm, namespaces under the restricted standard, and claims that are folders here.

The cluster is the lab, unless TRIMTAB_E2E_CLUSTER=1 says that it is the one of KUBECONFIG. That one makes volumes by
itself, what is in its claims is copied there and back, and its Services are reached through forwarded ports. It pulls
the images that TRIMTAB_E2E_IMAGES names.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import cluster, paths, tools
from ports import free_port

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
GIVEN = os.environ.get("TRIMTAB_E2E_CLUSTER") == "1"
"""Whether the cluster is somebody's, and not the lab."""
IMAGES = os.environ.get("TRIMTAB_E2E_IMAGES", "localhost/trimtab-{target}:dev")
"""How images are called; `{target}` stands for operator, jobs, server and jobs-torch."""
TORCH_IMAGE = os.environ.get("TRIMTAB_E2E_TORCH_IMAGE") == "1"
"""Whether the image jobs-torch is there too; without it the lab's training pods have torch from this environment."""
ACCESS = os.environ.get("TRIMTAB_E2E_ACCESS_MODE", "ReadWriteMany")
"""How the cluster's default StorageClass lets claims be mounted; ReadWriteOnce does on one node."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def kubeconfig() -> Path:
    """Of whoever may install the chart."""
    return Path(os.environ["KUBECONFIG"]) if GIVEN else paths.kubeconfig()


def program(name: str) -> str:
    """The lab's own where it is built."""
    return str(tools.path(name)) if tools.path(name).exists() else shutil.which(name) or name


def kubectl(*words: str | Path, stdin: str | None = None) -> str:
    """Run kubectl as the administrator; its output, or an AssertionError with what it complained about."""
    done = try_kubectl(*words, stdin=stdin)
    assert done.returncode == 0, f"kubectl {' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


def try_kubectl(*words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [program("kubectl"), "--kubeconfig", kubeconfig(), *words]
    return subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)


def helm(*words: str | Path) -> str:
    command = [program("helm"), "--kubeconfig", kubeconfig(), *words]
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
        """The folder behind a claim, writable for the pods' user, bound to the next claim of that name.

        On a given cluster it is a copy: `load` takes it there, `fetch` brings it back.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        if not GIVEN:
            self._volume(name, folder, "ReadWriteMany")
        return folder

    def load(self, name: str) -> None:
        """Have what is in a claim's folder in the claim, which is there by now."""
        if GIVEN:
            with self._loader(name):
                kubectl("-n", self.name, "cp", f"{self.folder / name}/.", f"loader:/claims/{name}")

    def fetch(self, *names: str) -> None:
        """Have what is in claims in their folders."""
        for name in names if GIVEN else ():
            with self._loader(name):
                kubectl("-n", self.name, "cp", f"loader:/claims/{name}/.", str(self.folder / name))

    @contextmanager
    def _loader(self, claim: str) -> Iterator[None]:
        """The pod of examples/loader.yaml, with this claim."""
        pod = yaml.safe_load((EXAMPLES / "loader.yaml").read_text())
        (container,) = pod["spec"]["containers"]
        container["volumeMounts"] = [{"name": "claim", "mountPath": f"/claims/{claim}"}]
        pod["spec"]["volumes"] = [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}]
        self.apply(pod)
        kubectl("-n", self.name, "wait", "--for=condition=Ready", "--timeout=300s", "pod/loader")
        try:
            yield
        finally:
            kubectl("-n", self.name, "delete", "pod", "loader", "--timeout=300s")

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
        kubectl("-n", self.name, "apply", "-f", "-", stdin=_fitted("\n---\n".join(texts)))

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
            try_kubectl("-n", "trimtab", "logs", "-l", "app.kubernetes.io/name=trimtab", "--tail=100", "--prefix"),
        ]
        return "\n".join(s.stdout + s.stderr for s in shown)


def _fitted(text: str) -> str:
    """With the images and the access mode of the cluster in place of the examples'."""
    for target in ("operator", "jobs", "server", "jobs-torch"):
        text = text.replace(f"localhost/trimtab-{target}:dev", IMAGES.format(target=target))
    return text.replace("ReadWriteMany", ACCESS) if GIVEN else text


@contextmanager
def reached(namespace: str, service: str) -> Iterator[str]:
    """Where a Service with the port 8080 is reached from this machine, which in the lab is the node.

    Elsewhere kubectl forwards a port to one of its pods, from within that pod: no NetworkPolicy is in the way.
    """
    if not GIVEN:
        yield f"{get(namespace, 'service', service)['spec']['clusterIP']}:8080"
        return
    port = free_port()
    command = [program("kubectl"), "--kubeconfig", kubeconfig(), "-n", namespace, "port-forward"]
    forwarding = subprocess.Popen([*command, f"service/{service}", f"{port}:8080"], stdout=subprocess.DEVNULL)
    try:
        wait_for(f"a port is forwarded to {service} in {namespace}", lambda: listens(port), 300)
        yield f"127.0.0.1:{port}"
    finally:
        forwarding.terminate()
        forwarding.wait(300)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


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
        kubectl("-n", name, "delete", ours, "--all", "--timeout=300s")
        if not keep:
            kubectl("delete", "namespace", name, "--timeout=300s")
        if not GIVEN:
            _delete_volumes(name)


def _delete_volumes(of: str) -> None:
    volumes = (v for v in get("", "persistentvolumes") if v["spec"]["claimRef"]["namespace"] == of)
    for volume in volumes:
        kubectl("delete", "persistentvolume", volume["metadata"]["name"])


def ensure_cluster(namespaces: Sequence[str] = ()) -> None:
    """The lab is up; of a given cluster, what the suite needs is there and what it makes and deletes is not."""
    if not GIVEN:
        cluster.up()
        assert cluster.has_node(), "needs root: the lab's node is a kubelet with containerd"
        return
    assert os.environ.get("KUBECONFIG"), "KUBECONFIG is not set: name the file that leads to the cluster"
    crd = kubectl("get", "crd", "optimizationjobs.trimtab.dev", "--ignore-not-found")
    assert not crd, "the cluster of KUBECONFIG has Trimtab already, which the suite would replace and remove"
    taken = kubectl("get", "namespace", *namespaces, "--ignore-not-found", "-o", "name").split()
    assert not taken, f"the cluster of KUBECONFIG has {', '.join(taken)}, which the suite would delete: use another"
    classes = (c["metadata"].get("annotations", {}) for c in get("", "storageclasses"))
    default = any(annotations.get(DEFAULT_CLASS) == "true" for annotations in classes)
    assert default, f"the cluster of KUBECONFIG has no default StorageClass: annotate one with {DEFAULT_CLASS}=true"


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """An example's one document with a change that a test needs."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    change(document)
    return document
