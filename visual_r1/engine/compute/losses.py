"""The losses of Tinker: sums over tokens, without mask and without normalisation.

Each takes the learner's log-probabilities logp of the target tokens, the datum's inputs of the same
shape, and its configuration; it returns the loss of each token. With q the sampler's
log-probabilities, A the advantages and r = exp(logp − q):

    cross_entropy        −weights · logp
    importance_sampling  −r · A
    ppo                  −min(r · A, clip(r, low, high) · A)          (Schulman et al., 2017)
    cispo                −stop_gradient(clip(r, low, high)) · logp · A  (MiniMax, 2025)
    dro                  −(logp · A − ½ β (logp − q)²)                (Richemond et al., 2024)
    gspo                 −min(s · A, clip(s, low, high) · A)          (Zheng et al., 2025)

where s = exp(mean over M of (logp − q)), M the places where `sequence_ratio_mask` is not 0, and
each token's s has the gradient of its own logp: GSPO-token, equations 13 and 14 of
arXiv:2507.18071.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from visual_r1.engine.types import InvalidRequest

Inputs: TypeAlias = Mapping[str, Tensor]
Settings: TypeAlias = Mapping[str, float]
Formula: TypeAlias = Callable[[Tensor, Inputs, Settings], Tensor]


@dataclass(frozen=True)
class LossFunction:
    """A loss by name: its formula, the inputs it needs, and its configuration with defaults."""

    formula: Formula
    inputs: tuple[str, ...]
    defaults: Settings = field(default_factory=dict[str, float])
    masked_by: tuple[str, ...] = ()
    """The inputs that are all 0 at places which add nothing to the loss; none where every place
    counts."""
    ratio: Callable[[Tensor, Inputs], Tensor] | None = None
    """What the loss takes for the ratio of a token; None where it has none."""


def ratio(logp: Tensor, inputs: Inputs) -> Tensor:
    """r = exp(logp − q) where A is not 0, else 1.

    Where A is 0 the token adds nothing to a loss in r · A, whatever q is; taking r there could
    overflow and make 0 · inf of it.
    """
    difference = torch.where(inputs["advantages"] != 0, logp - inputs["logprobs"], 0.0)
    return torch.exp(difference)


def sequence_ratio(logp: Tensor, inputs: Inputs) -> Tensor:
    """s of each of B data at all its places, [B, L, K] or [L]; every token's own gradient."""
    counted = inputs["sequence_ratio_mask"] != 0
    # Only where it counts: elsewhere q may be anything. Padding does not count.
    difference = torch.where(counted, logp.detach() - inputs["logprobs"], 0.0)
    places = tuple(range(1 if logp.ndim > 1 else 0, logp.ndim))
    mean = difference.sum(places, keepdim=True) / counted.sum(places, keepdim=True)
    return torch.exp(mean + logp - logp.detach())


def cross_entropy(logp: Tensor, inputs: Inputs, _: Settings) -> Tensor:
    """−weights · logp; targets and weights may be [T, K], K weighted targets a position."""
    return -inputs["weights"] * logp


def importance_sampling(logp: Tensor, inputs: Inputs, _: Settings) -> Tensor:
    """−r · A."""
    return -ratio(logp, inputs) * inputs["advantages"]


def ppo(logp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """−min(r · A, clip(r, low, high) · A); the thresholds are ratios, not distances from 1."""
    r, advantages = ratio(logp, inputs), inputs["advantages"]
    return -torch.minimum(r * advantages, _clip(r, settings) * advantages)


def cispo(logp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """−stop_gradient(clip(r, low, high)) · logp · A."""
    return -_clip(ratio(logp, inputs), settings).detach() * logp * inputs["advantages"]


def dro(logp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """−(logp · A − ½ β (logp − q)²); the penalty counts at every position, also where A is 0."""
    penalty = 0.5 * settings["beta"] * (logp - inputs["logprobs"]).square()
    return penalty - logp * inputs["advantages"]


def gspo(logp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """−min(s · A, clip(s, low, high) · A)."""
    s, advantages = sequence_ratio(logp, inputs), inputs["advantages"]
    return -torch.minimum(s * advantages, _clip(s, settings) * advantages)


def _clip(r: Tensor, settings: Settings) -> Tensor:
    return r.clamp(settings["clip_low_threshold"], settings["clip_high_threshold"])


_POLICY_INPUTS = ("logprobs", "advantages")
_BY_ADVANTAGE = ("advantages",)

LOSSES: Mapping[str, LossFunction] = {
    "cross_entropy": LossFunction(cross_entropy, ("weights",), masked_by=("weights",)),
    "importance_sampling": LossFunction(
        importance_sampling, _POLICY_INPUTS, masked_by=_BY_ADVANTAGE, ratio=ratio
    ),
    "ppo": LossFunction(
        ppo,
        _POLICY_INPUTS,
        {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
        masked_by=_BY_ADVANTAGE,
        ratio=ratio,
    ),
    "cispo": LossFunction(
        cispo,
        _POLICY_INPUTS,
        {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
        masked_by=_BY_ADVANTAGE,
        ratio=ratio,
    ),
    # Tinker's documentation shows β = 0.05 and names no other default.
    "dro": LossFunction(dro, _POLICY_INPUTS, {"beta": 0.05}, ratio=ratio),
    # The paper's thresholds; Tinker's own defaults were not seen.
    "gspo": LossFunction(
        gspo,
        (*_POLICY_INPUTS, "sequence_ratio_mask"),
        {"clip_low_threshold": 1 - 3e-4, "clip_high_threshold": 1 + 4e-4},
        masked_by=(*_BY_ADVANTAGE, "sequence_ratio_mask"),
        ratio=sequence_ratio,
    ),
}

NEEDS_PROVENANCE = "stable_reinforce"
"""The loss that learns from what was recorded of its samples; nobody has published its formula."""


def find_loss(name: str, config: Mapping[str, float]) -> tuple[LossFunction, Settings]:
    """The loss of that name, and its configuration over the defaults.

    Raises `InvalidRequest` for an unknown name or key, or a value that is not a finite number.
    """
    loss = LOSSES.get(name)
    if name == NEEDS_PROVENANCE:
        raise InvalidRequest(
            f"loss_fn {name!r} has no public formula, so this engine does not compute it; what its "
            f"data say of where they were sampled is right. It has {', '.join(LOSSES)}."
        )
    if loss is None:
        raise InvalidRequest(f"loss_fn {name!r} is unknown; this engine has {', '.join(LOSSES)}.")
    for key, value in config.items():
        if key not in loss.defaults:
            known = ", ".join(loss.defaults) or "no keys"
            raise InvalidRequest(f"loss_fn_config of {name} has {key!r}, and takes {known}.")
        if not math.isfinite(value):
            raise InvalidRequest(f"loss_fn_config {key} is {value}; it must be a finite number.")
    return loss, {**loss.defaults, **config}
