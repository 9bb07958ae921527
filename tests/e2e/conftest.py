"""The cluster with the chart installed, as a platform team would, and the examples' data prepared once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.support import (
    EXAMPLES,
    GIVEN,
    IMAGES,
    REPOSITORY,
    TORCH_IMAGE,
    Namespace,
    ensure_cluster,
    helm,
    kubectl,
    make_namespace,
    namespace,
)

NAMESPACES = ("e2e-slice-a", "e2e-slice-b", "e2e-slice-c", "e2e-bad-input", "trimtab")
"""What the installed operator serves, and its own."""
FAULTS = ("e2e-faults-a", "e2e-faults-c")
"""Where the fault tests run operators of their own."""


@pytest.fixture(scope="session")
def cluster() -> None:
    ensure_cluster((*NAMESPACES, *FAULTS))


@pytest.fixture(scope="session")
def operator(cluster: None) -> Iterator[None]:
    """The operator as a pod, from the chart, limited to the namespaces of these tests."""
    for name in NAMESPACES:
        make_namespace(name)
    try:
        _install()
        yield
    finally:
        helm("uninstall", "trimtab", "--namespace", "trimtab", "--ignore-not-found", "--wait")
        kubectl("delete", "namespace", *NAMESPACES, "--timeout=300s")


def _install() -> None:
    values = REPOSITORY / "tests" / "e2e" / "values.yaml"
    try:
        helm(
            *("upgrade", "--install", "trimtab", REPOSITORY / "charts" / "trimtab"),
            *("--namespace", "trimtab", "--values", values, *_given(), "--wait", "--timeout", "300s"),
        )
    except AssertionError as failed:
        raise AssertionError(f"{failed}\n{Namespace('trimtab', Path()).story()}") from None


def _given() -> list[str]:
    """A given cluster pulls the operator's image, and keeps nothing of ours."""
    repository, _, tag = IMAGES.format(target="operator").rpartition(":")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "image.pullPolicy": "IfNotPresent",
        "crds.keep": "false",
    }
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")] if GIVEN else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here, needs = Path(__file__).parent, _needs()
    for item in items:
        if item.path.parent == here and item.path.name in needs:
            item.add_marker(pytest.mark.skip(needs[item.path.name]))


def _needs() -> dict[str, str]:
    """What a given cluster lacks for a file's tests."""
    needs = {
        "test_image_volume.py": "needs the lab: its node pulls from a registry of this machine",
        "test_policies.py": "needs the lab: pods have addresses of its choice, and its agent enforces policies",
    }
    if not TORCH_IMAGE:
        needs["test_slice_b.py"] = (
            "needs the image jobs-torch where the cluster pulls; TRIMTAB_E2E_TORCH_IMAGE=1 says so"
        )
    return needs if GIVEN else {}


def prepared(example: str, folder: Path, *options: str) -> Path:
    command = [sys.executable, EXAMPLES / example / "prepare.py", folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def magika(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared("magika", tmp_path_factory.mktemp("magika"), "--judged", "400")


@pytest.fixture(scope="session")
def digits_cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared("digits", tmp_path_factory.mktemp("digits"))


def fill(claim: Path, data: Path) -> None:
    """Put prepared data where a claim's pods find it."""
    for file in data.iterdir():
        shutil.copyfile(file, claim / file.name)


@pytest.fixture(scope="module")
def home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cluster: None
) -> Iterator[Namespace]:
    """The test module's own namespace, called as the module says in `NAMESPACE`."""
    name = request.module.NAMESPACE
    root = tmp_path_factory.mktemp(name)
    # Pods of another user walk this path: pytest makes its folders private.
    for folder in (root, *root.parents[:3]):
        folder.chmod(0o755)
    with namespace(name, root, keep=True) as made:
        yield made
