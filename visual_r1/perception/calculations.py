"""The calculations of a response: what each is done with, and what it is said to come to.

A calculation is where signs join numbers, up to the next sign of equality. What it is done with
says what the response went by, whatever was said of those values before: of `Angle F is 48. Let me
look again: 84. 180 - 84 - 38 = 58` it says 84 and 38. So the calculations are followed back from
the answer: one leads to it that is said to come to it, or does, that checks it, that holds an
unknown, or that comes to a number which one that leads to it is done with.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from visual_r1.rewards.blindfold.scan_text import Lexeme, math_of
from visual_r1.rewards.blindfold.targets import numeric
from visual_r1.rewards.grounding import is_figure_word

# What may stand between a number and the sign that it is calculated with.
_AROUND = frozenset(("after", "silent", "open", "close"))
# Of a longer calculation this much is worked out: numbers and signs.
_MOST_WORKED_OUT = 41
# Different numbers of one calculation; one with more is no rule of a figure.
_MOST_OPERANDS = 12
# The last ones are kept: what came before so many has not led to the answer.
_MOST_CALCULATIONS = 64


@dataclass(frozen=True, slots=True)
class Calculation:
    """What a calculation is done with.

    `sources` is the same with each result of one before as what that was done with. `comes_to` is
    what it is said to come to, None where nothing is said; `worked` what it may come to in truth;
    `is_open` whether an unknown stands in it.
    """

    operands: frozenset[Fraction]
    sources: frozenset[Fraction]
    comes_to: Fraction | None
    worked: frozenset[Fraction]
    is_open: bool


@dataclass
class Calculations:
    """The last calculations of a text, in their order, taken in clause by clause.

    `rules` are numbers of which everybody knows what they do in one: no operands.
    """

    rules: frozenset[Fraction]
    kept: deque[Calculation] = field(default_factory=lambda: deque(maxlen=_MOST_CALCULATIONS))
    came_from: dict[Fraction, frozenset[Fraction]] = field(
        default_factory=dict[Fraction, frozenset[Fraction]]
    )

    def take(
        self, clause: Sequence[Lexeme], worked: frozenset[Fraction], asked: Collection[str]
    ) -> None:
        """Those of a clause that comes to `worked`; `asked` are the names of unknowns."""
        parts = [_part(clause, places, asked) for places in _parts(clause)]
        comes_to: Fraction | None = None
        said_of = list[Fraction | None]()
        for part in reversed(parts):
            said_of.append(comes_to)
            comes_to = comes_to if part.alone is None else part.alone
        before: frozenset[Fraction] | None = None
        for part, comes_to in zip(parts, reversed(said_of), strict=True):
            operands = part.joined - self.rules
            if not operands or len(operands) > _MOST_OPERANDS:
                before = None
                continue
            if before is not None and part.alone is None:
                operands = sources = before  # `= 134/2`, which is what came of those before
            else:
                sources = frozenset[Fraction]().union(
                    *(self.came_from.get(number, (number,)) for number in operands)
                )
            self.kept.append(Calculation(operands, sources, comes_to, worked, part.is_open))
            if len(sources) > _MOST_OPERANDS:
                before = None
                continue
            if comes_to is not None and comes_to not in self.rules:
                self.came_from[comes_to] = sources
            before = None if part.is_open else sources

    def leading_to(self, answer: Fraction) -> Iterator[Calculation]:
        """Those that lead to `answer`, the last first."""
        wanted = {answer}
        for one in reversed(self.kept):
            ways = {*one.operands, *one.worked, one.comes_to}
            if one.is_open or answer in ways or one.comes_to in wanted:
                wanted |= one.operands
                yield one


def _parts(clause: Sequence[Lexeme]) -> Iterator[range]:
    """The places of a clause between its equality signs."""
    start = 0
    for place, token in enumerate(clause):
        if token.role == "equals":
            yield range(start, place)
            start = place + 1
    yield range(start, len(clause))


@dataclass(frozen=True, slots=True)
class _Part:
    """The numbers that signs join in a part of a clause, the first that stands `alone` before them,
    and whether an unknown is joined to them."""

    joined: frozenset[Fraction]
    alone: Fraction | None
    is_open: bool


def _part(clause: Sequence[Lexeme], places: range, asked: Collection[str]) -> _Part:
    joined, alone, is_open = set[Fraction](), None, False
    for place in places:
        token = clause[place]
        if token.number is None:
            is_open = is_open or (token.text in asked and _is_joined(clause, place))
        elif is_calculated_with(clause, place):
            joined.add(token.number)
        elif not joined and alone is None:
            alone = token.number
    return _Part(frozenset(joined), alone, is_open)


def _is_joined(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether a sign stands beside the token at `place`."""
    sides = (beside(clause, place, -1), beside(clause, place, 1))
    return any(at is not None and clause[at].role == "operator" for at in sides)


def beside(clause: Sequence[Lexeme], place: int, step: int) -> int | None:
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
    return token.role in ("value", "function") or is_letter or text.isupper() or is_thing(text)


def is_thing(text: str) -> bool:
    """Whether a word names something of a figure."""
    return is_figure_word(text.lower()) or text == "∠"


def is_calculated_with(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether a sign joins the number at `place` to something else.

    The dash of `A - 74` is none, where nothing else is calculated with: there 74 is stated.
    """
    if _multiplies(clause, place):
        return True
    after = beside(clause, place, 1)
    if after is not None and clause[after].role == "operator":
        return _is_operand(clause, beside(clause, after, 1))
    before = beside(clause, place, -1)
    if before is None:
        return False
    if clause[before].role == "function":
        return True
    if clause[before].role == "value":  # the second part of a fraction
        before_that = beside(clause, before, -1)
        return before_that is not None and clause[before_that].role == "function"
    other = beside(clause, before, -1)
    if clause[before].role != "operator" or not _is_operand(clause, other):
        return False
    assert other is not None
    if clause[before].math != "-" or clause[other].role == "value":
        return True
    sign = beside(clause, other, -1)
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


def is_result(clause: Sequence[Lexeme], place: int) -> bool:
    """Whether the number at `place` is what a calculation before it is said to come to."""
    at = beside(clause, place, -1)
    if at is not None and clause[at].math == "-":  # the sign of `= -8`
        at = beside(clause, at, -1)
    if at is None or clause[at].role != "equals":
        return False
    for sign in range(at - 1, -1, -1):
        if clause[sign].role == "equals" or clause[sign].text == ",":
            return False
        if clause[sign].role == "function" or (
            clause[sign].role == "operator"
            and _is_operand(clause, beside(clause, sign, -1))
            and _is_operand(clause, beside(clause, sign, 1))
        ):
            return True
    return False


def worked_out(clause: Sequence[Lexeme]) -> Iterator[Fraction]:
    """What the calculations of a clause come to: each of them, and each beginning of one."""
    part: list[Lexeme] = []
    for token in (*clause, None):
        if token is not None and token.role in ("value", "operator"):
            part.append(token)
        elif token is None or token.role not in _AROUND:
            for end in range(3, min(len(part), _MOST_WORKED_OUT) + 1, 2):
                value = numeric(math_of(part[:end]))
                if isinstance(value, Fraction):
                    yield value
            part = []
