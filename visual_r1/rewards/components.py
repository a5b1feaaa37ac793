"""Components of the reward that look at the response alone: format and visual grounding."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from visual_r1.rewards.copying import not_copied
from visual_r1.rewards.figure_words import named_things

# So many different things of the figure must be named.
GROUNDED_THINGS = 2

_WORD = re.compile(r"\\?[A-Za-z]+|\d+(?:\.\d+)?|[∠△⊙∥⊥°]")
_TAG = re.compile(r"<(think|scan|answer)>")
# Letters and symbols that show as nothing: the Hangul fillers and the blank Braille cell.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")


def format_ok(
    response: str, tags: Sequence[str] = ("think", "answer"), opens_think: bool = False
) -> bool:
    """Whether each tag stands once, in order, is not empty, and nothing but space is outside.

    A tag is empty where no letter, digit or symbol is inside: spaces, punctuation and characters
    that show as nothing (zero-width spaces, fillers) are no content.

    Args:
        response: what the model wrote.
        tags: the tags in their order, such as `("scan", "think", "answer")`.
        opens_think: the prompt's template already wrote `<think>`, so the response begins inside.
    """
    rest = opened(response, opens_think)
    if any(rest.count(mark) != 1 for tag in tags for mark in (f"<{tag}>", f"</{tag}>")):
        return False
    for tag in tags:
        before, _, rest = rest.partition(f"<{tag}>")
        inside, closed, rest = rest.partition(f"</{tag}>")
        if before.strip() or not _says_something(inside) or not closed:
            return False
    return not rest.strip()


def visual_grounding(response: str, question: str, opens_think: bool = False) -> float:
    """1.0 where the thought or the scan names at least two different things of the figure, else 0.

    What counts as a thing is in `figure_words`, and what counts as copied from the question, which
    earns nothing, in `copying`. Only what stands before the answer counts.
    """
    asked = [word.casefold() for word in _WORD.findall(question)]
    things: set[str] = set()
    for text in _seen(opened(response, opens_think)):
        words: list[str] = _WORD.findall(text)
        own = not_copied([word.casefold() for word in words], asked)
        things |= named_things(
            [word if kept else None for word, kept in zip(words, own, strict=True)]
        )
    return 1.0 if len(things) >= GROUNDED_THINGS else 0.0


def opened(response: str, opens_think: bool) -> str:
    """The response with the `<think>` that the template wrote in its place."""
    return f"<think>{response}" if opens_think else response


def _says_something(text: str) -> bool:
    return any(
        unicodedata.category(character)[0] in "LNS" and character not in _BLANK
        for character in text
    )


def _seen(response: str) -> Iterator[str]:
    """What stands inside closed `<think>` and `<scan>` tags before the answer begins.

    Tags inside of a tag are its text: a scan inside the answer is part of the answer.
    """
    start = 0
    while (found := _TAG.search(response, start)) is not None and found[1] != "answer":
        end = response.find(f"</{found[1]}>", found.end())
        if end < 0:
            return
        yield response[found.end() : end]
        start = end
