"""Multiple choice without the image: what is read, and what a letter would give away.

    a value         (`B. 62`) is asked for without its choices, so that neither a guess nor a letter
                    leads to it (`unaided`)
    words           (`B. isosceles`) stay, in an order drawn for each second pass: a letter or a
                    place that a scan passes on is then that of any choice (`order_of`, `in_order`)
    what cannot be  moved keeps its letter, and that gives it away: choices in the picture, and
                    "none of the above". Where a scan calls it by letter or place, that is masked
                    (`letters_tell`, `called_choices`)

Where choices are moved or not seen, letters in a scan are its own: the points A to D of a figure.
"""

import random
import re
from collections.abc import Iterator, Sequence
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
from visual_r1.rewards.blindfold.levelling import levelled
from visual_r1.rewards.blindfold.roman import roman_value
from visual_r1.rewards.blindfold.targets import Span, is_value

_ORDINALS = (
    "first|1st", "second|2nd", "third|3rd", "fourth|4th", "fifth|5th", "sixth|6th", "seventh|7th",
    "eighth|8th", "ninth|9th", "tenth|10th",
)  # fmt: skip
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Said of the choices before it, so it stays where it is.
_OF_THE_OTHERS = re.compile(
    r"\b(?:of|the)\s+(?:the\s+)?(?:above|preceding|previous|foregoing|following|below)\b"
    r"|\babove\s+(?:choices|options|answers|statements)\b",
    re.IGNORECASE,
)
# Words of a clause that by itself says nothing but which of the choices is meant.
_SAYS_NOTHING = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those them it its is be of for in at on to and my our your "
        "here so see look now note hint key one ones choice choices option options answer "
        "answers letter letters label labelled labeled labels figure figures fig picture "
        "pictures pic image images diagram diagrams panel drawing graph case item number no "
        "nr place position pick choose select take chosen selected picked correct right best "
        "wanted circled marked ticked namely would must i we you go with",
    )
)
_BESIDE = frozenset(
    ("after", "before", "behind", "following", "preceding", "next", "previous", "between")
)
_CLAUSES = re.compile(r"[^.;!?\n]+")
_WORDS = re.compile(r"[^\W\d_]+|\d+(?:st|nd|rd|th)?")


def unaided(problem: Problem) -> Problem:
    """The problem as a pass without the image may read it: without choices to choose from.

    A number among four is guessed one time in four, and a scan would have to tell no more than
    which of them. Choices in words stay, for nobody would hit on the same words, and so do letters
    whose choices are in the picture.
    """
    choices = choices_of(problem)
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
    where it is one; as it is where that is empty."""
    choices = choices_of(problem)
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
    letters = ascii_uppercase[: len(choices)]
    of_letters = re.compile(
        rf"(?:(?:both|either|neither|only|options?|choices?|answers?|statements?)\s+)*\(?[{letters}]\)?"
        rf"(?:(?:\s*,\s*|\s+)(?:and|or|nor|&)?\s*\(?[{letters}]\)?)*(?:\s+only)?\.?",
        re.IGNORECASE,
    )
    speaking = [of_letters.fullmatch(choice.strip()) is not None for choice in choices]
    if any(speaking) and not all(speaking):
        return []
    moves = [at for at, text in enumerate(choices) if not _OF_THE_OTHERS.search(text)]
    return moves if len(moves) > 1 else []


def called_choices(scan: str, letters: Sequence[str], count: int) -> Iterator[Span]:
    """Where a scan calls one of `letters`, of `count` choices: `option B`, `(B)`, `B)`, `the second
    choice`, `B is correct`, or in a clause that says nothing else (`_alone`).

    `(B)` is a label like others where the scan has as many of each letter's.
    """
    labels = [
        len(re.findall(rf"(?<!\w)\(?\s*{letter}\s*\)", scan, re.IGNORECASE))
        for letter in ascii_uppercase[:count]
    ]
    is_list = len(labels) > 1 and len(set(labels)) == 1
    for letter in sorted(letters):
        place = ascii_uppercase.index(letter)
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f"{place + 1}th"
        labelled = rf"(?i:\(\s*{letter}\s*\))|(?i:(?<![\w(]){letter}\))|"
        called = (
            ("" if is_list else labelled)
            + rf"(?i:\b(?:option|choice|answer|letter|pick|choose|select)\s*(?:is\s*)?[:=]?\s*"
            rf"(?:number\s*)?)\(?(?:{letter}|{letter.lower()}|{place + 1})\b"
            rf"|(?i:\b(?:{ordinal})\s+(?:option|choice|answer)\b)"
            rf"|\b{letter}(?=\s+is\s+(?:the\s+)?(?:correct|right)\b(?!\s+(?:of|angle|triangle)))"
        )
        for found in re.finditer(called, scan):
            yield found.span()
    yield from _alone(scan, {ascii_uppercase.index(letter) for letter in letters}, count)


def _alone(scan: str, wanted: set[int], count: int) -> Iterator[Span]:
    """The clauses that say no more than which of the choices is meant, and mean one of `wanted`:
    `Label: B.`, `Figure b`, `The second of these`, `Ⓑ`, `II`, `the one after A`.

    A heading, `Figure B:` with more below, describes what comes.
    """
    level, places = levelled(scan)
    for clause in _CLAUSES.finditer(level):
        words = _WORDS.findall(clause[0])
        said = [word for word in words if word.lower() not in _SAYS_NOTHING | _BESIDE]
        if not said and words and words[-1].lower() in ("a", "i"):
            said = words[-1:]  # no article and no pronoun, with nothing behind it
        meant = [_places_meant(word, count) for word in said]
        is_heading = clause[0].rstrip().endswith(":") and level[clause.end() :].strip() != ""
        if not meant or is_heading or not all(meant):
            continue
        beside = any(word.lower() in _BESIDE for word in words)
        if not beside and not (wanted & meant[0].intersection(*meant[1:])):
            continue
        inner = clause[0].strip()
        start = clause.start() + clause[0].index(inner)
        yield places[start][0], places[start + len(inner) - 1][1]


def _places_meant(word: str, count: int) -> set[int]:
    """Which choices a word by itself may mean, of so many."""
    plain = word.lower()
    found = {roman_value(plain.upper()) - 1}
    if len(plain) == 1 and plain.isascii() and plain.isalpha():
        found.add(ascii_uppercase.index(plain.upper()))
    if plain.isdigit() and len(plain) <= len(str(count)):
        found.add(int(plain) - 1)
    if plain in _NUMBERS:
        found.add(_NUMBERS.index(plain))
    found |= {at for at, ordinal in enumerate(_ORDINALS) if plain in ordinal.split("|")}
    if plain == "last":
        found.add(count - 1)
    return {place for place in found if 0 <= place < count}
