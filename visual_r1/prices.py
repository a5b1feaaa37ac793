"""Tokens as a server bills them, and what they cost.

    cost = (prefill p_prefill + sample p_sample + train p_train) / 10^6    in US dollars

It is an estimate: a server may bill otherwise (prompts that it has seen before, storage), and what
was lost to a failure and done again is paid twice and counted once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from visual_r1.backend.endpoint import Kind
from visual_r1.config import RunConfig


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many of each kind; not whole numbers where they are foretold.

    `prefill` counts each prompt once a request, however many samples are asked of it, with the
    tokens of its images, and all that is scored without being sampled; `sample` the sampled
    tokens, also of answers that came to nothing; `train` the positions of every datum (its prompt
    and its answer but for the last token), each time it is learnt from.
    """

    prefill: float = 0
    sample: float = 0
    train: float = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.prefill + other.prefill, self.sample + other.sample, self.train + other.train
        )


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens; None where not known."""

    prefill: float | None = None
    sample: float | None = None
    train: float | None = None

    def cost(self, tokens: Tokens) -> float | None:
        """What `tokens` cost in US dollars; None without all three prices."""
        if self.prefill is None or self.sample is None or self.train is None:
            return None
        paid = (
            tokens.prefill * self.prefill + tokens.sample * self.sample + tokens.train * self.train
        )
        return paid / 1e6


NO_PRICES = Prices()


def prices_of(config: RunConfig, kind: Kind) -> Prices:
    """The prices of the section `prices`; none on the embedded engine, where nothing is paid."""
    if kind == "embedded":
        return NO_PRICES
    prices = config.prices
    return Prices(prices.prefill, prices.sample, prices.train)


def total(parts: Iterable[Tokens]) -> Tokens:
    """The sum of all parts."""
    return sum(parts, NO_TOKENS)
