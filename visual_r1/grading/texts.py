"""Texts as texts: the same words in any script, whatever they mean."""

import re
import unicodedata

from visual_r1.grading.spelling import Unreadable, canonical

_OPENING = re.compile(r"""^["'`*_\s]+""")
# Only from the first of them on: to begin at each would take a long row within the text squared.
_CLOSING = re.compile(r"""(?<!["'`*_\s.,;:!。，；：！])["'`*_\s.,;:!。，；：！]+$""")
# What makes mathematics of a text. Without it a text is words, of which nothing needs to be read.
_MATHEMATICS = re.compile(r"[=<>+*/^_|{}\[\]\\√∑∫≤≥≠≈±×÷]")
_LETTER = re.compile(r"[^\W\d_]")
_LONGEST_SYMBOL = 4


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
    text = _CLOSING.sub("", unicodedata.normalize("NFKC", text))
    text = " ".join(_OPENING.sub("", text).split())
    words = text.split()
    if is_words(text) and any(len(word) > 1 for word in words):
        most = _LONGEST_SYMBOL if any(c.isdigit() for c in text) else 1
        text = " ".join(word if _is_sign(word, most) else word.casefold() for word in words)
        if words[0] == "A":  # the article
            text = "a" + text[1:]
        return text.replace(" ", "") if text.replace(" ", "").isalpha() else text
    return text


def _is_sign(word: str, most: int) -> bool:
    """Whether its case tells a word of at most so many letters from another: `x`, `X`; `mPa`, `MPa`
    where there is a number.

    `Rhombus` and `rhombus` are one word.
    """
    return len(word.strip("0123456789.")) <= most
