"""The line at the bottom of a terminal: what it says while a run goes on, and that it leaves only what happened."""

from __future__ import annotations

import os
import pty
import select
from collections.abc import Callable

import pytest

from builders import World, make_job
from trimtab.api.doing import Doing
from trimtab.api.names import EventReason
from trimtab.api.work import Stage
from trimtab.decisions import Event, ObservedWork, Work, WorkState
from trimtab.terminal import Terminal

ERASE = "\x1b[2K"


def second_trial_runs(work: Work) -> ObservedWork | None:
    return ObservedWork(work, WorkState.ACTIVE) if (work.task.stage, work.task.trial) == (Stage.TRIAL, 2) else None


@pytest.mark.parametrize(
    ("fate", "line"),
    [
        (lambda work: ObservedWork(work, WorkState.ACTIVE), "Inspecting; step 1 of 2, quantize"),
        (second_trial_runs, "Searching; 1 trials done, 1 running; step 1 of 2, quantize; best so far: the input model"),
        (lambda work: None, "2 trials done, 0 running; best so far: trial-2/ONNXRuntime"),
    ],
    ids=["inspecting", "searching", "ended"],
)
def test_what_goes_on_is_drawn_below_what_happened(
    fate: Callable[[Work], ObservedWork | None], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    world = World(make_job(), sabotage=fate)
    world.run()
    shown = drawn(world)
    assert line in shown
    happened, _, after = shown.rpartition("TrialFailed: [red] is no colour here")
    assert happened
    assert ERASE in after.rpartition(line)[2], "nothing of it is left at the end"


def drawn(world: World) -> str:
    """What a terminal gets."""
    running = any(seen.state == WorkState.ACTIVE for seen in world.works.values())
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream:
        with Terminal(world.job.spec, stream) as terminal:
            terminal.tick(world.job.status, Doing(step=1, steps=2, what="quantize") if running else None)
            terminal.event(Event(EventReason.TRIAL_FAILED, "[red] is no colour here", warning=True))
        stream.flush()
        shown = os.read(ours, 2**16)
        while select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 2**16)
    os.close(ours)
    return shown.decode()
