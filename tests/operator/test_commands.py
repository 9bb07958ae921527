"""What the commands say of a real run: text, one JSON document, an explanation, a way to go on."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from builders import job_dict
from trimtab.api.answer import Answer
from trimtab.api.report import JobReport

RUNNING = "work/*-trial-*/task.json"


def start(*arguments: str | Path, **options) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it.

    Even where nobody is at a terminal: a script's background jobs are told to ignore Ctrl-C, and hand that on.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "trimtab", *map(str, arguments)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads are running here)
        **options,
    )


def trimtab(*arguments: str | Path, **options) -> tuple[int, str, str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run(digits: Path, out: Path) -> list[str | Path]:
    return ["run", digits / "job.yaml", "--out", out, "--volume", f"digits={digits}"]


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer, str]:
    """A run's folder, its document, and what it said meanwhile."""
    out = tmp_path_factory.mktemp("finished")
    code, document, said = trimtab(*run(digits, out), "--output", "json")
    assert code == 0, said
    return out, Answer.model_validate_json(document), said


def test_a_run_ends_with_one_document(finished: tuple[Path, Answer, str]) -> None:
    out, answer, said = finished
    assert (answer.version, answer.command, answer.exit_code, answer.problems) == ("v1alpha1", "run", 0, [])
    assert answer.report == JobReport.model_validate_json((out / "report.json").read_bytes())
    assert answer.report.winner
    assert answer.report.claim
    assert Path(answer.paths["status"]) == out / "status.json"
    assert said.startswith("Inspected: ")


def test_a_finished_run_is_explained(finished: tuple[Path, Answer, str]) -> None:
    out, answer, _ = finished
    assert answer.report
    code, text, _ = trimtab("explain", out)
    assert code == 0
    assert "accuracy drops by at most 2%" in text
    assert answer.report.headline in text
    assert all(candidate.reason in text for candidate in answer.report.candidates)
    assert trimtab("explain", out / "status.json")[1] == text


def test_a_run_of_a_newer_version_is_explained(finished: tuple[Path, Answer, str], tmp_path: Path) -> None:
    stored = json.loads((finished[0] / "status.json").read_text())
    stored["spec"]["newField"] = stored["spec"]["model"]["newField"] = 1
    (tmp_path / "status.json").write_text(json.dumps(stored))
    assert trimtab("explain", tmp_path)[:2] == trimtab("explain", finished[0])[:2]


def test_a_job_is_explained_before_it_runs(digits: Path) -> None:
    _, text, _ = trimtab("explain", digits / "job.yaml")
    assert "not run yet" in text
    assert "operatorScope All or Compute" in text
    assert "Grid: 2 trials of 2 points, 2 at a time, on 1 engine: 2 candidates beside the input model" in text


def test_what_changed_is_run_again(digits: Path, finished: tuple[Path, Answer, str], tmp_path: Path) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    data = shutil.copytree(digits, tmp_path / "digits")
    os.utime(data / "model.onnx", ns=(0, 0))
    process = start(*run(data, out))
    assert process.stdout
    assert process.stdout.readline().startswith("Inspected: ")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)


def test_an_interrupted_run_leaves_no_process_and_goes_on(digits: Path, tmp_path: Path) -> None:
    process = start(*run(digits, tmp_path))
    while not list(tmp_path.glob(RUNNING)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors == "interrupted: what has finished is kept, and the same command goes on from there\n"
    assert subprocess.run(["pgrep", "-s", str(process.pid)], check=False).returncode == 1
    kept = next(tmp_path.glob("work/*-inspect-0/message")).stat().st_mtime_ns
    assert trimtab(*run(digits, tmp_path))[0] == 0
    assert next(tmp_path.glob("work/*-inspect-0/message")).stat().st_mtime_ns == kept


def test_a_terminal_shows_what_goes_on(finished: tuple[Path, Answer, str], digits: Path) -> None:
    """Of a finished run there is only the table; rich is loaded and drawn on a real terminal."""
    ours, theirs = pty.openpty()
    process = start(*run(digits, finished[0]), stdout=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert b"input model" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # what a terminal says at its end
        return b""


def test_validate_answers_programs_too(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(job_dict()))
    bad.write_text(yaml.safe_dump(job_dict(serch={})))
    code, document, errors = trimtab("validate", "--output", "json", good, bad)
    answer = Answer.model_validate_json(document)
    assert (code, answer.problems) == (2, errors.splitlines())
    assert answer.paths == {str(good): "valid"}
    assert errors.endswith("spec.serch: unknown field; did you mean search?\n")


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    code, _, errors = trimtab("explain", tmp_path)
    assert code == 2
    assert errors == f"{tmp_path}/status.json: there is no such file; name the folder of a run, which --out named\n"


@pytest.mark.parametrize("content", ["", "{}", '{"uid": ', '{"status": 1}'])
def test_a_file_that_no_run_wrote_is_no_status(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    code, _, errors = trimtab("explain", tmp_path)
    assert code == 2
    assert errors == (
        f"{tmp_path}/status.json: is not what a run wrote; name its folder, or delete the file to begin again\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_that_knows_the_commands(shell: str, tmp_path: Path) -> None:
    code, script, _ = trimtab("completion", shell)
    assert code == 0
    assert "validate" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)
