"""The colours of tokens: what a value is, which shade it has, and what the scale says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from visual_r1.pages.scored import Scored, Token

By = Literal["logprob", "ratio", "image"]

SURPRISE = (0.05, 0.22, 0.7, 1.6, 3.0, 5.0)
"""Nats below a certain token at which the next darker shade begins: p 0.95, 0.8, 0.5, 0.2, 0.05."""

APART = (0.05, 0.25, 0.7, 1.6)
"""The same of a difference of log-probabilities, to either side."""

_CONTEXT = 16


@dataclass(frozen=True, slots=True)
class Shade:
    """A token as the page shows it."""

    text: str
    kind: str
    says: str
    is_end: bool


def value_of(token: Token, by: By, *, newer: bool) -> float | None:
    """What colours a token, in nats: a log-probability, a log-ratio, or a difference of two."""
    match by:
        case "logprob":
            return token.wrote
        case "ratio":
            if token.other is None:
                return None
            return token.other - token.wrote if newer else token.wrote - token.other
        case "image":
            return None if token.unseen is None else token.wrote - token.unseen


def shades(scored: Scored, by: By) -> list[Shade]:
    """The tokens with the classes of their colours and their figures in words."""
    found: list[Shade] = []
    for index, token in enumerate(scored.tokens):
        value = value_of(token, by, newer=scored.newer)
        is_end = index == len(scored.tokens) - 1 and scored.wanted.stopped
        found.append(Shade(token.text, kind_of(value, by), _says(token, scored), is_end))
    return found


def kind_of(value: float | None, by: By) -> str:
    """The class of a colour: `s0` to `s6` by surprise, `m4` to `p4` to either side of nothing."""
    if value is None:
        return "s0"
    if by == "logprob":
        return f"s{sum(-value > edge for edge in SURPRISE)}"
    shade = sum(abs(value) > edge for edge in APART)
    return f"{'p' if value > 0 else 'm'}{shade}" if shade else "s0"


def _says(token: Token, scored: Scored) -> str:
    parts = [f"p = {math.exp(token.wrote):.3g} ({token.wrote:.2f} nats)"]
    if (ratio := value_of(token, "ratio", newer=scored.newer)) is not None:
        parts.append(f"ratio {math.exp(ratio):.3g}")
    if (seen := value_of(token, "image", newer=scored.newer)) is not None:
        parts.append(f"picture {seen:+.2f} nats")
    return " · ".join(parts).replace("-", "−")


def legend(by: By) -> Sequence[tuple[str, str]]:
    """Classes of the colours with the values at which they begin."""
    if by == "logprob":
        return [
            (f"s{index}", words)
            for index, words in enumerate(["p ≈ 1", "0.95", "0.8", "0.5", "0.2", "0.05", "0.007"])
        ]
    left = [f"m{index}" for index in (4, 3, 2, 1)]
    kinds = [*left, "s0", *(f"p{index}" for index in (1, 2, 3, 4))]
    if by == "ratio":
        words = ["< 0.2", "0.5", "0.78", "0.95", "1", "1.05", "1.28", "2", "> 5"]
    else:
        words = ["< −1.6", "−0.7", "−0.25", "−0.05", "0", "+0.05", "+0.25", "+0.7", "> +1.6"]
    return list(zip(kinds, words, strict=True))


def strongest(scored: Scored, count: int = 6) -> list[tuple[str, str, float]]:
    """What the picture makes likelier by most: what stands before, the token, how many nats."""
    found: list[tuple[str, str, float]] = []
    before = ""
    for token in scored.tokens:
        told = 0.0 if token.unseen is None else token.wrote - token.unseen
        if told > APART[0] and token.text.strip():
            found.append((before[-_CONTEXT:], token.text, told))
        before += token.text
    return sorted(found, key=lambda one: -one[2])[:count]


def totals(scored: Scored) -> list[tuple[str, str]]:
    tokens = scored.tokens
    whole = math.fsum(token.wrote for token in tokens)
    found = [
        ("log-probability of the response", f"{whole:.2f} nats"),
        ("a token", f"{whole / len(tokens):.3f} nats"),
    ]
    ratios = [value_of(token, "ratio", newer=scored.newer) for token in tokens]
    known = [one for one in ratios if one is not None]
    if known:
        found.append(("ratio of the response", f"{math.exp(min(math.fsum(known), 700.0)):.3g}"))
    seen = [token.wrote - token.unseen for token in tokens if token.unseen is not None]
    if seen:
        found.append(("the picture makes it likelier by", f"{math.fsum(seen):+.2f} nats"))
    return [(name, words.replace("-", "−")) for name, words in found]
