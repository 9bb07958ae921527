"""The main program as a pod runs it: a process of its own, its exit code, its streams and its termination message."""

from __future__ import annotations

import json
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from trimtab.api.work import ErrorKind, Task

from .conftest import Ended, Lab

Perform = Callable[[Task], Ended]


def test_a_result(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = lab.root / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    process = lab.start(lab.task("Trial", trial=4))
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    first, *_, last = stdout.splitlines()
    assert first == "Trial of ml/digits"
    assert last.startswith("done in ")
    assert list(scratch.iterdir()) == []  # ONNX Runtime's telemetry would leave a file here
    ended = lab.ended(process.returncode, stderr)
    assert ended.report
    assert (ended.report.trial, ended.report.error) == (4, None)


def test_invalid_input(lab: Lab) -> None:
    (lab.folder("inputs") / "model.onnx").write_text("no model")
    ended = lab.run(lab.task("Inspect"))
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1


def test_a_deleted_pod_ends_at_once_and_cleans_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = lab.root / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    process = lab.start(lab.task("Inspect"))
    assert process.stdout
    assert process.stdout.readline() == "Inspect of ml/digits\n"
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(scratch.iterdir()) == []
    assert not lab.message.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "TRIMTAB_TASK: .*set it to a Task"),
        ("{}", "TRIMTAB_TASK: stage: "),
        (json.dumps({"stage": "Inspect", "version": "v9"}), "TRIMTAB_TASK: "),
    ],
)
def test_no_task(lab: Lab, perform_text: Callable[[str], Ended], text: str, says: str) -> None:
    ended = perform_text(text)
    assert ended.code == 2
    (line,) = ended.stderr.splitlines()
    assert re.match(says, line)


def test_a_task_of_another_version(lab: Lab, perform: Perform) -> None:
    ended = perform(lab.task("Inspect", version="v9"))
    assert ended.code == 2
    assert "version v9: this image reads v1alpha1" in ended.stderr


def test_a_bug_of_ours_is_a_crash(lab: Lab, perform: Perform) -> None:
    ended = perform(lab.task("Playoff"))  # which no operator sends: it names no finalists
    assert ended.code == 1
    assert "Traceback" in ended.stderr
    assert ended.report
    assert ended.report.error
    assert (ended.report.error.reason, ended.report.error.kind) == ("Crashed", ErrorKind.TEMPORARY)
    assert "IndexError: " in ended.report.error.message


def test_data_beyond_all_memory_are_bad_input(lab: Lab, perform: Perform) -> None:
    _claim_a_petabyte(lab.folder("inputs") / "evaluation.npz")
    ended = perform(lab.task("Inspect"))
    assert ended.code == 2
    assert "does not fit into memory" in ended.stderr
    assert ended.stderr.endswith("save fewer samples, or allow more memory\n")
    assert ended.report
    assert ended.report.error
    assert ended.report.error.kind == ErrorKind.PERMANENT


def _claim_a_petabyte(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**47,)}
        npy.write_array_header_1_0(member, header)
        member.write(np.zeros(8).tobytes())


def test_a_store_that_cannot_be_made(lab: Lab, perform: Perform) -> None:
    (lab.folder("store") / "file").write_text("")
    ended = perform(lab.task("Inspect", store="pvc://store/file"))
    assert ended.code == 2
    assert "store: " in ended.stderr
    assert "mount it writable" in ended.stderr
