"""Where a text calculates an answer: in signs, in words, as an equation, or by two numbers alone.

1. Every part of every calculation in signs: `180 - 118`, `60 plus 2`, `\\frac{124}{2}`, `124 : 2`,
   `60 + II`.
2. Turns of phrase: `twice 31`, `the sum of 60 and 2`, `one more than 61`; what one comes to may be
   part of the next, so that `180 minus the sum of 74 and 44` is read.
3. An equation in one unknown of which the answer is the solution: `C + 118 = 180`.
4. Two numbers that come to the answer by one operation, with words between them that name nothing:
   `118 taken off 180`, `60, and 2 further`. Which words they are does not matter; numbers that
   belong to different things (`12 on the left, 5 on the right`, `Monday 20, Tuesday 35`), mere
   lists (`12 and 5`), and numbers that the figure is known to have, are what a description gives.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile

from visual_r1.grading.closeness import same_value
from visual_r1.grading.expressions import Number, Undefined, evaluate
from visual_r1.grading.expressions import variables as variables_of
from visual_r1.grading.forms import Quantity
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable
from visual_r1.rewards.blindfold.roman import roman_value
from visual_r1.rewards.blindfold.scan_text import Lexeme, math_of, runs, segments
from visual_r1.rewards.blindfold.targets import Checks, Span, Target, numeric
from visual_r1.rewards.grounding import is_figure_word

MAX_RUN_TOKENS = 24
# How often what a turn of phrase comes to is read as part of another.
_MOST_TURNS = 3
# Words and signs between two numbers that are said of each other.
_MOST_BETWEEN = 6
# What a number says of itself that was put together from a turn of phrase.
_WORKED_OUT = "#"

# Turns of phrase that are calculations: `#` is a value, and what it comes to.
_TURNS: tuple[tuple[str, str], ...] = (
    ("(?:twice|double|doubled) (?:of |the |as much as )*#", "2 * {0}"),
    ("(?:thrice|triple|tripled) (?:of |the |as much as )*#", "3 * {0}"),
    ("(?:half|halves|halved) (?:of |the )*#", "{0} / 2"),
    ("(?:third|thirds) (?:of |the )*#", "{0} / 3"),
    ("(?:quarter|quarters) (?:of |the )*#", "{0} / 4"),
    ("# (?:doubled|twice|two times)", "2 * {0}"),
    ("# (?:tripled|thrice|three times)", "3 * {0}"),
    ("# (?:halved|halves)", "{0} / 2"),
    ("# thirds", "{0} / 3"),
    ("# quarters", "{0} / 4"),
    ("# squared", "{0} ^ 2"),
    ("# of #", "{0} * {1}"),
    ("# #s", "{0} * {1}"),
    ("# / # of #", "{0} / {1} * {2}"),
    ("# (?:%|percent) of #", "{0} * {1} / 100"),
    ("(?:sum|total) (?:of )?# (?:and|,) #", "{0} + {1}"),
    ("product (?:of )?# (?:and|by|,) #", "{0} * {1}"),
    ("difference (?:of |between )?# (?:and|,) #", "{0} - {1}"),
    ("difference (?:of |between )?# (?:and|,) #", "{1} - {0}"),
    ("quotient (?:of )?# (?:and|by|,) #", "{0} / {1}"),
    ("# (?:more|greater|larger|bigger|higher) than #", "{1} + {0}"),
    ("# (?:less|fewer|smaller|lower) than #", "{1} - {0}"),
    ("# (?:short of|below|before|under|from|off) #", "{1} - {0}"),
    ("# (?:above|after|past|over|beyond) #", "{1} + {0}"),
    ("(?:after|above|follows|past) #", "{0} + 1"),
    ("(?:before|below|precedes) #", "{0} - 1"),
    ("between # and #", "({0} + {1}) / 2"),
    ("add # (?:to |and )?#", "{0} + {1}"),
    ("# (?:added|add) (?:to )?#", "{0} + {1}"),
    ("(?:subtract|take|deduct) # (?:away )?from #", "{1} - {0}"),
    ("# (?:subtracted|taken|deducted) (?:away )?from #", "{1} - {0}"),
    ("# (?:subtract|take away|take) #", "{0} - {1}"),
    ("divide # by #", "{0} / {1}"),
    ("multiply # (?:by|with|and) #", "{0} * {1}"),
    ("root of #", "\\sqrt{{{0}}}"),
    ("# under a root", "\\sqrt{{{0}}}"),
    ("supplement (?:of |to )?#", "180 - {0}"),
    ("complement (?:of |to )?#", "90 - {0}"),
    ("# tens?(?: and)? #", "10 * {0} + {1}"),
    ("# dozens?", "12 * {0}"),
    ("# scores?", "20 * {0}"),
    ("# (?:couples?|pairs?)", "2 * {0}"),
)
_COMPILED = tuple(
    (re.compile(r"(?<!\S)" + phrase.replace("#", r"#(\d+)") + r"(?!\S)"), formula)
    for phrase, formula in _TURNS
)


def calculated(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Every stretch that calculates the target, in signs or words."""
    yield from _calculations(tokens, one, checks)
    for _ in range(_MOST_TURNS):
        replaced: list[tuple[int, int, Lexeme]] = []
        for first, last, value in _turns(tokens):
            if checks.says(value.math, one):
                yield value.start, value.end
            elif not any(first <= end and start <= last for start, end, _ in replaced):
                replaced.append((first, last, value))
        if not replaced:
            return
        shorter = list(tokens)
        for first, last, value in sorted(replaced, reverse=True, key=lambda found: found[0]):
            shorter[first : last + 1] = [value]
        tokens = shorter
        yield from _calculations(tokens, one, checks)
        yield from said_of_each_other(tokens, one, checks)


def _calculations(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Every part of every calculation in signs that comes to the target."""
    for run in runs(tokens, one.names):
        for segment in segments(run):
            for first, token in enumerate(segment):
                begins = token.role in ("value", "open", "function")
                if not (begins or token.text in ("-", *one.names)):
                    continue
                for last in _ends(segment, first, one.names):
                    part = segment[first : last + 1]
                    if checks.says(math_of(part), one):
                        yield part[0].start, part[-1].end


def _ends(segment: Sequence[Lexeme], first: int, names: frozenset[str]) -> Iterator[int]:
    """Where a calculation that begins at `first` may end: brackets closed, more than one value."""
    depth = 0
    calculates = False
    for last in range(first, min(len(segment), first + MAX_RUN_TOKENS)):
        token = segment[last]
        depth += {"open": 1, "close": -1}.get(token.role, 0)
        if depth < 0:
            return
        calculates = (
            calculates
            or token.role in ("operator", "function", "open")
            or (
                last > first
                and (token.text in names or (token.number is None and token.role == "value"))
            )
        )
        closes = token.role in ("value", "close", "after") or token.text in names
        if depth == 0 and calculates and closes and last > first:
            yield last


def _turns(tokens: Sequence[Lexeme]) -> Iterator[tuple[int, int, Lexeme]]:
    """Turns of phrase: the first and the last token of each, and the value that they come to."""
    pieces: list[str] = []
    starts: dict[int, int] = {}  # where a token begins in the text put together, and which it is
    length = 0
    for index, token in enumerate(tokens):
        is_plural = token.text == "s" and bool(index) and tokens[index - 1].end == token.start
        if (token.role == "silent" and not is_plural) or token.math == "°":
            continue
        starts[length] = index
        pieces.append(f"#{index}" if token.role == "value" else token.text.lower())
        length += len(pieces[-1]) + 1
    ends, order = list(starts), list(starts.values())
    # `two 31s`: a plural that stands at its number.
    text = re.sub(r"(#\d+) s(?!\S)", r"\1s ", " ".join(pieces))
    for phrase, formula in _COMPILED:
        for found in phrase.finditer(text):
            values = [int(index) for index in found.groups()]
            first, last = starts.get(found.start(), values[0]), values[-1]
            if first and tokens[first - 1].text.lower() == "the":  # 180 minus the sum
                first -= 1
            math = formula.format(*(tokens[index].math for index in values))
            start, end = tokens[first].start, max(tokens[index].end for index in values)
            last = max(last, order[bisect_left(ends, found.end()) - 1])
            number = numeric(math)
            whole = Lexeme(
                "value",
                _WORKED_OUT,
                f"({math})",
                start,
                max(end, tokens[last].end),
                number if isinstance(number, Fraction) else None,
            )
            yield first, last, whole


def equations(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """`C + 118 = 180`, `2C = 124`, `118 + ? = 180`: equations that the target solves."""
    if one.value is None or not isinstance(one.value, Fraction):
        return
    for place, token in enumerate(tokens):
        if token.role != "equals":
            continue
        left, right = place, place + 1
        while left > 0 and place - left < MAX_RUN_TOKENS // 2 and _may_stand(tokens[left - 1]):
            left -= 1
        while (
            right < len(tokens)
            and right - place < MAX_RUN_TOKENS // 2
            and _may_stand(tokens[right])
        ):
            right += 1
        unknowns = {
            part.text for part in (*tokens[left:place], *tokens[place + 1 : right])
            if part.role == "other"
        }  # fmt: skip
        if len(unknowns) != 1:
            continue
        sides = [
            _value_at(
                " ".join("x" if part.role == "other" else part.math for part in side if part.math),
                one.value,
                checks,
            )
            for side in (tokens[left:place], tokens[place + 1 : right])
        ]
        (mine, mine_is_alone), (other, other_is_alone) = sides
        if mine is None or other is None or mine_is_alone or other_is_alone:
            continue
        with suppress(Unreadable):
            if same_value(mine, other):
                yield tokens[left].start, tokens[right - 1].end


def _may_stand(token: Lexeme) -> bool:
    """Whether a token may be part of an equation; a short word is its unknown."""
    if token.role == "other":
        return (token.text.isalpha() and len(token.text) <= 3) or token.text in ("?", "_")
    return token.role != "equals"


def _value_at(math: str, value: Fraction, checks: Checks) -> tuple[Number | None, bool]:
    """The value of a side where its unknown is `value`, and whether the side is that unknown."""
    checks.count()
    try:
        forms = [form for one in read(math) for form in one.chain if isinstance(form, Quantity)]
    except Unreadable:
        return None, False
    if not forms or not variables_of(forms[0].expression) <= {"x"}:
        return None, False
    try:
        return evaluate(forms[0].expression, {"x": value}), math.strip() == "x"
    except (Undefined, Unreadable):
        return None, False


def said_of_each_other(tokens: Sequence[Lexeme], one: Target, checks: Checks) -> Iterator[Span]:
    """Two or three numbers that come to the target, and between them words that name nothing.

    Where all of them are the figure's own they are a list of it, whatever its labels are.
    """
    wanted = one.value
    if not isinstance(wanted, Fraction):
        return
    for first, token in enumerate(tokens):
        if token.number is None:
            continue
        so_far, relates, last = {token.number}, _is_worked_out(tokens, first), first
        own = token.number in checks.known
        for _step in range(2):
            found = _next_number(tokens, last)
            if found is None:
                break
            place, is_related = found
            after = tokens[place]
            counted = tokens[place + 1].text if place + 1 < len(tokens) else ""
            if _are_labelled(tokens, last, place) or is_figure_word(counted.lower()):
                break
            assert after.number is not None
            relates = relates or is_related or _is_worked_out(tokens, place)
            between = tokens[last + 1 : place]
            so_far = {r for left in so_far for r in _results_of(left, after.number, between)}
            own = own and after.number in checks.known
            if relates and wanted in so_far and not own:
                yield token.start, after.end
                break
            last = place


def _next_number(tokens: Sequence[Lexeme], last: int) -> tuple[int, bool] | None:
    """Where the next number is that may be said of the one at `last`, and whether words between
    them say so; None where it belongs to something else."""
    relates = False
    for place in range(last + 1, min(len(tokens), last + _MOST_BETWEEN + 2)):
        token = tokens[place]
        if token.number is not None:
            return place, relates
        if (token.role == "equals" and not token.text.isalpha()) or _parts(
            token, tokens[place + 1 : place + 2]
        ):
            return None
        if token.text in "()":
            relates = False
            continue
        is_list = token.text.lower() in ("and", ",", "by", "x", "or", "to", "&", "is", "are")
        following = tokens[place + 1].number if place + 1 < len(tokens) else None
        # `192 in three parts`, and not the inches of `12 in by 5 in`.
        is_silent = token.role == "silent" and not (token.text == "in" and following)
        # What signs between them come to is for `calculated`; marks of emphasis look like one.
        is_sign = token.role in ("after", "operator") and not token.text.isalpha()
        relates = relates or not (is_list or is_silent or is_sign)
    return None


def _is_worked_out(tokens: Sequence[Lexeme], place: int) -> bool:
    """Whether a number by itself asks for another: in Roman digits, come of a turn of phrase,
    behind an operator, or the first in the brackets of a call."""
    text = tokens[place].text
    behind = bool(place) and tokens[place - 1].math in ("+", "/")
    return text == _WORKED_OUT or bool(roman_value(text)) or behind or _is_called(tokens, place)


_BETWEEN_ENTRIES = frozenset((",", ";", "and", "&", "-", "*", "/"))
_BEHIND_A_LABEL = frozenset((":", "=", "-", "is", "has", "was"))


def _are_labelled(tokens: Sequence[Lexeme], first: int, second: int) -> bool:
    """Whether two numbers stand beside labels of their own, in the same way: `red: 20; blue: 35`,
    `20 apples, 35 pears`, `20% for food and 35% for rent`."""
    before, after = _label_before(tokens, first), _label_before(tokens, second)
    if before and after and after[0] > first + 1:
        (mine, *form), (other, *same_form) = before, after
        return (
            tokens[mine].text != tokens[other].text
            and form == same_form
            and tokens[other - 1].text in _BETWEEN_ENTRIES
        )
    label = _words(tokens[first + 1 : second])
    other_label = _words(tokens[second + 1 : second + 1 + len(label)])
    between = tokens[first + 1 + len(label) : second]
    return (
        0 < len(label) == len(other_label)
        and label[-1] != other_label[-1]
        and label[:-1] == other_label[:-1]
        and any(token.text in _BETWEEN_ENTRIES for token in between)
        and all(token.text in _BETWEEN_ENTRIES or token.role == "silent" for token in between)
    )


def _words(tokens: Sequence[Lexeme]) -> list[str]:
    """What the tokens say up to a sign between entries: words, and `%`."""
    found = takewhile(lambda token: token.role in ("other", "after"), tokens)
    return [token.text for token in takewhile(lambda one: one.text not in _BETWEEN_ENTRIES, found)]


def _label_before(tokens: Sequence[Lexeme], place: int) -> tuple[int, str, bool] | None:
    """Where the word is that stands in front of a number, the sign between them, and whether the
    word is a name."""
    at = place - 1
    sign = tokens[at].text if at >= 0 and tokens[at].text in _BEHIND_A_LABEL else ""
    at -= bool(sign)
    if at < 0 or tokens[at].role != "other" or not tokens[at].text.isalpha():
        return None
    return at, sign, tokens[at].text[0].isupper()


# Words that say of a number what it measures.
_MEASURES = frozenset(
    ("long", "wide", "tall", "high", "deep", "thick", "across", "horizontally", "vertically",
     "first", "second", "third", "other", "another", "each", "one")
)  # fmt: skip


def _parts(token: Lexeme, following: Sequence[Lexeme]) -> bool:
    """Whether what stands between two numbers gives them to different things: the end of a clause,
    a name, a thing or place, or whatever stands behind an article."""
    word = token.text.lower()
    if word in ("a", "an", "the"):
        return not following or following[0].number is None
    is_name = token.text.isalpha() and (
        token.text.isupper() or token.text in "bcdefghijklmnopqrtuvwxyz"
    )
    is_name = is_name or (token.text.istitle() and len(word) > 1)  # `Tuesday`
    return word in (".", ";", "|", "masked") or is_name or is_figure_word(word) or word in _MEASURES


def _is_called(tokens: Sequence[Lexeme], first: int) -> bool:
    """Whether the number is the first in the brackets of a call: `sum(60, 2)`, not `P(3, 4)`."""
    if first < 2 or tokens[first - 1].text not in ("(", "["):
        return False
    name = tokens[first - 2]
    return name.text.islower() and len(name.text) > 1 and name.end == tokens[first - 1].start


def _results_of(left: Fraction, right: Fraction, between: Sequence[Lexeme]) -> set[Fraction]:
    """What two numbers come to by one operation; by division alone where `:` is all between."""
    quotients = {a / b for a, b in ((left, right), (right, left)) if b}
    if [token.text for token in between] in ([":"], ["/"]):
        return {left / right} if right else set()
    middle = {(left + right) / 2} if abs(left - right) == 2 else set[Fraction]()
    return {left + right, left - right, right - left, left * right, *quotients, *middle}
