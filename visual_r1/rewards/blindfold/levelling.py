"""A text in plain characters, and where each of them stood.

What a reader sees as the same becomes the same: tags and entities of HTML go, characters that show
as nothing go, styles and other scripts' digits become ASCII digits, signs that Unicode calls a plus
or a division become one, letters set apart (`s i x t y`) become the word. Nothing is looked up in a
list of characters where Unicode's categories and names say it.
"""

import html
import re
import unicodedata
from functools import lru_cache

from visual_r1.grading.characters import VULGAR
from visual_r1.grading.numerals import NUMBER_WORDS

_SUPERSCRIPTS = {c: str(i) for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "-", "⁺": "+"}
# What a sign is called that stands for an operation; the first name that is found counts.
_NAMED_SIGNS = (
    ("PLUS-MINUS", ""), ("MINUS-OR-PLUS", ""), ("PLUS", "+"), ("MINUS", "-"), ("DIVISION", "/"),
    ("DIVIDES", ""), ("MULTIPLICATION", "*"), ("TIMES", "*"), ("CROSS PRODUCT", "*"),
    ("ASTERISK", "*"), ("EQUALS SIGN", "="),
)  # fmt: skip
# A tag of HTML, a comment; the tags of a response are looked for before, and stay.
_MARKUP = re.compile(
    r"(?P<gone><!--.{0,200}?-->|</?(?!(?:answer|think|scan)\b)[A-Za-z][A-Za-z0-9]{0,15}"
    r"(?:\s[^<>]{0,200})?/?>"
    r"|\\[a-z]{0,6}(?:space|kern|skip)\*?\s{0,2}\{?-?[\d.]{1,6}\s?[a-z]{2}\}?)"
    r"|(?P<entity>&(?:\#[0-9]{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});)"
    r"|(?P<escape>\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|%[3-7][0-9a-fA-F]|U\+[0-9a-fA-F]{4,5})",
    re.DOTALL,
)
# Single letters, each apart from the next by the same thing.
_APART = re.compile(
    r"(?<![^\W_])[^\W\d_](?P<by>[ \t.,_~|/*'-]{1,3})[^\W\d_](?:(?P=by)[^\W\d_])+(?![^\W_])"
)


Place = tuple[int, int]  # from, up to and without


def levelled(text: str) -> tuple[str, list[Place]]:
    """The plain text and, for each of its characters, what of `text` it came from."""
    out: list[str] = []
    places: list[Place] = []
    raised = False
    at = 0
    for found in _MARKUP.finditer(text):
        raised = _level(text, at, found.start(), out, places, raised=raised)
        if found.lastgroup != "gone":
            said = (
                html.unescape(found[0])
                if found.lastgroup == "entity"
                else chr(int(found[0].lstrip("\\uxU+%"), 16))
            )
            for character in said:
                plain = _plain(character, raised=False)
                out.append(plain)
                places.extend([found.span()] * len(plain))
        at = found.end()
    _level(text, at, len(text), out, places, raised=raised)
    return _joined("".join(out), places)


def _level(
    text: str, start: int, end: int, out: list[str], places: list[Place], *, raised: bool
) -> bool:
    """Add the plain characters of a stretch; whether it ends with a raised one."""
    for index in range(start, end):
        character = text[index]
        plain = _plain(character, raised=raised)
        if not plain:
            continue
        raised = character in _SUPERSCRIPTS
        out.append(plain)
        places.extend([(index, index + 1)] * len(plain))
    return raised


@lru_cache(maxsize=4096)
def _plain(character: str, *, raised: bool) -> str:
    """What a character says, "" for one that shows as nothing."""
    if character.isascii():
        return character
    if character in _SUPERSCRIPTS:
        return ("" if raised else "^") + _SUPERSCRIPTS[character]
    if unicodedata.decomposition(character).startswith("<sub>"):
        return "_" + unicodedata.normalize("NFKC", character)
    if character in VULGAR:
        return character
    if character in "º˚":
        return "°"
    if shows_nothing(character):
        return ""
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    number = unicodedata.numeric(character, None)
    if number is not None and number == int(number) and unicodedata.category(character) == "No":
        return f" {int(number)} " if number > 9 else str(int(number))
    category = unicodedata.category(character)
    if category in ("Sm", "So", "Po", "Pd"):
        name = unicodedata.name(character, "")
        for part, sign in _NAMED_SIGNS:
            if part in name:
                return sign or character
    return unicodedata.normalize("NFKC", character)


@lru_cache(maxsize=4096)
def shows_nothing(character: str) -> bool:
    """Whether a character leaves no ink and takes no part in words: controls, marks on others,
    unassigned ones, and letters or symbols that Unicode calls a filler, blank or null."""
    if unicodedata.category(character) in ("Cf", "Mn", "Me", "Cc", "Co", "Cn", "Cs"):
        return True
    name = unicodedata.name(character, "").split()
    return (
        not {"FILLER", "BLANK", "NULL", "INVISIBLE"}.isdisjoint(name) and "SYMBOL" not in name[-1:]
    )


def _joined(level: str, places: list[Place]) -> tuple[str, list[Place]]:
    """Letters set apart as the word that they are, where it is a number."""
    pieces: list[str] = []
    kept: list[Place] = []
    at = 0
    for found in _APART.finditer(level):
        word = re.sub(r"[\W_]", "", found[0]).lower()
        if not in_number_words(word):
            continue
        pieces += [level[at : found.start()], word]
        kept += places[at : found.start()]
        kept += [places[i] for i in range(*found.span()) if level[i].isalpha()]
        at = found.end()
    return "".join([*pieces, level[at:]]), kept + places[at:]


# Longest first, so that `sixteen` is not `six`.
_NUMBER_WORD = re.compile("|".join(sorted((*NUMBER_WORDS, "and"), key=len, reverse=True)))
_ALL_NUMBER_WORDS = re.compile(f"(?:{_NUMBER_WORD.pattern}){{1,10}}")


def in_number_words(word: str) -> list[str]:
    """`onehundredandfive` as its words; nothing where it is made of anything else."""
    if word in ("and", "") or not _ALL_NUMBER_WORDS.fullmatch(word):
        return []
    found = _NUMBER_WORD.findall(word)
    return found if "".join(found) == word else []
