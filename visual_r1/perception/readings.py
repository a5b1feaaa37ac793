"""Which values of a figure a response says that it read.

The response is prose of whatever model, so nothing is asked of its wording. What it says is taken
apart into clauses, and in a clause each number that is stated, and no part of a calculation, goes
to the name that it stands at:

    angle A reads 74, angle B reads 44      m\\angle ABC = 74^\\circ      A: 74°
    74° at A and 44° at B                   angles A and B are 74° and 44°
    the segment from A to C is 74 long      **width** | 74

A name is one of those that the figure's values have (`A`, `AB` and `BA`, `left`), or three letters
whose middle one is; the name that the question asks for is none. Where numbers stand at no such
name ("the upper angle is 74", "angle L reads 74", "180 - 74 - 44 = 62"), they are taken for the
values that are still open: first those at other names, then those stated or calculated with that
no calculation has led to, in their order. Of 1, 2, 90, 180 and 360 everybody knows what they
do in one: they are none.

Where a value is stated twice and differently, and where more numbers are there than values are
open, the reading is ambiguous: `Reading.options` holds all that it may be.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, permutations, product

from visual_r1.rewards.blindfold.scan_text import Lexeme, lexemes, math_of
from visual_r1.rewards.blindfold.stated import counts, singular
from visual_r1.rewards.blindfold.targets import numeric
from visual_r1.rewards.grounding import is_figure_word, is_place

MOST_OPTIONS = 64
# Longer than any thought that states a figure's values; of a longer one this much is looked at.
MOST_CHARACTERS = 20_000

_WELL_KNOWN = frozenset(map(Fraction, (1, 2, 90, 180, 360)))
_MOST_COUNTED = 12
_SEGMENT, _ANGLE = 2, 3  # letters of a name
_UNKNOWN = "x"
_ANSWERS = re.compile(r"<answer>.*?(?:</answer>|\Z)|\\boxed\s*\{(?:[^{}]|\{[^{}]*\})*\}", re.DOTALL)
_TAG = re.compile(r"</?[a-z_]+>")
_EMPHASIS = re.compile(r"\*\*|__")
_ENDS_A_CLAUSE = frozenset(".;!?")
# What may stand between a number and the sign that it is calculated with.
_AROUND = frozenset(("after", "silent", "open", "close"))
# What follows such a word was worked out, or is to be.
_WORKED_OUT = re.compile(
    r"sums?|differences?|products?|half|twice|doubled?|supplement\w*|complement\w*|combined"
    r"|together|perimeter",
    re.IGNORECASE,
)
# So does what follows these, unless it is said of a value by its name.
_CONCLUDES = re.compile(r"remain\w*|rest|answer|therefore|hence|so", re.IGNORECASE)
# Who says so takes back what was stated before.
_CORRECTS = re.compile(r"wait|actually|again|correction|no|sorry|oops|rather", re.IGNORECASE)
_OF_A_TOTAL = frozenset(("of", "is", "=", ":", "equals"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a response says of a figure's values.

    `options` are the readings that it admits, each with every value by its name, the likeliest
    first; none where a value is nowhere stated. `contradictory` says that a value is stated twice
    and differently, so that none is likelier; `strange` that one stands at a name of no value.
    """

    options: tuple[dict[str, Fraction], ...]
    contradictory: bool = False
    strange: bool = False


def read_values(
    response: str,
    question: str,
    values: Mapping[str, Fraction],
    answer: Fraction | None = None,
) -> Reading:
    """What `response` says of the figure that `question` is about, whose values are `values`.

    Their names tell what is spoken of, and one of 90 that it is no rule. `answer` is what was
    answered: where more numbers are there than values are open, it is none of them.
    """
    said = _Said(tuple(values), frozenset(values.values()), _asked_for(question, values))
    text = _TAG.sub(" \n ", _ANSWERS.sub(" \n ", response[:MOST_CHARACTERS]))
    for clause in _clauses(_EMPHASIS.sub(" ", text)):
        said.take(clause)
    return said.reading(answer)


def _asked_for(question: str, names: Collection[str]) -> frozenset[str]:
    """The names that the question asks for: those in it that no value has."""
    words = re.findall(r"\b(?:[A-Z]{1,3}|x)\b", question)
    return frozenset({_sorted(word) for word in words} - set(names)) | {_UNKNOWN}


def _sorted(name: str) -> str:
    """`BA` as `AB`: they are the same segment."""
    return "".join(sorted(name)) if len(name) == _SEGMENT else name


def _clauses(text: str) -> Iterator[list[Lexeme]]:
    """The tokens of `text` by clause: up to a full stop, a semicolon, a line's end."""
    clause: list[Lexeme] = []
    before = 0
    for token in lexemes(text):
        if clause and "\n" in text[before : token.start]:
            yield clause
            clause = []
        before = token.end
        if token.text in _ENDS_A_CLAUSE:
            yield clause
            clause = []
        else:
            clause.append(token)
    yield clause


@dataclass(frozen=True, slots=True)
class _Name:
    """A name in a clause. `role` is the value that it is of; None where it is a strange name, or
    with an empty `text` something that what follows is of, whatever it is called."""

    role: str | None
    text: str = ""


@dataclass
class _Said:
    """What was said so far: at the values' names, at strange names, at none, and worked out."""

    names: tuple[str, ...]
    values: frozenset[Fraction]
    asked: frozenset[str]
    named: dict[str, list[Fraction]] = field(default_factory=dict[str, list[Fraction]])
    strange: dict[str, list[Fraction]] = field(default_factory=dict[str, list[Fraction]])
    loose: list[Fraction] = field(default_factory=list[Fraction])
    last: str | None = None
    results: set[Fraction] = field(default_factory=set[Fraction])

    def take(self, clause: Sequence[Lexeme]) -> None:
        """What one clause states, and what it calculates."""
        stated, calculated = self._stated(clause)
        corrects = any(_CORRECTS.fullmatch(token.text) for token in clause)
        if self.last and len(stated) == 1 and any(one.text.lower() == "it" for one in clause):
            stated = [_Name(self.last, self.last), *stated]
        loose = dict[Fraction, int]()
        for name, number in _attributed(stated):
            if name is None:
                loose[number] = 1
            elif name.role is not None:
                self.last = name.role
                if corrects:
                    self.named.pop(name.role, None)
                _append(self.named.setdefault(name.role, []), number)
            elif name.text and name.text not in self.asked:
                _append(self.strange.setdefault(name.text, []), number)
        for number, times in (*loose.items(), *calculated.items()):
            self.loose += [number] * (times - self.loose.count(number))
        self.results.update(_worked_out(clause))

    def _stated(self, clause: Sequence[Lexeme]) -> tuple[list[_Name | Fraction], Counter[Fraction]]:
        """The names and stated numbers of a clause in their order, and what it calculates with."""
        stated, calculated = list[_Name | Fraction](), Counter[Fraction]()
        counted = {token.start for token in counts(clause)}
        worked_out = concludes = number_came = False
        for place, token in enumerate(clause):
            number = token.number
            if number is None:
                if _begins_a_result(clause, place):
                    worked_out, number_came = True, False
                elif _CONCLUDES.fullmatch(token.text):
                    concludes = True
                elif token.text == "," and number_came:
                    worked_out = False
                elif (name := self._name(clause, place)) is not None:
                    if name.role is not None:
                        concludes = False
                    elif _is_in_a_list(clause, place, stated):
                        continue
                    stated.append(name)
            elif token.start in counted or _is_a_label(clause, place):
                continue
            elif _is_calculated_with(clause, place):
                # What a calculation before has led to is nothing that was read.
                calculated[number] += number not in self.results
            elif worked_out or concludes or _is_result(clause, place) or number in self.results:
                number_came = True
                self.results.add(number)
                stated.append(_Name(None))
            else:
                stated.append(number)
        return stated, calculated

    def _name(self, clause: Sequence[Lexeme], place: int) -> _Name | None:
        """The name that the token at `place` is, if it is one."""
        word = clause[place].text
        letters = max(map(len, self.names))
        if word.lower() in self.names and not word.isupper():
            return _Name(word.lower(), word)
        before = clause[place - 1].text.lower().removeprefix("\\") if place else ""
        if word.islower() and len(word) <= _SEGMENT and _is_thing(before):
            word = word.upper() if _sorted(word.upper()) in self.names else word  # `angle a`
        if letters > _ANGLE and is_place(word.lower()):
            return _Name(None, word.lower())
        if word == _UNKNOWN:
            return None if _is_a_product(clause, place) else _Name(None, word)
        if not (word.isascii() and word.isalpha() and word.isupper() and len(word) <= _ANGLE):
            return None
        if (word == "A" and place == 0 and _is_an_article(clause)) or word == "I":
            return None
        if letters > _ANGLE and not _is_thing(before):
            return None  # the P of a formula, where the values have words for names
        if len(word) == 1 and letters == _SEGMENT:
            first = clause[place - 2].text if place > 1 and before in ("to", "and") else ""
            if not (len(first) == 1 and first.isupper()):
                return None
            word = first + word  # `from A to C` is the segment AC
        elif len(word) == _SEGMENT and letters == 1:
            return None  # a side, where the values are of points
        elif len(word) == _ANGLE:
            if singular(before) not in ("angle", "∠", "measuredangle", "m"):
                return None  # `triangle ABC`, `NOT`
            word = word[1] if letters == 1 else word
        name = _sorted(word)
        return _Name(name if name in self.names else None, name)

    def reading(self, answer: Fraction | None) -> Reading:
        """All that it may mean."""
        named = {name: self.named[name][::-1] for name in self.names if name in self.named}
        missing = [name for name in self.names if name not in named]
        there = {number for numbers in named.values() for number in numbers}
        open_to = _without(answer, [numbers[-1] for numbers in self.strange.values()], missing)
        if len(open_to) < len(missing):
            known = _WELL_KNOWN - self.values | there | set(open_to)
            loose = [number for number in self.loose if number not in known]
            open_to = _without(answer, open_to + loose, missing)
        found = list[dict[str, Fraction]]()
        for chosen in product(*named.values()):
            for more in islice(permutations(open_to, len(missing)), MOST_OPTIONS):
                said = dict(zip((*named, *missing), (*chosen, *more), strict=True))
                option = {name: said[name] for name in self.names}
                if option not in found:
                    found.append(option)
        contradictory = any(len(numbers) > 1 for numbers in named.values())
        strange = bool(missing and self.strange)
        return Reading(tuple(found[:MOST_OPTIONS]), contradictory, strange)


def _append(numbers: list[Fraction], number: Fraction) -> None:
    if number not in numbers:
        numbers.append(number)


def _without(
    answer: Fraction | None, numbers: list[Fraction], missing: Sequence[str]
) -> list[Fraction]:
    """`numbers` without the answer, where there are more than are missing."""
    rest = [number for number in numbers if number != answer]
    return rest if len(numbers) > len(missing) <= len(rest) else numbers


def _attributed(stated: Sequence[_Name | Fraction]) -> Iterator[tuple[_Name | None, Fraction]]:
    """Each number of a clause with the name that it stands at, None where there is none.

    In `74 at A and 44 at B` a number comes first and a name last, and each goes to the name behind
    it; else to the one before it. As many names in a row as numbers in a row (`A and B are 74 and
    44`) go along.
    """
    numbers_first = (
        bool(stated) and isinstance(stated[0], Fraction) and isinstance(stated[-1], _Name)
    )
    names, numbers = list[_Name](), list[Fraction]()
    groups = [(names, numbers)]
    if numbers_first:  # what came of a calculation bars the way to a name before it alone
        stated = [one for one in reversed(stated) if one != _Name(None)]
    for one in stated:
        if isinstance(one, Fraction):
            numbers.append(one)
            continue
        if numbers:
            names, numbers = list[_Name](), list[Fraction]()
            groups.append((names, numbers))
        names.append(one)
    for names, numbers in groups:
        if len(names) == len(numbers):
            yield from zip(names, numbers, strict=True)
        elif names and numbers:
            # `the angles at A and B are both 74`, or of several the nearest.
            yield names[-1], numbers[0]
            yield from ((None, number) for number in numbers[1:])
        else:
            yield from ((None, number) for number in numbers)


def _is_in_a_list(clause: Sequence[Lexeme], place: int, stated: Sequence[_Name | Fraction]) -> bool:
    """Whether the unknown stands among numbers: `68, x and 97`."""
    following = clause[place + 1].text if place + 1 < len(clause) else ""
    return following in (",", "and") and bool(stated) and isinstance(stated[-1], Fraction)


def _is_a_label(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether a small number counts or numbers something: `two known angles`, `Step 1:`, `1)`."""
    number = clause[place].number
    if number is None or number > _MOST_COUNTED:
        return False
    following = clause[place + 1].text if place + 1 < len(clause) else ""
    alone = place == 0 and (len(clause) == 1 or following == ")")
    return clause[place].text.isalpha() or following == ":" or alone


def _begins_a_result(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether what follows the word at `place` was worked out: `the sum is 118`."""
    word = clause[place].text
    if word.lower() == "total":
        following = clause[place + 1].text.lower() if place + 1 < len(clause) else ""
        return following in _OF_A_TOTAL
    return _WORKED_OUT.fullmatch(word) is not None


def _is_an_article(clause: Sequence[Lexeme]) -> bool:
    """Whether the A that a clause begins with is no point: `A line`, and not `A is 74`."""
    if len(clause) == 1:
        return True
    following = clause[1]
    is_verb = following.text.isalpha() and following.text.endswith("s")
    is_word = following.text.isalpha() or following.role == "value"
    return is_word and not is_verb and following.role != "equals" and following.text != "and"


def _is_a_product(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether an x is the sign between two numbers."""
    sides = (_beside(clause, place, -1), _beside(clause, place, 1))
    return all(at is not None and clause[at].role == "value" for at in sides)


def _beside(clause: Sequence[Lexeme], place: int, step: int) -> int | None:
    """The place of the next token on a side that is no bracket, unit or layout."""
    place += step
    while 0 <= place < len(clause):
        if clause[place].role not in _AROUND:
            return place
        place += step
    return None


def _is_operand(clause: Sequence[Lexeme], place: int | None) -> bool:
    """Whether the token at `place` is, or begins, something that is calculated with."""
    if place is None:
        return False
    token = clause[place]
    text = token.text.removeprefix("\\")
    is_letter = len(text) == 1 and text.isalpha()
    return token.role in ("value", "function") or is_letter or text.isupper() or _is_thing(text)


def _is_thing(text: str) -> bool:
    return is_figure_word(text.lower()) or text == "∠"


def _is_calculated_with(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether a sign joins the number at `place` to something else.

    The dash of `A - 74` is none, where nothing else is calculated with: there 74 is stated.
    """
    if _multiplies(clause, place):
        return True
    after = _beside(clause, place, 1)
    if after is not None and clause[after].role == "operator":
        return _is_operand(clause, _beside(clause, after, 1))
    before = _beside(clause, place, -1)
    if before is None:
        return False
    if clause[before].role == "function":
        return True
    if clause[before].role == "value":  # the second part of a fraction
        before_that = _beside(clause, before, -1)
        return before_that is not None and clause[before_that].role == "function"
    other = _beside(clause, before, -1)
    if clause[before].role != "operator" or not _is_operand(clause, other):
        return False
    assert other is not None
    if clause[before].math != "-" or clause[other].role == "value":
        return True
    sign = _beside(clause, other, -1)
    return sign is not None and clause[sign].role == "operator"


def _multiplies(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether the number at `place` is a factor without a sign: the 2 of `2w`, all of `2(17)`."""
    following = clause[place + 1] if place + 1 < len(clause) else None
    if following is not None and following.start == clause[place].end:
        is_letter = len(following.text) == 1 and following.text.isalpha()
        if is_letter and following.role == "other":
            return True
        if following.text == "(":
            return place + 2 < len(clause) and clause[place + 2].role == "value"
    before = clause[place - 2 : place]
    return [one.role for one in before] == ["value", "open"] and before[0].end == before[1].start


def _is_result(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether the number at `place` is what a calculation before it is said to come to."""
    at = _beside(clause, place, -1)
    if at is not None and clause[at].math == "-":  # the sign of `= -8`
        at = _beside(clause, at, -1)
    if at is None or clause[at].role != "equals":
        return False
    for sign in range(at - 1, -1, -1):
        if clause[sign].role == "equals" or clause[sign].text == ",":
            return False
        if clause[sign].role == "function" or (
            clause[sign].role == "operator"
            and _is_operand(clause, _beside(clause, sign, -1))
            and _is_operand(clause, _beside(clause, sign, 1))
        ):
            return True
    return False


def _worked_out(clause: Sequence[Lexeme]) -> Iterator[Fraction]:
    """What the calculations of a clause come to: each of them, and each beginning of one."""
    part: list[Lexeme] = []
    for token in (*clause, None):
        if token is not None and token.role in ("value", "operator"):
            part.append(token)
        elif token is None or token.role not in _AROUND:
            for end in range(3, len(part) + 1, 2):
                value = numeric(math_of(part[:end]))
                if isinstance(value, Fraction):
                    yield value
            part = []
