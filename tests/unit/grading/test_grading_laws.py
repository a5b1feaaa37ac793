"""Laws of equivalence, over random renderings of random values."""

import asyncio
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from visual_r1.grading import grade, grade_answer, is_equivalent

CASES = Path(__file__).parents[3] / "trials" / "grader_cases.jsonl"
QUICK = settings(max_examples=40, derandomize=True, deadline=None)

whole = st.integers(-400, 400)
small = st.integers(2, 30)

VALUES = st.one_of(
    st.builds(lambda n: [f"{n}", f"{n}.0", f"\\frac{{{2 * n}}}{{2}}"], whole),
    st.builds(
        lambda n, d: [f"{n}/{d}", f"\\frac{{{n}}}{{{d}}}", f"\\dfrac {{ {n} }} {{ {d} }}"],
        whole,
        small,
    ),
    st.builds(
        lambda a, b: [f"{a}\\sqrt{{{b}}}", f"{a}√{b}", f"{a} \\cdot {b}^{{1/2}}", f"{a}*sqrt({b})"],
        small,
        small,
    ),
    st.builds(
        lambda a, b: [f"{a}\\pi - {b}", f"{a}π−{b}", f"-{b} + {a} \\cdot \\pi"], small, small
    ),
)
# Each leaves the value alone. What is in front goes around a wrapper, not into it.
WRAPPERS = (
    "{}",
    "${}$",
    "\\({}\\)",
    "\\boxed{{{}}}",
    "**{}**",
    "\\left({}\\right)",
    "\\mathbf{{{}}}",
)
LABELS = ("", "x = ", "AB = ", "m\\angle 1 = ", "The answer is ", "Therefore, y = ", "Area: ", "= ")
ENDS = ("", ".", " ", "\n", "\\,", "\u200b", "\\quad")


@st.composite
def renderings(draw: st.DrawFn, spellings: list[str]) -> str:
    inner = draw(st.sampled_from(spellings))
    label, wrapper, end = (draw(st.sampled_from(x)) for x in (LABELS, WRAPPERS, ENDS))
    return label + wrapper.format(inner) + end


@QUICK
@given(VALUES, st.data())
def test_spelling_does_not_change_the_verdict(spellings: list[str], data: st.DataObject) -> None:
    answer, gold = data.draw(renderings(spellings)), data.draw(st.sampled_from(spellings))
    graded = grade_answer(answer, gold)
    assert graded.verdict == "right", (answer, gold, graded)


@QUICK
@given(VALUES, VALUES, st.data())
def test_equivalence_is_symmetric(one: list[str], other: list[str], data: st.DataObject) -> None:
    left, right = (
        data.draw(renderings(one)),
        data.draw(renderings(data.draw(st.sampled_from([one, other])))),
    )
    for rounding in ("exact", "rounded"):
        assert is_equivalent(left, right, rounding) == is_equivalent(right, left, rounding)


def shipped(*, hacks: bool) -> list[dict[str, object]]:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return [
        case
        for case in cases
        if case["mode"] == "answer"
        and (case["kind"].startswith(("hack", "dos"))) == hacks
        and "pred" in case
    ]


def test_every_gold_answer_is_the_answer_to_itself() -> None:
    golds = {str(case["ref"]) for case in shipped(hacks=False)}
    for gold in golds:
        assert grade_answer(gold, gold).right, gold
        assert grade_answer(f"${gold}$", gold).right or "$" in gold, gold


def test_the_shipped_cases_are_symmetric() -> None:
    """But for a letter, whose text counts on one side only, and what is hedged or chained."""
    lopsided = []
    for case in shipped(hacks=False):
        ref, pred = str(case["ref"]), str(case["pred"])
        if case["kind"] in ("choice", "approx_chain", "prose") or not pred.strip():
            continue
        if "<answer>" in pred:  # the wrapper of a gold answer; no answer has one in another
            continue
        if is_equivalent(pred, ref) != is_equivalent(ref, pred):
            lopsided.append((ref, pred))
    assert not lopsided


@QUICK
@given(
    st.integers(-(10**6), 10**6),
    st.integers(1, 400),
    st.integers(-(10**5), 10**5),
    st.integers(0, 3),
)
def test_rounded_is_the_rule_of_the_issue(top: int, low: int, digits: int, places: int) -> None:
    """Equal, or one side a literal with k >= 1 decimals that the other side rounds to."""
    value = Fraction(top, low)
    near = round(value * 10**places) + digits % 3 - 1 if digits % 2 else digits
    sign = "-" if near < 0 else ""
    text = f"{abs(near):0{places + 1}d}"
    literal = f"{sign}{text[:-places]}.{text[-places:]}" if places else f"{sign}{text}"
    scaled = abs(value) * 10**places
    half_up = (2 * scaled + 1).__floor__() // 2 * (-1 if value < 0 else 1)
    equal = Fraction(near, 10**places) == value
    wanted = equal or (places >= 1 and half_up == near)
    assert is_equivalent(f"{top}/{low}", literal, "rounded") == wanted
    assert is_equivalent(literal, f"{top}/{low}", "rounded") == wanted
    assert is_equivalent(literal, f"{top}/{low}") == equal


BETWEEN = (
    " or ", ", ", "; ", " ", "\n", " and ", " / ", " | ", " vs ", " but ", ", not ", " not ",
    " then ",
    " \\text{ or } ", " \\quad ", " \\\\ ", "$ $", "}{", " = ", " \\approx ", ", about ", " (or ",
    ". The answer is ", " x = ", ", x = ", " \\pm ", " to ", " through ", "...", " \\implies ",
    " \\cup ", " \\in ", " is ", " must be ", " else ", " & ", "_", "#", "\u202e", "\\text{",
    "\\boxed{",
)  # fmt: skip
GOLDS = ("6", "12.5", "3\\sqrt{5}", "\\frac{15}{2}", "9\\pi", "40^\\circ", "7.1 cm", "2x+5", "x=4",
         "y=2x+3", "(3,4)", "x>3", "yes", "isosceles", "\\{1,2\\}", "1200", "-5", "B",
         "3:4")  # fmt: skip


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sampled_from(GOLDS), st.sampled_from(GOLDS), st.sampled_from(BETWEEN), st.booleans())
def test_two_answers_are_never_right(gold: str, other: str, between: str, first: bool) -> None:
    assume(gold != other)
    text = gold + between + other if first else other + between + gold
    for wrapped in (text, f"x = {text}", f"\\boxed{{{text}}}", f"The answer is {text}."):
        assert not is_equivalent(wrapped, gold, "rounded"), wrapped


@pytest.mark.parametrize(
    ("gold", "empty"),
    [("3:4", "0:0"), ("3:4:5", "0:0:0"), ("3:4", "10^{-50}\\sqrt{2}:10^{-50}\\sqrt{3}"),
     ("y=2x+3", "0=0"), ("y=2x+3", "0(y-2x-3)=0"), ("y=2x+3", "y-x=y-x"),
     ("y=2x+3", "10^{-60}\\sqrt{2}(y+x)=0"), ("x^2+y^2=25", "0x+0y=0"), ("x>3", "x>x"),
     ("x=4", "x=x"), ("x=4", "x=5-x=4"), ("x=4", "\\{y=4\\}"), ("x=4", "y = 5 x = 4")],
)  # fmt: skip
def test_what_says_nothing_is_not_the_answer(gold: str, empty: str) -> None:
    assert not is_equivalent(empty, gold)
    assert not is_equivalent(empty, gold, "rounded")


def test_a_loop_of_asyncio_and_its_threads_grade_alike() -> None:
    texts = [f"{n}\\sqrt{{{n}}}" for n in range(2, 40)]

    async def both() -> tuple[list[bool], list[bool]]:
        threads = [asyncio.to_thread(is_equivalent, text, "7\\sqrt{7}") for text in texts]
        return [is_equivalent(text, "7\\sqrt{7}") for text in texts], await asyncio.gather(*threads)

    inside, threaded = asyncio.run(both())
    assert inside == threaded == [text == "7\\sqrt{7}" for text in texts]


def test_a_full_stack_is_given_up_and_raises_nothing() -> None:
    def frames_left(used: int = 0) -> int:
        try:
            return frames_left(used + 1)
        except RecursionError:
            return used

    def grade_under(frames: int, answer: str) -> str:
        if frames:
            return grade_under(frames - 1, answer)
        return grade(f"<answer>{'(' * 20}{answer}{')' * 20}</answer>", "3").verdict

    assert grade_under(0, "1+2") == "right"
    assert grade_under(frames_left() - 60, "2+1") == "gave_up"


def test_hostile_answers_end_in_a_fresh_process() -> None:
    """A hang, or a process brought down, fails here; how long answers take is a benchmark."""
    script = (
        "import json, sys\n"
        "from visual_r1.grading import grade, grade_answer\n"
        "for line in sys.stdin:\n"
        "    case = json.loads(line)\n"
        "    text = ''.join(part * n for part, n in case['pred_parts'])\n"
        "    judge = grade if case['mode'] == 'response' else grade_answer\n"
        "    assert judge(text, case['ref']).verdict in ('wrong', 'gave_up'), text[:80]\n"
        "print('done')\n"
    )
    lines = CASES.read_text(encoding="utf-8").splitlines()
    hostile = "\n".join(line for line in lines if '"pred_parts"' in line)
    done = subprocess.run(
        [sys.executable, "-c", script], input=hostile, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "done\n", done.stderr
