"""Responses held against the template that asks for them, and the gold answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.errors import ConfigError
from visual_r1.policy.policy import open_policy
from visual_r1.sft.responses import Look, Responses, Tally
from visual_r1.sft.settings import supervised

[DRAWN] = generate(0, "train", 1)
SOLUTION = DRAWN.meta["solution"]
GOOD = f"<think>{SOLUTION}</think><answer>{DRAWN.answer}</answer>"


def responses(
    column: str = "response", template: str = "think", *, in_tags: bool = True
) -> Responses:
    config = RunConfig.model_validate({"preset": "quickstart", "prompt": {"template": template}})
    return Responses(open_policy(config), column, in_tags=in_tags)


def with_response(response: object) -> Problem:
    return replace(DRAWN, source="solved", meta={"response": response})


@pytest.mark.parametrize(
    ("response", "look"),
    [
        (GOOD, Look()),
        (GOOD.replace(DRAWN.answer, "1"), Look(another=True)),
        ("<think>I cannot see.</think><answer>1</answer>", Look(another=True)),
        (SOLUTION, Look(formed=False, answered=False)),
        (GOOD.removesuffix("</answer>"), Look(formed=False, answered=False)),
        (f"\\boxed{{{DRAWN.answer}}}", Look(formed=False)),
    ],
)
def test_a_response_is_held_against_template_and_gold(response: str, look: Look) -> None:
    assert responses().look(with_response(response)) == look


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("think", GOOD),
        ("scan_think", f"<scan>{' '.join(f'{one}.' for one in DRAWN.meta['facts'])}</scan>{GOOD}"),
        ("own_thought", SOLUTION),  # no place for the working: bare, and refused for its form
    ],
)
def test_a_worked_solution_is_learnt_in_the_tags_of_the_template(
    template: str, wanted: str
) -> None:
    solutions = responses("meta.solution", template)
    assert solutions.text(DRAWN) == wanted
    assert solutions.look(DRAWN).formed == (wanted != SOLUTION)
    bare = responses("meta.solution", template, in_tags=False)
    assert bare.text(DRAWN) == SOLUTION
    # What is another's is not ours to change.
    assert solutions.text(replace(DRAWN, source="solved")) == SOLUTION


def test_a_template_of_other_tags_gets_no_solution_of_ours(tmp_path: Path) -> None:
    template = tmp_path / "plan.txt"
    template.write_text("[user]\n{{ problem }}\n\n[format]\nplan think answer\n")
    solutions = responses("meta.solution", str(template))
    assert solutions.text(DRAWN) == SOLUTION
    assert solutions.form == "<plan>…</plan><think>…</think><answer>…</answer>"


def test_where_the_prompt_opens_the_thought_the_tags_are_counted_from_there(
    tmp_path: Path,
) -> None:
    template = tmp_path / "open.txt"
    template.write_text(
        "[user]\n{{ problem }}\nAnswer inside <answer> </answer>.\n\n[assistant]\n<think>\n"
    )
    solutions = responses("meta.solution", str(template))
    assert solutions.text(DRAWN) == GOOD.removeprefix("<think>")
    assert solutions.look(DRAWN) == Look()


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (None, "has no response"),
        ("  ", "has no response"),
        (7, "is a number (7) and no text"),
        (True, "is true or false and no text"),
        ([{"role": "assistant", "content": GOOD}], "is a chat of messages and no text"),
        ({"role": "assistant", "content": GOOD}, "is a chat of messages and no text"),
        ([GOOD], "is a list and no text"),
        ({"text": GOOD}, "is a record and no text"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(stored: object, says: str) -> None:
    assert says in responses().fault(with_response(stored))


def test_a_tally_says_what_there_is_to_say() -> None:
    tally = Tally()
    tally.add("a", Look())
    assert not tally.in_words("<answer>…</answer>")
    for id in "bc":
        tally.add(id, Look(formed=False, answered=False))
    tally.add("d", Look(another=True))
    assert tally.in_words("<answer>…</answer>") == (
        "of 4 responses 2 have not the form <answer>…</answer> of the prompt template ('b' first), "
        "2 have no answer that the grader finds ('b' first) and 1 has another answer than the gold "
        "one ('d' first)"
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"curriculum": {"rule": "contrast"}}, "set curriculum.rule to none"),
        ({"algorithm": {"kl_coefficient": 0.1}}, "algorithm.kl_coefficient"),
        ({"algorithm": {"max_staleness": 1}}, "samples nothing"),
    ],
)
def test_a_run_that_becomes_a_supervised_one_by_its_flow_must_make_sense_as_one(
    settings: dict[str, Any], says: str
) -> None:
    given = {"preset": "quickstart", "data": {"source": "solved"}, **settings}
    with pytest.raises(ConfigError, match=says):
        supervised(RunConfig.model_validate(given))
