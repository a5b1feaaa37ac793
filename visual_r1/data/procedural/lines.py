"""Angles at a point, a bend between parallels, a circle's chords, and lengths along a line."""

from itertools import pairwise

from visual_r1.data.procedural.family import (
    Family,
    Figure,
    Style,
    left_of,
    ordered,
    sum_of,
    sums,
    unordered,
)
from visual_r1.data.procedural.sketch import Arc, Label, Point, Segment, Sketch


def _fan(
    vertex: Point, ends: list[Point], cells: list[tuple[int, int]], texts: list[str]
) -> Sketch:
    """Rays from `vertex` to each of `ends`, and a label in the cell of each angle between two."""
    return Sketch(
        segments=tuple(Segment(vertex, end) for end in ends),
        labels=tuple(
            Label(text, *cell, "name" if text == "x" else "value")
            for text, cell in zip(texts, cells, strict=True)
        ),
        arcs=tuple(Arc(vertex, 11, start, end) for start, end in pairwise(ends)),
    )


def _rest_of(
    whole: int, values: tuple[int, ...], style: Style, order: list[str]
) -> tuple[list[str], dict[str, int], str]:
    """Two known angles and x in a row, at the positions `order`, that fill `whole` degrees.

    Gives the three texts in that row, the known values sorted by reading order, and the working.
    """
    texts = [str(value) for value in values]
    texts.insert(style.hidden % 3, "x")
    by_position = dict(zip(order, texts, strict=True))
    reading_order = ("left", "top", "middle", "right", "bottom")
    known = {p: int(by_position[p]) for p in reading_order if by_position.get(p, "x") != "x"}
    total = sum(values)
    return texts, known, f"{sums(list(known.values()))} {whole}-{total}={whole - total}."


def _angle_facts(known: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{position} angle reads {value}" for position, value in known.items())


def _straight(values: tuple[int, ...], style: Style) -> Figure:
    order = ["left", "middle", "right"]
    texts, known, working = _rest_of(180, values, style, order[::-1] if style.left_right else order)
    vertex = style.moved(0, 48, 84)
    ends = [(2, vertex[1]), style.moved(1, 20, 14), style.moved(2, 76, 14), (94, vertex[1])]
    question = ("Find angle x on the straight line.", "What is angle x on the line?")
    return Figure(
        sketch=_fan(vertex, ends, [(1, 5), (3, 3), (5, 5)], texts),
        question=question[style.wording],
        facts=_angle_facts(known),
        working=working,
        values=known,
    )


def _right(values: tuple[int, ...], style: Style) -> Figure:
    order = ["top", "middle", "bottom"]
    texts, known, working = _rest_of(90, values, style, order[::-1] if style.top_bottom else order)
    vertex = (7, 89)
    ends = [(7, 2), style.moved(0, 46, 8), style.moved(1, 91, 52), (94, 89)]
    fan = _fan(vertex, ends, [(1, 1), (4, 3), (5, 6)], texts)
    square = (Segment((7, 83), (13, 83)), Segment((13, 83), (13, 89)))
    question = ("Find angle x in the right angle.", "What is angle x of the right angle?")
    return Figure(
        sketch=Sketch(fan.segments + square, fan.labels, ()),
        question=question[style.wording],
        facts=_angle_facts(known),
        working=working,
        values=known,
    )


def _chevron(x: int, y: int) -> tuple[Segment, ...]:
    """The arrowhead that marks a line as parallel to another."""
    return (Segment((x, y), (x - 5, y - 4)), Segment((x, y), (x - 5, y + 4)))


def _parallel(values: tuple[int, ...], style: Style) -> Figure:
    upper, lower = values[::-1] if style.top_bottom else values
    start = (26 + style.jitter[0], 7 + style.jitter[1] // 2)
    bend = style.moved(1, 65, 48)
    foot = (26 + style.jitter[4], 89 - style.jitter[5] // 2)
    top, bottom = (94, start[1]), (94, foot[1])
    segments = (
        Segment((2, start[1]), top),
        Segment((2, foot[1]), bottom),
        Segment(start, bend),
        Segment(bend, foot),
        *_chevron(88, start[1]),
        *_chevron(88, foot[1]),
    )
    # `values` read from top to bottom in the mirrored picture; the sketch is drawn before that.
    labels = (
        Label(str(upper), 4, 1),
        Label("x", 3, 3, "name"),
        Label(str(lower), 4, 6),
    )
    arcs = (Arc(start, 12, top, bend), Arc(foot, 12, bottom, bend), Arc(bend, 9, start, foot))
    known = {"top": values[0], "bottom": values[1]}
    question = ("Find angle x between the parallel lines.", "What is angle x at the bend?")
    return Figure(
        sketch=Sketch(segments, labels, arcs),
        question=question[style.wording],
        facts=_angle_facts(known),
        working=sums(values),
        values=known,
    )


def _chords(values: tuple[int, ...], style: Style) -> Figure:
    upper, lower = values[::-1] if style.top_bottom else values
    x, y = 42 + style.jitter[0], 48 + style.jitter[1] // 2
    # (18, 24), (24, 18) and their like lie exactly on a circle of radius 30.
    ends = [(x - 18, y - 24), (x + 24, y + 18), (x + 18, y - 24), (x - 24, y + 18)]
    segments = (Segment(ends[0], ends[1]), Segment(ends[2], ends[3]))
    labels = (
        Label(str(upper), 3, 0),
        Label(str(lower), 3, 7),
        Label("x", 3, 2, "name"),
    )
    known = {"top": values[0], "bottom": values[1]}
    total = sum(values)
    question = ("Find angle x between the chords.", "What is angle x of the two chords?")
    return Figure(
        sketch=Sketch(segments, labels, (Arc((x, y), 30), Arc((x, y - 6), 8, ends[0], ends[2]))),
        question=question[style.wording],
        facts=tuple(f"{position} arc reads {value}" for position, value in known.items()),
        working=f"{sums(values)} {total}/2={total // 2}.",
        values=known,
    )


def _segment(values: tuple[int, ...], style: Style) -> Figure:
    whole, part = values
    first, middle, last, _ = style.letters
    level, inner = 42 + style.jitter[0], 45 + style.jitter[1]
    line = (Segment((5, level), (91, level)),)
    dots = tuple(Segment((x, level - 4), (x, level + 4)) for x in (5, inner, 91))
    bracket = (
        Segment((5, 66), (5, 90)),
        Segment((91, 66), (91, 90)),
        Segment((5, 78), (34, 78)),
        Segment((62, 78), (91, 78)),
    )
    labels = (
        Label(first, 0, 4, "name"),
        Label(middle, 3, 4, "name"),
        Label(last, 7, 4, "name"),
        Label(str(part), 1, 2),
        Label(str(whole), 3, 6),
    )
    known = {"".join(sorted(first + middle)): part, "".join(sorted(first + last)): whole}
    wanted = "".join(sorted(middle + last))
    question = (f"Find segment {wanted}.", f"How long is segment {wanted}?")
    return Figure(
        sketch=Sketch(line + dots + bracket, labels),
        question=question[style.wording],
        facts=tuple(f"segment {name} reads {known[name]}" for name in sorted(known)),
        working=f"{whole}-{part}={whole - part}.",
        values=known,
    )


LINES = (
    Family(
        "straight_line",
        lambda: ((a, b) for a in range(15, 100) for b in range(15, 100) if a + b <= 165),
        unordered,
        _straight,
        left_of(180),
    ),
    Family(
        "right_angle",
        lambda: ((a, b) for a in range(10, 71) for b in range(10, 71) if a + b <= 80),
        unordered,
        _right,
        left_of(90),
    ),
    Family(
        "parallel_lines",
        lambda: ((a, b) for a in range(15, 90) for b in range(15, 90) if a + b <= 165),
        unordered,
        _parallel,
        sum_of,
    ),
    Family(
        "chords",
        lambda: ((a, b) for a in range(20, 100) for b in range(20, 100) if (a + b) % 2 == 0),
        unordered,
        _chords,
        lambda values: sum_of(values) / 2,
    ),
    Family(
        "segment",
        lambda: ((whole, part) for whole in range(21, 100) for part in range(10, whole - 9)),
        ordered,
        _segment,
        lambda values: abs(values[1] - values[0]),
    ),
)
