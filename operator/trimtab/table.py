"""The candidates of a job as a table for a terminal: what a person looks at first."""

from __future__ import annotations

from trimtab.api.model import Metric, show_metric
from trimtab.api.report import ratio_name
from trimtab.api.status import CandidateStatus, OptimizationJobStatus, TrialStatus, show_interval
from trimtab.candidates import quality, shown_state, speed_ratio
from trimtab.space import words


def candidate_table(status: OptimizationJobStatus, objective: Metric) -> str:
    """One line per candidate, the winner marked with a star, then trials that made none.

    The ratio is the one that the first objective is about.
    """
    ratio = ratio_name(objective == Metric.THROUGHPUT)
    headings = ("candidate", "engine", quality(status).value, "p50", ratio, "size", "outcome", "why")
    rows: list[tuple[str, ...]] = [headings]
    for trial in status.trials:
        rows += [_row(status, objective, trial, entry) for entry in trial.candidates]
        if not trial.candidates:
            rows.append(("  " + _label(trial), "", "", "", "", "", shown_state(status, trial), trial.message))
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings) - 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join(f"{line}  {row[-1]}".rstrip() for line, row in zip(lines, rows, strict=True))


def _row(
    status: OptimizationJobStatus, objective: Metric, trial: TrialStatus, entry: CandidateStatus
) -> tuple[str, ...]:
    ratio = speed_ratio(entry, objective)
    won = status.best and (status.best.trial, status.best.engine) == (trial.index, entry.engine)
    return (
        ("* " if won else "  ") + _label(trial),
        entry.engine,
        _shown(entry, quality(status)),
        _shown(entry, Metric.LATENCY_P50),
        show_interval(ratio) if ratio else "",
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
