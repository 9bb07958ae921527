"""A folder of sound inputs, and Tasks over it, for everything that runs from a Task to a Report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bad_inputs import sound_spec, write_inputs
from trimtab.api.work import MESSAGE_VARIABLE, TASK_VARIABLE, VOLUMES_VARIABLE, Report, Task
from trimtab_jobs import __main__ as program
from trimtab_jobs.data import Split

ROOT = Path(__file__).parents[2]
CODE = f"{ROOT / 'operator'}:{ROOT / 'jobs'}"


@dataclass(frozen=True)
class Ended:
    """How a pod's process ended."""

    code: int
    report: Report | None
    stderr: str


@dataclass(frozen=True)
class Lab:
    """The claims of a job: `inputs`, `store` and `published`, each a folder."""

    root: Path
    code: str = CODE
    """Where Python finds what pods run."""

    def task(self, stage: str, **fields: Any) -> Task:
        given = sound_spec() | {
            "stage": stage,
            "job": {"name": "digits", "namespace": "ml", "uid": "u1"},
            "target": {},
            "store": "pvc://store",
            "seed": 7,
        }
        return Task.model_validate(given | fields)

    def start(self, task: Task, **options: Any) -> subprocess.Popen[str]:
        """The Task in a process of its own, as in a pod. Keyword arguments are Popen's."""
        return subprocess.Popen(
            [sys.executable, "-m", "trimtab_jobs"],
            env=os.environ | self.variables | {TASK_VARIABLE: task.text(), MESSAGE_VARIABLE: str(self.message)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, task: Task) -> Ended:
        self.message.unlink(missing_ok=True)
        process = self.start(task)
        _, stderr = process.communicate()
        return self.ended(process.returncode, stderr)

    def ended(self, code: int, stderr: str) -> Ended:
        report = Report.model_validate_json(self.message.read_text()) if self.message.exists() else None
        return Ended(code, report, stderr)

    @property
    def variables(self) -> dict[str, str]:
        volumes = {name: str(self.root / name) for name in ("inputs", "store", "published")}
        return {VOLUMES_VARIABLE: json.dumps(volumes), "PYTHONPATH": self.code}

    @property
    def message(self) -> Path:
        return self.root / "termination-message"

    def folder(self, claim: str) -> Path:
        return self.root / claim

    def written(self, claim: str) -> list[str]:
        """The files that a claim holds, temporary ones included."""
        folder = self.folder(claim)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def one_split(name: str, arrays: dict[str, Any]) -> Split:
    return Split(name, {key: array for key, array in arrays.items() if key != "labels"}, arrays.get("labels"), name)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = Lab(tmp_path)
    for claim in ("inputs", "store", "published"):
        lab.folder(claim).mkdir()
    write_inputs(lab.folder("inputs"))
    monkeypatch.setenv(VOLUMES_VARIABLE, lab.variables[VOLUMES_VARIABLE])
    return lab


@pytest.fixture
def perform_text(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], Ended]:
    """The main program in this process, which is seconds quicker than a new one."""

    def main(task: str) -> Ended:
        monkeypatch.setenv(TASK_VARIABLE, task)
        monkeypatch.setenv(MESSAGE_VARIABLE, str(lab.message))
        lab.message.unlink(missing_ok=True)
        capfd.readouterr()
        return lab.ended(program.main(), capfd.readouterr().err)

    return main


@pytest.fixture
def perform(perform_text: Callable[[str], Ended]) -> Callable[[Task], Ended]:
    return lambda task: perform_text(json.dumps(task.wire()))


@pytest.fixture
def succeed(perform: Callable[[Task], Ended]) -> Callable[[Task], Report]:
    """The same for a Task that must have a result."""

    def result(task: Task) -> Report:
        ended = perform(task)
        assert ended.code == 0, ended.stderr
        assert ended.report
        return ended.report

    return result
