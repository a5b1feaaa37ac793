"""A sketch to a PNG, by distances to strokes: plain IEEE arithmetic, no drawing library.

Each stroke's ink at a pixel is clip(width / 2 + 1/2 - distance, 0, 1), which is a box-filtered
line to within a few percent. Characters get a white halo, so that a line never runs into one.
"""

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visual_r1.data.procedural.glyphs import CELL, glyph
from visual_r1.data.procedural.sketch import SIZE, Arc, Label, Point, Segment, Sketch

_LINE_WIDTH = 1.6
_ARC_WIDTH = 1.0
_LINE_RGB = (70, 70, 80)
_VALUE_RGB = (0, 0, 0)
_NAME_RGB = (20, 60, 200)
_PAPER_RGB = (255, 255, 255)

_Plane = NDArray[np.float64]

_Window = tuple[slice, slice]


def render(sketch: Sketch) -> NDArray[np.uint8]:
    """The figure's pixels, [SIZE, SIZE, 3] RGB on white."""
    ink = np.zeros((SIZE, SIZE))
    for segment in sketch.segments:
        _add_segment(ink, segment)
    for arc in sketch.arcs:
        _add_arc(ink, arc)
    canvas = 255.0 + ink[:, :, None] * (np.array(_LINE_RGB) - 255.0)
    for label in sketch.labels:
        _write(canvas, label)
    return np.rint(canvas).astype(np.uint8)


def png(sketch: Sketch) -> bytes:
    """The figure as an RGB PNG file of SIZE x SIZE."""
    buffer = io.BytesIO()
    Image.fromarray(render(sketch)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _window(points: Sequence[Point], margin: int) -> _Window:
    """The part of the canvas that strokes within `margin` px of `points` can touch."""
    columns, rows = [p[0] for p in points], [p[1] for p in points]
    return (
        slice(max(0, min(rows) - margin), max(0, max(rows) + margin)),
        slice(max(0, min(columns) - margin), max(0, max(columns) + margin)),
    )


def _centres(window: _Window, origin: Point) -> tuple[_Plane, _Plane]:
    """x [1, W] and y [H, 1] of the window's pixel centres, relative to `origin`."""
    rows, columns = window
    y = np.arange(rows.start, min(rows.stop, SIZE), dtype=np.float64) + 0.5 - origin[1]
    x = np.arange(columns.start, min(columns.stop, SIZE), dtype=np.float64) + 0.5 - origin[0]
    return x[None, :], y[:, None]


def _add_segment(ink: _Plane, segment: Segment) -> None:
    """Add a line with round ends to `ink` [SIZE, SIZE], in place."""
    window = _window((segment.start, segment.end), 2)
    x, y = _centres(window, segment.start)
    dx, dy = segment.end[0] - segment.start[0], segment.end[1] - segment.start[1]
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1), 0.0, 1.0)
    distance = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)
    stroke = np.clip(_LINE_WIDTH / 2 + 0.5 - distance, 0.0, 1.0)
    ink[window] = np.maximum(ink[window], stroke)


def _add_arc(ink: _Plane, arc: Arc) -> None:
    """Add a circle, or its part between two rays, to `ink` in place; no trigonometry is needed."""
    window = _window((arc.centre,), arc.radius + 2)
    x, y = _centres(window, arc.centre)
    distance = np.abs(np.sqrt(x * x + y * y) - arc.radius)
    if arc.start is None or arc.end is None:
        stroke = np.clip(_LINE_WIDTH / 2 + 0.5 - distance, 0.0, 1.0)
    else:
        start, end = _from(arc.centre, arc.start), _from(arc.centre, arc.end)
        if start[0] * end[1] - start[1] * end[0] < 0:
            start, end = end, start
        inside = (start[0] * y - start[1] * x >= 0) & (x * end[1] - y * end[0] >= 0)
        stroke = inside * np.clip(_ARC_WIDTH / 2 + 0.5 - distance, 0.0, 1.0)
    ink[window] = np.maximum(ink[window], stroke)


def _from(origin: Point, point: Point) -> Point:
    return (point[0] - origin[0], point[1] - origin[1])


def _write(canvas: _Plane, label: Label) -> None:
    """Draw a label over `canvas` [SIZE, SIZE, 3] in place: a white halo of 1 px, then the text."""
    top, left = label.row * CELL, label.column * CELL
    text, halo = _inked(label.text)
    _blend(canvas, halo, top - 1, left - 1, _PAPER_RGB)
    _blend(canvas, text, top, left, _NAME_RGB if label.kind == "name" else _VALUE_RGB)


@lru_cache(maxsize=4096)
def _inked(text: str) -> tuple[_Plane, _Plane]:
    """A label's ink, and that of its halo, which is 1 px larger on each side."""
    ink = np.concatenate([glyph(character) for character in text], axis=1)
    padded = np.pad(ink, 2)
    rows, columns = ink.shape[0] + 2, ink.shape[1] + 2
    halo = np.max(
        [padded[dy : dy + rows, dx : dx + columns] for dy in range(3) for dx in range(3)], axis=0
    )
    return ink, halo


def _blend(canvas: _Plane, ink: _Plane, top: int, left: int, rgb: tuple[int, int, int]) -> None:
    """Colour `canvas` by `ink` [H, W], whose corner may lie outside the canvas."""
    ink = ink[max(0, -top) : SIZE - top, max(0, -left) : SIZE - left]
    top, left = max(0, top), max(0, left)
    under = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
    under += ink[:, :, None] * (np.array(rgb) - under)
