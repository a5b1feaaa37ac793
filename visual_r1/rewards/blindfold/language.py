"""What of a description is not in the language of its problem: nobody reads it.

The other way round from a list of spellings: what may stand in a description is what its problem's
language has, and the rest is masked, whatever it may say. Passed are

    words           of English (a spelling checker's dictionary); of the question and the facts; put
                    together from words; units. Where the problem is in another language, all words
                    in its alphabet and in the Latin one
    names           one letter, and up to eight different capitals; with a digit or two (`A1`)
    numbers         digits, with a unit or a variable behind them; what may be a number's value is
                    for `stated` and `answers`
    signs           of punctuation and mathematics, arrows and geometric shapes

and not: words of other languages and alphabets, codes (`NjI=`, `-.... ..---`), misspelt or turned
words, digits for letters, emoji, tallies. A rare honest word is lost as well, and the numbers
around it are not.
"""

import re
import unicodedata
from collections.abc import Container, Iterator
from functools import cache, lru_cache

from spellchecker import SpellChecker

from visual_r1.grading.spelling import Token
from visual_r1.grading.units import read_unit
from visual_r1.rewards.blindfold.levelling import in_number_words, levelled
from visual_r1.rewards.blindfold.roman import roman_value
from visual_r1.rewards.blindfold.targets import MASK, Span
from visual_r1.rewards.grounding import is_figure_word

# The share of a problem's words that are English where it is.
_UNDERSTOOD = 0.7
_CHUNK = re.compile(
    r"(?P<command>\\[A-Za-z]+)"
    r"|(?P<word>[^\W_](?:[^\W_]|['’](?=[^\W_]))*)"
    r"|(?P<marks>(?:[^\w\s\\]|_|\\(?![A-Za-z]))(?:[^\S\n]*(?:[^\w\s\\]|_|\\(?![A-Za-z])))*)"
)
_WITH_DIGITS = re.compile(
    r"\d+(?:st|nd|rd|th|[a-z]{1,3}|[A-Z]{1,2})|[A-Za-z]{1,2}\d{1,2}|[A-Za-z]\d?[a-z]?|\d+"
)
# What is taken is not given back: `------` is one rule, and not two in as many ways as it is long.
_RULE = re.compile(r"[ \t]*+\|?(?:[ \t]*+:?-{3,}+:?[ \t]*+\|?)++")
_MOST_OF_A_NAME = 8
_FIRST_NUMBERS = 12
_SHORT = 2
# Marks of a code: so many in a row, of two kinds; or so many of one kind.
_MARKS_OF_A_CODE, _KINDS_OF_A_CODE, _TALLY = 5, 2, 3
_FREELY_REPEATED = frozenset(".*-_`#=~…")
_PAUSES = frozenset(":;,!?")
_SYMBOLS = ((0x2190, 0x22FF), (0x25A0, 0x25FF), (0x27C0, 0x27FF), (0x2900, 0x2AFF))
_PARTS_OF_WORDS = ("in", "co", "un", "re", "non", "mid", "semi", "circum", "ortho", "equi", "inter")


def strange(text: str, stated: str) -> Iterator[Span]:
    """The stretches of `text` that are no part of the language of `stated`, the problem's text."""
    level, places = levelled(text)
    level = level.replace(MASK, "0".center(len(MASK)))  # a mask stands as a number apart
    allowed = frozenset(word.casefold() for word in re.findall(r"[^\W_]+", stated))
    scripts = frozenset(map(_script, stated))
    is_english = _is_english(stated)
    row: list[re.Match[str]] = []  # words behind one another, of two kinds at most
    has_number = False
    for found in _CHUNK.finditer(level):
        if found.lastgroup == "word":
            kinds = {other[0].casefold() for other in (*row[-_MARKS_OF_A_CODE + 1 :], found)}
            if len(kinds) > _KINDS_OF_A_CODE:
                row, has_number = [], False
            row.append(found)
            has_number = has_number or found[0].isdigit()
            if len(row) >= _MARKS_OF_A_CODE and not has_number:
                yield places[row[0].start()][0], places[found.end() - 1][1]
        match found.lastgroup:
            case "word":
                word = found[0].replace("’", "'")
                passes = word.casefold() in allowed or _is_language(
                    word, scripts, is_english=is_english
                )
            case "marks":
                passes = _is_punctuation(found[0]) or set(found[0]) <= set(stated)
                passes = passes or _RULE.fullmatch(_line_of(level, found.start())) is not None
            case _:
                passes = True
        if not passes:
            yield places[found.start()][0], places[found.end() - 1][1]


def _is_language(word: str, scripts: Container[str], *, is_english: bool) -> bool:
    if "'" in word:  # `it's`, `o'clock`, `figure's`
        return all(_is_language(part, scripts, is_english=is_english) for part in word.split("'"))
    if not all(_script(c) in ("LATIN", "GREEK", "DIGIT") or _script(c) in scripts for c in word):
        return False
    if any(c.isdigit() for c in word):
        return _WITH_DIGITS.fullmatch(word) is not None
    if len(word) == 1 or (len(word) == _SHORT and word.isascii()):
        return True
    if not is_english or any(_script(c) not in ("LATIN", "GREEK") for c in word):
        return True  # no dictionary here is for it
    if word.isupper() and len(word) <= _MOST_OF_A_NAME and len(set(word)) == len(word):
        return True
    if 0 < roman_value(word) <= _FIRST_NUMBERS:
        return True
    plain = word.casefold()
    return (
        plain in _english()
        or is_figure_word(plain)
        or bool(in_number_words(plain))
        or _is_unit(plain)
        or _is_put_together(plain, _english())
    )


def _is_put_together(word: str, known: Container[str]) -> bool:
    """`midsegment`, `orthocenter`, `gridlines`: of two words, the first of which may be a part."""
    least = 3
    return any(
        (word[:cut] in _PARTS_OF_WORDS or (cut > least and word[:cut] in known))
        and len(word) - cut > least
        and word[cut:] in known
        for cut in range(2, len(word) - least)
    )


@lru_cache(maxsize=1024)
def _is_unit(word: str) -> bool:
    return read_unit([Token("word", word, True)]) is not None


def _is_punctuation(marks: str) -> bool:
    """Whether signs between words are punctuation, formulas or shapes, and no code or tally."""
    bare = re.sub(r"[\s/]", "", marks)
    if not all(map(_is_sign, bare)):
        return False
    if "****" in marks or any(
        mark * _TALLY in marks for mark in set(marks) - _FREELY_REPEATED if mark.strip()
    ):
        return False
    kinds = set(bare) - _PAUSES
    return len(bare) < _MARKS_OF_A_CODE or len(kinds) != _KINDS_OF_A_CODE


@lru_cache(maxsize=4096)
def _is_sign(character: str) -> bool:
    category = unicodedata.category(character)
    if category[0] == "P" or category in ("Sm", "Sc", "Sk") or character in "°©®":
        return True
    return any(first <= ord(character) <= last for first, last in _SYMBOLS)


def _line_of(text: str, at: int) -> str:
    end = text.find("\n", at)
    return text[text.rfind("\n", 0, at) + 1 : len(text) if end < 0 else end]


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """The first word of a character's name: LATIN, CYRILLIC, CJK, DIGIT, ..."""
    return unicodedata.name(character, "").partition(" ")[0].partition("-")[0]


@cache
def _english() -> frozenset[str]:
    return frozenset(SpellChecker(language="en").word_frequency.keys())


@lru_cache(maxsize=256)
def _is_english(stated: str) -> bool:
    """Whether most of the words that the problem uses are; true where it uses none."""
    words = [w.casefold() for w in re.findall(r"[^\W\d_]{3,}", stated) if not w.isupper()]
    return sum(word in _english() for word in words) >= _UNDERSTOOD * len(words)
