"""The magika example: its files fit together, its data are sound on this machine, and its model is good at them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from trimtab import plan
from trimtab.api.job import OptimizationJob
from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.runtime import OptimizationRuntime
from trimtab.pod import claimed
from trimtab.recipe import explore
from trimtab.search import propose
from trimtab.space import Tried
from trimtab_jobs.data import Split, read_split
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.model import Model

EXAMPLE = Path(__file__).parents[2] / "examples/magika"
TYPES = 214


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("claims") / "magika"
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def splits(folder: Path) -> dict[str, Split]:
    return {path.stem: read_split(path.stem, path) for path in folder.glob("*.npz")}


@pytest.fixture
def job() -> OptimizationJob:
    return OptimizationJob.model_validate(yaml.safe_load((EXAMPLE / "job.yaml").read_text()))


def test_what_the_job_names_exists(folder: Path, job: OptimizationJob) -> None:
    first, *others = yaml.safe_load_all((EXAMPLE / "cluster.yaml").read_text())
    runtime = OptimizationRuntime.model_validate(first)
    assert job.spec.target.runtime_ref.name == runtime.metadata.name
    assert {*claimed(plan.inspect(job, runtime, 0).task)} <= {claim["metadata"]["name"] for claim in others}
    for uri in (job.spec.model.uri, *(split.uri for split in job.spec.data.named().values())):
        assert (folder.parent / uri.removeprefix("pvc://")).is_file()


def test_the_search_has_exactly_two_trials(job: OptimizationJob) -> None:
    history: list[Tried] = []
    while point := propose(explore(job), job.spec.search.seed, len(history) + 1, history):
        history.append(Tried(point))
    assert [tried.point["quantize.operatorScope"] for tried in history] == ["All", "Compute"]


def test_no_sample_is_in_two_splits(splits: dict[str, Split]) -> None:
    samples = np.concatenate([split.inputs["bytes"] for split in splits.values()])
    assert samples.dtype == np.int32
    assert len(np.unique(samples, axis=0)) == len(samples)
    assert {name: len(split) for name, split in splits.items()}.items() >= {
        ("calibration", 200),
        ("evaluation", 1000),
        ("holdout", 1000),
    }


def test_types_are_mixed_in_every_split(splits: dict[str, Split]) -> None:
    for split in splits.values():
        assert split.labels is not None
        counts = np.bincount(split.labels, minlength=TYPES)
        assert len(counts) == TYPES
        assert (counts > 0).sum() > 10
        assert counts.max() < 0.25 * len(split)


def test_the_model_knows_nearly_all_the_types(folder: Path, splits: dict[str, Split]) -> None:
    session = engine(EngineName.ONNXRUNTIME).load(Model(folder, ModelFormat.ONNX), EngineOptions(threads=2))
    split = splits["holdout"]
    assert split.labels is not None
    predictions = session.run({"bytes": split.inputs["bytes"][:300]})[0].argmax(1)
    assert (predictions == split.labels[:300]).mean() > 0.9
