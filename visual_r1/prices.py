"""Tokens as a server bills them, and what they cost.

    cost = (prefill p_prefill + cached p_cached + sample p_sample + train p_train) / 10^6

in US dollars. The prices are those of the settings `prices`, and on the hosted service, for what is
not set, those of prices.toml, which says where and when they were read. It is an estimate: what
was lost to a failure and done again is paid twice and counted once, and storage comes on top.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from visual_r1.backend.endpoint import Kind
from visual_r1.config import RunConfig
from visual_r1.models import hub_id

CACHED_SHARE = 0.2
"""Of the price of a prompt token: what one out of the cache costs, where nothing says otherwise.
The hosted service's list says so, and so do all its rows."""

HOURS_A_MONTH = 720.0
"""As the hosted service bills storage."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many of each kind; not whole numbers where they are foretold.

    `prefill` are the tokens of prompts, images included, and all that is scored without being
    sampled. Of a request for G samples the prompt is read once; the G - 1 times that it would be
    read again are `cached`, and so is what the server says it had of the prompt before. `sample`
    are the sampled tokens, also of answers that came to nothing; `train` the positions of every
    datum (its prompt and its answer but for the last token) in each forward_backward and forward.
    """

    prefill: float = 0
    sample: float = 0
    train: float = 0
    cached: float = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.prefill + other.prefill,
            self.sample + other.sample,
            self.train + other.train,
            self.cached + other.cached,
        )

    def __mul__(self, times: float) -> "Tokens":
        return Tokens(
            self.prefill * times, self.sample * times, self.train * times, self.cached * times
        )

    @property
    def count(self) -> float:
        """All of them together: what `limits.budget_tokens` is of."""
        return self.prefill + self.sample + self.train + self.cached

    @classmethod
    def asked(cls, prompt: float, samples: float, answers: float, known: float = 0) -> "Tokens":
        """A request for `samples` answers, of `answers` tokens together, to a prompt.

        `known` is how many of the prompt's tokens the server had read before.
        """
        known = min(known, prompt)
        cached = known + max(samples - 1, 0) * prompt
        return cls(prefill=prompt - known, sample=answers, cached=cached)


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens; None where not known, but `cached`: a fifth of `prefill`.

    `storage` is for a gigabyte (10^9 bytes) of checkpoints and a month. `source` says where they
    are from, in a few words; empty where the settings alone say them.
    """

    prefill: float | None = None
    sample: float | None = None
    train: float | None = None
    cached: float | None = None
    storage: float | None = None
    source: str = field(default="", compare=False)

    @property
    def known(self) -> bool:
        """Whether tokens of all kinds have a price."""
        return None not in (self.prefill, self.sample, self.train)

    def cost(self, tokens: Tokens) -> float | None:
        """What `tokens` cost in US dollars; None without the prices of all kinds."""
        if not self.known:
            return None
        return sum(count * (price or 0.0) for _, count, price in self.parts(tokens)) / 1e6

    def parts(self, tokens: Tokens) -> Sequence[tuple[str, float, float | None]]:
        """Each kind of token in words, how many there are, and its price for a million."""
        cached = self.cached
        if cached is None and self.prefill is not None:
            cached = CACHED_SHARE * self.prefill
        return [
            ("prompts read", tokens.prefill, self.prefill),
            ("read again, from the cache", tokens.cached, cached),
            ("sampled", tokens.sample, self.sample),
            ("trained on", tokens.train, self.train),
        ]

    def cost_of_storage(self, size_bytes: float, hours: float) -> float | None:
        """What checkpoints of so many bytes cost in so many hours; None without a price."""
        if self.storage is None:
            return None
        return self.storage * size_bytes / 1e9 * hours / HOURS_A_MONTH


NO_PRICES = Prices()


def prices_of(config: RunConfig, kind: Kind) -> Prices:
    """What a run of `config` pays on such a server.

    None on the embedded engine, where nothing is paid. Where `prices.prefill` is set and
    `prices.cached` is not, that is a fifth of it.
    """
    if kind == "embedded":
        return NO_PRICES
    given = config.prices.model_dump(exclude_none=True)
    if kind != "hosted":
        return Prices(**given)
    listed, source = _listed(config.model.name)
    if "prefill" in given:
        listed.pop("cached", None)
    return Prices(**(listed | given), source=source if listed.keys() - given.keys() else "")


def _listed(name: str) -> tuple[dict[str, float], str]:
    """The prices of prices.toml for a model, and what is to be known of them; empty where the
    service's list had no such model."""
    table = _table()
    rows: Mapping[str, Mapping[str, Any]] = {row["name"]: row for row in table["model"]}
    row = rows.get(name) or rows.get(hub_id(name))
    if row is None:
        return {}, ""
    parts = ("prefill", "sample", "train", "cached")
    prices: dict[str, float] = {part: row[part] for part in parts if part in row}
    prices["storage"] = table["storage"]["gigabyte_month"]
    of = "" if row["name"] == name else f"those of {row['name']}, "
    return prices, f"{of}read on {row['date']}, prices.toml"


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads((files("visual_r1") / "prices.toml").read_text(encoding="utf-8"))


def total(parts: Iterable[Tokens]) -> Tokens:
    """The sum of all parts."""
    return sum(parts, NO_TOKENS)


class Spent(Protocol):
    """What an evaluation or a validation took; None of what its version did not count."""

    @property
    def tokens_prefill(self) -> float | None: ...
    @property
    def tokens_sampled(self) -> float | None: ...
    @property
    def tokens_cached(self) -> float | None: ...
    @property
    def cost_usd(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Payment:
    """What a step, a validation or an evaluation took; `usd` is None where that was not known."""

    tokens: Tokens
    usd: float | None

    @classmethod
    def of(cls, spent: Spent) -> "Payment":
        """That of an evaluation or a validation."""
        tokens = Tokens(
            spent.tokens_prefill or 0, spent.tokens_sampled or 0, cached=spent.tokens_cached or 0
        )
        return cls(tokens, spent.cost_usd)

    @classmethod
    def of_step(cls, row: Mapping[str, Any]) -> "Payment":
        """That of a row of metrics.jsonl; no tokens of a kind that its version did not count."""
        names = ("tokens_prefill", "tokens_sampled", "tokens_trained", "tokens_cached")
        return cls(Tokens(*(row.get(name) or 0 for name in names)), row.get("cost_usd"))

    @classmethod
    def in_all(cls, payments: Iterable["Payment"]) -> "Payment":
        """The sum of all."""
        found = list(payments)
        return cls(total(one.tokens for one in found), usd_in_all(one.usd for one in found))


def usd_in_all(costs: Iterable[float | None]) -> float | None:
    """The sum of the costs that are known; None where none is."""
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) if known else None
