"""What counts as naming a thing of the figure.

Three kinds of things, each counted once however often and in whatever spelling it is named:

1. Listed words, as whole words, singular or plural: shapes, their parts, and how lines lie. Words
   that a text-only solver needs as well are left out: quantities that are asked for (area,
   perimeter, length), and talk about looking (figure, picture, see), which is free to say.
2. Symbols, in Unicode or LaTeX: ∠ △ ⊙ ∥ ⊥ °. A symbol and its word are the same thing: `angle` and
   `∠` count once.
3. What tells one part of the figure from another, directly beside a listed word or symbol: the
   letters of a point, segment or shape after it (`angle A`, `∠ABC`, `segment AC`), or its place in
   front of it (`top angle`, `left side`). Letters or places elsewhere do not count.

So "angle A reads 74, angle B reads 44" names three things (angle, A, B), "width 29, height 35" two,
and "the angle is an angle" one.
"""

from collections.abc import Sequence

FIGURE_WORDS: dict[str, tuple[str, ...]] = {
    # shapes
    "angle": ("angles", "∠", "\\angle", "\\measuredangle", "\\sphericalangle"),
    "triangle": ("triangles", "△", "\\triangle", "\\vartriangle"),
    "circle": ("circles", "⊙", "\\odot", "\\bigcirc"),
    "semicircle": ("semicircles",),
    "square": ("squares",),
    "rectangle": ("rectangles",),
    "rhombus": ("rhombuses", "rhombi"),
    "parallelogram": ("parallelograms", "\\parallelogram"),
    "trapezoid": ("trapezoids", "trapezium"),
    "kite": ("kites",),
    "quadrilateral": ("quadrilaterals",),
    "polygon": ("polygons",),
    "pentagon": ("pentagons",),
    "hexagon": ("hexagons",),
    "octagon": ("octagons",),
    "cylinder": ("cylinders",),
    "cone": ("cones",),
    "sphere": ("spheres",),
    "prism": ("prisms",),
    "pyramid": ("pyramids",),
    # parts
    "point": ("points",),
    "vertex": ("vertices", "vertexes"),
    "side": ("sides",),
    "edge": ("edges",),
    "base": ("bases",),
    "leg": ("legs",),
    "hypotenuse": ("hypotenuses",),
    "altitude": ("altitudes",),
    "median": ("medians",),
    "midpoint": ("midpoints",),
    "midsegment": ("midsegments",),
    "bisector": ("bisectors",),
    "diagonal": ("diagonals",),
    "height": ("heights",),
    "width": ("widths",),
    "radius": ("radii", "radiuses"),
    "diameter": ("diameters",),
    "center": ("centers", "centre", "centres"),
    "arc": ("arcs", "\\widehat", "\\overarc", "\\arc"),
    "chord": ("chords",),
    "sector": ("sectors",),
    "tangent": ("tangents",),
    "secant": ("secants",),
    "line": ("lines", "\\overleftrightarrow"),
    "segment": ("segments", "\\overline"),
    "ray": ("rays", "\\overrightarrow"),
    "transversal": ("transversals",),
    "intersection": ("intersections", "intersect", "intersects"),
    # how they lie
    "parallel": ("∥", "\\parallel"),
    "perpendicular": ("⊥", "\\perp"),
    "°": ("\\circ", "\\degree"),
}
_THING = {
    spelling: thing for thing, others in FIGURE_WORDS.items() for spelling in (thing, *others)
}
_NOT_BESIDE = frozenset(("parallel", "perpendicular", "°", "intersection"))
_PLACES = frozenset(("top", "bottom", "left", "right", "middle", "upper", "lower"))
_MOST_LETTERS = 6


def named_things(words: Sequence[str | None]) -> set[str]:
    """The different things that `words` name; None stands where a word does not count."""
    things: set[str] = set()
    for index, word in enumerate(words):
        thing = None if word is None else _THING.get(word.casefold())
        if thing is None or _is_root(words, index):
            continue
        things.add(thing)
        if thing in _NOT_BESIDE:
            continue
        before = words[index - 1] if index else None
        after = words[index + 1] if index + 1 < len(words) else None
        if before is not None and before.casefold() in _PLACES:
            things.add(f"{before.casefold()} place")
        if after is not None and after.isalpha() and _is_name(after):
            things.add(f"name {min(after, after[::-1])}")
    return things


def _is_name(word: str) -> bool:
    """Capitals: the name of a point, a segment or a shape, and no listed word shouted."""
    named = word.isascii() and word.isupper() and len(word) <= _MOST_LETTERS
    return named and word.casefold() not in _THING


def _is_root(words: Sequence[str | None], index: int) -> bool:
    """`square root` is no shape."""
    after = words[index + 1] if index + 1 < len(words) else None
    return words[index] == "square" and after in ("root", "roots")
