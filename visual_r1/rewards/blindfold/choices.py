"""Multiple choice without the image: what is read, and what a letter would give away.

    a value         (`B. 62`) is asked for without its choices, so that neither a guess nor a letter
                    leads to it (`unaided`)
    words           (`B. isosceles`) stay, in an order drawn for each second pass: a letter or a
                    place that a scan passes on is then that of any choice (`order_of`, `in_order`)
    what cannot be  moved keeps its letter, and that gives it away: choices in the picture, and
                    "none of the above". There a scan keeps the letters by which it goes through
                    all of the choices, and no other (`letters_tell`, `labels.letters_told`); what
                    calls the right one in another way is masked too (`called_choices`)

Where choices are moved or not seen, letters in a scan are its own: the points A to D of a figure.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from visual_r1.data.choices import (
    choices_of,
    in_another_order,
    only_letters,
    shown_choices,
    without_choices,
)
from visual_r1.data.problem import Problem
from visual_r1.grading import choice_named
from visual_r1.rewards.blindfold.targets import is_value

# Said of the choices before it, so it stays where it is.
_OF_THE_OTHERS = re.compile(
    r"\b(?:of|the)\s+(?:the\s+)?(?:above|preceding|previous|foregoing|following|below)\b"
    r"|\babove\s+(?:choices|options|answers|statements)\b",
    re.IGNORECASE,
)
# What a choice is made of that speaks of others by their letters alone, `both A and B`.
_BESIDE_LETTERS = frozenset(
    ("both", "either", "neither", "only", "and", "or", "nor", "option", "options", "choice",
     "choices", "answer", "answers", "statement", "statements")
)  # fmt: skip


def with_its_choices(problem: Problem) -> Problem:
    """The problem with the choices that it lists itself, where it is stored without any, and its
    answer by their letters: so an answer is graded, whichever view of it was shown."""
    choices = choices_of(problem)
    if problem.choices or not choices:
        return problem
    place = place_named(problem.answer, choices)
    answer = problem.answer if place is None else ascii_uppercase[place]
    return replace(problem, choices=choices, answer=answer)


def unaided(problem: Problem) -> Problem:
    """The problem as a pass without the image may read it: without choices to choose from.

    A number among four is guessed one time in four, and a scan would have to tell no more than
    which of them. Choices in words stay, for nobody would hit on the same words, and so do letters
    whose choices are in the picture.
    """
    problem = with_its_choices(problem)
    choices = problem.choices
    answer = problem.answer
    place = place_named(answer, choices)
    if place is not None:
        answer = choices[place]
    question = without_choices(problem.problem, choices)
    if question == problem.problem or not is_value(answer):
        return problem
    return replace(problem, problem=question, answer=answer, choices=())


def order_of(problem: Problem, seed: int) -> str:
    """An order for the choices that `problem` shows, drawn from `seed`: `CAB` is the third, then
    the first and the second. Empty where they cannot be moved.

    Each order is as likely as any other, the one that is there among them: only then does the place
    of a choice say nothing.
    """
    choices = choices_of(problem)
    moves = _that_move(choices)
    order = list(range(len(choices)))
    drawn = random.Random(seed).sample(moves, len(moves))
    for place, choice in zip(moves, drawn, strict=True):
        order[place] = choice
    if not moves or in_another_order(problem.problem, choices, order) is None:
        return ""
    return "".join(ascii_uppercase[choice] for choice in order)


def in_order(problem: Problem, order: str) -> Problem:
    """`problem` with its choices in an order of `order_of`, and the gold answer by its letter there
    where it is one; in its own order where that is empty."""
    problem = with_its_choices(problem)
    choices = problem.choices
    places = [ascii_uppercase.index(letter) for letter in order]
    if sorted(places) != list(range(len(choices))):
        return problem
    text = in_another_order(problem.problem, choices, places)
    if text is None:
        return problem
    named = place_named(problem.answer, choices)
    answer = problem.answer if named is None else ascii_uppercase[places.index(named)]
    moved = tuple(choices[place] for place in places)
    return replace(problem, problem=text, answer=answer, choices=moved)


def choices_asked(problem: Problem) -> tuple[str, ...]:
    """The choices that whoever answers `problem` knows of: those that it shows, or that the picture
    does, where a letter is the answer; none where they are kept and not shown."""
    return tuple(shown_choices(replace(problem, choices=choices_of(problem))))


def letters_tell(problem: Problem) -> bool:
    """Whether the gold answer's letter, passed on by a scan, would lead its reader to the answer:
    the second pass sees choices, and the right one stands where it stood."""
    shown = unaided(problem)
    choices = choices_asked(shown)
    if not choices:
        return False
    order = list(range(len(choices)))
    moves = _that_move(choices)
    place = place_named(shown.answer, choices)
    if place is None and shown.answer in choices:
        place = choices.index(shown.answer)
    return place not in moves or in_another_order(shown.problem, choices, order) is None


def place_named(answer: str, choices: Sequence[str]) -> int | None:
    """The place among `choices` that a letter alone names, be it a small one; else None."""
    place = choice_named(answer, choices)
    if place is None:
        place = choice_named(answer.upper(), choices) if len(answer.strip("(). ")) == 1 else None
    return place if place is not None and place < len(choices) else None


def _that_move(choices: Sequence[str]) -> list[int]:
    """The places of the choices that may stand anywhere: none where one of them speaks of others by
    their letters, and never just one."""
    if only_letters(choices):
        return []
    speaking = [_is_of_letters(choice, len(choices)) for choice in choices]
    if any(speaking) and not all(speaking):
        return []
    moves = [at for at, text in enumerate(choices) if not _OF_THE_OTHERS.search(text)]
    return moves if len(moves) > 1 else []


def _is_of_letters(choice: str, count: int) -> bool:
    """Whether a choice is nothing but letters of `count` choices: `both A and (B)`, `A, C only`."""
    words = choice.translate(_APART_FROM_LETTERS).split()
    letters = [word for word in words if len(word) == 1]
    return (
        bool(letters)
        and all(letter.upper() in ascii_uppercase[:count] for letter in letters)
        and all(word.lower() in _BESIDE_LETTERS for word in words if len(word) > 1)
    )


_APART_FROM_LETTERS = str.maketrans(dict.fromkeys(".,()&", " "))
