"""Steps that train, on several processes of several pods: torchrun starts them, and each of them is a rank.

    index 0          takes a trial's steps; for one that trains it starts torchrun, and goes on with what rank 0 made
    the other pods   start torchrun for every such step, and end after the last

Three programs are here: the pod's side (`Ranks`), torchrun as it starts that (`python -m trimtab_jobs.ranks ARGUMENTS`)
and a rank (the same without arguments). Only index 0 knows the model that a step begins with, and whether it is to be
trained at all: it may be in the cache. So rank 0 tells the others, once they have met. Until then they wait, for as
long as their Job runs: it ends with index 0, which waits ten minutes for them, for it may hold GPUs that others need.

Meetings of a trial are numbered, and each has a port of its own: the one before may still be closing.

A rank leaves what it found out in a file: a failure that has a name is a result, and the rank ends well. One that dies
takes the others with it, here because torchrun ends them and in other pods because they lose the connection.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.api.runtime import Distributed
from trimtab.api.work import TASK_VARIABLE, Task
from trimtab_jobs import errors, logs, progress
from trimtab_jobs.bucket_store import open_store
from trimtab_jobs.data import Splits
from trimtab_jobs.errors import InvalidInput, Temporary, WorkFailure
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.store import Store, digest_folder
from trimtab_jobs.techniques import TECHNIQUES, Bench
from trimtab_jobs.warm import die_with

if TYPE_CHECKING:
    import torch

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in the pods of an Indexed Job."""
PLACE_VARIABLE = "TRIMTAB_RANKS"
"""A `Place` as JSON, from a pod to its ranks."""
PATIENCE, FOR_EVER = 600, 10**6
"""Seconds that index 0 waits for the others, and they for it."""
GRACE = 3.0
"""Seconds that torchrun has to end its ranks when it is told to; a local run kills everything after five."""
PAGE = 1024
"""Bytes that an Order fits into, with room: it has two digests."""
DIED = "died"


@dataclass(frozen=True)
class Order:
    """What is to be trained: the step's number in the Task, and artifacts by their digests."""

    number: int
    parent: str
    original: str


@dataclass(frozen=True)
class Place:
    """What a pod's ranks have in common."""

    folder: str
    """Where they leave what they make."""
    splits: dict[str, str]
    threads: int
    """Of each rank."""
    order: dict[str, Any] | None
    """An Order, where index 0 is."""


def index() -> int:
    """Which of the pods that train together this is."""
    return int(os.environ.get(INDEX_VARIABLE, "0"))


def helps(task: Task) -> bool:
    """Whether this pod only trains with index 0, which makes the report."""
    return task.distributed is not None and index() > 0


class Ranks:
    """The processes that train together, as a pod starts its own of them."""

    def __init__(self, task: Task, distributed: Distributed, splits: Mapping[str, Path], threads: int) -> None:
        self.size = distributed.processes
        self._task = task
        self._distributed = distributed
        self._splits = {name: str(path) for name, path in splits.items()}
        self._threads = max(1, threads // distributed.num_proc_per_node)
        self._meetings = 0

    def train(self, order: Order, out: Path) -> tuple[Model, str, list[str]]:
        """Take a step, into the folder `out`: the model, a note, and layers left in floating point.

        Raises the failure that a rank found, and Temporary where one died.
        """
        with tempfile.TemporaryDirectory(prefix="trimtab-ranks-") as folder:
            left = self._meet(Path(folder), order)
            shutil.copytree(Path(folder, "rank-0"), out, dirs_exist_ok=True)
        note = f"{left['note']} ({self._distributed.num_nodes} × {self._distributed.num_proc_per_node} processes)"
        return open_model(out), note, left["float_layers"]

    def help(self) -> None:
        """Train with index 0 until it has no such step left. Raises as `train` does."""
        steps, number = self._task.steps, -1
        while any(step.trains for step in steps[number + 1 :]):
            with tempfile.TemporaryDirectory(prefix="trimtab-ranks-") as folder:
                number = self._meet(Path(folder), None)["number"]

    def _meet(self, folder: Path, order: Order | None) -> dict[str, Any]:
        """What the first of this pod's ranks left."""
        place = Place(str(folder), self._splits, self._threads, asdict(order) if order else None)
        given = {
            TASK_VARIABLE: self._task.text(),
            PLACE_VARIABLE: json.dumps(asdict(place)),
            "OMP_NUM_THREADS": str(self._threads),
        }
        code = _run([sys.executable, "-m", __name__, *self._arguments(folder)], os.environ | given)
        self._meetings += 1
        left = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
        for failure in (one["failure"] for one in left if "failure" in one):
            raise getattr(errors, failure["type"])(failure["message"])
        if code:
            died = folder / DIED
            raise Temporary(died.read_text() if died.exists() else f"torchrun ended with exit code {code}")
        return dict(left[0])

    def _arguments(self, folder: Path) -> list[str]:
        pods = self._distributed.num_nodes
        if pods == 1:
            meeting = ["--standalone", "--local-addr=127.0.0.1"]
        else:
            port = int(os.environ["MASTER_PORT"]) + self._meetings
            patience = FOR_EVER if index() else PATIENCE
            meeting = [f"--nnodes={pods}", f"--node-rank={index()}", f"--rdzv-conf=timeout={patience}"]
            meeting += [f"--master-addr={os.environ['MASTER_ADDR']}", f"--master-port={port}"]
        processes = f"--nproc-per-node={self._distributed.num_proc_per_node}"
        return [*meeting, processes, f"--log-dir={folder / 'log'}", "--tee=2", "-m", __name__]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code. All that is printed goes to our standard output, as progress."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def torchrun(arguments: Sequence[str], folder: Path) -> int:
    """What torchrun does with the arguments; which rank died, and its last line, is left in the folder."""
    from torch.distributed import run as program
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        program.run(program.parse_args(list(arguments)))
    except ChildFailedError as error:
        (folder / DIED).write_text(_last_words(error.failures, folder / "log"))
        return 1
    except SignalException as told:
        return 128 + int(told.sigval)
    except Exception as error:  # nobody came, or nobody was there
        (folder / DIED).write_text(f"the processes did not meet: {error}")
        return 1
    return 0


def _last_words(failures: Mapping[int, Any], logs: Path) -> str:
    """Of the rank that was killed, if one was: the others die of having lost it."""
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode >= 0, item[0]))
    code = failure.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    files = logs.glob(f"*/attempt_*/{failure.local_rank}/stderr.log")
    lines = [line for path in files for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return f"rank {rank} {how}" + (f": {lines[-1]}" if lines else "")


def rank(place: Place) -> int:
    """One of the processes that train together."""
    logs.to_stdout()
    number, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    try:
        left = _trained(Task.asked(os.environ[TASK_VARIABLE]), place, Path(place.folder, f"rank-{number}"))
    except WorkFailure as failure:
        left = {"failure": {"type": type(failure).__name__, "message": str(failure)}}
    Path(place.folder, f"rank-{local:03}.json").write_text(json.dumps(left))
    return 0


def _trained(task: Task, place: Place, out: Path) -> dict[str, Any]:
    from torch import distributed

    with open_store(task.store) as store:
        _join(place)
        order = _agreed(Order(**place.order) if place.order else None)
        out.mkdir()
        left = _take(task, place, order, store, out)
        sys.stdout.write(f"rank {distributed.get_rank()}: {digest_folder(out)}\n")
        distributed.destroy_process_group()
    return left


def _join(place: Place) -> None:
    import torch

    local = int(os.environ["LOCAL_RANK"])
    gpus = torch.cuda.device_count()
    if 0 < gpus <= local:
        raise InvalidInput(f"distributed.numProcPerNode: a pod has {gpus} GPUs: give each process one")
    if gpus:
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("nccl" if gpus else "gloo")


def _agreed(order: Order | None) -> Order:
    """The order of rank 0, as text: torch would send an object as a pickle, and a network is not to be trusted."""
    import torch

    text = json.dumps(asdict(order)).encode() if order else b""
    page = torch.tensor(list(text.ljust(PAGE)), dtype=torch.uint8, device=device())
    torch.distributed.broadcast(page, src=0)
    return Order(**json.loads(bytes(page.tolist())))


def _take(task: Task, place: Place, order: Order, store: Store, out: Path) -> dict[str, Any]:
    step = task.steps[order.number]
    if team().rank == 0:
        progress.begin(order.number + 1, len(task.steps) + 1, step.technique)
    notes: list[str] = []
    splits = Splits({name: Path(path) for name, path in place.splits.items()})
    bench = Bench(out, store.model(order.original), splits, task.seed, place.threads, notes.append, _drop)
    TECHNIQUES[step.technique].load()(store.model(order.parent), step.config, bench)
    return {"number": order.number, "note": "; ".join(notes), "float_layers": bench.float_layers}


def _drop(_session: object) -> float:
    raise AssertionError("a step that trains guards no quality: only one process could measure it")


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees them. Outside torchrun, it is alone."""

    rank: int = 0
    size: int = 1

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """This rank's part of a batch that all know."""
        return batch.tensor_split(self.size)[self.rank]

    def replicated(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module, whose gradients become the mean over the team with every backward pass."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, find_unused_parameters=True) if self.size > 1 else module

    def sum(self, number: float) -> float:
        """Over the team."""
        import torch

        total = torch.tensor(number, dtype=torch.float64, device=device())
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return float(total)

    def agree(self, module: torch.nn.Module) -> None:
        """Give all the buffers of rank 0: each has averaged over its own shares (batch normalization)."""
        from torch import distributed

        for buffer in module.buffers() if self.size > 1 else ():
            distributed.broadcast(buffer, src=0)


def team() -> Team:
    """The team of this process."""
    from torch import distributed

    if not distributed.is_initialized():
        return Team()
    return Team(distributed.get_rank(), distributed.get_world_size())


def device() -> torch.device:
    """Where this process trains: a rank on its GPU, if its pod has any, and everybody else on the CPU."""
    import torch

    gpu = torch.distributed.is_initialized() and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def main(arguments: Sequence[str]) -> int:
    """torchrun with arguments, and a rank without. Neither outlives who started it."""
    die_with(os.getppid())
    place = Place(**json.loads(os.environ[PLACE_VARIABLE]))
    return torchrun(arguments, Path(place.folder)) if arguments else rank(place)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
