"""What a pod meets that is nobody's mistake: exit code 75, one line that says what to mend, nothing half-written."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from trimtab.api.work import MESSAGE_VARIABLE, TASK_VARIABLE, TEMPORARY_EXIT, ErrorKind
from trimtab_jobs import __main__ as program

from .conftest import Lab


def test_a_store_that_cannot_be_reached(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in nobody.items():
        monkeypatch.setenv(name, value)
    ended = lab.run(lab.task("Trial", store="s3://models/store", trial=1))
    (line,) = ended.stderr.splitlines()
    assert ended.code == TEMPORARY_EXIT
    assert line.startswith("Temporary: store: s3://models/store/")
    assert line.endswith(": mend the network")
    assert ended.report
    assert ended.report.error
    assert (ended.report.error.kind, f"Temporary: {ended.report.error.message}") == (ErrorKind.TEMPORARY, line)


def test_no_file_can_be_written(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on files stands for full disks: that of the store, of temporary files, and of the node."""
    scratch = lab.root / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    process = lab.start(lab.task("Inspect"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)))
    _, stderr = process.communicate()
    (line,) = stderr.splitlines()
    assert process.returncode == TEMPORARY_EXIT
    assert line.startswith(f"OutOfSpace: {scratch}/")
    assert line.endswith("cannot be written (File too large): free space, or set TMPDIR to another folder")
    assert lab.message.read_text() == ""  # so Kubernetes takes that line for it
    assert lab.written("store") == lab.written("published") == list(scratch.iterdir()) == []


def test_a_report_that_cannot_be_left_is_told_in_the_log(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was made is in the store, so the next attempt ends soon."""
    full = Path("/dev/full")
    monkeypatch.setenv(TASK_VARIABLE, json.dumps(lab.task("Inspect").wire()))
    monkeypatch.setenv(MESSAGE_VARIABLE, str(full))
    assert program.main() == TEMPORARY_EXIT
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("OutOfSpace: /dev/full: the report cannot be written (No space left on device): free space")
    assert "reports/u1/Inspect-0.json" in lab.written("store")
