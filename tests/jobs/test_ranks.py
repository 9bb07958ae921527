"""Steps that train on several processes: torchrun, ranks and pods for real, the pods as processes on this machine.

What Kubernetes gives the pods of an Indexed Job (an index, and a name to meet at) is given here as the same variables,
with the loopback as the name.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ports import free_port
from trimtab.api.model import Metric
from trimtab.api.work import MESSAGE_VARIABLE, TASK_VARIABLE, VOLUMES_VARIABLE, ErrorKind, Report, Task
from trimtab_jobs import ranks
from trimtab_jobs.errors import InvalidInput, Temporary, WorkFailure
from trimtab_jobs.run import run

from .chain import CODE, STEPS, write_chain
from .conftest import ROOT, Ended, Lab

EXAMPLE = ROOT / "examples" / "digits"
PRUNE = {"prune": {"ratio": {"values": ["0.5"]}}}
DISTILL = {"distill": {"epochs": {"values": [5]}, "learningRate": {"values": ["0.003"]}}}


@dataclass
class Pods:
    """Pods that share claims."""

    claims: Path
    printed: str = ""
    """By those that ended last."""

    @property
    def variables(self) -> dict[str, str]:
        volumes = {path.name: str(path) for path in self.claims.iterdir() if path.is_dir()}
        path = f"{ROOT / 'operator'}:{ROOT / 'jobs'}"
        return {VOLUMES_VARIABLE: json.dumps(volumes), "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1"}

    def start(self, task: Task) -> list[subprocess.Popen[str]]:
        """All the pods of a Job."""
        assert task.distributed
        given = {TASK_VARIABLE: task.text(), "MASTER_PORT": str(free_port())}
        return [self._start(given, index) for index in range(task.distributed.num_nodes)]

    def _start(self, given: dict[str, str], index: int) -> subprocess.Popen[str]:
        self.message(index).unlink(missing_ok=True)
        own = {"JOB_COMPLETION_INDEX": str(index), MESSAGE_VARIABLE: str(self.message(index))}
        return subprocess.Popen(
            [sys.executable, "-m", "trimtab_jobs"],
            env=os.environ | self.variables | given | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def message(self, index: int) -> Path:
        return self.claims / f"message-{index}"

    def ends(self, started: Sequence[subprocess.Popen[str]]) -> list[Ended]:
        """How they ended."""
        with (
            ThreadPoolExecutor() as readers
        ):  # of all at once: one that nobody reads would stop, and the others with it
            said = list(readers.map(lambda process: process.communicate(), started))
        self.printed = "".join(out for out, _ in said)
        ended = zip(started, said, map(self.message, range(len(started))), strict=True)
        return [Ended(pod.returncode, read(message), err) for pod, (_, err), message in ended]

    def run(self, task: Task) -> list[Ended]:
        return self.ends(self.start(task))


def read(message: Path) -> Report | None:
    return Report.model_validate_json(message.read_text()) if message.exists() else None


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """The trained network of the digits example, and one core, on which sums are the same however many there are."""
    claims = tmp_path_factory.mktemp("claims")
    (claims / "store").mkdir()
    path = {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'jobs'}"}
    subprocess.run(
        [sys.executable, str(EXAMPLE / "prepare.py"), str(claims / "digits")],
        env=os.environ | path,
        check=True,
        capture_output=True,
    )
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield Pods(claims)
    os.sched_setaffinity(0, cores)


def trial(store: str, distributed: dict[str, int] | None) -> Task:
    """The example's network, cut to half its channels and recovered."""
    task = {
        "stage": "Trial",
        "trial": 1,
        "job": {"name": "digits", "namespace": "ml", "uid": "u1"},
        "model": {
            "uri": "pvc://digits/model.safetensors",
            "format": "PyTorch",
            "factory": "model:build",
            "code": "pvc://digits/model.py",
        },
        "data": {
            name: {"uri": f"pvc://digits/{name}.npz"} for name in ("train", "calibration", "evaluation", "holdout")
        },
        "target": {"engines": ["ONNXRuntime"]},
        "store": f"pvc://store/{store}",
        "steps": [PRUNE, DISTILL],
        "distributed": distributed,
    }
    return Task.model_validate(task)


@pytest.fixture(scope="module")
def two_pods(digits: Pods) -> Report:
    """What two pods made together."""
    first, second = digits.run(trial("two", {"numNodes": 2}))
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    assert second.report is None
    assert first.report
    made = re.findall(r"^rank (\d): (sha256:\w+)$", digits.printed, re.M)
    assert sorted(made) == [(number, first.report.steps[1].artifact) for number in "01"]
    return first.report


def test_two_pods_train_a_model_as_good_as_that_of_one_process(
    digits: Pods, two_pods: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VOLUMES_VARIABLE, digits.variables[VOLUMES_VARIABLE])
    one = run(trial("one", None))
    qualities = [report.measurements[0].metrics[Metric.ACCURACY] for report in (one, two_pods)]
    # Pruned to half, the network is right in fewer than half of the cases.
    assert min(qualities) > 0.97
    assert one.steps[0].artifact == two_pods.steps[0].artifact
    assert one.steps[1].artifact != two_pods.steps[1].artifact
    assert two_pods.steps[1].note.endswith(" (2 × 1 processes)")


def test_the_seed_and_the_number_of_processes_decide_every_bit(digits: Pods, two_pods: Report) -> None:
    (ended,) = digits.run(trial("again", {"numProcPerNode": 2}))
    assert ended.report
    assert ended.report.steps[1].artifact == two_pods.steps[1].artifact
    assert not ended.report.steps[1].cached


def test_what_is_in_the_cache_is_not_trained_again_and_who_waits_to_help_is_ended(
    digits: Pods, two_pods: Report
) -> None:
    first, second = digits.start(trial("two", {"numNodes": 2}))
    (ended,) = digits.ends([first])
    assert ended.report
    assert [step.cached for step in ended.report.steps] == [True, True]
    assert second.poll() is None
    second.terminate()  # as the Job controller does, once index 0 has succeeded
    second.communicate()
    assert second.returncode == 128 + signal.SIGTERM
    assert not digits.message(1).exists()


def chain(lab: Lab, code: str, **fields: Any) -> Task:
    """A Task that trains a network of that code."""
    written = write_chain(lab.folder("inputs"))
    (lab.folder("inputs") / "net.py").write_text(code)
    return lab.task("Trial", trial=1, **written | {"steps": STEPS[1:2]} | fields)


def test_a_rank_that_dies_fails_the_attempt_and_its_pod_says_which(lab: Lab) -> None:
    dies = "import os\nif os.environ.get('RANK') == '1': os.kill(os.getpid(), 9)\n"
    pods = Pods(lab.root)
    first, second = pods.run(chain(lab, dies + CODE, distributed={"numNodes": 2}))
    assert (first.code, second.code) == (75, 75)
    assert second.stderr == "Temporary: rank 1 was ended by SIGKILL\n"
    for ended in (first, second):
        assert ended.report
        assert ended.report.error
        assert ended.report.error.kind == ErrorKind.TEMPORARY
    assert not [name for name in lab.written("store") if name.startswith("cache/")]


def test_index_0_does_not_wait_for_ever(lab: Lab, perform: Callable[[Task], Ended], monkeypatch: Any) -> None:
    monkeypatch.setattr(ranks, "PATIENCE", 5)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    ended = perform(chain(lab, CODE, distributed={"numNodes": 2}))
    assert ended.code == 75
    assert "the processes did not meet: Timed out" in ended.stderr
    assert "1/2 clients joined" in ended.stderr


@dataclass
class Failure:
    """What torchrun knows of a process that failed."""

    local_rank: int
    exitcode: int


@pytest.mark.parametrize(
    ("failures", "says"),
    [
        ({2: Failure(0, 1), 3: Failure(1, 3)}, "rank 2 ended with exit code 1: RuntimeError: no luck"),
        ({2: Failure(0, 1), 3: Failure(1, -9)}, "rank 3 was ended by SIGKILL: Connection lost"),
        ({9: Failure(7, -6)}, "rank 9 was ended by SIGABRT"),
    ],
    ids=["the first", "one that was killed", "without a word"],
)
def test_the_last_words_are_those_of_the_rank_that_took_the_others_with_it(
    tmp_path: Path, failures: dict[int, Failure], says: str
) -> None:
    for local, text in enumerate(("Traceback:\nRuntimeError: no luck\n\n", "Connection lost\n")):
        folder = tmp_path / "none_x" / "attempt_0" / str(local)
        folder.mkdir(parents=True)
        (folder / "stderr.log").write_text(text)
    assert ranks._last_words(failures, tmp_path) == says


def invalid(local: int) -> dict[str, str]:
    return {f"rank-{local:03}.json": json.dumps({"failure": {"type": "InvalidInput", "message": f"said {local}"}})}


@pytest.mark.parametrize(
    ("left", "code", "raises", "says"),
    [
        (invalid(0) | invalid(1), 0, InvalidInput, "said 0"),
        (invalid(1) | {ranks.DIED: "rank 0 died"}, 1, InvalidInput, "said 1"),
        ({ranks.DIED: "rank 0 died"}, 1, Temporary, "rank 0 died"),
        ({}, 1, Temporary, "torchrun ended with exit code 1"),
    ],
    ids=["all found it", "one found it and the others lost it", "one died", "torchrun died"],
)
def test_what_ranks_found_is_the_step_s_failure(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left: dict[str, str],
    code: int,
    raises: type[WorkFailure],
    says: str,
) -> None:
    def leave(_command: Sequence[str], environment: Mapping[str, str]) -> int:
        folder = Path(json.loads(environment[ranks.PLACE_VARIABLE])["folder"])
        for name, text in left.items():
            (folder / name).write_text(text)
        return code

    monkeypatch.setattr(ranks, "_run", leave)
    task = lab.task("Trial", distributed={"numProcPerNode": 2})
    assert task.distributed
    with pytest.raises(raises, match=f"^{says}$"):
        ranks.Ranks(task, task.distributed, {}, 2).train(ranks.Order(0, "", ""), tmp_path)


@pytest.mark.parametrize(
    ("distributed", "environment", "threads", "words"),
    [
        ({"numProcPerNode": 16}, {}, 1, ["--standalone", "--nproc-per-node=16"]),
        ({"numNodes": 2}, {"JOB_COMPLETION_INDEX": "0"}, 8, ["--node-rank=0", "--rdzv-conf=timeout=600"]),
        ({"numNodes": 2}, {"JOB_COMPLETION_INDEX": "1"}, 8, ["--node-rank=1", "--rdzv-conf=timeout=1000000"]),
        ({"numNodes": 2, "numProcPerNode": 2}, {}, 4, ["--nnodes=2", "--master-addr=m-0.s", "--master-port=29500"]),
    ],
)
def test_how_torchrun_is_started(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    distributed: dict[str, int],
    environment: dict[str, str],
    threads: int,
    words: list[str],
) -> None:
    def look(command: Sequence[str], given: Mapping[str, str]) -> int:
        assert set(words) <= set(command)
        assert given["OMP_NUM_THREADS"] == str(threads)
        return 1

    monkeypatch.setattr(ranks, "_run", look)
    for name, value in ({"MASTER_ADDR": "m-0.s", "MASTER_PORT": "29500"} | environment).items():
        monkeypatch.setenv(name, value)
    task = lab.task("Trial", distributed=distributed)
    assert task.distributed
    with pytest.raises(Temporary):
        ranks.Ranks(task, task.distributed, {}, 8).train(ranks.Order(0, "", ""), tmp_path)
