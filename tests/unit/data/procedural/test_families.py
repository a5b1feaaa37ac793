"""Each family's answers from an independent formula, and facts, workings and labels that agree."""

import re

import pytest

from visual_r1.data.procedural import FAMILIES, generate
from visual_r1.data.procedural.family import Style
from visual_r1.data.procedural.lines import LINES
from visual_r1.data.procedural.polygons import POLYGONS
from visual_r1.data.procedural.sketch import CELLS

FORMULAS = {
    "triangle": lambda v: 180 - sum(v.values()),
    "exterior_angle": lambda v: sum(v.values()),
    "quadrilateral": lambda v: 360 - sum(v.values()),
    "rectangle": lambda v: 2 * v["width"] + 2 * v["height"],
    "straight_line": lambda v: 180 - sum(v.values()),
    "right_angle": lambda v: 90 - sum(v.values()),
    "parallel_lines": lambda v: v["top"] + v["bottom"],
    "chords": lambda v: (v["top"] + v["bottom"]) / 2,
    "segment": lambda v: max(v.values()) - min(v.values()),
}
BY_NAME = {family.name: family for family in POLYGONS + LINES}
PROBLEMS = list(generate(11, "train", 30 * len(FAMILIES)))


def of(family):
    return [p for p in PROBLEMS if p.family == family]


def style(hidden=0, left_right=False, top_bottom=False, wording=0, jitter=0):
    return Style(("A", "B", "C", "D"), left_right, top_bottom, (jitter,) * 8, wording, hidden)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_follows_from_the_drawn_values(family):
    for p in of(family):
        assert float(p.answer) == FORMULAS[family](p.meta["values"]), p


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sum_in_the_working_is_true_and_the_last_number_is_the_answer(family):
    for p in of(family):
        sums = re.findall(r"(\d+)([+/-])(\d+)=(\d+)\.", p.meta["solution"])
        assert sums
        for left, sign, right, result in sums:
            value = {"+": int(left) + int(right), "-": int(left) - int(right), "/": None}[sign]
            value = int(left) / int(right) if value is None else value
            assert value == int(result), p.meta["solution"]
        assert sums[-1][3] == p.answer


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_state_every_drawn_value_once_and_open_the_solution(family):
    for p in of(family):
        told = [int(fact.split(" reads ")[1]) for fact in p.meta["facts"]]
        assert sorted(told) == sorted(p.meta["values"].values())
        assert p.meta["solution"].startswith(", ".join(p.meta["facts"]) + ". ")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_question_does_not_give_the_numbers_away(family):
    for p in of(family):
        assert not re.search(r"\d", p.question)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("jitter", [-3, 3])
def test_labels_stay_inside_apart_from_each_other_and_whole(family, jitter):
    values = next(BY_NAME[family].values())
    for hidden in range(12):
        for mirror in range(4):
            sketch = (
                BY_NAME[family]
                .figure(values, style(hidden, jitter=jitter))
                .sketch.mirrored(left_right=bool(mirror & 1), top_bottom=bool(mirror & 2))
            )
            cells = []
            for label in sketch.labels:
                cells += [(label.column + i, label.row) for i in range(len(label.text))]
                # A free cell on both sides of a number: "74" and "44" must not read 7444.
                if label.kind == "value":
                    assert len(label.text) == 2
            assert len(set(cells)) == len(cells)
            assert all(0 <= column < CELLS and 0 <= row < CELLS for column, row in cells)
            numbers = [label for label in sketch.labels if label.kind == "value"]
            for one in numbers:
                for two in numbers:
                    if one is not two and one.row == two.row:
                        assert abs(one.column - two.column) >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_strokes_stay_inside(family):
    values = next(BY_NAME[family].values())
    for jitter in (-3, 0, 3):
        sketch = BY_NAME[family].figure(values, style(jitter=jitter)).sketch
        for segment in sketch.segments:
            for x, y in (segment.start, segment.end):
                assert 0 <= x <= 96 and 0 <= y <= 96


def test_positions_are_those_of_the_mirrored_picture():
    """The number that is called "left" stands left of the one called "right", mirrored or not."""
    for family in ("straight_line", "right_angle", "parallel_lines", "chords"):
        for p_style in (style(1), style(1, left_right=True), style(1, top_bottom=True)):
            figure = BY_NAME[family].figure((40, 22), p_style)
            sketch = figure.sketch.mirrored(
                left_right=p_style.left_right, top_bottom=p_style.top_bottom
            )
            cells = {label.text: (label.column, label.row) for label in sketch.labels}
            for first, second, axis in (("left", "right", 0), ("top", "bottom", 1)):
                if first in figure.values:
                    one, two = (str(figure.values[name]) for name in (first, second))
                    assert cells[one][axis] < cells[two][axis]


def test_names_belong_to_the_corner_they_stand_at():
    """In a triangle each number's nearest letter is the one the facts give it to."""
    for p_style in (style(h, lr, tb) for h in range(3) for lr in (0, 1) for tb in (0, 1)):
        figure = BY_NAME["triangle"].figure((71, 34), p_style)
        labels = figure.sketch.labels
        names = [label for label in labels if label.kind == "name"]
        for label in labels:
            if label.kind == "value":
                nearest = min(
                    names,
                    key=lambda n: (n.column - label.column - 0.5) ** 2 + (n.row - label.row) ** 2,
                )
                assert figure.values[nearest.text] == int(label.text)
