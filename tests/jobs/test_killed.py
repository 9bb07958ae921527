"""A trial that is killed, at any moment, and started again: the same model, and no finished step taken twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from trimtab.api.work import MESSAGE_VARIABLE, Report, Task
from trimtab_jobs.store import digest_folder

from .chain import write_chain
from .conftest import Lab

FORKER = """
import os, sys
import networkx, onnxruntime.quantization, onnxscript, torch._dynamo, torch.export, torch.onnx, torch_pruning
from trimtab_jobs import __main__ as program

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.environ["TRIMTAB_TASK"] = line
        os._exit(program.main())
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Pods:
    """Starts Tasks by forking a process that has the libraries loaded: importing torch takes seconds each time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, task: Task) -> int:
        """The process's id."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(task.wire()) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit code."""
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        while not line.strip().lstrip("-").isdigit():
            assert line, "the forking process ended"
            line = self._process.stdout.readline()
        return line


@pytest.fixture
def pods(lab: Lab) -> Iterator[Pods]:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER],
        env=os.environ | lab.variables | {MESSAGE_VARIABLE: str(lab.message)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Pods(process)
    process.kill()
    process.communicate()


def result(lab: Lab, pods: Pods, task: Task) -> Report:
    pods.start(task)
    assert pods.wait() == 0
    return Report.model_validate_json(lab.message.read_text())


def kill(pods: Pods, pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert pods.wait() in (-signal.SIGKILL, 0)


def assert_whole(store: Path) -> None:
    """Every artifact has the digest it is named by, and every entry of the cache can be read."""
    for folder in store.glob("artifacts/*"):
        assert digest_folder(folder) == f"sha256:{folder.name}"
    for entry in store.glob("cache/*"):
        assert json.loads(entry.read_text()).keys() == {"artifact", "note", "float_layers"}


def test_the_end_is_the_same(lab: Lab, pods: Pods) -> None:
    chain = write_chain(lab.folder("inputs"))
    (lab.folder("store") / "calm").mkdir()
    started = time.monotonic()
    calm = result(lab, pods, lab.task("Trial", trial=1, **chain, store="pvc://store/calm"))
    duration = time.monotonic() - started

    store = lab.folder("store") / "stormy"
    task = lab.task("Trial", trial=1, **chain, store="pvc://store/stormy")
    for moment in np.random.default_rng(7).uniform(0, duration / 2, size=3):
        pid = pods.start(task)
        time.sleep(moment)
        kill(pods, pid)
        assert_whole(store)
    for finished in (1, 2):
        pid = pods.start(task)
        while len(list(store.glob("cache/*"))) < finished:
            time.sleep(0.001)
        kill(pods, pid)
        assert_whole(store)

    end = result(lab, pods, task)
    assert [step.artifact for step in end.steps] == [step.artifact for step in calm.steps]
    assert end.artifact == calm.artifact
    assert [step.cached for step in calm.steps] == [False, False, False]
    assert [step.cached for step in end.steps][:2] == [True, True]
