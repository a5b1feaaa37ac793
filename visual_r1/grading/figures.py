"""Figures by their names: which two are one, and what is said of two of them."""

from visual_r1.grading.forms import Group, Named, Reading

_WITHOUT_A_START = frozenset(("triangle",))
_AT_A_VERTEX = frozenset(("angle", "arc", "ray", "line", "segment"))


def same_figure(mine: Named, gold: Named) -> bool:
    """Whether two names are of one figure: `∠CBA` is `∠ABC`, and `BCDA` the polygon `ABCD`."""
    marks = {mine.mark, gold.mark}
    if len(marks - {""}) > 1:
        return False
    if marks & _WITHOUT_A_START:
        return sorted(mine.points) == sorted(gold.points)
    if "ray" in marks:
        return mine.points == gold.points
    if mine.name == gold.name:
        return True
    # A polygon may be named from any of its corners, either way round.
    corners = len(gold.points) > 3 and len({*gold.points}) == len(gold.points)
    if not corners or marks & _AT_A_VERTEX or len(mine.points) != len(gold.points):
        return False
    return _rotated(mine.points) == _rotated(gold.points)


def _rotated(points: tuple[str, ...]) -> tuple[str, ...]:
    ways = (points, points[::-1])
    return min(way[start:] + way[:start] for way in ways for start in range(len(points)))


def correspondence(statement: Group) -> frozenset[tuple[str, str]] | None:
    """Which corner belongs to which; None where it is not two polygons that are said to match."""
    match statement.items:
        case (Reading((Named() as left,)), Reading((Named() as right,))):
            corners = len(left.points) == len(right.points) and len(left.points) > 2
            if corners and not {left.mark, right.mark} & _AT_A_VERTEX:
                return frozenset(zip(left.points, right.points, strict=True))
        case _:
            pass
    return None


def equal_figures(answer: Reading) -> frozenset[str]:
    """The figures that are said to be equal; none where it is not that which is said."""
    match answer:
        case Reading((Named() as last,), (_, *_) as labels):
            if all(label.kind == "points" for label in labels):
                return frozenset((last.name, *(label.name for label in labels)))
        case _:
            pass
    return frozenset()
