"""The front as SVG: a pure function from what to draw and how wide to text.

Shapes carry classes and no colours, so the page's style sheet gives them the reader's scheme, light or dark. Every
mark has a `<title>`, which browsers show as a tooltip. Text is in pixels, so a narrow screen gets a drawing of its own
instead of a scaled one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10, sqrt

from trimtab.page.front import Bound, Front, Mark, Span
from trimtab.page.labels import Anchor, Box, Place, place

TOP, RIGHT, BOTTOM, LEFT = 26, 14, 40, 44
RADIUS = 11.0
"""Of a mark as big as the input model, in pixels; others by area, within limits."""
SMALLEST, LARGEST = 3.5, 22.0
LETTER, LINE = 6.6, 14
"""A generous estimate of a character's width and a line's height at 12 pixels, in pixels."""
ENOUGH = 500
"""Pixels of the plot's width from which the winner's label has room for its name."""
ROOM = 9000
"""Square pixels of the plot for each label: with less, labels would cover what they name."""
IMPORTANCE = ("winner", "input", "feasible", "dominated", "inconclusive", "infeasible", "unjudged")


@dataclass(frozen=True)
class Axis:
    """A linear scale from a view onto pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value, or of the view's edge nearest to it."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values in the view, at most about `most` of them."""
        rough = (self.high - self.low) / most
        power = 10.0 ** floor(log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        return [k * step for k in range(ceil(self.low / step), floor(self.high / step) + 1)]


@dataclass(frozen=True)
class _Canvas:
    """A front and the two scales of one drawing of it."""

    front: Front
    x: Axis
    y: Axis
    frame: Box

    def radius(self, mark: Mark) -> float:
        return 4.0 if self.front.off_scale(mark) else min(max(RADIUS * sqrt(mark.size), SMALLEST), LARGEST)

    def box(self, mark: Mark) -> Box:
        x, y, r = self.x.at(mark.time.value), self.y.at(mark.change.value), self.radius(mark)
        return Box(x - r, y - r, x + r, y + r)


def draw(front: Front, width: int, height: int, quality: str) -> str:
    """An `<svg>` element. `quality` is the title of the vertical axis."""
    frame = Box(LEFT, TOP, width - RIGHT, height - BOTTOM)
    canvas = _Canvas(front, Axis(*front.time, LEFT, frame.right), Axis(*front.change, frame.bottom, TOP), frame)
    by_importance = sorted(front.marks, key=lambda mark: (IMPORTANCE.index(mark.kind), mark.candidate.trial))
    lines = list(_bound_lines(canvas))
    parts = [
        *_axes(canvas, quality),
        *(line for line, _ in lines),
        _staircase(canvas),
        *(_draw_mark(canvas, mark) for mark in reversed(by_importance)),
        *_holdout(canvas),
        *_labels(canvas, by_importance, [box for _, box in lines]),
    ]
    summary = f"{quality}, against {_time(front)}, of {len(front.marks)} candidates"
    return _tag(
        "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=summary
    )


def _tag(name: str, *content: str, **attributes: str | float) -> str:
    """An element. Its content must be markup already; its attributes are escaped here."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(content)}</{name}>" if content else f"<{name}{written}/>"


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _text(content: str, x: float, y: float, kind: str) -> str:
    return _tag("text", escape(content), x=x, y=y, class_=kind)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _axes(canvas: _Canvas, quality: str) -> Iterator[str]:
    frame = canvas.frame
    for value in canvas.x.ticks(int((frame.right - frame.left) / 70)):
        x = canvas.x.at(value)
        yield _line(x, frame.top, x, frame.bottom, _grid(value, 1))
        yield _text(f"{value:.3g}", x, frame.bottom + 15, "tick middle")
    for value in canvas.y.ticks(int((frame.bottom - frame.top) / 45)):
        y = canvas.y.at(value)
        yield _line(frame.left, y, frame.right, y, _grid(value, 0))
        yield _text(signed(value), frame.left - 7, y + 4, "tick end")
    yield _text(f"{_time(canvas.front)} (left is faster)", frame.right, frame.bottom + 33, "axis end")
    yield _text(quality, 2, 13, "axis")


def _time(front: Front) -> str:
    return "a batch's time relative to the input model" if front.batches else "time relative to the input model"


def _grid(value: float, reference: float) -> str:
    return "grid reference" if abs(value - reference) < 1e-9 else "grid"


def signed(change: float) -> str:
    """A change with a true minus sign: `+0.5`, `0`, `−12`."""
    text = f"{change:+.3g}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _bound_lines(canvas: _Canvas) -> Iterator[tuple[str, Box]]:
    """Each promise as a line with its words, and the room that the words take."""
    frame = canvas.frame
    for bound in canvas.front.bounds:
        across = len(bound.text) * LETTER
        if bound.on_time:
            x, y = canvas.x.at(bound.value), frame.top + LINE - 3
            line = _line(x, frame.top, x, frame.bottom, "bound")
            left = x + 4 if x + 4 + across < frame.right else x - 4 - across
        else:
            y = canvas.y.at(bound.value)
            line = _line(frame.left, y, frame.right, y, "bound")
            left, y = frame.right - across - 2, y + LINE if y + LINE + 3 < frame.bottom else y - 5
        if _visible(canvas, bound):
            yield line + _text(bound.text, left, y, "bound-text"), Box(left, y - LINE + 3, left + across, y + 4)


def _visible(canvas: _Canvas, bound: Bound) -> bool:
    axis = canvas.x if bound.on_time else canvas.y
    return axis.low <= bound.value <= axis.high


def _staircase(canvas: _Canvas) -> str:
    steps = canvas.front.staircase()
    if len(steps) < 2:
        return ""
    x, y = canvas.x.at(steps[0].time.value), canvas.y.at(steps[0].change.value)
    path = f"M{x:.1f} {y:.1f}" + "".join(
        f"H{canvas.x.at(mark.time.value):.1f}V{canvas.y.at(mark.change.value):.1f}" for mark in steps[1:]
    )
    return _tag("path", d=path, class_="front")


def _draw_mark(canvas: _Canvas, mark: Mark) -> str:
    shape = _edge_mark if canvas.front.off_scale(mark) else _disc
    title = _tag("title", escape(_told(mark, canvas.front.unit)))
    return _tag("g", title, shape(canvas, mark), *_bars(canvas, mark), class_=f"mark {mark.kind}")


def _told(mark: Mark, unit: str) -> str:
    candidate = mark.candidate
    return f"{candidate.name}: {mark.time.value:.2f} of the time, {signed(mark.change.value)}{unit}; {candidate.reason}"


def _disc(canvas: _Canvas, mark: Mark) -> str:
    x, y = canvas.x.at(mark.time.value), canvas.y.at(mark.change.value)
    return _tag("circle", cx=x, cy=y, r=canvas.radius(mark))


def _edge_mark(canvas: _Canvas, mark: Mark) -> str:
    """A triangle on the edge that points to where the mark would be."""
    x, y, r = canvas.x.at(mark.time.value), canvas.y.at(mark.change.value), canvas.radius(mark)
    if mark.change.value < canvas.y.low:
        corners = ((x - r, y - 2 * r), (x + r, y - 2 * r), (x, y))
    else:
        corners = ((x - 2 * r, y - r), (x - 2 * r, y + r), (x, y))
    return _tag("path", d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners) + "Z")


def _bars(canvas: _Canvas, mark: Mark) -> Iterator[str]:
    if canvas.front.off_scale(mark):
        return
    x, y = canvas.x.at(mark.time.value), canvas.y.at(mark.change.value)
    if mark.time.known:
        yield _line(canvas.x.at(mark.time.low), y, canvas.x.at(mark.time.high), y, "bar")
    if mark.change.known:
        yield _line(x, canvas.y.at(mark.change.low), x, canvas.y.at(mark.change.high), "bar")


def _holdout(canvas: _Canvas) -> Iterator[str]:
    """What the claim says of the winner: a diamond at its time, with the interval of the drop."""
    winner, holdout = canvas.front.winner, canvas.front.holdout
    if winner and holdout:
        x, y = canvas.x.at(winner.time.value), canvas.y.at(holdout.value)
        title = f"{winner.candidate.name} on the holdout: {_interval(holdout)}{canvas.front.unit}"
        diamond = _tag("path", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5Z")
        bar = _line(x, canvas.y.at(holdout.low), x, canvas.y.at(holdout.high), "bar")
        yield _tag("g", _tag("title", escape(title)), bar, diamond, class_="mark holdout")


def _interval(span: Span) -> str:
    return f"{signed(span.value)} [{signed(span.low)}, {signed(span.high)}]"


def _labels(canvas: _Canvas, marks: list[Mark], obstacles: list[Box]) -> Iterator[str]:
    """The labels of the first marks, with a line to those that found no room beside their mark."""
    frame = canvas.frame
    room = int((frame.right - frame.left) * (frame.bottom - frame.top) / ROOM)
    named = [(mark, _label(canvas, mark)) for mark in marks[:room]]
    anchors = [_anchor(canvas, mark, text) for mark, text in named]
    blocked = [*obstacles, *(canvas.box(mark) for mark in marks), *_bar_boxes(canvas)]
    for (mark, text), anchor, found in zip(named, anchors, place(anchors, blocked, frame), strict=True):
        if found:
            yield _lead(anchor, found) + _text(text, found.box.left, found.box.bottom - 3, f"label {mark.kind}")


def _label(canvas: _Canvas, mark: Mark) -> str:
    """The trial's number, and its engine where that is not the input model's."""
    candidate, reference = mark.candidate, canvas.front.marks[0].candidate
    name = "input" if candidate.trial == 0 else str(candidate.trial)
    name = name if candidate.engine == reference.engine else f"{name} {candidate.engine}"
    if mark.kind != "winner":
        return name
    wide = canvas.frame.right - canvas.frame.left > ENOUGH
    return f"winner: {name}" if wide else "winner"


def _anchor(canvas: _Canvas, mark: Mark, text: str) -> Anchor:
    box = canvas.box(mark)
    middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return Anchor(*middle, canvas.radius(mark), len(text) * LETTER + 2, LINE)


def _bar_boxes(canvas: _Canvas) -> Iterator[Box]:
    front = canvas.front
    for mark in front.marks:
        if mark.time.known and not front.off_scale(mark):
            y = canvas.y.at(mark.change.value)
            yield Box(canvas.x.at(mark.time.low), y - 1, canvas.x.at(mark.time.high), y + 1)
    if front.winner and front.holdout:
        x = canvas.x.at(front.winner.time.value)
        yield Box(x - 5, canvas.y.at(front.holdout.high), x + 5, canvas.y.at(front.holdout.low))


def _lead(anchor: Anchor, found: Place) -> str:
    if not found.led:
        return ""
    return _line(anchor.x, anchor.y, *found.box.nearest(anchor.x, anchor.y), "lead")
