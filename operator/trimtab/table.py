"""The candidates of a job as a table for a terminal: what a person looks at first."""

from __future__ import annotations

from trimtab.api.model import Metric
from trimtab.api.quantities import show_duration, show_percent, show_quantity
from trimtab.api.status import CandidateStatus, OptimizationJobStatus, TrialStatus

HEADINGS = ("candidate", "engine", "accuracy", "p50", "time ratio", "size", "outcome", "why")


def candidate_table(status: OptimizationJobStatus) -> str:
    """One line per candidate, the winner marked with a star, then trials that made none."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for trial in status.trials:
        rows += [_row(status, trial, entry) for entry in trial.candidates]
        if not trial.candidates:
            rows.append((_label(trial), "", "", "", "", "", trial.state, trial.message))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS) - 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join(f"{line}  {row[-1]}".rstrip() for line, row in zip(lines, rows, strict=True))


def _row(status: OptimizationJobStatus, trial: TrialStatus, entry: CandidateStatus) -> tuple[str, ...]:
    won = status.best and (status.best.trial, status.best.engine) == (trial.index, entry.engine)
    ratio = entry.time_ratio
    return (
        ("* " if won else "  ") + _label(trial),
        entry.engine,
        _shown(entry, Metric.ACCURACY),
        _shown(entry, Metric.LATENCY_P50),
        f"{float(ratio.estimate):.2f} [{float(ratio.low):.2f}, {float(ratio.high):.2f}]" if ratio else "",
        _shown(entry, Metric.SIZE),
        entry.outcome or "",
        entry.message,
    )


def _label(trial: TrialStatus) -> str:
    if trial.index == 0:
        return "input model"
    return f"{trial.index} " + ", ".join(f"{name.split('.')[-1]}={value}" for name, value in trial.settings.items())


_SHOW = {Metric.ACCURACY: show_percent, Metric.LATENCY_P50: show_duration, Metric.SIZE: show_quantity}


def _shown(entry: CandidateStatus, metric: Metric) -> str:
    text = entry.metrics.get(metric.value)
    return _SHOW[metric](float(text)) if text else ""
