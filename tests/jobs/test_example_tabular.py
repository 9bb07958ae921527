"""The tabular example: its files fit its job, its splits are disjoint, and the hand-built graph is the network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trimtab.api.job import OptimizationJob
from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.data import Splits, check_disjoint
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.model import Model

EXAMPLE = Path(__file__).parents[2] / "examples/tabular"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("claims") / "tabular"
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py"), str(folder)], check=True)
    return folder


def test_what_the_job_names_exists(folder: Path) -> None:
    job = OptimizationJob.model_validate(yaml.safe_load((EXAMPLE / "job.yaml").read_text()))
    for uri in (job.spec.model.uri, *(split.uri for split in job.spec.data.named().values())):
        assert (folder.parent / uri.removeprefix("pvc://")).is_file()


def test_the_graph_predicts_what_the_network_learned(folder: Path) -> None:
    splits = Splits({path.stem: path for path in folder.glob("*.npz")})
    check_disjoint(splits.all())
    session = engine(EngineName.ONNXRUNTIME).load(Model(folder, ModelFormat.ONNX), EngineOptions())
    probabilities = session.run(splits.holdout.inputs)[0]
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert (probabilities.argmax(axis=1) == splits.holdout.labels).mean() > 0.93
