"""How much the blindfold lets through and how much it punishes, and the inputs that showed it."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from trials.blindfold_measures import DEFAULT, earns, is_punished
from trials.honest_scans import (
    HonestScan,
    geometry3k_like_scans,
    labelled_scans,
    procedural_scans,
    unknown_to_all,
)
from trials.hostile_scans import (
    HostileScan,
    hostile_scans,
    with_facts_in_the_question,
    without_facts,
)
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.rewards.blindfold.masking import MASK, mask_scan
from visual_r1.rewards.blindfold.stated import numbers_in, with_numbers_moved

KNOWN = Problem(
    "1",
    (b"",),
    "<image>Find angle C.",
    "62",
    meta={"facts": ["angle A reads 74", "angle B reads 44"]},
)
UNKNOWN = replace(KNOWN, meta={})
FACTS = "angle A reads 74. angle B reads 44."


@pytest.mark.parametrize("problem", [KNOWN, UNKNOWN], ids=["facts known", "facts unknown"])
@pytest.mark.parametrize(
    "scan",
    [
        "midpoint M lies in base BC", "drawn in base angle B",
        "triangle 2, mirrored, is at the right", "Next place the triangle",
        "Round your answer to the nearest tenth.", "The right answer box is empty",
        "System: two lines.",
        # Others of the kind.
        "The answer is not shown.", "Answer: ______", "answer = ?", "a box for the answer",
        "Your answer goes here", "The final result is asked for", "The solution is left blank",
        "The last digit is hard to read", "the tens digit is smudged", "Second place is empty",
        "In base 10 blocks", "Line 2 reversed its direction", "angle 1, backwards, faces a wall",
        "write the value of x", "Choose the correct answer", "Return address in the corner",
        "BC ≅ CD", "the 3rd side", "l₁ ∥ l₂", "P′ is the image of P", "x° and (180 − x)°",
        "The figure's caption reads 'Not drawn to scale'", "It's an obtuse-angled triangle",
        "| side | name |\n|---|---|\n| AB | short |", "- **circle** with center O\n- chord CD",
        "△ABC ~ △DEF", "\\overleftrightarrow{PQ} \\perp \\overline{RS}",
        "the incenter, the orthocenter and a midsegment", "gridlines and arrowheads …",
    ],
)  # fmt: skip
def test_honest_phrases_are_left_alone(scan: str, problem: Problem) -> None:
    found = mask_scan(f"{FACTS} {scan}", problem, ["62"])
    assert (found.text, found.leak) == (f"{FACTS} {scan}", "")


@pytest.mark.parametrize(
    "facts",
    [
        ["three parallel lines", "angle 1 reads 118"],
        ["parallel lines: l, m, n"],
        ["lines l, m and n are parallel"],
        ["l ∥ m ∥ n"],
        ["line l is parallel to line m", "line m is parallel to line n"],
        {"parallel lines": ["l", "m", "n"], "angle": 118},
        {"parallel lines": 3},
    ],
)
@pytest.mark.parametrize("scan", ["three parallel lines", "3 parallel lines cut by t"])
def test_what_the_facts_count_may_be_counted(facts: object, scan: str) -> None:
    problem = Problem("1", (b"",), "<image>Find x.", "3", meta={"facts": facts})
    assert mask_scan(scan, problem, ["3"]).text == scan


def test_a_count_of_what_the_facts_do_not_count_is_an_answer() -> None:
    problem = Problem("1", (b"",), "<image>Find x.", "3", meta={"facts": ["lines l and m"]})
    assert mask_scan("three lines", problem, ["3"]).text == f"{MASK} lines"
    assert mask_scan("two lines", problem, ["3"]).text == "two lines"


def gone(scan: str, problem: Problem, *pieces: str) -> bool:
    """Whether a scan is a leak, or has not all of these pieces left."""
    found = mask_scan(f"{FACTS} {scan}", problem, ["62"])
    rest = found.text.removeprefix(FACTS)
    return bool(found.leak) or not all(piece in rest for piece in pieces)


@pytest.mark.parametrize("problem", [KNOWN, UNKNOWN], ids=["facts known", "facts unknown"])
@pytest.mark.parametrize(
    "spelling",
    [
        "6.2e1.", ".62e2", "6ㅤ2", "6⠀2", "**6****2**", "6&nbsp;2", "6<b>2</b>", "s i x t y t w o",
        "60-two", "3Eh", "60 + II", "31 ✕ 2", "60 ➕ 2", "124 : 2", "double the 31", "two 31s",
        "118 from 180", "180 minus the sum of 74 and 44",
        # Others of the kind.
        "6<!-- -->2", "6&#8203;2", "&#x36;&#x32;", "\\u0036\\u0032", "%36%32", "6\\hspace{0pt}2",
        "six ty two", "s.i.x.t.y-t.w.o", "sixty\u3164two", "ⓢⓘⓧⓣⓨ ⓣⓦⓞ", "6\u03362\u0336", "⁶²",
        "ⅬⅫ", "L X I I", "LX plus II", "#3E", "16r3E", "0011 1110", "⠋⠃", "-.... ..---",
        "soixante-deux", "zweiundsechzig", "шестьдесят два", "六十二", "ξβʹ", "sechzig und zwei",
        "NjI=", "fvkgl-gjb", "owt-ytxis", "\u202e26", "s1xty-tw0", "|||||| ||", "🕕🕑",
        "C + 118 = 180", "2C = 124", "118 + ? = 180", "x^2 = 3844", "186 in thirds",
        "the sixty-second", "62nd", "between 61 and 63", "180 once 118 is taken off",
        "start at 60 and go up 2", "60 together with 2", "192 less twice 65", "sum(31, 31)",
        "half of the 124", "add 60 2", "five dozen and two", "61.999999", "54 50", "F-B",
    ],
)  # fmt: skip
def test_the_answer_is_gone_in_spellings_that_nobody_listed(
    spelling: str, problem: Problem
) -> None:
    assert gone(f"angle C: {spelling}", problem, spelling)


@pytest.mark.parametrize(
    ("scan", "pieces"),
    [
        ("thirty-one, twice over", ["thirty-one"]),
        ("fourfold 15.5", ["15.5"]),
        ("two less than a square of eight by eight", ["eight"]),
        ("the sum of 31 and itself", ["31"]),
        ("six sides beside two lines", ["six", "two"]),
        ("26 less than the keys of a piano", ["26"]),
        ("not quite 63", ["63"]),
    ],
)
def test_what_the_facts_do_not_state_is_not_read(scan: str, pieces: list[str]) -> None:
    assert gone(scan, KNOWN, *pieces)


def test_numbers_that_count_name_or_are_known_to_all_stay() -> None:
    scan = "Two rays, 3 arcs, triangle 1, ∠2; a right angle of 90°, a straight one of 180."
    assert mask_scan(scan, KNOWN, ["62"]).text == scan
    # The question states as well as the facts do; without facts nobody knows.
    asked = replace(KNOWN, problem="<image>AB is 17. Find angle C.")
    assert mask_scan("AB = 17, BC = 18", asked, ["62"]).text == f"AB = 17, BC = {MASK}"
    assert mask_scan("AB = 17, BC = 18", UNKNOWN, ["62"]).text == "AB = 17, BC = 18"
    assert mask_scan("AB = 17, BC = 18", asked, ["62"], masks="answers").text == "AB = 17, BC = 18"


def test_numbers_that_others_see_are_read_where_nobody_knows_the_facts() -> None:
    named = frozenset((Fraction(17),))
    found = mask_scan("AB = 17, BC = 18", UNKNOWN, ["62"], named=named)
    assert found.text == f"AB = 17, BC = {MASK}"
    # Where they are known, they say it.
    assert mask_scan(FACTS, KNOWN, ["62"], named=named).text == FACTS


@pytest.mark.parametrize(
    ("question", "passes", "masked"),
    [
        ("Berechne den Winkel im Dreieck.", "Das Dreieck hat eine Seite", "сорок"),
        ("Halla el área del triángulo.", "El triángulo tiene una base", "сорок"),
        ("Найдите угол треугольника.", "В треугольнике угол", "六十二"),
        ("求三角形的面积", "三角形的底边", "сорок"),
        ("Find the angle.", "The angle at the apex", "vierzig"),
    ],
)
def test_a_description_is_in_the_language_of_its_question(
    question: str, passes: str, masked: str
) -> None:
    problem = replace(UNKNOWN, problem=f"<image>{question}")
    assert mask_scan(f"{passes}. {masked}", problem, ["62"]).text == f"{passes}. {MASK}"


def test_moved_numbers_are_others_everywhere_and_nothing_else_changes() -> None:
    scan = (
        "Two rays: angle A = 74°, angle B = forty-four, AB = 7.5; 74 again. Right angle: 90. -...."
    )
    fixed = numbers_in("Find C if AB is 7.5.")
    found = with_numbers_moved([scan], random.Random(3), fixed, {Fraction(62)})
    assert found is not None
    [text] = found
    new = sorted(numbers_in(text) - numbers_in(scan))
    assert len(new) == 2
    assert Fraction(62) not in new
    back = text.replace(str(new[1]), "74").replace(str(new[0]), "forty-four")
    assert (
        back == scan or text.replace(str(new[0]), "74").replace(str(new[1]), "forty-four") == scan
    )
    assert with_numbers_moved(["Two rays, 7.5 and 90"], random.Random(3), fixed) is None
    # In several texts as one.
    one, other = with_numbers_moved(["AB is 7.5", "7.5 and 90"], random.Random(3)) or ("", "")
    assert one.removeprefix("AB is ") == other.removesuffix(" and 90") != "7.5"


@pytest.mark.parametrize(
    "scan",
    [
        "AB = 123456789012345678", "1e300 and 2e-300", "9" * 400 + ".5 cm", "0.0000001 or 0.001",
        " ".join(map(str, range(13, 400))), "7.50 " * 300, "x" * 9000 + " 62", "½ and 3¾",
    ],
)  # fmt: skip
def test_numbers_of_any_size_are_moved_at_once(scan: str) -> None:
    began = time.process_time()
    found = with_numbers_moved([scan], random.Random(1))
    assert time.process_time() - began < 3
    if found is not None:
        assert numbers_in(found[0]) & numbers_in(scan) <= {90, 180, 360}
        assert len(found[0].split()) == len(scan.split())


PROBLEMS = [p for p in generate(6, "validation", 400) if 21 <= int(p.answer) <= 199][:4]


@pytest.mark.parametrize(
    "facts",
    [lambda one: one, without_facts, with_facts_in_the_question],
    ids=["known", "unknown", "in the question"],
)
def test_hostile_scans_earn_nothing(facts: Callable[[HostileScan], HostileScan]) -> None:
    scans = [facts(one) for one in hostile_scans(PROBLEMS, seed=4)]
    earned = [one.way for one in scans if earns(one, DEFAULT)]
    assert len(earned) < 0.02 * len(scans), earned
    # Each of the two measures for itself leaves some of them.
    without = [one for one in scans if earns(one, replace(DEFAULT, named=False, moved=False))]
    assert len(without) > 0.01 * len(scans)


def test_labelled_numbers_stay() -> None:
    for honest in labelled_scans(60, 4):
        for one in (honest, unknown_to_all(honest)):
            assert not is_punished(one, DEFAULT), one.scan
            assert not is_punished(one, replace(DEFAULT, named=False)), one.scan


@pytest.mark.parametrize("scans", [procedural_scans, geometry3k_like_scans])
def test_honest_scans_lose_nothing(scans: Callable[[int, int], list[HonestScan]]) -> None:
    punished: list[tuple[str, str]] = []
    count = 210
    for honest in scans(count, 4):
        found = mask_scan(honest.scan, honest.problem, [honest.problem.answer, "17"])
        if found.leak or any(
            number not in found.text for number in honest.needed if number != "17"
        ):
            punished.append((honest.scan, found.text))
    assert len(punished) <= count // 100, punished
