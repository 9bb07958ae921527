"""Slice B: a PyTorch model through a chain of prune, distill and quantize, measured on three engines.

The jobs image has no torch: the pods have it from this environment's site-packages, a read-only volume. With
TRIMTAB_E2E_TORCH_IMAGE=1 they run the image jobs-torch, which has no TensorRT.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import fill
from e2e.replay import decisions, proposals, recorded, replay, run_locally
from e2e.support import EXAMPLES, TORCH_IMAGE, Namespace, kubectl
from trimtab.api.doing import last_told
from trimtab.api.names import JOB_LABEL, TRIAL_LABEL
from trimtab.api.status import OptimizationJobStatus

pytestmark = pytest.mark.e2e
NAMESPACE = "e2e-slice-b"
JOB = EXAMPLES / "digits" / "job.yaml"


@pytest.fixture(scope="module")
def done(home: Namespace, operator: None, digits_cnn: Path) -> Any:
    fill(home.claim("digits"), digits_cnn)
    home.claim("digits-published")
    home.claim("trimtab-store")
    runtime, *claims = yaml.safe_load_all((EXAMPLES / "digits" / "cluster.yaml").read_text())
    home.apply(EXAMPLES / "magika" / "cluster.yaml", with_torch(home, runtime), *claims)
    home.load("digits")
    home.apply(JOB)
    ended = home.wait_complete("digits", 600)
    home.fetch("digits-published", "trimtab-store")
    return ended


def with_torch(home: Namespace, runtime: dict[str, Any]) -> dict[str, Any]:
    """The runtime as the example has it, or with the image that brings torch itself."""
    if not TORCH_IMAGE:
        home.read_only_claim("venv", Path(sysconfig.get_path("purelib")))
        return runtime
    spec = {field: value for field, value in runtime["spec"].items() if field not in ("env", "claims")}
    return runtime | {"spec": spec | {"image": "localhost/trimtab-jobs-torch:dev"}}


def status(done: Any) -> OptimizationJobStatus:
    return OptimizationJobStatus.model_validate(done["status"])


def test_the_chain_completes_with_a_published_winner(done: Any, home: Namespace) -> None:
    found = status(done)
    assert found.best, home.story()
    assert found.published
    assert [trial.state for trial in found.trials] == ["Succeeded"] * len(found.trials)
    assert [trial.settings for trial in found.trials[1:]] == [{"prune.ratio": "0.3"}, {"prune.ratio": "0.5"}]


def test_every_trial_s_log_ends_with_how_far_it_was(done: Any, home: Namespace) -> None:
    """As the operator reads it of those that run for more than a minute; how long they take, the machine decides."""
    account, asked = "--as=system:serviceaccount:trimtab:trimtab", ("--tail=50", "--limit-bytes=32768", "-c", "work")
    for pod in (f"{JOB_LABEL}=digits,{TRIAL_LABEL}={trial}" for trial in (1, 2)):
        said = kubectl("-n", NAMESPACE, "logs", "-l", pod, *asked, account)
        told = last_told(said)
        assert told, said
        assert (told.step, told.steps, told.what.partition(":")[0]) == (4, 4, "measuring")


def test_every_engine_measured_or_said_why_not(done: Any) -> None:
    for trial in status(done).trials:
        by_engine = {candidate.engine.value: candidate for candidate in trial.candidates}
        assert set(by_engine) == {"ONNXRuntime", "OpenVINO", "TensorRT"}
        assert "accuracy" in by_engine["ONNXRuntime"].metrics
        assert "accuracy" in by_engine["OpenVINO"].metrics


@pytest.mark.skipif(TORCH_IMAGE, reason="needs TensorRT, which the image jobs-torch does not have")
def test_tensorrt_engines_were_built_and_not_executed(done: Any) -> None:
    for trial in status(done).trials:
        plan = next(c for c in trial.candidates if c.engine.value == "TensorRT")
        assert plan.outcome == "Inconclusive"
        assert "SM89" in plan.message
        assert int(float(plan.metrics["size"])) > 10_000
        assert "accuracy" not in plan.metrics


def test_locally_the_same_candidates_are_proposed(done: Any, home: Namespace, tmp_path: Path) -> None:
    document = yaml.safe_load(JOB.read_text())
    local = run_locally(document, tmp_path / "out", home.folder)
    assert proposals(local) == proposals(status(done))


def test_locally_the_same_measurements_decide_the_same(done: Any, home: Namespace, tmp_path: Path) -> None:
    document = yaml.safe_load(JOB.read_text())
    local = replay(document, list(recorded(home, "digits")), tmp_path / "out", home.folder)
    assert decisions(local) == decisions(status(done))
