"""What must hold for any value and any text, and not only for the cases that came to mind."""

import decimal
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from visual_r1.grading import GRADER_VERSION, grade, grade_answer, is_equivalent

whole = st.integers(-9999, 9999)
positive = st.integers(1, 400)
fractions = st.builds(Fraction, whole, positive)


def spellings(value: Fraction) -> list[str]:
    """Ways to write a fraction that all mean the same."""
    top, low = value.numerator, value.denominator
    sign, size = ("-" if top < 0 else ""), abs(top)
    found = [
        f"{top}/{low}",
        f"\\frac{{{top}}}{{{low}}}",
        f"{sign}\\dfrac {{ {size} }} {{ {low} }}",
        f"${3 * top}/{3 * low}$",
        f"x = {sign}\\tfrac{{{size}}}{{{low}}}",
        f"\\boxed{{{top}/{low}}}",
        f"({top})/({low})",
        f"({top} ÷ {low}) cm",
        f"The answer is {top}/{low}.",
    ]
    if low == 1:
        found += [f"{top:,}", f"{top}.0", f"{sign}{size}^\\circ", f"{top} units", f" {top} "]
        found += [str(top).replace("-", "−")]
    elif size > low:
        found.append(f"{sign}{size // low}\\frac{{{size % low}}}{{{low}}}")
        found.append(f"{sign}{size // low} {size % low}/{low}")
    if low in (2, 4, 5, 8, 10, 20, 25, 40, 50, 100):
        found.append(f"{sign}{decimal.Decimal(size) / decimal.Decimal(low)}")
    return found


@given(fractions)
@example(Fraction(0))
def test_all_spellings_of_a_value_are_one_answer(value: Fraction) -> None:
    written = spellings(value)
    for answer in written:
        for gold in (written[0], written[-1]):
            assert grade_answer(answer, gold).verdict == "right", (answer, gold)


@given(fractions, fractions, st.data())
def test_other_values_are_wrong_either_way_round(
    one: Fraction, other: Fraction, data: st.DataObject
) -> None:
    assume(one != other)
    left = data.draw(st.sampled_from(spellings(one)))
    right = data.draw(st.sampled_from(spellings(other)))
    assert not is_equivalent(left, right)
    assert not is_equivalent(right, left)


@given(st.integers(1, 60), st.integers(2, 60), st.integers(1, 12))
def test_radicals_are_compared_by_value(factor: int, inside: int, scale: int) -> None:
    gold = f"{factor}\\sqrt{{{inside}}}"
    same = [
        f"\\sqrt{{{factor * factor * inside}}}",
        f"\\frac{{{factor * scale}\\sqrt{{{inside}}}}}{{{scale}}}",
        f"\\sqrt{{{inside}}} \\cdot {factor}",
        f"{factor}*sqrt({inside})",
        f"{factor}√{inside}",
        f"\\frac{{{factor * inside}}}{{\\sqrt{{{inside}}}}}",
        f"{factor}({inside})^{{1/2}}",
    ]
    for answer in same:
        assert is_equivalent(answer, gold) and is_equivalent(gold, answer), answer
    for answer in (f"{factor + 1}\\sqrt{{{inside}}}", f"{factor}\\sqrt{{{inside + 1}}}"):
        assert not is_equivalent(answer, gold), answer


@given(st.decimals(-500, 500, places=6, allow_nan=False), st.integers(1, 4))
def test_rounding_is_that_of_schools(value: decimal.Decimal, places: int) -> None:
    unit = decimal.Decimal(1).scaleb(-places)
    rounded = value.quantize(unit, decimal.ROUND_HALF_UP)
    precise = f"{value:f}"
    kept = bool(rounded) or not value  # 0.0 says of no value how much it was
    assert is_equivalent(precise, f"{rounded:f}", "rounded") == kept
    assert is_equivalent(f"{rounded:f}", precise, "rounded") == kept
    assert not is_equivalent(precise, f"{rounded + 2 * unit:f}", "rounded")
    assert is_equivalent(precise, f"{rounded:f}") == (value == rounded)


@given(st.integers(1, 89), st.sampled_from(["sin", "cos", "tan"]))
def test_functions_agree_with_the_library(angle: int, name: str) -> None:
    value = getattr(math, name)(math.radians(angle))
    assert is_equivalent(f"{value:.12f}", f"\\{name} {angle}^\\circ")
    assert not is_equivalent(f"{value + 1e-4:.12f}", f"\\{name} {angle}°")


@given(st.integers(2, 9), st.integers(1, 9), st.sampled_from("xyabt"))
def test_expressions_in_variables(a: int, b: int, x: str) -> None:
    gold = f"{a}{x}+{b}"
    for answer in (f"{b} + {a}{x}", f"{a}*{x}+{b}", f"({a * a}{x}^2 - {b * b})/({a}{x} - {b})"):
        assert is_equivalent(answer, gold), answer
    for answer in (f"{a}{x}-{b}", f"{a + 1}{x}+{b}", f"{a}z+{b}", f"{a}{x}", f"{a + b}{x}"):
        assert not is_equivalent(answer, gold), answer


pieces = st.sampled_from(
    [*"0123456789.,+-*/^_=<>(){}[]|:;%°√π½²$\\ \n", "\\frac", "\\sqrt", "x", "AB", " or ", "\\pi",
     "\\pm", "cm", "\\left", "\\boxed{", "and", "sin", "≈", "**", "1e9", "\\text{", "is", "not"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.one_of(st.lists(pieces, max_size=40).map("".join), st.text(max_size=60)))
def test_any_text_gets_a_verdict(text: str) -> None:
    graded = grade_answer(text, "12.5")
    assert graded.verdict in ("right", "wrong", "gave_up")
    assert graded.reason and graded.version == GRADER_VERSION
    assert grade(f"<think>t</think><answer>{text}</answer>", "\\frac{7}{3}\\pi").verdict


@given(st.lists(st.integers(0, 99), min_size=2, max_size=5, unique=True), st.data())
def test_several_values_are_never_one_right_answer(values: list[int], data: st.DataObject) -> None:
    between = data.draw(st.sampled_from([" or ", ", ", "; ", " ", " and ", "\n", " | ", " / = "]))
    gold = data.draw(st.sampled_from(values))
    text = between.join(map(str, values))
    assume(text.replace(",", "") != str(gold))
    assert not is_equivalent(text, str(gold), "rounded")


@pytest.mark.parametrize(
    "text",
    ["9**9**9**9", "9^{9^{9^9}}", "(" * 3000 + "5" + ")" * 3000, "\\sqrt{" * 60 + "5" + "}" * 60,
     "1+" * 5000 + "1", "5" * 100_000, "1e999999999", "99^99" + "*99^99" * 40, "x^" * 60 + "x",
     "\\frac{1}{" * 60 + "2" + "}" * 60, "-" * 300 + "5", "|" * 300, "((1+9)^{99})^{99}"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_too_large_is_given_up(text: str) -> None:
    assert grade_answer(text, "5").verdict == "gave_up"
    assert not is_equivalent(text, "2x+5")
    assert not is_equivalent(text, "x", "rounded")


@pytest.mark.parametrize(("unit", "gold"), [("", "50%"), (" km", "5 m")])
def test_what_is_too_large_once_it_is_compared_is_given_up(unit: str, gold: str) -> None:
    # Nearly 10^10000: the percent sign's hundred, or the kilometre's thousand, is too much.
    nearly = "\\cdot".join(["\\sqrt{10}^{4096}"] * 4 + ["\\sqrt{10}^{3615}"])
    assert grade_answer(nearly, "5").verdict == "wrong"
    assert grade_answer(nearly + unit, gold).verdict == "gave_up"


def test_a_gold_answer_that_cannot_be_read_is_given_up() -> None:
    assert grade_answer("5", "\\int_0^1 x dx").verdict == "gave_up"
    assert "gold" in grade_answer("5", "\\int_0^1 x dx").reason
    assert grade_answer("5", " ").verdict == "gave_up"
    assert grade_answer(" ", "5").verdict == "wrong"


def test_choices_that_the_problem_shows() -> None:
    choices = ("30", "45", "3\\sqrt{5}", "120")
    for answer in ("C", "(c)", "option C", "C. √45", "3√5"):
        assert grade_answer(answer, "3\\sqrt{5}", choices=choices).right, answer
        assert grade_answer(answer, "C", choices=choices).right, answer
    for answer in ("B", "C. 45", "A or C", "45", "E"):
        assert not grade_answer(answer, "3\\sqrt{5}", choices=choices).right, answer
        assert not grade_answer(answer, "C", choices=choices).right, answer
    assert not grade_answer("C", "3\\sqrt{5}").right


TEN = tuple(str(10 * place) for place in range(1, 11))


@pytest.mark.parametrize("gold", ["J", "100"])
def test_ten_choices_have_ten_letters(gold: str) -> None:
    for answer in ("J", "(j)", "option J", "J. 100", "100", "I choose J"):
        assert grade_answer(answer, gold, choices=TEN).right, answer
    for answer in ("I", "J. 90", "I or J", "A", "K", "90"):
        assert not grade_answer(answer, gold, choices=TEN).right, answer


def test_a_late_letter_is_a_name_where_there_are_few_choices() -> None:
    assert not grade_answer("option J", "J", choices=TEN[:4]).right
    assert grade_answer("J", "J").right


def test_threads_agree() -> None:
    answers = [f"{n}\\sqrt{{{n + 1}}}" for n in range(1, 200)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda a: is_equivalent(a, "14\\sqrt{15}"), answers))
    assert together == [answer == "14\\sqrt{15}" for answer in answers]


def test_the_callers_decimal_context_is_left_alone() -> None:
    with decimal.localcontext() as context:
        context.prec = 3
        assert is_equivalent("2\\sqrt{3}", "3.4641016151")
        assert not is_equivalent("2\\sqrt{3}", "3.4642016151")
        assert is_equivalent("\\sin 30^\\circ", "0.5")
        assert context.prec == 3
