"""The processes that a local run works with, each started as `python -m PROGRAM` would start it, only sooner.

A warm parent (`trimtab_jobs.warm`), started with the first of them, has the model libraries loaded and forks them all:
this package may load none. Where it cannot start, refuses or is gone, processes are started the plain way from then on,
and their logs say so. Nothing else differs: a process belongs to the run and ends with it, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from trimtab.memory import kill_tree

WARM = "trimtab_jobs.warm"
PATIENCE = 5.0
"""Seconds that a process has to end by itself when it is told to."""
START_UP = 60.0
"""Seconds that the warm parent has to load its libraries, from a slow disk; then it is given up."""
_CHUNK = 2**16
_Streams: TypeAlias = tuple[BinaryIO, BinaryIO]
"""Standard output and standard error."""


@dataclass
class Process:
    """A process that was started, by whomever. Its number is its own until `returncode` is known."""

    pid: int
    descriptor: int
    """That can be waited for until it ends."""
    reap: Callable[[], int]
    """The exit code of the process, which has ended."""
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self.wait(0)

    def wait(self, seconds: float | None = None) -> int | None:
        """The same, waiting for it so long or as long as it takes."""
        if self.returncode is None and until_one_ends([self], seconds):
            self.returncode = self.reap()
            os.close(self.descriptor)
        return self.returncode

    def terminate(self) -> None:
        """Tell it to end."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it started, at once."""
        if self.poll() is None:
            kill_tree(self.pid)
            self.wait()


def until_one_ends(processes: Collection[Process], seconds: float | None) -> bool:
    """Whether one of the processes has ended, or does before the time is over."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.descriptor, selectors.EVENT_READ)
        return bool(selector.select(seconds))


class Processes:
    """Starts processes and ends them. Used as a context, at whose end no process is left."""

    def __init__(self) -> None:
        self._started: list[Process] = []
        self._parent: _WarmParent | None = None
        self._lost = ""
        """Why the warm parent is done without."""

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(self._started)
        if self._parent:
            self._parent.close()

    def start(
        self,
        words: Sequence[str],
        log: BinaryIO,
        errors: BinaryIO | None = None,
        given: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `python -m WORDS` with the variables that are given on top of our own.

        It writes into `log`, and its errors into `errors`, if that is another file.
        """
        environment, streams = os.environ | (given or {}), (log, errors or log)
        self._warm_up()
        with _deaf():
            process = self._forked(words, environment, streams) or self._plain(words, environment, streams)
            self._started.append(process)
        return process

    def stop(self, ending: Sequence[Process]) -> None:
        """End processes and what they started: first all are told.

        One that does not listen, deep in native code, is killed.
        """
        for process in ending:
            process.terminate()
        for process in ending:
            if process.wait(PATIENCE) is None:
                process.kill()

    def _warm_up(self) -> None:
        """Start the warm parent, unless that was tried before. Ctrl-C is heard while it loads its libraries."""
        if self._parent or self._lost:
            return
        with _deaf():
            self._parent = _WarmParent()
        try:
            self._parent.hear()
        except _Lost as lost:
            self._lost = str(lost)

    def _forked(self, words: Sequence[str], environment: Mapping[str, str], streams: _Streams) -> Process | None:
        if not self._parent or self._lost:
            return None
        try:
            return self._parent.fork(words, environment, streams)
        except _Lost as lost:
            self._lost = str(lost)
            return None

    def _plain(self, words: Sequence[str], environment: Mapping[str, str], streams: _Streams) -> Process:
        out, errors = streams
        errors.write(f"not forked from the warm parent: {self._lost}\n".encode())
        errors.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (no threads are running here)
        )
        return Process(process.pid, os.pidfd_open(process.pid), process.wait)


class _Lost(Exception):
    """The warm parent does not do what it is for. Says why."""


class _WarmParent:
    """The process `trimtab_jobs.warm`, and the socket to ask it by; its page says what is asked."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(START_UP)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WARM],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (no threads are running here)
            )

    def fork(self, words: Sequence[str], environment: Mapping[str, str], streams: _Streams) -> Process:
        """Raises _Lost where there is no process."""
        asked = {"words": list(words), "environment": dict(environment)}
        answer, descriptors = self._ask(asked, [stream.fileno() for stream in streams])
        if "refused" in answer:
            raise _Lost(answer["refused"])
        pid = int(answer["pid"])
        return Process(pid, descriptors[0], lambda: self._reap(pid))

    def _reap(self, pid: int) -> int:
        try:
            with _deaf():
                return int(self._ask({"wait": pid})[0]["code"])
        except _Lost:
            return -signal.SIGKILL  # what the child got with its parent's end

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode() + b"\n"], descriptors)
        except OSError as error:
            raise _Lost(f"it is gone ({error.strerror})") from None
        line, received = self.hear()
        return json.loads(line), received

    def hear(self) -> tuple[bytes, list[int]]:
        """A line, and the descriptors that came with it. The first says that it is ready."""
        try:
            line, descriptors, _, _ = socket.recv_fds(self._channel, _CHUNK, maxfds=1)
        except OSError as error:
            self.close()
            raise _Lost(f"it does not answer ({error})") from None
        if not line:
            self.close()
            raise _Lost(f"it ended with {self._process.returncode}")
        return line, descriptors

    def close(self) -> None:
        """End it, and with it whatever it forked."""
        self._channel.close()
        if self._process.poll() is None:
            kill_tree(self._process.pid)
        self._process.wait()


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is heard only once a new process is known, or nobody would end it. It inherits that: we end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    """Linux ends the process with its parent: a killed run leaves nothing that competes with the next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
