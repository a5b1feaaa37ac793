"""Letters and places of choices in a scan, where they tell which of them is the answer.

They do where the choices keep their places (`choices.letters_tell`). A reader needs them all the
same, to know of which choice something is said. So a scan keeps the letters by which it goes
through all of the choices, A to the last, and says something of each or of none:

    Figure A is a cube, figure B a sphere, figure C a cone. Net [masked].
    Points A, B and C. Angle [masked] is 40.

Whatever noun stands beside it, a letter that is no part of that is masked, be it that of the answer
or another: what is missing among them would tell as much. What is said of a choice is not looked
at, so "A no, B yes, C no" stays.
"""

import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from visual_r1.rewards.blindfold.levelling import levelled
from visual_r1.rewards.blindfold.roman import roman_value
from visual_r1.rewards.blindfold.targets import Span

_ORDINALS = (
    "first|1st", "second|2nd", "third|3rd", "fourth|4th", "fifth|5th", "sixth|6th", "seventh|7th",
    "eighth|8th", "ninth|9th", "tenth|10th",
)  # fmt: skip
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
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
_LETTER = re.compile(r"(?<!\w)[A-Za-z](?!\w)")
# What joins the letters of a row, `(A), (B) and (C)`.
_JOINS = re.compile(r"[\s,;&()\[\]]|\b(?:and|or)\b", re.IGNORECASE)
# The last sign before a letter on its line, and how far to look for it.
_BEFORE = re.compile(r"[^\s](?=[^\S\n]*\Z)")
_NEAR = 20
# No noun and no adjective, so an `A` before it is none of its articles. A verb in the third person
# is none either, by its ending.
_NO_NOUN = frozenset(
    ("and", "or", "nor", "but", "is", "was", "are", "were", "be", "has", "had", "does", "did",
     "can", "could", "may", "might", "must", "shall", "should", "will", "would", "of", "in", "on",
     "at", "by", "to", "for", "from", "with", "as", "than", "then", "if", "it", "not", "no", "the",
     "this", "that")
)  # fmt: skip


def letters_told(scan: str, count: int) -> tuple[list[Span], list[Span]]:
    """The letters of `count` choices in a scan: those that go through all of them, and the others,
    which tell."""
    level, places = levelled(scan)
    mentions = list(_mentions(level, count))
    rounds = list(_rounds(mentions, level, count))
    begins = [*(each[0][0] for each in rounds[1:]), len(level)]
    kept: set[Span] = set()
    last = 0
    for each, end in zip(rounds, begins, strict=False):
        before = max(level.rfind(mark, last, each[0][0]) + 1 for mark in ".;!?\n")
        if _is_of_all(level, each, max(last, before), end):
            kept |= set(each)
        last = each[-1][1]
    through: list[Span] = []
    telling: list[Span] = []
    for start, end in mentions:
        of_scan = (places[start][0], places[end - 1][1])
        (through if (start, end) in kept else telling).append(of_scan)
    return through, telling


def _mentions(level: str, count: int) -> Iterator[Span]:
    """Single letters among the first `count` that are no articles."""
    for found in _LETTER.finditer(level):
        if found[0].upper() in ascii_uppercase[:count] and not _is_article(level, *found.span()):
            yield found.span()


def _is_article(level: str, start: int, end: int) -> bool:
    """Whether the letter at `start` is that of `a cube`, or of `A cube` where a sentence begins;
    in `figure A cuts`, `A is` and `A fits` it is none."""
    if level[start] not in "Aa" or level[end : end + 1] != " ":
        return False
    if level[start] == "a" and level[end + 1 : end + 2].strip(" \n).,;:"):
        word = _WORDS.match(level, end + 1)
        return word is None or word[0].lower() not in _NO_NOUN
    word = _WORDS.match(level, end + 1)
    if word is None or not word[0].islower() or len(word[0]) == 1:
        return False
    is_verb = word[0].endswith("s") and not word[0].endswith(("ss", "us", "is"))
    before = _BEFORE.search(level, max(0, start - _NEAR), start)
    begins = before is None or not (before[0][0].isalnum() or before[0][0] == ",")
    return begins and not is_verb and word[0] not in _NO_NOUN


def _rounds(mentions: Sequence[Span], level: str, count: int) -> Iterator[list[Span]]:
    """The mentions that go from A to the last letter; what comes between is passed over."""
    each: list[Span] = []
    for start, end in mentions:
        if level[start].upper() == ascii_uppercase[len(each)]:
            each.append((start, end))
        if len(each) == count:
            yield each
            each = []


def _is_of_all(level: str, each: Sequence[Span], before: int, end: int) -> bool:
    """Whether a round of letters is a row of them, or something is said of each, either in front
    of it (from `before` on) or behind it (up to `end`)."""
    starts = [before, *(stop for _, stop in each)]
    pieces = [level[at:stop] for at, (stop, _) in zip(starts, each, strict=False)]
    nouns = {piece.rsplit(maxsplit=1)[-1].lower() if piece.strip() else "" for piece in pieces}
    if len(nouns) == 1 and (noun := nouns.pop()):  # `figure A`, `figure B`
        pieces = [piece.rstrip()[: -len(noun)] for piece in pieces]
    if len({_JOINS.sub("", piece) for piece in pieces[1:]}) <= 1 and not any(
        _WORDS.search(_JOINS.sub(" ", piece)) for piece in pieces[1:]
    ):
        return True
    behind = [*pieces[1:], level[each[-1][1] : end]]
    return any(all(map(_says_something, side)) for side in (pieces, behind))


def _says_something(piece: str) -> bool:
    return _WORDS.search(_JOINS.sub(" ", piece)) is not None


def called_choices(scan: str, letters: Sequence[str], count: int) -> Iterator[Span]:
    """Where a scan calls one of `letters`, of `count` choices: `option B`, `(B)`, `B)`, `the second
    choice`, `B is correct`, or in a clause that says nothing else (`_alone`)."""
    for letter in sorted(letters):
        place = ascii_uppercase.index(letter)
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f"{place + 1}th"
        # Each white space is behind something of its own: two repeats of it that meet would take
        # a row of them in as many ways as it is long.
        called = (
            rf"(?i:\(\s*{letter}\s*\))|(?i:(?<![\w(]){letter}\))|"
            rf"(?i:\b(?:option|choice|answer|letter|pick|choose|select)\s*(?:is\s*)?(?:[:=]\s*)?"
            rf"(?:number\s*)?)\(?(?:{letter}|{letter.lower()}|{place + 1})\b"
            rf"|(?i:\b(?:{ordinal})\s+(?:option|choice|answer)\b)"
            rf"|\b{letter}(?=\s+is\s+(?:the\s+)?(?:correct|right)\b(?!\s+(?:of|angle|triangle)))"
        )
        for found in re.finditer(called, scan):
            yield found.span()
    yield from _alone(scan, {ascii_uppercase.index(letter) for letter in letters}, count)


def _alone(scan: str, wanted: set[int], count: int) -> Iterator[Span]:
    """The clauses that say no more than which of the choices is meant, and mean one of `wanted`:
    `Label: B.`, `Net b`, `Shape II`, `The second of these`, `Ⓑ`, `the one after A`.

    A heading, `Figure B:` with more below, describes what comes.
    """
    level, places = levelled(scan)
    written = len(level.rstrip())
    for clause in _CLAUSES.finditer(level):
        words = _WORDS.findall(clause[0])
        said = [at for at, word in enumerate(words) if word.lower() not in _SAYS_NOTHING | _BESIDE]
        if not said and words and words[-1].lower() in ("a", "i"):
            said = [len(words) - 1]  # no article and no pronoun, with nothing behind it
        if len(said) == 2 and said[1] == said[0] + 1 and not _places_meant(words[said[0]], count):
            del said[0]  # the noun of a label
        meant = [_places_meant(words[at], count) for at in said]
        is_heading = clause[0].rstrip().endswith(":") and clause.end() < written
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
