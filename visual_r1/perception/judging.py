"""One response: did it read the figure rightly, and did it conclude rightly from what it read?

Two questions, each with its own evidence:

    read       the values that the response states are those of the figure (`readings`);
    reasoned   the answer that follows from the values that it states, by the rule of the problem's
               family, is the one that it gave.

So a wrong sum of numbers that were read rightly is a mistake of reasoning, and the right sum of a
number that was misread is one of seeing. Where a reading is ambiguous, it counts as told where all
that it may be says the same, or else where those that lead to its answer do. A calculation that
leads to its answer and is done with another number than the response states leaves nothing else to
tell by.

A value that was read rightly and called by another name ("angle E reads 84, angle F reads 38" of
E 38 and F 84) changes nothing where the rule gives the same; it is counted apart.

Where the facts of a figure are not known, the passes stand in for them: an answer that is wrong
with the image and right from its own description alone was read rightly, and one that is right with
the image is right. One that is wrong both times may have been misread or not: that cannot be told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast, get_args

from visual_r1.data import procedural
from visual_r1.data.problem import Problem
from visual_r1.grading import Rounding, Verdict, is_equivalent
from visual_r1.perception.readings import MOST_OPTIONS, read_values
from visual_r1.rewards.blindfold.targets import numeric

Kind = Literal["right", "lucky", "misread", "misreasoned", "both", "form", "untold"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEANINGS: Mapping[Kind, str] = {
    "right": "right",
    "lucky": "right by luck: the figure was misread",
    "misreasoned": "read rightly, reasoned wrongly",
    "misread": "misread, then reasoned rightly",
    "both": "misread, and reasoned wrongly",
    "form": "no answer that can be compared",
    "untold": "wrong, and it cannot be told why",
}
"""The kinds in the order in which they are shown, from what is right to what nobody can tell."""

Rule = Callable[[Sequence[Fraction]], Fraction]
Basis = Literal["facts", "passes", "none"]


@dataclass(frozen=True, slots=True)
class Given:
    """What a policy answered: the response, the answer found in it, and its verdict.

    `scan_only` is whether the answer from its description alone is right, None where nobody asked.
    """

    response: str
    extracted: str | None
    verdict: Verdict
    truncated: bool = False
    scan_only: bool | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one response.

    `read` and `reasoned` are None where it cannot be told; `stated` are the values that it read, by
    name, and `follows` the answer that follows from them, empty where that is not clear. `renamed`
    says that all values are right and stand at other names. `why` says in words what a form lacked,
    or why nothing can be told.
    """

    kind: Kind
    basis: Basis
    read: bool | None = None
    reasoned: bool | None = None
    renamed: bool = False
    stated: Mapping[str, str] | None = None
    follows: str = ""
    why: str = ""


def judge(problem: Problem, given: Given, rounding: Rounding = "exact") -> Judgement:
    """What became of the response to `problem`, of which no picture is looked at."""
    right = given.verdict == "right"
    values = _values_of(problem)
    rule = _rule_of(problem, values)
    number = None if given.extracted is None else numeric(given.extracted)
    if not right and (form := _fault_of_form(given, number, problem.answer)):
        return Judgement("form", "none" if rule is None else "facts", why=form)
    if rule is None:
        return _by_passes(given)
    answer = number if isinstance(number, Fraction) else None
    reading = read_values(given.response, problem.question, values, answer)
    found, others = (
        [
            _concluded(values, option, rule, given, rounding, strange=reading.strange)
            for option in options
        ]
        for options in (reading.options, reading.others)
    )
    # What leads to its answer, for it went by that; else all that it may be; else the likeliest.
    leading = [one for one in found if one.reasoned] or [one for one in others if one.reasoned]
    unsure = reading.contradictory or reading.otherwise
    # Of a response that repeats itself not all are there, and what is not may say otherwise.
    is_cut = reading.contradictory and len(found) == MOST_OPTIONS
    everything = [] if reading.otherwise or is_cut else found
    for among in (leading, everything, [] if unsure else found[:1]):
        if among and len({(one.read, one.reasoned) for one in among}) == 1:
            return among[0]
    why = "it does not state every value"
    if found:
        why = "it states a value twice, and differently"
        if reading.otherwise:
            why = "it calculates with another value than it states"
    return Judgement("right" if right else "untold", "facts", why=why)


def _values_of(problem: Problem) -> dict[str, Fraction]:
    """The numbers of the figure by their names; empty where the dataset does not know them."""
    there = problem.meta.get("values")
    if not isinstance(there, Mapping) or not there:
        return {}
    known = cast("Mapping[str, object]", there)
    if not all(isinstance(value, int) for value in known.values()):
        return {}
    return {str(name): Fraction(cast(int, value)) for name, value in known.items()}


def _rule_of(problem: Problem, values: Mapping[str, Fraction]) -> Rule | None:
    """The rule of the problem's family; None where no answer, or another one, follows by it: other
    datasets may have a family of that name."""
    rule = procedural.rule_of(problem.family) if values else None
    if rule is None:
        return None
    try:
        follows = rule(list(values.values()))
    except IndexError:
        return None
    return rule if is_equivalent(problem.answer, str(follows)) else None


def _fault_of_form(given: Given, number: object, gold: str) -> str:
    """Why there is nothing to compare with the gold answer; empty where there is."""
    if given.verdict == "gave_up":
        return "the grader gave up"
    if given.extracted is None:
        if given.truncated:
            return "cut off before an answer"
        tagged = "<answer>" in given.response or "\\boxed" in given.response
        return "its answer is not where it should be" if tagged else "no answer"
    if number is None and numeric(gold) is not None and not _has_digit(given.extracted):
        return "its answer is no number"
    return ""


def _has_digit(text: str) -> bool:
    return any(character.isdecimal() for character in text)


def _concluded(
    values: Mapping[str, Fraction],
    option: Mapping[str, Fraction],
    rule: Rule,
    given: Given,
    rounding: Rounding,
    *,
    strange: bool,
) -> Judgement:
    """The judgement of one reading; `strange` says that a value stands at a name of none."""
    follows = rule(list(option.values()))
    same_numbers = sorted(option.values()) == sorted(values.values())
    read = same_numbers and follows == rule(list(values.values()))
    reasoned = given.extracted is not None and is_equivalent(
        given.extracted, str(follows), rounding
    )
    if given.verdict == "right":
        kind: Kind = "right" if read else "lucky"
    elif read:
        kind = "form" if reasoned else "misreasoned"
    else:
        kind = "misread" if reasoned else "both"
    return Judgement(
        kind,
        "facts",
        read,
        reasoned,
        renamed=read and (strange or option != values),
        stated={name: str(value) for name, value in option.items()},
        follows=str(follows),
        why="its answer is right in another form" if kind == "form" else "",
    )


def _by_passes(given: Given) -> Judgement:
    """The judgement where nobody knows the figure's facts."""
    if given.verdict == "right":
        return Judgement("right", "none" if given.scan_only is None else "passes")
    if given.scan_only is None:
        return Judgement("untold", "none", why="neither facts nor a pass from the description")
    if given.scan_only:
        return Judgement("misreasoned", "passes", read=True, reasoned=False)
    return Judgement("untold", "passes", why="wrong from the picture and from the description")
