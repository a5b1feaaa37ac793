"""Triangles, quadrilaterals and rectangles."""

from visual_r1.data.procedural.family import (
    Family,
    Figure,
    Style,
    left_of,
    sum_of,
    sums,
    unordered,
)
from visual_r1.data.procedural.sketch import Arc, Label, Point, Segment, Sketch


def _outline(points: list[Point]) -> tuple[Segment, ...]:
    return tuple(Segment(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True))


def _angle_facts(values: dict[str, int]) -> tuple[str, ...]:
    """One sentence a vertex, in the order of the alphabet."""
    return tuple(f"angle {name} reads {values[name]}" for name in sorted(values))


def _triangle(values: tuple[int, ...], style: Style) -> Figure:
    a, b, c, _ = style.letters
    corners = [style.moved(0, 5, 87), style.moved(1, 91, 87), style.moved(2, 50, 13)]
    name_cells = [(0, 5), (7, 5), (4, 0)]
    value_cells = [(2, 6), (5, 6), (3, 3)]
    hidden = style.hidden % 3
    known = [i for i in range(3) if i != hidden]
    names = {known[0]: a, known[1]: b, hidden: c}
    labels = [Label(names[i], *name_cells[i], "name") for i in range(3)]
    labels += [Label(str(values[j]), *value_cells[i]) for j, i in enumerate(known)]
    arcs = tuple(Arc(corners[i], 12, corners[(i + 1) % 3], corners[(i + 2) % 3]) for i in known)
    by_name = {a: values[0], b: values[1]}
    numbers = [by_name[name] for name in sorted(by_name)]
    total = sum(numbers)
    question = (f"Find angle {c}.", f"What is angle {c} of the triangle?")[style.wording]
    return Figure(
        sketch=Sketch(_outline(corners), tuple(labels), arcs),
        question=question,
        facts=_angle_facts(by_name),
        working=f"{sums(numbers)} 180-{total}={180 - total}.",
        values=by_name,
    )


def _exterior(values: tuple[int, ...], style: Style) -> Figure:
    a, b, _, _ = style.letters
    left, top = style.moved(0, 4, 87), style.moved(1, 38, 10)
    foot = (70 + style.jitter[4], left[1])
    end = (94, left[1])
    labels = (
        Label(a, 0, 5, "name"),
        Label(b, 4, 0, "name"),
        Label(str(values[0]), 1, 6),
        Label(str(values[1]), 2, 3),
        Label("x", 6, 6, "name"),
    )
    segments = (Segment(left, end), Segment(left, top), Segment(top, foot))
    arcs = (Arc(left, 12, end, top), Arc(top, 14, left, foot), Arc(foot, 9, end, top))
    by_name = {a: values[0], b: values[1]}
    numbers = [by_name[name] for name in sorted(by_name)]
    question = ("Find the exterior angle x.", "What is exterior angle x of the triangle?")
    return Figure(
        sketch=Sketch(segments, labels, arcs),
        question=question[style.wording],
        facts=_angle_facts(by_name),
        working=sums(numbers),
        values=by_name,
    )


def _quadrilateral(values: tuple[int, ...], style: Style) -> Figure:
    corners = [
        style.moved(0, 8, 84),
        style.moved(1, 82, 84),
        style.moved(2, 87, 12),
        style.moved(3, 20, 12),
    ]
    name_cells = [(0, 7), (7, 7), (7, 0), (0, 0)]
    value_cells = [(1, 5), (5, 5), (5, 2), (2, 2)]
    hidden = style.hidden % 4
    known = [i for i in range(4) if i != hidden]
    names = dict(zip([*known, hidden], style.letters, strict=True))
    labels = [Label(names[i], *name_cells[i], "name") for i in range(4)]
    labels += [Label(str(values[j]), *value_cells[i]) for j, i in enumerate(known)]
    arcs = tuple(Arc(corners[i], 9, corners[i - 3], corners[i - 1]) for i in known)
    by_name = {names[i]: values[j] for j, i in enumerate(known)}
    numbers = [by_name[name] for name in sorted(by_name)]
    total = sum(numbers)
    wanted = names[hidden]
    question = (f"Find angle {wanted}.", f"What is angle {wanted} of the quadrilateral?")
    return Figure(
        sketch=Sketch(_outline(corners), tuple(labels), arcs),
        question=question[style.wording],
        facts=_angle_facts(by_name),
        working=f"{sums(numbers)} 360-{total}={360 - total}.",
        values=by_name,
    )


def _rectangle(values: tuple[int, ...], style: Style) -> Figure:
    width, height = values
    left, top = 31 + style.jitter[0], 12 + style.jitter[1]
    right, bottom = 90 + style.jitter[2], 76 + style.jitter[3]
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    labels = (Label(str(height), 0, 3), Label(str(width), 4, 7))
    corner_mark = (
        Segment((left, bottom - 7), (left + 7, bottom - 7)),
        Segment((left + 7, bottom - 7), (left + 7, bottom)),
    )
    half = width + height
    question = ("Find the perimeter of the rectangle.", "What is the rectangle's perimeter?")
    return Figure(
        sketch=Sketch(_outline(corners) + corner_mark, labels),
        question=question[style.wording],
        facts=(f"width reads {width}", f"height reads {height}"),
        working=f"{sums([width, height])} {sums([half, half])}",
        values={"width": width, "height": height},
    )


POLYGONS = (
    Family(
        "triangle",
        lambda: ((a, b) for a in range(21, 100) for b in range(21, 100) if 180 - a - b >= 20),
        unordered,
        _triangle,
        left_of(180),
    ),
    Family(
        "exterior_angle",
        lambda: ((a, b) for a in range(15, 100) for b in range(15, 100) if a + b <= 160),
        unordered,
        _exterior,
        sum_of,
    ),
    Family(
        "quadrilateral",
        lambda: (
            (a, b, c)
            for a in range(55, 100)
            for b in range(55, 100)
            for c in range(55, 100)
            if a + b + c >= 200
        ),
        unordered,
        _quadrilateral,
        left_of(360),
    ),
    Family(
        "rectangle",
        lambda: ((w, h) for w in range(11, 90) for h in range(11, 90) if w != h),
        unordered,
        _rectangle,
        lambda values: 2 * sum_of(values),
    ),
)
