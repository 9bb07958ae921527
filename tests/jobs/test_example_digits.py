"""The digits example: its files fit together, and a trial of its job, in a process like a pod, does what it asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from trimtab import plan
from trimtab.api.job import OptimizationJob
from trimtab.api.model import EngineName, Metric
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.work import MESSAGE_VARIABLE, TASK_VARIABLE, VOLUMES_VARIABLE, Report
from trimtab.pod import claimed
from trimtab.recipe import explore
from trimtab.search import propose
from trimtab_jobs.data import read_split

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "digits"
CLAIMS = ("digits", "digits-published", "trimtab-store")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the job's claims, and the example prepared in one of them."""
    folder = tmp_path_factory.mktemp("claims")
    for claim in CLAIMS:
        (folder / claim).mkdir()
    python(folder, str(EXAMPLE / "prepare.py"), str(folder / "digits"))
    return folder


@pytest.fixture
def job() -> OptimizationJob:
    return OptimizationJob.model_validate(yaml.safe_load((EXAMPLE / "job.yaml").read_text()))


@pytest.fixture
def runtime() -> OptimizationRuntime:
    return OptimizationRuntime.model_validate(documents(EXAMPLE / "cluster.yaml")[0])


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def python(folder: Path, *words: str, **variables: str) -> None:
    path = os.pathsep.join(str(ROOT / source) for source in ("operator", "jobs"))
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": path} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_job_names_exists(folder: Path, job: OptimizationJob, runtime: OptimizationRuntime) -> None:
    assert job.spec.target.runtime_ref.name == runtime.metadata.name
    made = [*documents(EXAMPLE / "cluster.yaml"), *documents(EXAMPLE.parent / "magika" / "cluster.yaml")]
    claims = [made["metadata"]["name"] for made in made if made["kind"] == "PersistentVolumeClaim"]
    assert len(claims) == len(set(claims))
    assert {*claimed(plan.inspect(job, runtime, 0).task)} <= {*claims} - {"magika"}
    files = [job.spec.model.uri, job.spec.model.code, *(split.uri for split in job.spec.data.named().values())]
    for uri in files:
        assert uri
        assert (folder / uri.removeprefix("pvc://")).is_file()


def test_no_image_is_in_two_splits(folder: Path, job: OptimizationJob) -> None:
    splits = [read_split(name, folder / "digits" / f"{name}.npz") for name in job.spec.data.named()]
    images = np.concatenate([split.inputs["image"].reshape(len(split), -1) for split in splits])
    assert len(np.unique(images, axis=0)) == len(images) == 1797
    assert images.dtype == np.float32


def test_a_trial_prunes_recovers_exports_and_quantizes(
    folder: Path, job: OptimizationJob, runtime: OptimizationRuntime
) -> None:
    point = propose(explore(job), job.spec.search.seed, 1, [])
    assert point
    task = plan.trial(job, runtime, 1, point, 0).task
    volumes = {claim: str(folder / claim) for claim in CLAIMS}
    variables = {
        TASK_VARIABLE: json.dumps(task.wire()),
        VOLUMES_VARIABLE: json.dumps(volumes),
        MESSAGE_VARIABLE: str(folder / "message"),
    }
    python(folder, "-m", "trimtab_jobs", **variables)
    report = Report.model_validate_json((folder / "message").read_text())
    assert [step.technique for step in report.steps] == ["prune", "distill", "quantize"]
    measured = {measurement.engine: measurement for measurement in report.measurements}
    # What the job allows to be lost is 2 points; the network it starts from has 99.6% to 100%.
    assert measured[EngineName.ONNXRUNTIME].metrics[Metric.ACCURACY] > 0.975
    assert measured[EngineName.OPENVINO].metrics[Metric.ACCURACY] > 0.975
    # 242,000 parameters are 968,000 bytes; half of them remain, of a quarter of the size.
    assert measured[EngineName.ONNXRUNTIME].metrics[Metric.SIZE] < 968_000 / 7
    assert not measured[EngineName.TENSORRT].executed
    assert measured[EngineName.TENSORRT].note.startswith("built for SM89")
