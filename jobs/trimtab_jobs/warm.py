"""A parent with the libraries loaded, whose children begin at once: `python -m trimtab_jobs.warm`, for local runs.

A local run starts a dozen processes, and each would spend 0.4 s of CPU time on an interpreter and on importing numpy,
onnx, onnxruntime and openvino before its first line of work. Here one process does that, and forks a child for each
request. In a cluster every pod is a container, and nothing of this runs.

A child is what `python -m PROGRAM ARGUMENTS` would be: its own environment, arguments and streams, SIGTERM and exit
code. What a fork could spoil is kept out: the parent opens no session and no model, and forks only while it has one
thread. numpy's OpenBLAS starts a pool when it is imported, ends it in every fork and starts it again where it is next
needed, so a first child that does nothing leaves the parent with a single thread from then on.

The socket that whoever started this holds is standard input here; one JSON document in a line is a request:

    {"words": [PROGRAM, ...], "environment": {...}}    with standard output and error as two descriptors
        → {"pid": 123}                                 with the child's pidfd; or {"refused": "why"}
    {"wait": 123}                                      → {"code": 0}, once it has ended

A child is reaped when it is asked for and never before, so its number means nobody else meanwhile. The children die
with this process, and it dies with its own parent.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "trimtab_jobs.run",
    "trimtab_jobs.deal",
    "trimtab_jobs.engines.onnxruntime",
    "trimtab_jobs.engines.openvino",
    "trimtab_jobs.techniques.quantize",
    "numpy.ma",
)
"""What nearly every child needs. Those of one technique (onnxslim, NNCF, torch) stay where they are used."""
READY = b"ready\n"
_CHUNK = 2**16
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None)


def main(channel: socket.socket) -> None:
    """Answer requests until whoever asks is gone."""
    _load()
    channel.sendall(READY)
    for request, descriptors in _requests(channel):
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            _answer(channel, {"code": os.waitstatus_to_exitcode(status)})
        elif (count := threads()) != 1:
            _answer(channel, {"refused": f"it has {count} threads"})
        else:
            _start(channel, request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def threads() -> int:
    """Of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _load() -> None:
    gc.disable()  # what is imported stays: looking for garbage in it took an eighth of the time
    for name in LIBRARIES:
        with suppress(ImportError):  # such as an engine that is not installed: whoever needs it says so
            import_module(name)
    from trimtab_jobs.hardware import versions

    versions()  # which every child asks for, and which take a while to find
    gc.freeze()  # or the first collection of every child would write to, and so copy, every page there is
    gc.enable()
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _requests(channel: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]]]:
    while True:
        received, descriptors, _, _ = socket.recv_fds(channel, _CHUNK, maxfds=2)
        while received and not received.endswith(b"\n"):
            more = channel.recv(_CHUNK)
            received = received + more if more else b""
        if not received:
            return
        yield json.loads(received), descriptors


def _answer(channel: socket.socket, said: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    socket.send_fds(channel, [json.dumps(said).encode() + b"\n"], descriptors)


def _start(channel: socket.socket, request: dict[str, Any], descriptors: Sequence[int]) -> None:
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        _answer(channel, {"refused": f"no process: {error.strerror}"})
        return
    if pid == 0:
        channel.close()
        _live(parent, request, descriptors)
    pidfd = os.pidfd_open(pid)
    _answer(channel, {"pid": pid}, [pidfd])
    os.close(pidfd)


def _live(parent: int, request: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """A child's life, which never returns into the frames of its parent."""
    code = 1
    try:
        die_with(parent)
        _enter(request, descriptors)
        code = _run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)  # without the interpreter's own end, which takes as long as a short import


def die_with(parent: int) -> None:
    """Linux ends this process with its parent, who may have gone already."""
    _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _enter(request: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Leave behind what is the parent's: its channel, its streams, its environment, its random numbers."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for given, wanted in zip([nothing, *descriptors], range(3), strict=True):
        os.dup2(given, wanted)
        os.close(given)
    os.environ.clear()
    os.environ.update(request["environment"])
    import numpy as np

    np.random.seed()


def _run(words: Sequence[str]) -> int:
    """What `python -m` does with the words; the exit code."""
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    return 0


if __name__ == "__main__":
    main(socket.socket(fileno=os.dup(0)))
