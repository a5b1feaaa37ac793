"""Adam with decoupled weight decay, on an adapter's flat vectors."""

import math

import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import is_finite
from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.lora import Adapter
from visual_r1.engine.types import AdamSettings, InvalidRequest

_BEYOND_USE = 1e4
"""Weights of an adapter are of the order of 1; with larger ones than this nothing can be computed
but overflow."""

NUMBERS_AT_ONCE = 2**26
"""Of a vector: LoRAs on all experts of a 30B-A3B have a thousand million numbers, of which a step
then holds no further copies."""


def adam_step(adapter: Adapter, settings: AdamSettings) -> dict[str, float]:
    """Update the weights with the accumulated gradient g, which is cleared.

    g is scaled to the norm `grad_clip_norm` when it is longer (0: never); then
        m = β1 m + (1 − β1) g,  v = β2 v + (1 − β2) g²,
        w = (1 − lr · decay) w − lr · (m / (1 − β1ᵗ)) / (sqrt(v / (1 − β2ᵗ)) + eps)
    (Loshchilov & Hutter, 2019). Returns the norm of g before clipping, and its scale. A gradient
    that is not finite is discarded: the weights stay, and `InvalidRequest` says so. Weights or
    moments that the step makes infinite or NaN are of no further use, and it says that too.
    """
    check_settings(settings)
    if adapter.pending == 0:
        raise InvalidRequest(
            "there is no gradient to step with: call forward_backward first, and check that it "
            "succeeded."
        )
    gradient = adapter.gradients
    # In float64: the squares of a million float32 numbers do not add up well.
    squares = [part.double().square().sum() for part in split(gradient, NUMBERS_AT_ONCE)]
    norm = math.sqrt(float(torch.stack(squares).sum()))
    adapter.pending = 0
    if not math.isfinite(norm):
        gradient.zero_()
        largest = float(adapter.weights.abs().max())
        advice = "Check the weights, advantages and log-probabilities that were sent."
        if largest > _BEYOND_USE:
            advice = (
                f"The weights have grown to {largest:.3g} in {adapter.steps} optimizer steps: go "
                "back to an earlier checkpoint, with a lower learning rate."
            )
        raise InvalidRequest(
            f"the norm of the accumulated gradient is {norm}; it was discarded and the weights are "
            f"unchanged. {advice}"
        )
    scale = 1.0
    if settings.grad_clip_norm > 0 and norm > settings.grad_clip_norm:
        scale = settings.grad_clip_norm / norm
        gradient.mul_(scale)
    adapter.steps += 1
    mean, square = adapter.first_moment, adapter.second_moment
    vectors = (gradient, mean, square, adapter.weights)
    pieces = (split(vector, NUMBERS_AT_ONCE) for vector in vectors)
    for g, m, v, w in zip(*pieces, strict=True):
        _update(g, m, v, w, settings, adapter.steps)
    gradient.zero_()
    if not (is_finite(adapter.weights) and is_finite(mean) and is_finite(square)):
        adapter.broken = (
            f"optimizer step {adapter.steps}, with learning_rate {settings.learning_rate:g} and a "
            f"gradient of norm {norm:.3g}, made its weights or Adam's moments infinite"
        )
        adapter.require_sound()
    return {"grad_norm:mean": norm, "grad_scale:mean": scale}


def _update(
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    weights: Tensor,
    settings: AdamSettings,
    steps: int,
) -> None:
    """Adam's step number `steps` on pieces of an adapter's vectors, in place."""
    mean.lerp_(gradient, 1 - settings.beta1)
    square.mul_(settings.beta2).addcmul_(gradient, gradient, value=1 - settings.beta2)
    mean_correction = 1 - settings.beta1**steps
    square_correction = math.sqrt(1 - settings.beta2**steps)
    denominator = square.sqrt().div_(square_correction).add_(_in_float32(settings.eps))
    if settings.eps == 0:
        # A coordinate that never had a gradient is 0 / 0 and stays where it is.
        denominator.masked_fill_(denominator == 0, 1.0)
    weights.mul_(_in_float32(1 - settings.learning_rate * settings.weight_decay))
    weights.addcdiv_(
        mean, denominator, value=-_in_float32(settings.learning_rate / mean_correction)
    )


def _in_float32(number: float) -> float:
    """The number, or infinity where float32 has none so large: torch would raise an error."""
    largest = torch.finfo(torch.float32).max
    return number if abs(number) <= largest else math.copysign(math.inf, number)


def check_settings(settings: AdamSettings) -> None:
    """Raises `InvalidRequest` for numbers that Adam cannot use."""
    limits = {
        "learning_rate": settings.learning_rate >= 0,
        "beta1": 0 <= settings.beta1 < 1,
        "beta2": 0 <= settings.beta2 < 1,
        "eps": settings.eps >= 0,
        "weight_decay": settings.weight_decay >= 0,
        "grad_clip_norm": settings.grad_clip_norm >= 0,
    }
    for name, fine in limits.items():
        value = getattr(settings, name)
        if not fine or not math.isfinite(value):
            raise InvalidRequest(
                f"{name} is {value}; betas lie in [0, 1), the rest is finite and not negative."
            )
