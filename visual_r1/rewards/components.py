"""Components of the reward that look at the response alone: format and visual grounding."""

import re
from collections.abc import Iterator, Sequence

from visual_r1.rewards.figure_words import named_things

# A run of this many words that the question has too was copied, not seen.
COPIED_WORDS = 4
# So many different things of the figure must be named.
GROUNDED_THINGS = 2

_WORD = re.compile(r"\\?[A-Za-z]+|\d+(?:\.\d+)?|[∠△⊙∥⊥°]")


def format_ok(
    response: str, tags: Sequence[str] = ("think", "answer"), opens_think: bool = False
) -> bool:
    """Whether each tag stands once, in order, is not empty, and nothing but space is outside.

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
        if before.strip() or not inside.strip() or not closed:
            return False
    return not rest.strip()


def visual_grounding(response: str, question: str, opens_think: bool = False) -> float:
    """1.0 where the thought or the scan names at least two different things of the figure, else 0.

    What counts as a thing is in `figure_words`; spans of four words or more that the question
    holds too do not count, so repeating the question earns nothing.
    """
    asked = [found[0].casefold() for found in _WORD.finditer(question)]
    copied = {tuple(gram) for gram in _grams(asked)}
    things: set[str] = set()
    for text in _seen(opened(response, opens_think)):
        words = [found[0] for found in _WORD.finditer(text)]
        kept = list[str | None](words)
        for start, gram in enumerate(_grams([word.casefold() for word in words])):
            if tuple(gram) in copied:
                kept[start : start + COPIED_WORDS] = [None] * COPIED_WORDS
        things |= named_things(kept)
    return 1.0 if len(things) >= GROUNDED_THINGS else 0.0


def opened(response: str, opens_think: bool) -> str:
    """The response with the `<think>` that the template wrote in its place."""
    return f"<think>{response}" if opens_think else response


def _grams(words: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(len(words) - COPIED_WORDS + 1):
        yield words[start : start + COPIED_WORDS]


def _seen(response: str) -> Iterator[str]:
    """What stands inside closed `<think>` and `<scan>` tags."""
    for tag in ("think", "scan"):
        start = 0
        while (begin := response.find(f"<{tag}>", start)) >= 0:
            end = response.find(f"</{tag}>", begin)
            if end < 0:
                break
            yield response[begin + len(tag) + 2 : end]
            start = end + len(tag) + 3
