"""The next token of each sequence, drawn from its own stream of random numbers.

A stream is a function of the request's seed and the sample's number alone, and each sequence takes
one number of it a token: what else is sampled, and in which order, changes nothing. Hence Philox, a
counter-based generator (Salmon et al., 2011): its streams are keyed, not cut from one sequence.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from visual_r1.engine.compute.batching import floats, integers
from visual_r1.engine.types import SamplingSettings, TopkRow

NUMBERS_AT_ONCE = 32
"""Random numbers are taken from a stream this many at a time."""


_BLOCK = 32
"""Tokens whose weights are summed up together."""

_ALL_BUT_NOTHING = 1 - 2**-50
"""Of a sum: below it by no more than rounding."""

_COLDEST = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps
"""A logit divided by a lower temperature than this, about 1e-31, may be no number of float32."""


def stream(seed: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample: Philox keyed by (seed, sample)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, sample], np.uint64)))


def fresh_seed() -> int:
    """A seed from the system's entropy, for a request that names none."""
    return secrets.randbits(63)


@dataclass(frozen=True)
class SamplingRules:
    """How tokens of R sequences are chosen: float32 and int64 [R] on the engine's device."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    any_greedy: bool
    any_random: bool
    any_filtered: bool
    all_plain: bool
    """Whether all are at temperature 1."""
    greedy: Tensor
    """bool [R]: those that take the likeliest token, see `_is_greedy`."""

    @staticmethod
    def of(
        settings: Sequence[SamplingSettings], vocabulary: int, device: torch.device
    ) -> "SamplingRules":
        """The rules of R sequences; `top_k` off is the whole vocabulary."""
        top_k = [min(s.top_k, vocabulary) if s.top_k > 0 else vocabulary for s in settings]
        greedy = [_is_greedy(s.temperature) for s in settings]
        return SamplingRules(
            temperature=torch.tensor([s.temperature for s in settings], device=device),
            top_p=torch.tensor([s.top_p for s in settings], device=device),
            top_k=torch.tensor(top_k, device=device),
            any_greedy=any(greedy),
            any_random=not all(greedy),
            any_filtered=any(
                not cold and (s.top_p < 1 or k < vocabulary)
                for s, k, cold in zip(settings, top_k, greedy, strict=True)
            ),
            all_plain=all(s.temperature == 1 for s in settings),
            greedy=torch.tensor(greedy, device=device),
        )


def _is_greedy(temperature: float) -> bool:
    """Whether it is 0, or so low that the likeliest token is all that is left."""
    return temperature < _COLDEST


def next_tokens(logits: Tensor, rules: SamplingRules, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [R] and their log-probabilities, float32 [R], from logits [R, V] and one uniform
    number in [0, 1) a row, float64 [R].

    Temperature 0 takes the likeliest token, and so does one that is too low for float32. Otherwise
    the distribution at that temperature is cut to the `top_k` likeliest tokens, then to the fewest
    of them that together hold `top_p` of what is left (nucleus sampling, Holtzman et al., 2020),
    and sampled by the inverse of its cumulative distribution. The log-probability is that at
    temperature 1, uncut. Each row is computed by itself.
    """
    probabilities = torch.softmax(logits, dim=-1)
    tokens = _chosen(logits, probabilities, rules, uniforms)
    return tokens, _logprobs(logits, probabilities, logits.gather(-1, tokens[:, None]))[:, 0]


def all_logprobs(logits: Tensor) -> Tensor:
    """Log-probabilities of all tokens, float32 [R, V], to the bit as `next_tokens` has them."""
    return _logprobs(logits, torch.softmax(logits, dim=-1), logits)


def _logprobs(logits: Tensor, probabilities: Tensor, of: Tensor) -> Tensor:
    """Of logits l, by the likeliest token's, no number near 0: log p = log p' − (l' − l)."""
    below = logits.amax(dim=-1, keepdim=True) - of
    return probabilities.amax(dim=-1, keepdim=True).log_() - below


def _chosen(
    logits: Tensor, probabilities: Tensor, rules: SamplingRules, uniforms: Tensor
) -> Tensor:
    if not rules.any_random:
        return logits.argmax(dim=-1)
    scaled = logits
    if not rules.all_plain:
        scaled = logits / torch.where(rules.greedy, 1.0, rules.temperature)[:, None]
        probabilities = torch.softmax(scaled, dim=-1)
    tokens = _invert(probabilities, uniforms[:, None])[:, 0]
    if rules.any_filtered:
        # A row without a filter keeps its token: the other way sums up in another order.
        filtered = (rules.top_p < 1) | (rules.top_k < logits.shape[1])
        tokens = torch.where(filtered, _filtered_tokens(scaled, rules, uniforms), tokens)
    return torch.where(rules.greedy, logits.argmax(dim=-1), tokens) if rules.any_greedy else tokens


def alternative_tokens(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """k independent tokens a row, int64 [R, k], from logits [R, V], uniforms float64 [R, k]."""
    if _is_greedy(temperature):
        return logits.argmax(dim=-1, keepdim=True).expand(-1, uniforms.shape[1])
    return _invert(torch.softmax(logits / temperature, dim=-1), uniforms)


def likeliest(logp: Tensor, k: int) -> list[TopkRow]:
    """The k likeliest tokens of each row of log-probabilities [R, V].

    Which of equally likely ones come first may be another with another k.
    """
    values, ids = logp.topk(k, dim=-1)
    return [
        tuple(zip(integers(row_ids), floats(row_values), strict=True))
        for row_ids, row_values in zip(ids, values, strict=True)
    ]


def _filtered_tokens(scaled: Tensor, rules: SamplingRules, uniforms: Tensor) -> Tensor:
    # Stable, so that equally likely tokens are kept or cut in the order of their ids.
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(scaled.shape[1], device=scaled.device)
    ordered = ordered.masked_fill(rank >= rules.top_k[:, None], -torch.inf)
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # The likeliest token stays, also where top_p is too small for float32 and is 0 there.
    beyond = (before >= rules.top_p[:, None]) & (rank > 0)
    chosen = _invert(probabilities.masked_fill(beyond, 0.0), uniforms[:, None])
    return ids.gather(-1, chosen)[:, 0]


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """[R, k]: the first index at which the cumulative sum exceeds u times the total, u [R, k].

    Its probability is positive. Summed up in blocks, of which one is then looked into: long sums
    in float64 cost as much as all else that choosing takes.
    """
    rows, count = probabilities.shape
    if missing := -count % _BLOCK:
        probabilities = functional.pad(probabilities, (0, missing))
    blocks = probabilities.view(rows, -1, _BLOCK)
    upto = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = uniforms.clamp(max=_ALL_BUT_NOTHING).mul_(upto[:, -1:])
    # Of numbers that are none nothing exceeds the sum: it is for others to see them.
    block = torch.searchsorted(upto, wanted, right=True).clamp_(max=upto.shape[1] - 1)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK))
    inside = inside.cumsum(-1, dtype=torch.float64)
    # Its sum is not to the last bit that of before.
    left = wanted.sub_(functional.pad(upto, (1, 0)).gather(-1, block))
    left = torch.minimum(left[..., None], inside[..., -1:] * _ALL_BUT_NOTHING)
    index = block.mul_(_BLOCK).add_(torch.searchsorted(inside, left, right=True)[..., 0])
    return index.clamp_(max=count - 1)
