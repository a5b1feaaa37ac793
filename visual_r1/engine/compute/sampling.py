"""The next token of each sequence, drawn from its own stream of random numbers."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.types import SamplingSettings

BLOCK = 32
"""Random numbers are taken from a stream this many at a time."""


def stream(seed: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample: Philox, a counter-based generator keyed by (seed, sample).

    A function of the two alone: what else is sampled, and in which order, changes nothing.
    """
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, sample]))


def fresh_seed() -> int:
    """A seed from the system's entropy, for a request that names none."""
    return secrets.randbits(63)


@dataclass(frozen=True)
class DrawRules:
    """How each of R sequences draws: float32 and int64 [R] on the engine's device."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    any_random: bool
    any_filtered: bool

    @staticmethod
    def of(
        settings: Sequence[SamplingSettings], vocabulary: int, device: torch.device
    ) -> "DrawRules":
        """The rules of R sequences; `top_k` off is the whole vocabulary."""
        top_k = [min(s.top_k, vocabulary) if s.top_k > 0 else vocabulary for s in settings]
        return DrawRules(
            temperature=torch.tensor([s.temperature for s in settings], device=device),
            top_p=torch.tensor([s.top_p for s in settings], device=device),
            top_k=torch.tensor(top_k, device=device),
            any_random=any(s.temperature > 0 for s in settings),
            any_filtered=any(
                s.temperature > 0 and (s.top_p < 1 or k < vocabulary)
                for s, k in zip(settings, top_k, strict=True)
            ),
        )


def draw(logits: Tensor, rules: DrawRules, uniforms: Tensor) -> Tensor:
    """Token ids [R] from logits [R, V] and one uniform number in [0, 1) a row, float64 [R].

    Temperature 0 takes the likeliest token. Otherwise the distribution at that temperature is cut
    to the `top_k` likeliest tokens, then to the fewest of them that together hold `top_p` of what
    is left, and drawn from by the inverse of its cumulative distribution. Each row is computed by
    itself.
    """
    greedy = logits.argmax(dim=-1)
    if not rules.any_random:
        return greedy
    is_greedy = rules.temperature == 0
    temperature = torch.where(is_greedy, 1.0, rules.temperature)
    scaled = logits / temperature[:, None]
    tokens = _invert(torch.softmax(scaled, dim=-1), uniforms)
    if rules.any_filtered:
        filtered = (rules.top_p < 1) | (rules.top_k < logits.shape[1])
        tokens = torch.where(filtered, _draw_filtered(scaled, rules, uniforms), tokens)
    return torch.where(is_greedy, greedy, tokens)


def alternatives(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """k independent draws a row, int64 [R, k], from logits [R, V] with uniforms float64 [R, k]."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True).expand(-1, uniforms.shape[1])
    return _invert_all(torch.softmax(logits / temperature, dim=-1), uniforms)


def _draw_filtered(scaled: Tensor, rules: DrawRules, uniforms: Tensor) -> Tensor:
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(scaled.shape[1], device=scaled.device)
    ordered = ordered.masked_fill(rank >= rules.top_k[:, None], -torch.inf)
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # Nothing is before the likeliest token: it stays, however small top_p is.
    beyond = before >= rules.top_p[:, None]
    chosen = _invert(probabilities.masked_fill(beyond, 0.0), uniforms)
    return ids.gather(-1, chosen[:, None])[:, 0]


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first index at which the cumulative sum exceeds u times the total, u [R]."""
    return _invert_all(probabilities, uniforms[:, None])[:, 0]


def _invert_all(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    cumulative = probabilities.double().cumsum(dim=-1)
    index = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return index.clamp_(max=probabilities.shape[1] - 1)
