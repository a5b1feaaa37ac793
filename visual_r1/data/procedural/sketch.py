"""What a figure is made of, before it is pixels.

Coordinates are pixels in a square of `SIZE`, y downwards. Labels sit on a grid of 12 px cells,
so that a patch of the vision encoder (12 px) sees a whole character and never two halves.
"""

from dataclasses import dataclass
from typing import Literal

from visual_r1.data.procedural.glyphs import CELL

SIZE = 96
CELLS = SIZE // CELL

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A straight line from `start` to `end`."""

    start: Point
    end: Point


@dataclass(frozen=True, slots=True)
class Arc:
    """A circle's part inside the angle from `start` over `centre` to `end` (below 180 degrees).

    Without `start` and `end` it is the whole circle.
    """

    centre: Point
    radius: int
    start: Point | None = None
    end: Point | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """Text whose first character fills the cell (`column`, `row`); names are drawn in blue."""

    text: str
    column: int
    row: int
    kind: Literal["value", "name"] = "value"


@dataclass(frozen=True, slots=True)
class Sketch:
    """A figure: strokes first, labels over them."""

    segments: tuple[Segment, ...]
    labels: tuple[Label, ...]
    arcs: tuple[Arc, ...] = ()

    def mirrored(self, *, left_right: bool, top_bottom: bool) -> "Sketch":
        """The figure in a mirror; the text of its labels stays readable."""

        def point(p: Point) -> Point:
            return (SIZE - p[0] if left_right else p[0], SIZE - p[1] if top_bottom else p[1])

        def optional(p: Point | None) -> Point | None:
            return None if p is None else point(p)

        return Sketch(
            segments=tuple(Segment(point(s.start), point(s.end)) for s in self.segments),
            arcs=tuple(
                Arc(point(a.centre), a.radius, optional(a.start), optional(a.end))
                for a in self.arcs
            ),
            labels=tuple(
                Label(
                    label.text,
                    CELLS - label.column - len(label.text) if left_right else label.column,
                    CELLS - 1 - label.row if top_bottom else label.row,
                    label.kind,
                )
                for label in self.labels
            ),
        )
