"""Processes forked from the warm parent are what `python -m` starts, and a run does without that parent if it must."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from trimtab import processes as starting
from trimtab.processes import Process, Processes

SEEN = """
import json, os, signal, sys
open_ones = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
print(json.dumps({
    "name": __name__, "arguments": sys.argv[1:], "folder": os.getcwd(), "given": os.environ.get("GIVEN"),
    "input": sys.stdin.read(), "threads": len(os.listdir("/proc/self/task")), "group": os.getpgrp(),
    "sockets": sum(os.readlink(fd).startswith("socket") for fd in open_ones if os.path.exists(fd)),
    "deaf": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []), "path": sys.path[1:],
    "affinity": sorted(os.sched_getaffinity(0)), "torch": "torch" in sys.modules,
}))
"""
ENDS = {
    "pass": 0,
    "import sys; sys.exit(3)": 3,
    "import sys; sys.exit('why')": 1,
    "raise ValueError('why')": 1,
    "import os; os.abort()": -signal.SIGABRT,
    "import signal; signal.raise_signal(signal.SIGTERM)": -signal.SIGTERM,
    "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(143)); signal.raise_signal(signal.SIGTERM)": 143,
}
SLEEPS = "import time\nprint('here', flush=True)\ntime.sleep(600)"
HOLDER = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(child.pid, flush=True)
time.sleep(600)
"""
Start = Callable[..., tuple[Process, Path]]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a program's source a module that `python -m` finds; its name."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def module(source: str) -> str:
        name = f"program{len(list(tmp_path.glob('program*.py')))}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return module


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


@pytest.fixture
def start(processes: Processes, programs: Callable[[str], str], tmp_path: Path) -> Start:
    """A process of some source, and its log."""

    def started(source: str, *arguments: str, **given: str) -> tuple[Process, Path]:
        name = programs(source)
        with (tmp_path / f"{name}.log").open("wb") as log:
            return processes.start([name, *arguments], log, given=given), tmp_path / f"{name}.log"

    return started


def gone(pid: int) -> bool:
    """Whether a process has ended, or does in a while; a zombie that nobody reaps here counts."""
    for _ in range(6000):
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


def until_written(log: Path) -> str:
    while not log.read_text().endswith("\n"):
        time.sleep(0.01)
    return log.read_text()


def test_a_forked_process_is_what_a_plain_one_is(start: Start, processes: Processes) -> None:
    seen = []
    for lost in ("", "for this test"):
        processes._lost = lost
        process, log = start(SEEN, "a", "b c", GIVEN="something")
        assert process.wait() == 0, log.read_text()
        seen.append(json.loads(log.read_text().splitlines()[-1]))
    forked, plain = seen
    forked["path"] = forked["path"][: len(plain["path"])]  # onnxruntime.transformers appends its own folder
    assert forked == plain
    assert (forked["name"], forked["threads"], forked["sockets"], forked["deaf"]) == ("__main__", 1, 0, True)


@pytest.mark.parametrize("source", ENDS)
def test_its_exit_code_is_that_of_a_plain_one(start: Start, source: str) -> None:
    process, log = start(source)
    assert process.wait() == ENDS[source]
    assert ("why" in source) == ("why" in log.read_text())
    assert process.poll() == process.returncode == ENDS[source]


def test_standard_error_goes_where_it_is_told(processes: Processes, programs: Callable[[str], str]) -> None:
    name = programs("import sys; print('out'); sys.stderr.write('error')")
    with TemporaryFile() as out, TemporaryFile() as errors:
        assert processes.start([name], out, errors).wait() == 0
        assert [file.seek(0) or file.read() for file in (out, errors)] == [b"out\n", b"error"]


def test_two_draw_different_random_numbers(start: Start) -> None:
    source = "import numpy, random; print(numpy.random.rand(), random.random())"
    drawn = [start(source) for _ in range(2)]
    assert [process.wait() for process, _ in drawn] == [0, 0]
    (first, second), (third, fourth) = (log.read_text().split() for _, log in drawn)
    assert first != third
    assert second != fourth


ENGINES = """
import sys
import numpy as np
from pathlib import Path
from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.model import Model

folder = Path(sys.argv[1])
model = Model(folder, ModelFormat.ONNX)
with np.load(folder / "evaluation.npz") as stored:
    inputs = {name: array[:8] for name, array in stored.items() if name != "labels"}
square = np.ones((700, 700), np.float32)
assert (square @ square == 700).all()  # in OpenBLAS, whose threads are its own again
for name in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
    print(engine(name).load(model, EngineOptions(2)).run(inputs)[0].argmax(axis=1).tolist())
"""


def test_engines_and_their_threads_work_in_several_at_once(start: Start, digits: Path) -> None:
    forked = [start(ENGINES, str(digits)) for _ in range(4)]
    assert [process.wait(600) for process, _ in forked] == [0] * 4
    answers = {line for _, log in forked for line in log.read_text().splitlines()}
    assert len(answers) == 1


def test_who_does_not_listen_is_killed_with_what_it_started(
    start: Start, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "PATIENCE", 0.1)
    process, log = start(HOLDER)
    child = int(until_written(log))
    processes.stop([process])
    assert process.returncode == -signal.SIGKILL
    assert gone(child)


def test_with_the_context_all_end(programs: Callable[[str], str]) -> None:
    name = programs(SLEEPS)
    with TemporaryFile() as log, Processes() as processes:
        process = processes.start([name], log)
    assert gone(process.pid)


def test_with_a_killed_run_all_end(programs: Callable[[str], str]) -> None:
    source = f"""
import sys, time
from trimtab.processes import Processes
print(Processes().start([{programs(SLEEPS)!r}], sys.stdout.buffer).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        said = [run.stdout.readline().strip() for _ in range(2)]
        run.kill()
    said.remove("here")
    assert gone(int(said[0]))


def test_a_warm_parent_that_is_lost_ends_its_own_and_is_done_without(start: Start, processes: Processes) -> None:
    before, log = start(SLEEPS)
    until_written(log)
    assert processes._parent
    os.kill(processes._parent._process.pid, signal.SIGKILL)
    assert before.wait() == -signal.SIGKILL
    for _ in range(2):
        after, log = start("print('done')")
        assert after.wait() == 0
        first, last = log.read_text().splitlines()
        assert first.startswith("not forked from the warm parent: it ")
        assert last == "done"


THREADED = """
import os, socket, threading, time
from trimtab_jobs.warm import main
threading.Thread(target=time.sleep, args=[600], daemon=True).start()
main(socket.socket(fileno=os.dup(0)))
"""


@pytest.mark.parametrize(
    ("source", "patience", "why"),
    [
        ("raise SystemExit(5)", 60.0, "it ended with 5"),
        ("import time; time.sleep(600)", 2.0, "it does not answer (timed out)"),
        (THREADED, 60.0, "it has 2 threads"),
    ],
)
def test_without_a_warm_parent_processes_are_plain(
    start: Start,
    programs: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    patience: float,
    why: str,
) -> None:
    monkeypatch.setattr(starting, "WARM", programs(source))
    monkeypatch.setattr(starting, "START_UP", patience)
    process, log = start("print('done')")
    assert process.wait() == 0
    assert log.read_text() == f"not forked from the warm parent: {why}\ndone\n"
