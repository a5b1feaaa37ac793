"""What a response says of the figure's values, however it is worded."""

import sys
from collections.abc import Callable
from fractions import Fraction

import pytest

from visual_r1.perception.readings import Reading, read_values

ANGLES = ("Find angle C.", {"A": 74, "B": 44})
SEGMENTS = ("Find segment BC.", {"AB": 25, "AC": 62})
PLACES = ("Find angle x on the straight line.", {"left": 68, "right": 97})
SIDES = ("Find the perimeter of the rectangle.", {"width": 17, "height": 57})
ARCS = ("What is angle x of the two chords?", {"top": 69, "bottom": 65})
FOUR = ("Find angle C.", {"B": 72, "A": 94, "D": 77})

Figure = tuple[str, dict[str, int]]


def read(text: str, figure: Figure, answer: int | None = None) -> Reading:
    question, values = figure
    known = {name: Fraction(value) for name, value in values.items()}
    return read_values(text, question, known, None if answer is None else Fraction(answer))


@pytest.mark.parametrize(
    "text",
    [
        "angle A reads 74, angle B reads 44. 74+44=118. 180-118=62.",
        r"$m\angle CAB = 74^\circ$ and $m\angle ABC = 44^\circ$. $m\angle ACB = 180^\circ-118^\circ"
        r" = 62^\circ$",
        "- Angle A: 74°\n- Angle B: 44°\n\nSum = 118°\nAngle C = 180° − 118° = 62°",
        "| Vertex | Angle |\n|---|---|\n| A | 74° |\n| B | 44° |\n\nx = 180 - 74 - 44 = 62",
        "a triangle with a 74° angle at vertex A and a 44° angle at vertex B.",
        "Angles A and B are 74° and 44° respectively. So C is 62°.",
        "angle A measures seventy-four degrees, and angle B forty-four degrees.",
        "Let A + B + C = 180, A = 74, B = 44, so C = 180 - 118 = 62.",
        '{"A": 74, "B": 44}',
        "Angle A – 74°\nAngle B – 44°",
        "In triangle ABC the angle A is 74 degrees, B is 44 degrees, and we want C.",
        "First, A is 74. Next, the remaining known angle is B, which is 44.",
        "Step 1: the given angles: angle A = 74°, angle B = 44°. Step 2: 180 = 74 + 44 + x.",
        "angle A is 75... wait, it reads 74. Angle B is 44.",
        "The sum of angles A and B is 118, since A is 74 and B is 44.",
        "A (74°) and B (44°)",
        "<scan>angle A 74, angle B 44</scan><think>180 - 118 = 62</think><answer>62</answer>",
    ],
)
def test_values_go_to_the_names_that_they_stand_at(text: str) -> None:
    assert read(text, ANGLES).options == ({"A": Fraction(74), "B": Fraction(44)},)


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("The two known angles are 74° and 44°. 180 - 118 = 62.", ANGLES),
        ("180-(74+44)=62", ANGLES),
        ("angle K reads 74, angle L reads 44. 74+44=118. 180-118=62.", ANGLES),
        ("The upper angle reads 74 and the lower left angle reads 44.", ANGLES),
        (
            r"$74^\circ + 44^\circ + \angle C = 180^\circ$, $118^\circ + \angle C = 180^\circ$",
            ANGLES,
        ),
        ("74, 44", ANGLES),
        ("The total length is 62. The first part is 25. So the rest is 62 - 25 = 37.", SEGMENTS),
        ("There are three angles: 68°, x and 97°.", PLACES),
        ("x + 68 + 97 = 180\nx + 165 = 180\nx = 15", PLACES),
        ("The sides are 17 and 57. 17 + 57 + 17 + 57 = 148.", SIDES),
        (r"$P = 2w + 2h = 2(17) + 2(57) = 34 + 114 = 148$", SIDES),
        (r"$x = \frac{69 + 65}{2} = \frac{134}{2} = 67$", ARCS),
        ("x = 1/2 * (69° + 65°) = 67°", ARCS),
        ("Three of the four angles are known: 94°, 72° and 77°. They add to 243.", FOUR),
        ("90 - 58 - 16 = 16", ("Find angle x.", {"middle": 58, "bottom": 16})),
    ],
)
def test_numbers_at_no_name_are_the_values_that_are_open(text: str, figure: Figure) -> None:
    likeliest = read(text, figure).options[0]
    assert sorted(likeliest.values()) == sorted(map(Fraction, figure[1].values()))


@pytest.mark.parametrize(
    "text",
    [
        "AB = 25 and AC = 62, so BC = AC - AB = 62 - 25 = 37.",
        "segment BA reads 25, segment CA reads 62.",
        "The distance from A to B is 25 and from A to C is 62.",
        r"$\overline{AB} = 25$, $\overline{AC}=62$, $\overline{BC} = 37$",
    ],
)
def test_a_segment_is_the_same_from_either_end(text: str) -> None:
    assert read(text, SEGMENTS).options == ({"AB": Fraction(25), "AC": Fraction(62)},)


def test_what_is_asked_for_is_no_value_that_was_read() -> None:
    said = "Angle C is 62, angle A is 74 and angle B is 44."
    assert read(said, ANGLES, 62).options == ({"A": Fraction(74), "B": Fraction(44)},)


def test_a_value_that_is_nowhere_stated_leaves_no_reading() -> None:
    assert read("angle A is 74, so the others are equal", ANGLES, 74).options == ()
    assert read("", ANGLES).options == ()


def test_two_values_for_one_name_are_both_possible_unless_one_is_taken_back() -> None:
    contradictory = read("Angle A is 74 or so. Angle A is 47. Angle B is 44.", ANGLES)
    assert contradictory.contradictory
    assert [one["A"] for one in contradictory.options] == [47, 74]
    taken_back = read("Angle A is 74. Actually, angle A is 47. Angle B is 44.", ANGLES)
    assert [one["A"] for one in taken_back.options] == [47]


BOTH = "Angle A is 74, angle B is 44. "


@pytest.mark.parametrize(
    ("text", "is_read"),
    [
        ("7" * 50_000, False),
        ("angle A reads 74, " * 20_000, False),  # of B nothing is said
        ("((((" * 10_000, False),
        ("A=" * 30_000, False),
        ("\u202e74 A \x00" * 9, False),
        (BOTH * 10_000, True),
        (BOTH + "nothing more. " * 50_000, True),
        ("(" * 10_000 + BOTH, True),
        (BOTH + "\u202e \x00 " * 9_000, True),
    ],
)
def test_whatever_a_model_writes_is_read_to_the_end(text: str, is_read: bool) -> None:
    assert read(text, ANGLES).options == (({"A": 74, "B": 44},) if is_read else ())


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called in `work`, comparisons of numbers among them."""
    count = 0

    def counting(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    ("piece", "figure", "pieces"),
    [
        ("angle A reads {0}. angle B reads {1}. ", ANGLES, 10),
        ("angle A is {0}. angle B is {1}. angle D is {2}. ", FOUR, 5),
        ("angle A reads {0}. ", ANGLES, 200),
        ("angle K reads {0}. ", ANGLES, 200),
        ("{0}. ", ANGLES, 200),
        ("{0}, ", ANGLES, 200),
        ("{0} + ", ANGLES, 100),
        ("{0} + {1} = ", ANGLES, 100),
        ("{0} + {1} = {2}. ", ANGLES, 100),
        ("1(", ANGLES, 200),
        ("{0} - ((((((", ANGLES, 100),
    ],
)
def test_a_text_that_is_twice_as_long_takes_no_more_than_twice_the_work(
    piece: str, figure: Figure, pieces: int
) -> None:
    def looping(times: int) -> str:
        return "".join(piece.format(300 + i, 5000 + i, 9000 + i) for i in range(times))

    def work(times: int) -> int:
        return calls_of(lambda: read(looping(times), figure, 62))

    work(2 * pieces)  # what is kept of characters and words is there
    assert work(2 * pieces) < 2.5 * work(pieces)


def test_a_looping_response_has_the_readings_of_what_it_said_last() -> None:
    text = "".join(f"angle A reads {i}. angle B reads {i + 1}. " for i in range(20, 70))
    found = read(text, ANGLES).options
    assert len(found) == 64
    assert found[:3] == tuple({"A": Fraction(69), "B": Fraction(70 - i)} for i in range(3))


NOT_44 = [
    "Angle A is 74. Angle B is not 47, it is 44.",
    "Angle A is 74. At first glance angle B looked like 47, but it is 44.",
    "Angle A is 74. I first read angle B as 41, but on a closer look the label says 44.",
    "Angle A is 74. Angle B = 47? Let me look closer. It says 44.",
    "Angle A is 74. Angle B = 47. Hmm, let me re-read the label: 44.",
    "Angle A is 74. Angle B is 47 — hmm, 44 rather.",
    "Angle A is 74. Angle B is 41. Hold on, that label is 44.",
    "Angle A is 74. Angle B is 41. On closer inspection, angle B is 44.",
    "Angle A is 74. Angle B is 41. Looking at it a second time, it is 44.",
    "Angle A is 74. Angle B looks like 41, but checking the image it's 44.",
    "Angle A is 47, angle B is 41. Both labels were upside down: 74 and 44.",
    "Angle K is 74. Angle L is 41. The label says 44, though.",
]
THEN = [
    "180-74-44={}.",
    "180 - (44 + 74) = 180 - 118 = {}.",
    "74+44=118. 180-118={}.",
    "180-74=106. 106-44={}.",
    r"$x + 74^\circ + 44^\circ = 180^\circ$, so $x = {}^\circ$.",
    "44 + 74 + x = 180. 118 + x = 180. x = {}.",
    "If B were 41, then C = 180-74-41 = 65. But C = 180-74-44 = {}.",
]


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("said", NOT_44)
@pytest.mark.parametrize("answer", [62, 72])
def test_the_calculation_that_leads_to_the_answer_tells_which_value_it_went_by(
    said: str, then: str, answer: int
) -> None:
    found = read(f"{said} {then.format(answer)}", ANGLES, answer)
    assert found.options
    assert all(set(one.values()) == {74, 44} for one in found.options)
    assert not found.contradictory


def test_a_calculation_with_a_number_that_is_nowhere_stated_takes_nothing_back() -> None:
    found = read("Angle A is 74. Angle B is 44. 180-74-34=72.", ANGLES, 72)
    assert found.options == ({"A": Fraction(74), "B": Fraction(44)},)
    assert found.otherwise


@pytest.mark.parametrize(
    "text",
    [
        "Angle A is 74, angle B is 44. For 34 it were 180-74-34 = 72. So C = 62.",
        "Angle A is 74, angle B is 44. Half of 60 is 30. 180-74-44=62.",
        "Angle A is 74, angle B is 44. 180-74=106, and 106-44=62.",
        "Angle A is 74, angle B is 44. 180-118=62. Check: 62+44+74=180.",
    ],
)
def test_what_does_not_lead_to_the_answer_says_nothing_of_what_was_read(text: str) -> None:
    found = read(text, ANGLES, 62)
    assert found.options == ({"A": Fraction(74), "B": Fraction(44)},)
    assert not found.otherwise
