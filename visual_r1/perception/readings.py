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
open, the reading is ambiguous: `Reading.options` holds all that it may be. Of that the calculation
that leads to its answer tells which it went by, in whatever words it came to it. So it does of a
number at a name that it is not done with, where another takes its place that was stated as well
("angle F is 48. Let me look again: 84. 180 - 84 - 38"): that is what was read. Where the other was
not stated before, the two contradict each other.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, permutations, product

from visual_r1.perception.calculations import (
    Calculations,
    beside,
    is_calculated_with,
    is_result,
    is_thing,
    worked_out,
)
from visual_r1.rewards.blindfold.scan_text import Lexeme, lexemes
from visual_r1.rewards.blindfold.stated import counts, singular
from visual_r1.rewards.grounding import is_place

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
    first; none where a value is nowhere stated. `others` are those with a number in the place of
    one at a name that was stated at none: they count where they lead to the answer and no option
    does. `contradictory` says that a value is stated twice and differently, so that none is
    likelier; `otherwise` that it calculates with another number than it states, so that nothing but
    its answer can tell; `strange` that one stands at a name of no value.
    """

    options: tuple[dict[str, Fraction], ...]
    others: tuple[dict[str, Fraction], ...] = ()
    contradictory: bool = False
    otherwise: bool = False
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
    rules = _WELL_KNOWN - frozenset(values.values())
    said = _Said(tuple(values), _asked_for(question, values), Calculations(rules))
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
    asked: frozenset[str]
    calculations: Calculations
    # Of each name its numbers in their order, each once.
    named: dict[str, dict[Fraction, None]] = field(default_factory=dict[str, dict[Fraction, None]])
    strange: dict[str, Fraction] = field(default_factory=dict[str, Fraction])
    seen: set[tuple[_Name, Fraction]] = field(default_factory=set[tuple[_Name, Fraction]])
    loose: list[Fraction] = field(default_factory=list[Fraction])
    times: Counter[Fraction] = field(default_factory=Counter[Fraction])
    aside: dict[Fraction, None] = field(default_factory=dict[Fraction, None])
    stated: set[Fraction] = field(default_factory=set[Fraction])
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
                self.named.setdefault(name.role, {}).setdefault(number)
            elif name.text and name.text not in self.asked and (name, number) not in self.seen:
                self.seen.add((name, number))
                self.strange[name.text] = number  # the last one that is new
            if name is None or name.text not in self.asked:
                self.stated.add(number)
        for number in loose:
            self.aside.setdefault(number)
        for number, times in (*loose.items(), *calculated.items()):
            self.loose += [number] * (times - self.times[number])
            self.times[number] = max(times, self.times[number])
        worked = frozenset(worked_out(clause))
        self.calculations.take(clause, worked, self.asked)
        self.results |= worked

    def _stated(self, clause: Sequence[Lexeme]) -> tuple[list[_Name | Fraction], Counter[Fraction]]:
        """The names and stated numbers of a clause in their order, and what it calculates with."""
        stated, calculated = list[_Name | Fraction](), Counter[Fraction]()
        counted = {token.start for token in counts(clause)}
        is_worked_out = concludes = number_came = False
        for place, token in enumerate(clause):
            number = token.number
            if number is None:
                if _begins_a_result(clause, place):
                    is_worked_out, number_came = True, False
                elif _CONCLUDES.fullmatch(token.text):
                    concludes = True
                elif token.text == "," and number_came:
                    is_worked_out = False
                elif (name := self._name(clause, place)) is not None:
                    if name.role is not None:
                        concludes = False
                    elif _is_in_a_list(clause, place, stated):
                        continue
                    stated.append(name)
            elif token.start in counted or _is_a_label(clause, place):
                continue
            elif is_calculated_with(clause, place):
                # What a calculation before has led to is nothing that was read.
                calculated[number] += number not in self.results
            elif is_worked_out or concludes or is_result(clause, place) or number in self.results:
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
        if word.islower() and len(word) <= _SEGMENT and is_thing(before):
            word = word.upper() if _sorted(word.upper()) in self.names else word  # `angle a`
        if letters > _ANGLE and is_place(word.lower()):
            return _Name(None, word.lower())
        if word == _UNKNOWN:
            return None if _is_a_product(clause, place) else _Name(None, word)
        if not (word.isascii() and word.isalpha() and word.isupper() and len(word) <= _ANGLE):
            return None
        if (word == "A" and place == 0 and _is_an_article(clause)) or word == "I":
            return None
        if letters > _ANGLE and not is_thing(before):
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
        named = {name: [*self.named[name]][::-1] for name in self.names if name in self.named}
        missing = [name for name in self.names if name not in named]
        there = {number for numbers in named.values() for number in numbers}
        open_to = _without(answer, [*self.strange.values()], missing)
        rules = self.calculations.rules
        if len(open_to) < len(missing):
            known = rules | there | set(open_to)
            loose = [number for number in self.loose if number not in known]
            open_to = _without(answer, open_to + loose, missing)
        found = list(self._options(named, missing, open_to))
        strange = bool(missing and self.strange)
        went_by, otherwise = self._went_by(found, answer)
        if went_by:
            return Reading(tuple(went_by), strange=strange)
        contradictory = any(len(numbers) > 1 for numbers in named.values())
        others = islice(self._others(found[:1], there, answer), MOST_OPTIONS)
        return Reading(tuple(found), tuple(others), contradictory, otherwise, strange)

    def _options(
        self, named: Mapping[str, list[Fraction]], missing: list[str], open_to: list[Fraction]
    ) -> Iterator[dict[str, Fraction]]:
        """Every value with one of its numbers, the first `MOST_OPTIONS` that differ.

        Each choice among the numbers at names gives at least one that no other gives, so no more of
        them are looked at than there are options.
        """
        if len(open_to) < len(missing):
            return
        found = set[tuple[Fraction, ...]]()
        for chosen in product(*(numbers[:MOST_OPTIONS] for numbers in named.values())):
            for more in islice(permutations(open_to, len(missing)), MOST_OPTIONS):
                said = dict(zip((*named, *missing), (*chosen, *more), strict=True))
                option = tuple(said[name] for name in self.names)
                if option not in found:
                    found.add(option)
                    yield dict(zip(self.names, option, strict=True))
                if len(found) == MOST_OPTIONS:
                    return

    def _went_by(
        self, found: Sequence[dict[str, Fraction]], answer: Fraction | None
    ) -> tuple[list[dict[str, Fraction]], bool]:
        """The readings whose values the calculation that leads to `answer` is done with, and
        whether it is done with others, which are nowhere stated."""
        if answer is None:
            return [], False
        rules = self.calculations.rules
        for one in self.calculations.leading_to(answer):
            for used in (one.operands, one.sources):
                for numbers in (used, used - {answer}):  # a check holds the answer as well
                    same = [said for said in found if frozenset(said.values()) - rules == numbers]
                    if same and numbers:
                        return same, False
            revised = self._revised(one.sources - self.results - {answer})
            if revised is None:
                continue
            options, taken = revised
            if taken <= self.stated:
                return options, False
            if len(taken) < len(self.names):
                return [], True
        return [], False

    def _revised(
        self, used: frozenset[Fraction]
    ) -> tuple[list[dict[str, Fraction]], frozenset[Fraction]] | None:
        """The readings in which `used` takes the place of numbers at names, and what of it does so;
        None where it is not as many as there are values."""
        kept = {
            name: next(number for number in reversed(numbers) if number in used)
            for name, numbers in self.named.items()
            if not used.isdisjoint(numbers)
        }
        rest = [name for name in self.names if name not in kept]
        taken = used.difference(kept.values())
        if not rest or len(rest) != len(taken):
            return None
        if not self.strange and self.named.keys().isdisjoint(rest):
            return None  # numbers at no name fill what is open
        in_order = [number for number in self.loose if number in taken]
        in_order = list(dict.fromkeys((*in_order, *sorted(taken))))
        options = [
            {name: (kept | dict(zip(rest, more, strict=True)))[name] for name in self.names}
            for more in islice(permutations(in_order), MOST_OPTIONS)
        ]
        return options, taken

    def _others(
        self,
        likeliest: Sequence[dict[str, Fraction]],
        there: Collection[Fraction],
        answer: Fraction | None,
    ) -> Iterator[dict[str, Fraction]]:
        """The likeliest reading with a number that stands at no name in the place of one that
        does, the last of them first."""
        no_value = {*self.calculations.rules, *there, *self.results, answer}
        for said in likeliest:
            for number in reversed(self.aside):
                if number not in no_value:
                    yield from (said | {name: number} for name in self.names if name in self.named)


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
    sides = (beside(clause, place, -1), beside(clause, place, 1))
    return all(at is not None and clause[at].role == "value" for at in sides)
