"""Long-running programs, started so that a later command can find and end exactly these.

A pid alone is not an identity, since the kernel hands it out again; a pid with its start time is. Both are kept in
`run/NAME.json`, with a fingerprint of the command and its configuration, so that starting twice is a no-op and
starting with new settings is a restart.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import paths, tools
from lab.shell import LabError, wait_for

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Daemon:
    """A tool to keep running; `config` are the files it reads at start."""

    name: str
    flags: Sequence[str]
    config: Sequence[Path] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        return [str(tools.path(self.name)), *self.flags]

    def fingerprint(self) -> str:
        words = [*self.argv, *(path.read_text() for path in self.config)]
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Running:
    """A started daemon as its record tells it."""

    name: str
    pid: int
    started: int
    fingerprint: str

    def alive(self) -> bool:
        _reap(self.pid)
        return start_time(self.pid) == self.started

    def age(self) -> float:
        """Seconds since it started."""
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - self.started / _TICKS

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the program's name, in parentheses, may hold anything
    return None if fields[0] == "Z" else int(fields[19])


def ensure(daemon: Daemon) -> None:
    """Start a daemon, unless it already runs with the same command and configuration."""
    running, wanted = recorded(daemon.name), daemon.fingerprint()
    if running and running.alive():
        if running.fingerprint == wanted:
            return
        stop(daemon.name)
    pid = _start(daemon)
    record = {"name": daemon.name, "pid": pid, "started": start_time(pid) or 0, "fingerprint": wanted}
    _record(daemon.name).write_text(json.dumps(record))


def stop(name: str, patience: float = 10) -> None:
    """End a recorded process, politely first."""
    running = recorded(name)
    if running and running.alive():
        os.kill(running.pid, signal.SIGTERM)
        try:
            wait_for(f"{name} to end", lambda: not running.alive(), patience)
        except LabError:
            os.kill(running.pid, signal.SIGKILL)
            wait_for(f"{name} to be killed", lambda: not running.alive(), patience)
    _record(name).unlink(missing_ok=True)


def recorded(name: str) -> Running | None:
    """What is known of a daemon, dead or alive."""
    try:
        return Running(**json.loads(_record(name).read_text()))
    except FileNotFoundError:
        return None


def everything() -> Iterator[Running]:
    """All recorded daemons, in the order they were started."""
    found = [recorded(path.stem) for path in _record("any").parent.glob("*.json")]
    yield from sorted((running for running in found if running), key=lambda running: running.started)


def forget_dead() -> None:
    """Drop the records of daemons that are gone, to start them anew."""
    for running in everything():
        if not running.alive():
            _record(running.name).unlink()


def check() -> None:
    """Fail when a daemon has died, with its last words."""
    for running in everything():
        if not running.alive():
            log = _log(running.name)
            words = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise LabError(f"{running.name} ended; it said last: {words[0]} (more in {log})")


def _start(daemon: Daemon) -> int:
    for path in (_record(daemon.name), _log(daemon.name)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _log(daemon.name).open("ab") as log:
        return subprocess.Popen(
            daemon.argv,
            env=os.environ | daemon.env,
            cwd=paths.state(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ).pid


def _reap(pid: int) -> None:
    """Collect a child of ours that ended: as a zombie it would still have its start time."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _record(name: str) -> Path:
    return paths.state() / "run" / f"{name}.json"


def _log(name: str) -> Path:
    return paths.state() / "logs" / f"{name}.log"
