"""What is tried on models of every kind, on every CPU, with what a job gave."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_job
from trimtab.api.job import Algorithm, OptimizationJob
from trimtab.api.status import Hardware, Inspection, OptimizationJobStatus
from trimtab.api.techniques import FloatPrecision, IntegerType, OperatorScope, Step
from trimtab.recipe import explore, pipeline
from trimtab.space import canonical, fix, locate

MODELS = {
    "cnn": {"Conv": 53, "Relu": 49, "Add": 16, "Gemm": 1},
    "crnn": {"Conv": 12, "Relu": 8, "LSTM": 2, "Gemm": 1, "Softmax": 1},
    "transformer": {"MatMul": 72, "Add": 100, "Softmax": 6, "Gemm": 1},
    "sparse": {"Conv": 1, "Gemm": 1, "MatMul": 1, "Mul": 24, "Add": 11, "Reshape": 8, "Expand": 7},
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


def techniques(job: OptimizationJob) -> list[str]:
    """Each alternative in short: `optimizeGraph+quantize Dynamic MatMul`."""
    return ["+".join(_short(step) for step in steps) for steps in tried(job)]


def _short(step: Step) -> str:
    config = step.quantize
    return f"{step.technique} {config.method[0]} {config.operator_scope[0]}" if config else step.technique


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("cnn", "quantize Static Compute"),
        ("detector", "quantize Static Compute"),
        ("crnn", "quantize Static Conv+quantize Dynamic MatMul"),
        ("transformer", "quantize Dynamic MatMul+quantizeWeights"),
        ("perceptron", "quantize Dynamic MatMul"),
        ("trees", "optimizeGraph"),
    ],
)
def test_what_comes_first_follows_from_the_operators(name: str, first: str) -> None:
    assert techniques(inspected(MODELS[name]))[0] == first


@pytest.mark.parametrize("name", MODELS)
def test_there_are_as_many_alternatives_as_a_few_minutes_allow(name: str) -> None:
    found = techniques(inspected(MODELS[name], target={"engines": ["ONNXRuntime", "OpenVINO"]}))
    assert len(found) <= 14
    assert "optimizeGraph" in found
    assert not any("Dynamic Compute" in one or "Dynamic All" in one for one in found), "ConvInteger is slow"


@pytest.mark.parametrize("name", ["transformer", "crnn"])
def test_with_vnni_fixed_ranges_come_before_those_measured_at_run_time(name: str) -> None:
    target = {"engines": ["ONNXRuntime", "OpenVINO"]}
    slow, fast = (techniques(inspected(MODELS[name], flags, target=target)) for flags in (["avx2"], ["avx512_vnni"]))
    dynamic = "quantize Dynamic MatMul"
    assert slow.index("nncf") > slow.index(dynamic)
    assert fast.index("nncf") < fast.index(dynamic)
    assert set(slow) == set(fast)


@pytest.mark.parametrize(("name", "some"), [("cnn", True), ("sparse", False)])
def test_everything_is_quantized_only_where_much_of_it_computes(name: str, some: bool) -> None:
    steps = [step for steps in tried(inspected(MODELS[name], target={"engines": ["OpenVINO"]})) for step in steps]
    scopes = [
        scope for step in steps for config in (step.quantize, step.nncf) if config for scope in config.operator_scope
    ]
    assert (OperatorScope.ALL in scopes) == some
    assert OperatorScope.COMPUTE in scopes


@pytest.mark.parametrize(("engines", "some"), [(["ONNXRuntime"], False), (["ONNXRuntime", "OpenVINO"], True)])
def test_nncf_is_for_openvino(engines: list[str], some: bool) -> None:
    for name in ("cnn", "crnn", "transformer", "perceptron"):
        assert ("nncf" in techniques(inspected(MODELS[name], target={"engines": engines}))) == some


@pytest.mark.parametrize("name", [name for name in MODELS if name != "trees"])
@pytest.mark.parametrize(("flags", "some"), [(["avx2"], False), (["avx512_bf16"], True), (["amx_bf16"], True)])
def test_bfloat16_comes_first_on_cpus_that_have_it_and_goes_with_nncf(flags: list[str], some: bool, name: str) -> None:
    found = tried(inspected(MODELS[name], flags, target={"engines": ["OpenVINO"]}))
    assert (_casts(found[0]) == [FloatPrecision.BFLOAT16]) == some
    quantized = [steps for steps in found if any(step.nncf for step in steps)]
    assert quantized
    assert all((_casts(steps) == [FloatPrecision.BFLOAT16]) == some for steps in quantized)


def _casts(steps: list[Step]) -> list[FloatPrecision]:
    return [step.cast_float.precision[0] for step in steps if step.cast_float]


@pytest.mark.parametrize("name", MODELS)
def test_without_calibration_data_nothing_needs_any(name: str) -> None:
    data = {split: {"uri": f"pvc://data/{split}.npz"} for split in ("evaluation", "holdout")}
    found = techniques(inspected(MODELS[name], data=data))
    assert not any("Static" in one or "nncf" in one for one in found)


def test_every_quantization_of_activations_is_guarded_by_the_promise_on_quality() -> None:
    constraints = [{"metric": metric, "maxDrop": drop} for metric, drop in (("f1", "2%"), ("accuracy", "0.5%"))]
    for constraint, guard in ((constraints, "0.5%"), ([], None)):
        job = inspected(MODELS["cnn"], constraints=constraint, target={"engines": ["ONNXRuntime", "OpenVINO"]})
        steps = [step for found in tried(job) for step in found]
        assert {step.quantize.max_drop for step in steps if step.quantize} == {guard}
        assert {step.nncf.max_drop for step in steps if step.nncf} == {guard}


@pytest.mark.parametrize(("flags", "unsigned"), [(["avx2"], True), (["avx2", "avx_vnni"], False)])
def test_without_vnni_weights_that_cannot_saturate_are_tried_too(flags: list[str], unsigned: bool) -> None:
    steps = [step for found in tried(inspected(MODELS["cnn"], flags)) for step in found if step.quantize]
    assert any(step.quantize and step.quantize.weight_type == [IntegerType.UINT8] for step in steps) == unsigned


def test_a_restart_leads_to_the_same_points() -> None:
    job = inspected(MODELS["crnn"])
    stored = OptimizationJobStatus.model_validate(job.status.wire())
    assert explore(job.model_copy(update={"status": stored})) == explore(job)


def test_a_users_space_is_begun_with_what_of_the_recipe_lies_in_it() -> None:
    space = [{"quantize": {"method": ["Static", "Dynamic"], "operatorScope": ["Conv", "Compute"]}}]
    job = inspected(MODELS["cnn"], techniques=space, search={"algorithm": "Bayesian"})
    exploration = explore(job)
    assert exploration.steps == job.spec.techniques
    assert exploration.first == ({"quantize.method": "Static", "quantize.operatorScope": "Conv"},)
