"""Where the labels of a plot go, so that none covers a mark, a bar or another label.

Greedy: labels come in the order of their importance, and each takes the first free place of a fixed list, the nearest
first. Optimal placement is NP-hard, and for the few dozen marks of a front nobody would see the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

GAPS = (3, 9, 18, 30)
"""Pixels between a mark's rim and its label, in the order they are tried."""
DIRECTIONS = tuple(k * pi / 8 for k in (0, 8, 14, 2, 10, 6, 12, 4, 15, 1, 9, 7, 13, 11, 3, 5))
"""Right, left, the upper and lower right, ..., in eighths of half a turn: text reads best beside its mark."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not apart and self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        inside = self.left >= other.left and self.right <= other.right
        return inside and self.top >= other.top and self.bottom <= other.bottom

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the box that is nearest to another."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


@dataclass(frozen=True)
class Anchor:
    """A mark that wants a label of this size."""

    x: float
    y: float
    radius: float
    width: float
    height: float


@dataclass(frozen=True)
class Place:
    """Where a label stands. `led` is set where it is so far from its mark that a line should lead to it."""

    box: Box
    led: bool


def place(anchors: Sequence[Anchor], obstacles: Sequence[Box], frame: Box) -> list[Place | None]:
    """A place for each anchor's label, in the order given; None where no free one is near."""
    taken = list(obstacles)
    places: list[Place | None] = []
    for anchor in anchors:
        free = (p for p in _tried(anchor) if p.box.within(frame) and not any(p.box.overlaps(box) for box in taken))
        found = next(free, None)
        places.append(found)
        if found:
            taken.append(found.box)
    return places


def _tried(anchor: Anchor) -> Iterator[Place]:
    for gap in GAPS:
        for angle in DIRECTIONS:
            x = anchor.x + cos(angle) * (anchor.radius + gap + anchor.width / 2)
            y = anchor.y + sin(angle) * (anchor.radius + gap + anchor.height / 2)
            half, tall = anchor.width / 2, anchor.height / 2
            yield Place(Box(x - half, y - tall, x + half, y + tall), gap > GAPS[0])
