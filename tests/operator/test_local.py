"""`trimtab run` with real processes on a small real model."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import yaml

from builders import make_job, make_runtime
from trimtab.api.doing import Doing
from trimtab.api.report import JobReport
from trimtab.api.status import OptimizationJobStatus, TrialState
from trimtab.api.work import Report, Stage
from trimtab.documents import read_job
from trimtab.local import LOG_END, Machine
from trimtab.plan import inspect, work_name
from trimtab.processes import Processes
from trimtab.runs import identified

HANG = 600
"""Seconds after which a run is taken for one that never ends."""


def start(digits: Path, out: Path, job: Path | None = None, **options) -> subprocess.Popen[str]:
    """The CLI in a process group of its own, so that only it can be killed."""
    command = [sys.executable, "-m", "trimtab", "run", str(job or digits / "job.yaml"), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--volume", f"digits={digits}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def status(out: Path) -> OptimizationJobStatus:
    return OptimizationJobStatus.model_validate(json.loads((out / "status.json").read_text())["status"])


def decided(found: OptimizationJobStatus) -> object:
    """What does not depend on this machine's timing: proposals, artifacts and accuracies."""
    return [(t.settings, t.state, t.artifact, [c.metrics.get("accuracy") for c in t.candidates]) for t in found.trials]


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    process = start(digits, out)
    _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    return out


def test_a_run_ends_with_a_winner_and_every_candidate_explained(undisturbed: Path) -> None:
    found = status(undisturbed)
    assert found.state in ("Selected", "BaselineIsBest")
    assert [t.settings for t in found.trials] == [
        {},
        {"quantize.operatorScope": "All"},
        {"quantize.operatorScope": "Compute"},
    ]
    assert all(c.outcome and c.message for t in found.trials for c in t.candidates)
    assert found.claim
    assert found.claim.samples == 497


def test_a_run_explains_itself_for_the_job_it_ran(undisturbed: Path, digits: Path) -> None:
    report = JobReport.model_validate_json((undisturbed / "report.json").read_text())
    found = status(undisturbed)
    assert report.state == found.state
    assert [c.metrics for c in report.candidates] == [c.metrics for t in found.trials for c in t.candidates]
    assert [work.trial for work in report.work] == [1, 2]
    assert report.headline in (undisturbed / "report.html").read_text()
    assert not list(undisturbed.glob("*.part"))


def test_the_winner_is_loaded_as_the_report_says(undisturbed: Path) -> None:
    report = JobReport.model_validate_json((undisturbed / "report.json").read_text())
    assert report.winner
    shown = subprocess.run(
        [sys.executable, "-c", report.winner.load + "print(len(outputs))"], capture_output=True, text=True, check=False
    )
    assert shown.stdout == "1\n", shown.stderr
    assert len([line for line in report.winner.load.splitlines() if line]) == 5


def test_a_run_that_fails_before_inspect_leaves_no_report_of_another(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of another job")
    job = yaml.safe_load((digits / "job.yaml").read_text())
    job["spec"]["model"]["uri"] = "pvc://digits/none.onnx"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "trimtab", "run", str(tmp_path / "job.yaml"), "--out", str(tmp_path)]
    shown = subprocess.run([*command, "--volume", f"digits={digits}"], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert not (tmp_path / "report.html").exists()


def test_a_finished_run_is_not_run_again(digits: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("message")}
    process = start(digits, undisturbed)
    process.communicate(timeout=HANG)
    assert process.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("message")} == before


def test_two_runs_in_one_folder_are_refused(digits: Path, tmp_path: Path) -> None:
    first = start(digits, tmp_path)
    while not (tmp_path / "work").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # or it may be over before the second has looked
    second = start(digits, tmp_path)
    _, errors = second.communicate(timeout=HANG)
    assert second.returncode == 2
    assert errors == f"--out {tmp_path}: another run is using it; wait for that one or name another\n"
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=HANG)
    assert first.returncode == 0


def begun(out: Path, stage: Stage, since: int = 0) -> list[Path]:
    """The Tasks of a stage that were written since then: a run that goes on writes that of unfinished work anew."""
    tasks = out.glob(f"work/*-{stage.lower()}-*/task.json")
    return [task for task in tasks if task.stat().st_mtime_ns > since]


@pytest.fixture(scope="module")
def lengths(undisturbed: Path) -> dict[Stage, float]:
    """How many seconds the shortest piece of work of each stage took."""

    def took(task: Path) -> float:
        return task.with_name("message").stat().st_mtime - task.stat().st_mtime

    return {stage: min(map(took, begun(undisturbed, stage))) for stage in Stage}


def kept_as(result: Path, folder: Path) -> Path:
    """A second name of the file: what is written again is another one. Its time tells when it was last needed."""
    folder.mkdir(exist_ok=True)
    name = folder / str(len([*folder.iterdir()]))
    name.hardlink_to(result)
    return name


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_a_seeded_moment_of_every_stage_it_ends_like_an_undisturbed_run(
    digits: Path, undisturbed: Path, lengths: dict[Stage, float], tmp_path: Path, seed: int
) -> None:
    """Twenty moments in all. A clock from the start would mostly hit imports, which are most of so small a run."""
    moments, kept = random.Random(seed), tmp_path / "kept"
    finished: dict[Path, Path] = {}
    for stage in Stage:
        since = time.time_ns()
        process = start(digits, tmp_path)
        while not (tasks := begun(tmp_path, stage, since)) and process.poll() is None:
            time.sleep(0.002)
        if not tasks:  # the kill before came so late that this stage was over too
            assert process.wait() == 0, process.communicate()
            continue
        moment = time.monotonic() + moments.uniform(0, lengths[stage])
        # On a machine that is quieter now the work may be over before that, and the stage after it too.
        while time.monotonic() < moment and not tasks[0].with_name("message").exists():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=HANG)
        for result in {*tmp_path.glob("work/*/message"), *tmp_path.glob("store/cache/*.json")} - finished.keys():
            finished[result] = kept_as(result, kept)
    process = start(digits, tmp_path)
    process.communicate(timeout=HANG)
    assert process.returncode == 0
    assert [result for result, same in finished.items() if not result.samefile(same)] == [], "made again"
    assert decided(status(tmp_path)) == decided(status(undisturbed))
    assert all(Report.model_validate_json(m.read_text()).error is None for m in tmp_path.rglob("message"))


def test_a_run_that_failed_is_begun_again_once_the_input_is_there(digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    calibration = (data / "calibration.npz").rename(data / "elsewhere.npz")
    process = start(data, tmp_path / "out")
    _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 2
    assert errors.startswith("data.calibration: ")
    calibration.rename(data / "calibration.npz")
    process = start(data, tmp_path / "out")
    process.communicate(timeout=HANG)
    assert process.returncode == 0


def test_work_that_was_interrupted_before_its_task_was_written_is_started(digits: Path, tmp_path: Path) -> None:
    job = identified(read_job(digits / "job.yaml"), tmp_path, {"digits": digits})
    (tmp_path / "work" / work_name(job, Stage.INSPECT, None, 0)).mkdir(parents=True)
    process = start(digits, tmp_path)
    process.communicate(timeout=HANG)
    assert process.returncode == 0


def test_a_trial_beyond_its_budget_of_memory_fails_and_the_job_goes_on(digits: Path, tmp_path: Path) -> None:
    job = yaml.safe_load((digits / "job.yaml").read_text())
    job["spec"]["budget"] = {"memory": "1Mi"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    process = start(digits, tmp_path / "out", job=tmp_path / "job.yaml")
    _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    found = status(tmp_path / "out")
    assert found.state == "BaselineIsBest"
    assert {t.state for t in found.trials[1:]} == {TrialState.FAILED}
    assert all("spec.budget.memory: the trial held" in t.message for t in found.trials[1:])


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "model.onnx_data", "model.data", "model.bin"])
def test_another_time_of_a_model_or_its_tensors_makes_another_run(digits: Path, tmp_path: Path, name: str) -> None:
    data = shutil.copytree(digits, tmp_path / "digits")
    (data / name).touch()

    def uid() -> str:
        return identified(read_job(data / "job.yaml"), tmp_path, {"digits": data}).metadata.uid

    before = uid()
    (data / "model.log").touch()
    assert uid() == before
    os.utime(data / name, ns=(0, 0))
    assert uid() != before


def test_work_is_found_under_the_name_that_an_earlier_version_gave_it(tmp_path: Path) -> None:
    job, report = make_job(), Report(stage=Stage.INSPECT)
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": "m.v2"})})
    work = inspect(job, make_runtime(), 1)
    folder = tmp_path / "work" / work.name.replace("m-v2-", "m.v2-")
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(work.task.text())
    (folder / "message").write_text(report.compact())
    with Processes() as processes:
        (seen,) = Machine(job, tmp_path, {}, processes).observe().works
    assert (seen.work.task, seen.work.attempt, seen.report) == (work.task, 1, report)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """One process that has ended, `trial`, and one that goes on, `other`."""
    with Processes() as processes, TemporaryFile() as log:
        machine = Machine(make_job(), tmp_path, {}, processes)
        machine.started["trial"] = processes.start(["this"], log)
        machine.started["other"] = processes.start(["timeit", "-n1", "import time; time.sleep(600)"], log)
        machine.started["trial"].wait()
        yield machine
        machine.stop(["other"])


def test_what_ended_before_the_wait_is_news_until_it_was_looked_at(machine: Machine) -> None:
    assert machine._wait(5)
    machine.observe()
    assert not machine._wait(0)


def test_what_the_process_says_that_has_run_the_longest_is_told_meanwhile(machine: Machine) -> None:
    for name, step in (("trial", 1), ("other", 2)):
        (machine.folder / "work" / name).mkdir(parents=True)
        told = Doing(step=step, steps=3, what="distill: epoch 3 of 10").line
        (machine.folder / "work" / name / "log").write_text("x" * 2 * LOG_END + f"\n{told}\nUserWarning: beta\n")
    assert str(machine._doing()) == "step 2 of 3, distill: epoch 3 of 10"
    machine.started["other"].kill()
    assert machine._doing() is None


def test_a_budget_of_memory_leaves_alone_who_has_the_number_of_a_trial_that_ended(machine: Machine) -> None:
    task = inspect(machine.job, machine.runtime, 0).task
    for name, stage in (("trial", Stage.TRIAL), ("other", Stage.PLAYOFF)):
        path = machine.folder / "work" / name
        path.mkdir(parents=True)
        (path / "task.json").write_text(task.model_copy(update={"stage": stage}).model_dump_json(by_alias=True))
    stranger = machine.started["other"]
    machine.started["trial"].pid = stranger.pid
    machine._hold("1Ki")
    assert stranger.poll() is None
    assert not (machine.folder / "work" / "trial" / "message").exists()


def test_a_trial_that_holds_more_than_the_budget_is_killed(machine: Machine) -> None:
    task = inspect(machine.job, machine.runtime, 0).task.model_copy(update={"stage": Stage.TRIAL, "trial": 1})
    path = machine.folder / "work" / "other"
    path.mkdir(parents=True)
    (path / "task.json").write_text(task.model_dump_json(by_alias=True))
    machine._hold("1Ki")
    assert machine.started["other"].returncode == -signal.SIGKILL
    report = Report.model_validate_json((path / "message").read_text())
    assert report.error
    assert re.fullmatch(r"spec.budget.memory: the trial held \S+, more than 1Ki", report.error.message)
