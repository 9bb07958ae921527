"""A report for people: one HTML page that needs nothing else, and a summary in Markdown.

Templates lay out and this package decides what they show; the words are the report's own. Everything a job, a model or
an error message may contain is escaped: by Jinja's autoescape in HTML, by `cell` in Markdown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from trimtab.api.model import FRACTIONS, Metric, show_metric
from trimtab.api.quantities import show_duration, show_quantity
from trimtab.api.report import Candidate, JobReport
from trimtab.api.status import Outcome, show_interval
from trimtab.page.front import Front, front
from trimtab.page.plot import draw, signed
from trimtab.space import words

REPORT_FILES = ("report.html", "report.md", "report.json")
WIDE, NARROW = (920, 460), (360, 400)
"""The plot in pixels on a desk and on a telephone."""
NAMED = 6
"""How many marks outside the view are named below it; the table has them all."""

_ORDER = (
    Outcome.FEASIBLE, Outcome.DOMINATED, Outcome.INCONCLUSIVE, Outcome.INFEASIBLE, Outcome.SKIPPED, Outcome.FAILED, None
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A candidate as the table shows it."""

    candidate: Candidate
    won: bool
    settings: str
    quality: str
    p50: str
    ratio: str
    size: str


def files(report: JobReport) -> dict[str, str]:
    """Every form of a report, by the name of its file."""
    data = json.dumps(report.wire(), indent=1, ensure_ascii=False) + "\n"
    return dict(zip(REPORT_FILES, (html(report), markdown(report), data), strict=True))


def html(report: JobReport) -> str:
    """The page: no scripts, nothing that is loaded from elsewhere."""
    seen = front(report)
    plots = [Markup(draw(seen, *size, _axis(report))) for size in (WIDE, NARROW)] if seen else []  # noqa: S704
    return _render(
        "report.html",
        report,
        plots=plots,
        kinds={mark.kind for mark in seen.marks} if seen else set(),
        remarks=_remarks(seen) if seen else [],
        names=list(dict.fromkeys(name for candidate in report.candidates for name in candidate.metrics)),
    )


def markdown(report: JobReport) -> str:
    """The summary."""
    return _render("report.md", report)


def _render(template: str, report: JobReport, **more: object) -> str:
    known = {"report": report, "rows": _rows(report), "float_layers": _floats(report)}
    return _environment().get_template(template).render(known, **more).strip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trimtab.page"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": _cell,
        "code": _code,
        "interval": show_interval,
        "shown": _shown,
        "bytes": show_quantity,
    }
    environment.filters |= {"duration": lambda seconds: show_duration(float(seconds)), "date": _date}
    return environment


def _rows(report: JobReport) -> list[Row]:
    """The winner first, then by outcome and in the order of trials."""
    rows = [_row(report, candidate) for candidate in report.candidates]
    return sorted(rows, key=lambda row: (not row.won, _ORDER.index(row.candidate.outcome)))


def _row(report: JobReport, candidate: Candidate) -> Row:
    winner = report.winner
    return Row(
        candidate=candidate,
        won=winner is not None and (winner.trial, winner.engine) == (candidate.trial, candidate.engine),
        settings=words(candidate.settings) if candidate.trial else "",
        quality=_measured(candidate, report.quality),
        p50=_measured(candidate, Metric.LATENCY_P50),
        ratio=show_interval(ratio) if (ratio := report.ratio(candidate)) else "",
        size=_measured(candidate, Metric.SIZE),
    )


def _measured(candidate: Candidate, metric: Metric) -> str:
    return _shown(candidate.metrics[metric], metric) if metric in candidate.metrics else ""


def _shown(value: str, metric: str) -> str:
    """A measurement for people, in the unit of its metric."""
    return show_metric(Metric(metric), float(value))


def _date(text: str) -> str:
    """`2026-01-01T00:00:00Z` as people write it."""
    return text.replace("T", " ").replace("Z", " UTC")


def _floats(report: JobReport) -> dict[int, list[str]]:
    """By trial, the layers that a step left in floating point."""
    found = {work.trial: [layer for step in work.steps for layer in step.float_layers] for work in report.work}
    return {trial: layers for trial, layers in found.items() if layers}


def _axis(report: JobReport) -> str:
    value = _measured(report.candidates[0], report.quality)
    unit = "points" if report.quality in FRACTIONS else "percent"
    return f"{report.quality}: {unit} from the input model's {value}"


def _remarks(seen: Front) -> list[str]:
    """What a reader of the plot must know beyond its legend."""
    off = [mark for mark in seen.marks if seen.off_scale(mark)]
    hints = [mark for mark in seen.marks if not mark.time.known and mark.kind != "input"]
    remarks = [f"A number is a trial's; it ran on {seen.marks[0].candidate.engine} where no engine is named."]
    if off:
        places = (f"{m.candidate.name} ({m.time.value:.2f}, {signed(m.change.value)})" for m in off[:NAMED])
        more = f" and {len(off) - NAMED} more" if len(off) > NAMED else ""
        remarks.append(f"Off scale, drawn on the edge: {', '.join(places)}{more}.")
    if hints:
        remarks.append("A mark without a horizontal bar was timed on its own, not in the playoff: its place is a hint.")
    return remarks


def _cell(text: object) -> str:
    """Text that is only text wherever it stands in Markdown, and stays in one cell of a table."""
    line = escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", line)


def _code(text: object) -> str:
    """The same in a code span."""
    return "`" + " ".join(str(text).split()).replace("`", "'").replace("|", "\\|") + "`"
