"""What became of a response: read rightly or not, reasoned rightly or not, and why not told."""

from collections import Counter
from dataclasses import replace

import pytest
from written_by_hand import WRITTEN, Written

from trials.planted_failures import WORDINGS, planted
from visual_r1.data import procedural
from visual_r1.data.problem import Problem
from visual_r1.grading import extract_answer, grade
from visual_r1.perception.judging import Given, judge

PLANTED = list(planted(40 * len(WORDINGS), seed=5))


def given(response: str, gold: str, **more: bool | None) -> Given:
    return Given(response, extract_answer(response), grade(response, gold).verdict, **more)


def test_what_is_planted_is_found_in_every_wording() -> None:
    wrong = Counter[str]()
    for one in PLANTED:
        found = judge(one.problem, one.given)
        wrong[one.wording] += found.kind != one.kind
    assert {one.wording for one in PLANTED} == set(WORDINGS)
    assert not +wrong, "600 responses, of which none may be taken for another"


@pytest.mark.parametrize("written", WRITTEN, ids=lambda one: f"{one.family}-{one.kind}")
def test_what_was_written_by_hand_is_judged_as_a_person_does(written: Written) -> None:
    assert judge(written.problem, given(written.response, written.answer)).kind == written.kind


def triangle(values: dict[str, object], answer: str = "62", family: str = "triangle") -> Problem:
    meta = {"family": family, "values": values}
    return Problem("one", (), "<image>Find angle C.", answer, meta=meta)


@pytest.mark.parametrize("names", ["BA", "KL", "AK"])
def test_right_values_at_other_names_are_no_misreading_and_are_counted(names: str) -> None:
    text = (
        f"<think>angle {names[0]} reads 74, angle {names[1]} reads 44.</think><answer>62</answer>"
    )
    found = judge(triangle({"A": 74, "B": 44}), given(text, "62"))
    assert (found.kind, found.read, found.renamed) == ("right", True, True)


def test_a_value_read_as_another_with_the_same_sum_is_luck() -> None:
    text = "<think>angle A reads 73, angle B reads 45. 180-118=62</think><answer>62</answer>"
    found = judge(triangle({"A": 74, "B": 44}), given(text, "62"))
    assert (found.kind, found.read, found.reasoned) == ("lucky", False, True)
    assert found.stated == {"A": "73", "B": "45"}


@pytest.mark.parametrize(
    ("thought", "answer", "kind"),
    [
        # It is taken back in words that nobody listed, and used as it was taken back.
        ("Angle B = 41. Hmm, the label says 44. 180-74-44=62.", 62, "right"),
        ("Angle B = 41. Hmm, the label says 44. 180-74-44=72.", 72, "misreasoned"),
        ("Angle B = 44. Hmm, the label says 41. 180-74-41=65.", 65, "misread"),
        ("Angle B = 44. Hmm, the label says 41. 180-74-41=62.", 62, "lucky"),
        # Without a calculation the answer tells.
        ("Angle B is not 41, it is 44. So C is 62.", 62, "right"),
        ("I first thought angle B was 44, but it is 41. So C is 65.", 65, "misread"),
        ("Angle B is 41. The picture is 96 wide. So C is 62.", 62, "lucky"),
        # A number that is in the calculation alone: read, or a slip of the pen?
        ("Angle B is 41. 180-74-44=62.", 62, "right"),
        ("Angle B is 44. 180-74-34=72.", 72, "untold"),
        ("Angle B is 44. 180-74-34=62.", 62, "right"),
        ("Angle B is 41. 180-74-14=65.", 65, "misread"),
    ],
)
def test_what_was_corrected_is_judged_by_what_it_went_by(
    thought: str, answer: int, kind: str
) -> None:
    text = f"<think>Angle A is 74. {thought}</think><answer>{answer}</answer>"
    found = judge(triangle({"A": 74, "B": 44}), given(text, "62"))
    assert found.kind == kind
    if kind == "untold":
        assert found.why == "it calculates with another value than it states"


@pytest.mark.parametrize(("times", "kind"), [(5, "both"), (50, "untold")])
def test_of_a_looping_response_nothing_is_told_by_a_part_of_its_readings(
    times: int, kind: str
) -> None:
    tries = "".join(f"Angle A is {74 + i}. Angle B is {44 + i}. " for i in range(times, 0, -1))
    found = judge(triangle({"A": 74, "B": 44}), given(f"{tries}<answer>1</answer>", "62"))
    assert found.kind == kind


@pytest.mark.parametrize(
    "problem",
    [
        triangle({"A": 74, "B": 44, "C": 10}),  # another answer follows from these
        triangle({"A": 74, "B": 44}, family="solids"),
        triangle({"A": "74", "B": 44}),
        triangle({}),
        triangle({"A": 74}, family="segment"),
    ],
)
def test_facts_of_which_the_answer_does_not_follow_are_not_used(problem: Problem) -> None:
    text = "<think>angle A reads 74, angle B reads 44. 180-118=72</think><answer>72</answer>"
    found = judge(problem, given(text, "62"))
    assert (found.kind, found.basis) == ("untold", "none")


def test_without_facts_the_two_passes_tell_what_they_can() -> None:
    problem = Problem("one", (), "<image>Find x.", "5", meta={"family": "geometry3k"})
    kinds = {
        (right, scan): judge(problem, given(f"<answer>{5 if right else 6}</answer>", "5",
                                            scan_only=scan))
        for right in (True, False) for scan in (True, False, None)
    }  # fmt: skip
    assert {key: (one.kind, one.basis) for key, one in kinds.items()} == {
        (True, True): ("right", "passes"),
        (True, False): ("right", "passes"),
        (True, None): ("right", "none"),
        (False, True): ("misreasoned", "passes"),
        (False, False): ("untold", "passes"),
        (False, None): ("untold", "none"),
    }


def test_a_form_says_what_it_lacked() -> None:
    problem = triangle({"A": 74, "B": 44})
    cut = given("<think>angle A is 74", "62", truncated=True)
    twice = given("<think>a</think><answer>1</answer><answer>2</answer>", "62")
    words = given("<answer>unknown</answer>", "62")
    gave_up = replace(given("<answer>63</answer>", "62"), verdict="gave_up")
    assert [judge(problem, one).why for one in (cut, twice, words, gave_up)] == [
        "cut off before an answer",
        "its answer is not where it should be",
        "its answer is no number",
        "the grader gave up",
    ]


@pytest.mark.parametrize("family", procedural.FAMILIES)
def test_each_family_has_a_rule_from_which_its_answers_follow(family: str) -> None:
    for problem in procedural.generate(3, "train", 3 * len(procedural.FAMILIES)):
        if problem.family == family:
            solved = given(f"<think>{problem.meta['solution']}</think><answer>{problem.answer}"
                           "</answer>", problem.answer)  # fmt: skip
            found = judge(problem, solved)
            assert (found.kind, found.reasoned, found.renamed) == ("right", True, False)
            assert found.follows == problem.answer
