"""Columns of the rows of a run, which grow with it."""

from visual_r1.alarms.windows import Curves

ROWS = [
    {
        "step": step,
        "accuracy": step / 10,
        "entropy": None if step % 2 else 0.5,
        "staleness": step % 3,
    }
    for step in range(9)
]


def values(curves: Curves, name: str) -> list[tuple[int, float]]:
    steps, found = curves.column(name)
    return list(zip(steps.tolist(), found.tolist(), strict=True))


def test_rows_that_come_later_make_the_same_curves() -> None:
    grown = Curves(ROWS[:4])
    assert (grown.end, values(grown, "entropy")) == (4, [(0, 0.5), (2, 0.5)])
    grown.add(ROWS[4:])
    whole = Curves(ROWS)
    assert grown.end == whole.end == 9
    for name in ("accuracy", "entropy", "staleness", "nothing"):
        assert values(grown, name) == values(whole, name)
    assert list(grown.steps_from(7)) == [7, 8]


def test_a_part_is_as_if_the_other_rows_were_not_there() -> None:
    part, alone = Curves(ROWS).between(2, 6), Curves(ROWS[2:6])
    for name in ("accuracy", "entropy"):
        assert values(part, name) == values(alone, name)
        assert values(part.on_policy, name) == [
            point for point in values(alone, name) if point[0] % 3 == 0
        ]
    assert list(part.steps_from(0)) == [2, 3, 4, 5]
    assert values(part, "accuracy") == values(alone, "accuracy")  # what it is a part of stays
