"""What is tried on models of every kind, on every CPU, with what a job gave."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_job
from trimtab.api.job import Algorithm, OptimizationJob
from trimtab.api.status import Hardware, Inspection, OptimizationJobStatus
from trimtab.api.techniques import Step
from trimtab.recipe import explore, pipeline
from trimtab.space import canonical, fix, locate

MODELS = {
    "cnn": {"Conv": 53, "Relu": 49, "Add": 16, "Gemm": 1},
    "crnn": {"Conv": 12, "Relu": 8, "LSTM": 2, "Gemm": 1, "Softmax": 1},
    "transformer": {"MatMul": 72, "Add": 100, "Softmax": 6, "Gemm": 1},
    "perceptron": {"Gemm": 2, "Relu": 1},
    "detector": {"Conv": 64, "Sigmoid": 57, "Mul": 58, "Softmax": 1, "Concat": 18},
    "trees": {"ai.onnx.ml:TreeEnsembleClassifier": 1},
}


def inspected(operators: dict[str, int], flags: list[str] | None = None, **spec: Any) -> OptimizationJob:
    """A job whose model has these operators; without techniques unless `spec` gives some."""
    job = make_job(**{"techniques": None} | spec)
    splits = dict.fromkeys(job.spec.data.named(), "sha256:0")
    status = OptimizationJobStatus(
        inspection=Inspection(operators=operators, data_digests=splits), hardware=Hardware(flags=flags or ["avx2"])
    )
    return job.model_copy(update={"status": status})


def tried(job: OptimizationJob) -> list[list[Step]]:
    """The pipelines that the recipe would try, in their order."""
    return [fix(pipeline(job), point) for point in explore(job).first]


@pytest.mark.parametrize("name", MODELS)
def test_every_point_is_another_pipeline_of_the_recipes_space(name: str) -> None:
    job = inspected(MODELS[name])
    exploration = explore(job)
    assert exploration.algorithm == Algorithm.RECIPE
    assert len({canonical(point) for point in exploration.first}) == len(exploration.first)
    assert [locate(exploration.steps, steps) for steps in tried(job)] == list(exploration.first)
