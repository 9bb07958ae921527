"""Bad models and data files on the cluster: a condition with the reason, and nothing published.

The same table as on a laptop (`tests/jobs/test_bad_input.py`), a job for each of ten.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bad_inputs import CASES, sound_spec, write_inputs
from e2e.support import EXAMPLES, Namespace, get

pytestmark = pytest.mark.e2e
NAMESPACE = "e2e-bad-input"
TEN = (
    "model-missing",
    "model-truncated",
    "text-for-a-model",
    "opset-too-new",
    "external-data-missing",
    "custom-operator",
    "another-shape",
    "nan",
    "overlapping-splits",
    "pickled-array",
)


def modest(document: dict[str, Any]) -> dict[str, Any]:
    """Small pods, so that the two cores take several at once."""
    document["spec"]["resources"] = {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    return document


def job(case: str, folder: Path) -> dict[str, Any]:
    """A job over a folder of its own in the claim `inputs`, spoilt in one way."""
    folder.mkdir()
    write_inputs(folder)
    spec = sound_spec() | CASES[case].spoil(folder)
    spec |= {"techniques": [{"quantize": {}}], "publish": {"uri": "pvc://published"}}
    moved = json.loads(json.dumps(spec).replace("pvc://inputs/", f"pvc://inputs/{case}/"))
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "OptimizationJob",
        "metadata": {"name": case},
        "spec": moved,
    }


@pytest.fixture(scope="module")
def jobs(home: Namespace, operator: None) -> Namespace:
    folder = home.claim("inputs")
    for name in ("published", "trimtab-store"):
        home.claim(name)
    runtime, *_ = yaml.safe_load_all((EXAMPLES / "magika" / "cluster.yaml").read_text())
    home.apply(modest(runtime), *(claim(name) for name in ("inputs", "published", "trimtab-store")))
    spoilt = [job(case, folder / case) for case in TEN]
    home.load("inputs")
    home.apply(*spoilt)
    return home


def claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("case", TEN)
def test_the_condition_says_what_is_wrong(jobs: Namespace, case: str) -> None:
    ended = jobs.wait_ended(case, 300)
    told = {c["type"]: c for c in ended["status"]["conditions"]}
    for kind, status in (("Accepted", "False"), ("Failed", "True"), ("Complete", "False")):
        assert (told[kind]["status"], told[kind]["reason"]) == (status, "InvalidInput"), jobs.story()
    for words in CASES[case].says:
        assert words in told["Failed"]["message"]
    assert "\n" not in told["Failed"]["message"]
    assert ended["status"]["state"] == "InvalidInput"


def test_nothing_was_tried_twice_or_half_written(jobs: Namespace) -> None:
    assert len(get(jobs.name, "jobs")) == len(TEN)
    jobs.fetch("published", "trimtab-store")
    assert not list((jobs.folder / "published").iterdir())
    half_written = list((jobs.folder / "trimtab-store").glob(".tmp/*"))
    assert not half_written
