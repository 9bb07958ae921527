"""Daemons are started once, started again when they changed or died, and ended only if they are still themselves."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import processes, tools
from lab.processes import Daemon, Running
from lab.shell import LabError, wait_for


@pytest.fixture
def script(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Daemon]]:
    """Makes a daemon out of a shell script."""
    monkeypatch.setattr(tools, "path", lambda name: lab / name)

    def make(text: str, *flags: str) -> Daemon:
        program = lab / "daemon"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return Daemon("daemon", flags)

    yield make
    processes.stop("daemon")


def running() -> Running:
    found = processes.recorded("daemon")
    assert found is not None
    return found


def test_a_daemon_that_runs_is_left_alone(script: Callable[..., Daemon]) -> None:
    for _ in range(2):
        processes.ensure(script("exec sleep 60"))
        pids = {running().pid}
    assert pids == {running().pid}
    assert running().alive()
    assert running().memory() > 0


def test_a_daemon_with_new_flags_is_restarted(script: Callable[..., Daemon]) -> None:
    processes.ensure(script("exec sleep 60"))
    first = running()
    processes.ensure(script("exec sleep 60", "--new"))
    assert not first.alive()
    assert running().alive()


def test_a_daemon_with_a_new_configuration_is_restarted(script: Callable[..., Daemon], lab: Path) -> None:
    config = lab / "config"
    firsts = []
    for text in ("old", "new"):
        config.write_text(text)
        made = script("exec sleep 60")
        processes.ensure(Daemon(made.name, made.flags, [config]))
        firsts.append(running())
    assert [daemon.alive() for daemon in firsts] == [False, True]


def test_a_dead_daemon_is_told_with_its_last_words(script: Callable[..., Daemon]) -> None:
    processes.ensure(script("echo out of luck; exit 1"))
    wait_for("the end", lambda: not running().alive(), 60)
    with pytest.raises(LabError, match=r"daemon ended; it said last: out of luck \(more in .*daemon\.log\)"):
        processes.check()
    processes.forget_dead()
    processes.check()


def test_a_daemon_that_will_not_go_is_killed(script: Callable[..., Daemon], lab: Path) -> None:
    processes.ensure(script("trap '' TERM; echo >deaf; while :; do sleep 0.1; done"))
    wait_for("it hears nothing", (lab / "deaf").exists, 60)
    stubborn = running()
    processes.stop("daemon", patience=0.3)
    assert not stubborn.alive()
    assert processes.recorded("daemon") is None


def test_another_process_under_the_recorded_pid_is_spared(script: Callable[..., Daemon], lab: Path) -> None:
    processes.ensure(script("exec sleep 60"))
    pid = running().pid
    record = lab / "run" / "daemon.json"
    record.write_text(record.read_text().replace(f'"started": {running().started}', '"started": 1'))
    processes.stop("daemon")
    assert processes.start_time(pid) is not None
    os.kill(pid, signal.SIGKILL)
    wait_for("the end", lambda: not Running("daemon", pid, 1, "").alive() and processes.start_time(pid) is None, 60)
