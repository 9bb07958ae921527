"""The line at the bottom of a terminal that moves: time, stage, trials, best so far. The only module that loads rich.

There is no bar, for how many trials there will be is known only at the end. The line is drawn when the run ticks, never
by a thread: processes are started by forking, which does not go together with threads.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from trimtab.api.doing import Doing
from trimtab.api.job import OptimizationJobSpec
from trimtab.api.status import OptimizationJobStatus
from trimtab.decisions import Event
from trimtab.progress import best_so_far, counts, line


class Terminal:
    """Follows a run on a terminal."""

    def __init__(self, spec: OptimizationJobSpec, stream: TextIO) -> None:
        self._spec = spec
        self._progress = Progress(
            SpinnerColumn(),
            TimeElapsedColumn(Column(no_wrap=True, min_width=7)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(file=stream),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("Starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def event(self, event: Event) -> None:
        style = "yellow" if event.warning else "default"
        self._progress.console.print(escape(line(event)), style=style, highlight=False, soft_wrap=True)

    def tick(self, status: OptimizationJobStatus, doing: Doing | None = None) -> None:
        done, running = counts(status)
        best = best_so_far(self._spec, status)
        told = [status.state or "Starting"]
        told += [f"{done} trials done, {running} running"] if done + running else []
        told += [str(doing)] if doing else []
        told += [f"best so far: {best}"] if best else []
        self._progress.update(self._task, description=escape("; ".join(told)))
        self._progress.refresh()
