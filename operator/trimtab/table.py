"""The candidates of a job as a table for a terminal: what a person looks at first."""

from __future__ import annotations

from trimtab.api.model import Metric, show_metric
from trimtab.api.status import CandidateStatus, OptimizationJobStatus, TrialStatus, show_interval
from trimtab.candidates import quality
from trimtab.space import words


def candidate_table(status: OptimizationJobStatus) -> str:
    """One line per candidate, the winner marked with a star, then trials that made none."""
    headings = ("candidate", "engine", quality(status).value, "p50", "time ratio", "size", "outcome", "why")
    rows: list[tuple[str, ...]] = [headings]
    for trial in status.trials:
        rows += [_row(status, trial, entry) for entry in trial.candidates]
        if not trial.candidates:
            rows.append((_label(trial), "", "", "", "", "", trial.state, trial.message))
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings) - 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join(f"{line}  {row[-1]}".rstrip() for line, row in zip(lines, rows, strict=True))


def _row(status: OptimizationJobStatus, trial: TrialStatus, entry: CandidateStatus) -> tuple[str, ...]:
    won = status.best and (status.best.trial, status.best.engine) == (trial.index, entry.engine)
    return (
        ("* " if won else "  ") + _label(trial),
        entry.engine,
        _shown(entry, quality(status)),
        _shown(entry, Metric.LATENCY_P50),
        show_interval(entry.time_ratio) if entry.time_ratio else "",
        _shown(entry, Metric.SIZE),
        entry.outcome or "",
        entry.message,
    )


def _label(trial: TrialStatus) -> str:
    if trial.index == 0:
        return "input model"
    return f"{trial.index} {words(trial.settings)}"


def _shown(entry: CandidateStatus, metric: Metric) -> str:
    text = entry.metrics.get(metric.value)
    return show_metric(metric, float(text)) if text else ""
