"""Slice A: an ONNX model. A manifest goes in, pods optimize magika, a winner is published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import fill
from e2e.replay import decisions, proposals, recorded, replay, run_locally
from e2e.support import EXAMPLES, Namespace, get, helm, kubeconfig, kubectl, program
from trimtab.api.job import OptimizationJob
from trimtab.api.report import JobReport
from trimtab.api.status import OptimizationJobStatus
from trimtab.report import build

pytestmark = pytest.mark.e2e
NAMESPACE = "e2e-slice-a"
JOB = EXAMPLES / "magika" / "job.yaml"


@pytest.fixture(scope="module")
def done(home: Namespace, operator: None, magika: Path) -> Any:
    fill(home.claim("magika"), magika)
    home.claim("magika-published")
    home.claim("trimtab-store")
    home.apply(EXAMPLES / "magika" / "cluster.yaml")
    home.load("magika")
    home.apply(JOB)
    ended = home.wait_complete("magika", 600)
    home.fetch("magika-published", "trimtab-store")
    return ended


def status(done: Any) -> OptimizationJobStatus:
    return OptimizationJobStatus.model_validate(done["status"])


def test_it_completes_with_a_published_winner(done: Any, home: Namespace) -> None:
    kubectl("-n", home.name, "wait", "--for=condition=Complete", "--timeout=1s", "optimizationjobs.trimtab.dev/magika")
    found = status(done)
    assert [trial.settings for trial in found.trials] == [
        {},
        {"quantize.operatorScope": "All"},
        {"quantize.operatorScope": "Compute"},
    ]
    assert found.best
    assert found.published
    assert found.claim
    current = json.loads((home.folder / "magika-published" / "current.json").read_text())
    assert current["digest"] == found.published.digest == found.best.artifact


def test_its_pods_logs_are_told_by_trial(done: Any, home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(program('kubectl')).parent}:{os.environ['PATH']}")
    command = [sys.executable, "-c", "import sys; from trimtab.plugin import main; sys.exit(main())", "logs", "magika"]
    flags = ["--namespace", home.name, "--kubeconfig", kubeconfig()]
    told = subprocess.run([*command, *flags], capture_output=True, text=True, check=True).stdout
    headings = [line for line in told.splitlines() if line.startswith("==> ")]
    assert headings[0] == "==> Inspect: Succeeded"
    assert headings[-2:] == ["==> Playoff: Succeeded", "==> Publish: Succeeded"]
    one = subprocess.run([*command, "--trial", "2", *flags], capture_output=True, text=True, check=True).stdout
    assert [line for line in one.splitlines() if line.startswith("==> ")] == ["==> Trial 2: Succeeded"]
    assert "done in" in one


def test_the_report_is_beside_the_model(done: Any, home: Namespace) -> None:
    found = status(done)
    assert found.published
    folder = home.folder / "magika-published" / found.published.uri.rpartition("/")[2]
    report = JobReport.model_validate_json((folder / "report.json").read_bytes())
    assert report.claim == found.claim
    assert [work.trial for work in report.work] == [1, 2]
    assert report.headline == build(OptimizationJob.model_validate(done)).headline
    assert report.headline in (folder / "report.html").read_text()


def test_quantizing_every_operator_is_refused_by_its_accuracy(done: Any) -> None:
    (everything,) = status(done).trials[1].candidates
    assert everything.outcome == "Infeasible"
    assert "accuracy drops by" in everything.message


def test_every_piece_of_work_ran_once_in_a_container_of_the_node(done: Any, home: Namespace) -> None:
    jobs = get(home.name, "jobs")
    assert sorted(j["metadata"]["name"].split("-", 2)[2] for j in jobs) == [
        "inspect-0",
        "playoff-0",
        "publish-0",
        "trial-1-0",
        "trial-2-0",
    ]
    for pod in get(home.name, "pods"):
        assert pod["spec"]["nodeName"]
        assert pod["status"]["containerStatuses"][0]["imageID"]


def test_the_chart_finds_itself_in_order(operator: None) -> None:
    told = helm("test", "trimtab", "--namespace", "trimtab", "--logs")
    assert "the operator has all that it needs" in told


def test_kubectl_get_reads_well(done: Any) -> None:
    shown = kubectl("-n", NAMESPACE, "get", "tjob")
    assert shown.splitlines()[0].split() == ["NAME", "STATE", "TRIALS", "BEST", "SPEED-UP", "QUALITY", "SIZE", "AGE"]


def test_events_tell_the_story_once(done: Any) -> None:
    told = [e["reason"] for e in get(NAMESPACE, "events") if e["involvedObject"]["kind"] == "OptimizationJob"]
    assert sorted(told) == sorted(
        ["Inspected", "TrialSucceeded", "TrialSucceeded", "SearchStopped", "CandidateSelected", "Published", "Complete"]
    )


def test_locally_the_same_candidates_are_proposed(done: Any, home: Namespace, tmp_path: Path) -> None:
    document = yaml.safe_load(JOB.read_text())
    local = run_locally(document, tmp_path / "out", home.folder)
    assert proposals(local) == proposals(status(done))


def test_locally_the_same_measurements_decide_the_same(done: Any, home: Namespace, tmp_path: Path) -> None:
    document = yaml.safe_load(JOB.read_text())
    local = replay(document, list(recorded(home, "magika")), tmp_path / "out", home.folder)
    assert decisions(local) == decisions(status(done))
