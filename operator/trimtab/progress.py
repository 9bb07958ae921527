"""Telling how a run goes: the words, and lines of them for a log. `trimtab.terminal` draws them on a terminal."""

from __future__ import annotations

from typing import TextIO

from trimtab.api.doing import Doing
from trimtab.api.job import OptimizationJobSpec
from trimtab.api.model import Metric
from trimtab.api.status import OptimizationJobStatus, TrialState
from trimtab.candidates import candidates
from trimtab.decisions import Event
from trimtab.select import finalists


class Lines:
    """One line for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, event: Event) -> None:
        print(line(event), file=self._stream, flush=True)

    def tick(self, status: OptimizationJobStatus, doing: Doing | None = None) -> None:
        """A log says nothing while nothing happens."""


def line(event: Event) -> str:
    return f"{event.reason}: {event.message}" if event.message else event.reason


def counts(status: OptimizationJobStatus) -> tuple[int, int]:
    """How many trials have ended, and how many run; the input model is none."""
    running = sum(trial.state == TrialState.RUNNING for trial in status.trials[1:])
    return max(0, len(status.trials) - 1) - running, running


def best_so_far(spec: OptimizationJobSpec, status: OptimizationJobStatus) -> str:
    """The most promising candidate, by what trials measured beside each other: a hint, as they are."""
    if status.best:
        return status.best.name
    if not status.trials or not status.trials[0].candidates:
        return ""
    hopeful = finalists(spec, status)[1:2]
    found = [c for c in candidates(status) if c.finalist in hopeful and Metric.LATENCY_P50 in c.entry.metrics]
    if not found:
        return "the input model"
    ratio = found[0].value(Metric.LATENCY_P50) / found[0].reference.metric(Metric.LATENCY_P50)
    return f"{found[0].name}, at {ratio:.2f} of the time"
