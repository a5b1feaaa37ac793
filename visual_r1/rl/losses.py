"""The policy losses by name, as Tinker computes them; with r = exp(logp - sampled logp):

importance_sampling   -Σ r A
ppo                   -Σ min(r A, clip(r, 1 - ε, 1 + ε) A)            ε is train.clip_epsilon
cispo                 -Σ stop_grad(clip(r, 0, 4)) logp A
dro                   -Σ (logp A - ½ β (logp - sampled logp)²)        β = 0.05
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from visual_r1.config import TrainSection
from visual_r1.errors import ConfigError

LossName = Literal["importance_sampling", "ppo", "cispo", "dro"]

CISPO_CLIP = (0.0, 4.0)
DRO_BETA = 0.05


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss as it is sent: its name and `loss_fn_config`.

    `counts_prompt` says that positions with advantage 0 have a gradient all the same, which then
    has to be cancelled (`datums.with_prompt_logprobs`).
    """

    name: LossName
    config: Mapping[str, float] = field(default_factory=dict[str, float])
    counts_prompt: bool = False


def loss_of(train: TrainSection) -> Loss:
    """The loss that the configuration names; raises `ConfigError` where there is no such loss."""
    low, high = 1 - train.clip_epsilon, 1 + train.clip_epsilon
    losses = (
        Loss("importance_sampling"),
        Loss("ppo", {"clip_low_threshold": low, "clip_high_threshold": high}),
        Loss("cispo", {"clip_low_threshold": CISPO_CLIP[0], "clip_high_threshold": CISPO_CLIP[1]}),
        Loss("dro", {"beta": DRO_BETA}, counts_prompt=True),
    )
    by_name = {loss.name: loss for loss in losses}
    for name, loss in by_name.items():
        if name == train.loss:
            return loss
    raise ConfigError(f"There is no loss {train.loss!r}; train.loss can be {', '.join(by_name)}.")
