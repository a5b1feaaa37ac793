"""Outcomes, bonuses and contrast; templates that do not fit together."""

from dataclasses import replace
from typing import Any

import pytest
import tinker
from sampled import group_of, rollout

from visual_r1.config import RunConfig, SecondPassSection
from visual_r1.data.problem import Problem
from visual_r1.errors import ConfigError
from visual_r1.grading import Verdict
from visual_r1.models.processor import load_processor
from visual_r1.policy.passes import question, reward_input, second_pass
from visual_r1.policy.policy import Rollout, open_policy
from visual_r1.policy.second_pass import (
    SecondPass,
    SecondVerdict,
    after_moving,
    moved,
    open_reader,
    outcome_of,
    require_scan,
    with_bonus,
)
from visual_r1.rewards.blindfold.choices import unaided
from visual_r1.rewards.blindfold.masking import MASK, MaskedScan, named_by_others
from visual_r1.rewards.scoring import grade_of
from visual_r1.rl.advantages import has_contrast
from visual_r1.rl.metrics import StepTimer, step_metrics

VISION_SR1 = RunConfig(preset="vision_sr1")
PROBLEM = Problem("1", (b"",), "<image>Find angle C.", "62", meta={"facts": ["angle A reads 74"]})
SCAN = MaskedScan("angle A reads 74.", 0, held_answer=False)


def sample(image: Verdict, scan: SecondVerdict, **more: Any) -> Rollout:
    seen = None if scan == "no_scan" else SCAN
    return replace(rollout(1.0, image, **more), second=SecondPass(scan, "", seen, "62", 50, 40))


def test_the_four_outcomes() -> None:
    assert [outcome_of(*pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))] == [
        "both", "image_only", "scan_only", "neither",
    ]  # fmt: skip
    assert sample("right", "leak").outcome == "image_only"
    assert sample("gave_up", "right").outcome == "scan_only"
    assert rollout().outcome is None


@pytest.mark.parametrize("image", ["right", "wrong", "gave_up"])
@pytest.mark.parametrize(
    ("verdict", "known", "bonus", "credit"),
    [
        ("right", 0.0, 1.0, 1.0),
        ("wrong", 0.0, -0.5, 0.0),
        ("gave_up", 0.0, -0.5, 0.0),
        ("no_scan", 0.0, -0.5, 0.0),
        ("leak", 0.0, -0.5, 0.0),
        ("right", 0.25, 0.75, 0.75),
        ("right", 1.0, 0.0, 0.0),
        ("wrong", 1.0, -0.5, 0.0),
    ],
)
def test_the_bonus_does_not_depend_on_the_first_pass(
    image: Verdict, verdict: SecondVerdict, known: float, bonus: float, credit: float
) -> None:
    first = rollout(0.4, image).scored
    scored = with_bonus(first, SecondPass(verdict, ""), SecondPassSection(), known)
    assert scored.reward == pytest.approx(0.4 + bonus)
    assert scored.components == {**first.components, "second_pass": credit}
    assert scored.grade == first.grade


def test_no_number_is_chosen_among_choices_without_the_image() -> None:
    shown = "<image>Find C.\nChoices:\nA. 30\nB. 62\nC. 80"
    problem = Problem("1", (b"",), shown, "B", choices=("30", "62", "80"))
    policy = open_policy(VISION_SR1)
    for view in ("scan_only", "question_only"):
        asked = question(policy, problem, view, 0, temperature=0.0, scan=SCAN)
        text = policy.processor.tokenizer.decode(asked.prompt.to_ints())
        assert "Find C." in text
        assert "30" not in text
    said = "<think>a</think><answer>{}</answer>"
    for answer, right in (("62", True), ("B", False), ("80", False)):
        tokens = policy.processor.encode(said.format(answer))
        sequence = tinker.SampledSequence("stop", "1", _tokens_list=tokens)
        assert second_pass(policy, asked, sequence).right is right
    # Words and pictures to choose from stay: nobody would hit on them.
    for choices, text in ((("red", "blue"), "A. red\nB. blue"), (("A", "B"), "Choices: A, B")):
        problem = Problem("1", (b"",), f"<image>Which?\n{text}", "B", choices=choices)
        assert unaided(problem) == problem


def test_choices_in_words_are_asked_for_in_an_order_of_each_samples_own() -> None:
    words = ("acute", "right", "obtuse")
    text = "<image>Which?\nChoices:\nA. acute\nB. right\nC. obtuse"
    problem = Problem("1", (b"",), text, "B", choices=words)
    policy = open_policy(VISION_SR1)
    letters: set[str] = set()
    for seed in range(12):
        asked = question(policy, problem, "scan_only", seed, temperature=0.0, scan=SCAN)
        again = question(policy, problem, "scan_only", seed, temperature=0.0, scan=SCAN)
        assert (asked.prompt.to_ints(), asked.order) == (again.prompt.to_ints(), again.order)
        shown = policy.processor.tokenizer.decode(asked.prompt.to_ints())
        right = next(letter for letter in "ABC" if f"{letter}. right" in shown)
        letters.add(right)
        assert asked.order.index("B") == "ABC".index(right)
        for answer in ("A", "B", "C", *words):
            tokens = policy.processor.encode(f"<think>a</think><answer>{answer}</answer>")
            sequence = tinker.SampledSequence("stop", "1", _tokens_list=tokens)
            found = second_pass(policy, asked, sequence)
            assert found.right is (answer in (right, "right"))
            assert found.order == asked.order
    assert letters == set("ABC")
    # Without a scan, and with the picture, they stand as the dataset has them.
    for view in ("question_only", "full"):
        unmoved = question(policy, problem, view, 0, temperature=0.0, prompt=asked.prompt)
        assert (unmoved.order, unmoved.shown) == ("", problem)


@pytest.mark.parametrize(
    ("text", "gold", "words"),
    [
        ("如图，三角形ABC是（　）\nA、等腰三角形 B、直角三角形 C、等边三角形", "B",
         ("等腰三角形", "直角三角形", "等边三角形")),
        ("What kind of triangle? (a) isosceles (b) right (c) scalene", "b",
         ("isosceles", "right", "scalene")),
        ("Which?\nA. isosceles\nB. right\nC. neither of the above", "B",
         ("isosceles", "right", "neither of the above")),
    ],
)  # fmt: skip
def test_each_view_grades_by_the_same_choices(text: str, gold: str, words: tuple[str, ...]) -> None:
    """What the question alone gives away is subtracted where the scan's reader is paid for it."""
    policy = open_policy(VISION_SR1)
    problem = Problem("1", (b"",), f"<image>{text}", gold)
    prompt = question(policy, problem, "question_only", 0, temperature=0.0).prompt
    for view in ("full", "blank", "described", "question_only", "scan_only"):
        asked = question(policy, problem, view, 7, temperature=0.0, prompt=prompt, scan=SCAN)
        for answer in words:
            tokens = policy.processor.encode(f"<think>a</think><answer>{answer}</answer>")
            sample = reward_input(
                policy, asked, tinker.SampledSequence("stop", "1", _tokens_list=tokens)
            )
            right = grade_of(VISION_SR1.reward, sample).right
            assert right is (answer == words[1]), (view, answer)


@pytest.mark.parametrize(
    "scan", ["A ray and an arc.", "angle B is 40, angle C is 62", "Point B lies on AC."]
)
@pytest.mark.parametrize(
    "problem",
    [
        Problem("1", (b"",), "<image>Which?\nA. acute\nB. right", "B", choices=("acute", "right")),
        Problem("1", (b"",), "<image>Which?\nA. acute\nB. right", "B"),
        Problem("1", (b"",), "<image>Which?\nChoices: A, B", "B", choices=("A", "B")),
        Problem("1", (b"",), "<image>Which point is the midpoint of AC?", "B"),
    ],
)
def test_a_letter_is_not_asked_about_with_moved_numbers(problem: Problem, scan: str) -> None:
    """It stays when the numbers move, which made each honest description a leak."""
    known = replace(problem, meta={"facts": ["angle B reads 40"]})
    for asked in (problem, known):
        assert moved(asked, second(scan), 1) is None
        assert moved(asked, second(scan), 1, [f"<scan>{scan}</scan>"] * 3) is None


@pytest.mark.parametrize("letter", ["B", "(B)", "B.", "(B).", "$B$", "\\text{B}"])
def test_a_gold_letter_is_its_choice_however_it_is_written(letter: str) -> None:
    shown = "<image>Find C.\nA. 30\nB. 62\nC. 80"
    problem = Problem("1", (b"",), shown, letter, choices=("30", "62", "80"))
    assert unaided(problem).answer == "62"


def test_contrast_is_in_either_pass() -> None:
    alike = [sample("right", "wrong"), sample("right", "leak"), sample("right", "no_scan")]
    assert not has_contrast(group_of(*alike))
    assert has_contrast(group_of(*alike, sample("right", "right")))
    assert has_contrast(group_of(*alike, sample("wrong", "wrong")))
    # Format alone, and a grade given up beside a wrong one, are none.
    assert not has_contrast(group_of(sample("wrong", "wrong"), sample("gave_up", "gave_up")))


def test_what_a_step_says_of_its_second_passes() -> None:
    masked = MaskedScan(f"{MASK}.", 1, held_answer=True)
    leaking = MaskedScan("<answer>", 0, held_answer=True, leak="a tag")
    group = group_of(
        sample("right", "right"),
        replace(rollout(), second=SecondPass("wrong", "", masked, "7", 60, 20)),
        replace(rollout(0.0, "wrong"), second=SecondPass("leak", "", leaking)),
        replace(rollout(0.0, "wrong"), second=SecondPass("no_scan", "")),
    )
    group = replace(group, question_only=(True, False, False, False))
    seconds = StepTimer().row()
    row = step_metrics(VISION_SR1, 0, [group], [], None, seconds=seconds).row()
    expected = {
        "second_pass_accuracy": 0.25, "scans_missing": 0.25, "scans_masked": 0.25,
        "scans_with_answer": 0.5, "leaks": 0.25, "second_pass_gave_up": 0, "outcome_both": 0.25,
        "outcome_image_only": 0.25, "outcome_scan_only": 0.0, "outcome_neither": 0.5,
        "question_only_accuracy": 0.25, "second_pass_prompt_tokens": 110, "second_pass_tokens": 60,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("<think>74</think><answer>62</answer>", "no_scan"),
        ("<scan></scan><think>74</think><answer>62</answer>", "no_scan"),
        ("<scan>the answer is 62</scan><think>t</think><answer>62</answer>", "leak"),
        ("<scan>\\boxed{9}</scan><think>t</think><answer>62</answer>", "leak"),
    ],
)
def test_what_is_not_even_asked(response: str, verdict: str) -> None:
    reader = open_reader(VISION_SR1, load_processor(VISION_SR1.model.name))
    assert reader is not None
    seen = reader.look(PROBLEM, response, opens_think=False)
    assert isinstance(seen, SecondPass)
    assert (seen.verdict, seen.response, seen.tokens) == (verdict, None, 0)


@pytest.mark.parametrize(
    ("response", "scan"),
    [
        ("so</think><scan>angle A reads 74.</scan><answer>9</answer>", "angle A reads 74."),
        ("<scan>no</scan> or</think><scan>angle A reads 74.</scan>", "angle A reads 74."),
        ("a <scan></scan> first</think><scan>it reads 9</scan><answer>9</answer>", "it reads"),
        ("<scan>angle A reads 74.</scan></think><answer>9</answer>", None),
        ("it is <scan>angle A reads 74.</scan><answer>9</answer>", None),
    ],
)
def test_a_scan_stands_behind_the_thought_that_the_template_opened(
    response: str, scan: str | None
) -> None:
    """One that is drafted in the thought is none; nor is one of a thought that never ends."""
    reader = open_reader(VISION_SR1, load_processor(VISION_SR1.model.name))
    assert reader is not None
    seen = reader.look(PROBLEM, response, opens_think=True)
    if scan is None:
        assert isinstance(seen, SecondPass)
        assert seen.verdict == "no_scan"
    else:
        assert isinstance(seen, MaskedScan)
        assert scan in seen.text
        assert "9" not in seen.text


def test_gold_and_the_responses_own_answer_are_masked_before_it_is_read() -> None:
    processor = load_processor(VISION_SR1.model.name)
    reader = open_reader(VISION_SR1, processor)
    assert reader is not None
    scan = "angle A reads 74. C is 62, or 81"
    seen = reader.look(
        PROBLEM, f"<scan>{scan}</scan><think>t</think><answer>81</answer>", opens_think=False
    )
    assert isinstance(seen, MaskedScan)
    assert seen.text == f"angle A reads 74. C is {MASK}, or {MASK}"
    prompt = question(
        open_policy(VISION_SR1), PROBLEM, "scan_only", 0, temperature=0.0, scan=seen
    ).prompt
    assert {chunk.type for chunk in prompt.chunks} == {"encoded_text"}
    text = processor.decode([t for chunk in prompt.chunks for t in chunk.tokens])  # type: ignore[union-attr]
    assert seen.text in text
    assert "Find angle C." in text
    assert "62" not in text
    assert "81" not in text


def test_a_run_without_a_second_pass_has_no_reader() -> None:
    assert (
        open_reader(RunConfig(preset="quickstart"), load_processor(VISION_SR1.model.name)) is None
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": {"template": "think"}}, "does not: set --prompt.template scan_think"),
        ({"second_pass": {"template": "think"}}, "does not use {{ scan }}"),
        ({"second_pass": {"question_only_template": "scan_only"}}, "without image and scan has"),
    ],
)
def test_templates_that_do_not_fit_are_named(changes: dict[str, Any], sentence: str) -> None:
    require_scan(VISION_SR1)
    config = RunConfig.model_validate({"preset": "vision_sr1", **changes})
    with pytest.raises(ConfigError) as raised:
        require_scan(config)
    assert sentence in str(raised.value)


def second(scan: str, verdict: SecondVerdict = "right") -> SecondPass:
    return SecondPass(verdict, "", MaskedScan(scan, 0, held_answer=False), "62", 50, 40)


def test_a_description_is_asked_again_with_its_numbers_moved() -> None:
    scan = "angle A reads 74. Two arcs. zweiundsechzig"
    asked = moved(PROBLEM, second(scan), seed=1)
    assert isinstance(asked, tuple)
    problem, other = asked
    assert problem == PROBLEM
    assert other.text.startswith("angle A reads ")
    assert other.text.endswith(". Two arcs. zweiundsechzig")
    assert not {"74", "62"} & set(other.text.replace(".", "").split())
    assert asked == moved(PROBLEM, second(scan), seed=1)
    assert asked != moved(PROBLEM, second(scan), seed=2)
    assert moved(replace(PROBLEM, answer="isosceles"), second("AB is 74"), seed=1) is None


def test_where_the_question_has_all_numbers_they_are_moved_in_both() -> None:
    stated = replace(PROBLEM, problem="<image>Angle A is 74, angle B is 44. Find angle C.")
    asked = moved(stated, second("74 is written at A. delta echo"), seed=1)
    assert isinstance(asked, tuple)
    problem, other = asked
    assert problem.problem.startswith("<image>Angle A is ")
    assert problem.problem.endswith(". Find angle C.")
    assert problem.answer == "62"
    new = other.text.split()[0]
    assert new not in ("74", "44")
    assert f"Angle A is {new}," in problem.problem
    # The choices that a pass without the image does not see are not there either.
    shown = replace(stated, problem=f"{stated.problem}\nA. 60\nB. 62", choices=("60", "62"))
    asked = moved(shown, second("A triangle."), seed=1)
    assert isinstance(asked, tuple)
    assert "62" not in asked[0].problem
    assert asked[1].text == "A triangle."


@pytest.mark.parametrize(
    ("facts", "others", "is_leak"),
    [
        (["angle A reads 74"], None, True),
        (["AB = BC", "BC = CA"], None, False),  # an equilateral triangle says it without a number
        ([], None, True),
        ([], ["<scan>Three equal sides.</scan>", "none"], False),
        ([], ["<scan>Three equal sides.</scan>", "<scan>AB is 74.</scan>"], True),
    ],
)
def test_a_value_without_any_number_is_a_leak_where_the_figure_has_some(
    facts: list[str], others: list[str] | None, is_leak: bool
) -> None:
    problem = replace(PROBLEM, meta={"facts": facts})
    found = moved(problem, second("Two arcs and three sides. delta echo"), 1, others)
    assert isinstance(found, SecondPass) is is_leak
    if isinstance(found, SecondPass):
        assert found.verdict == "leak"


def test_an_answer_that_stays_when_the_numbers_move_is_a_leak() -> None:
    first = second("angle A reads 74. zweiundsechzig")
    stays = after_moving(first, second("angle A reads 71. zweiundsechzig"), last=True)
    assert (stays.verdict, stays.prompt_tokens, stays.tokens) == ("leak", 100, 80)
    assert "stays" in stays.reason
    # Once, and it may be chance.
    once = after_moving(first, second("angle A reads 71. zweiundsechzig"), last=False)
    assert (once.verdict, once.tokens) == ("right", 80)
    goes = after_moving(once, second("angle A reads 51.", "wrong"), last=True)
    assert (goes.verdict, goes.scan, goes.tokens) == ("right", first.scan, 120)


def test_what_too_few_of_the_group_name_is_not_read() -> None:
    scans = ["A is 74, B is 44", "A is 74, B is 44, C is 62", "A is 74, B is 41", "no number"]
    responses = [f"<scan>{scan}</scan><think>t</think><answer>6</answer>" for scan in scans]
    one = [{int(n) for n in numbers} for numbers in named_by_others(responses, 1)]
    assert one == [{74, 44, 62, 41}, {74, 44, 41}, {74, 44, 62}, {74, 44, 62, 41}]
    assert {int(n) for n in named_by_others(responses, 2)[0]} == {74}
    reader = open_reader(VISION_SR1, load_processor(VISION_SR1.model.name))
    assert reader is not None
    unknown = replace(PROBLEM, meta={})
    seen = reader.look(
        unknown, responses[2], opens_think=False, named=named_by_others(responses, 1)[2]
    )
    assert isinstance(seen, MaskedScan)
    assert seen.text == f"A is 74, B is {MASK}"
