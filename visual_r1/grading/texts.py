"""Texts as texts: the same words in any script, whatever they mean."""

import re
import unicodedata

from visual_r1.grading.spelling import Unreadable, canonical

_QUOTES = re.compile(r"""^["'`*_\s]+|["'`*_\s.,;:!。，；：！]+$""")
# What makes mathematics of a text. Without it a text is words, of which nothing needs to be read.
_MATHEMATICS = re.compile(r"[=<>+*/^_|{}\[\]\\√∑∫≤≥≠≈±×÷]")
_LETTER = re.compile(r"[^\W\d_]")


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same but for spaces, case of words, and how they are wrapped."""
    return one == other or (_plain(one) == _plain(other) != "")


def is_words(text: str) -> bool:
    """Whether `text` is words, in any script, and holds no mathematics."""
    return bool(_LETTER.search(text)) and not _MATHEMATICS.search(text)


def _plain(text: str) -> str:
    try:
        text = canonical(text)
    except Unreadable:
        text = text.strip()
    text = " ".join(_QUOTES.sub("", unicodedata.normalize("NFKC", text)).split())
    # `x` and `X` are two variables; `Rhombus` and `rhombus` one word.
    if is_words(text) and any(len(word) > 1 for word in text.split()):
        text = text.casefold()
        return text.replace(" ", "") if text.replace(" ", "").isalpha() else text
    return text
