"""The policy losses by name, as Tinker computes them; with r = exp(logp - sampled logp):

importance_sampling   -Σ r A
ppo                   -Σ min(r A, clip(r, 1 - ε, 1 + ε') A)           ε is train.clip_epsilon; ε' is
                      algorithm.clip_higher (DAPO's clip-higher, arXiv:2503.14476), else ε too
cispo                 -Σ stop_grad(clip(r, 0, 4)) logp A              (MiniMax-M1, arXiv:2506.13585)
dro                   -Σ (logp A - ½ β (logp - sampled logp)²)        β = 0.05 (arXiv:2405.19107)

`algorithm.loss_config` lays values over these thresholds. gspo and stable_reinforce exist on the
hosted service, which has not published their formulas; their thresholds are the server's own unless
`algorithm.loss_config` names them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from visual_r1.config import AlgorithmSection, LossName, TrainSection
from visual_r1.errors import ConfigError

CISPO_CLIP = (0.0, 4.0)
DRO_BETA = 0.05
LOW, HIGH = "clip_low_threshold", "clip_high_threshold"
# Their thresholds are not known here: any may be set.
UNPUBLISHED: tuple[LossName, ...] = ("gspo", "stable_reinforce")

_DEFAULT = AlgorithmSection()


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss as it is sent: its name and `loss_fn_config`.

    `counts_prompt` says that positions with advantage 0 have a gradient all the same, which then
    has to be cancelled (`learning.with_prompt_logprobs`).
    """

    name: LossName
    config: Mapping[str, float] = field(default_factory=dict[str, float])
    counts_prompt: bool = False

    def scaled(self, share: float) -> "Loss":
        """The loss whose advantages are multiplied by `share`: dro's penalty goes with them."""
        if share == 1.0 or "beta" not in self.config:
            return self
        return replace(self, config={**self.config, "beta": self.config["beta"] * share})

    def clips(
        self, ratio: npt.NDArray[np.float64], advantages: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_] | None:
        """Which tokens the loss clips, by their r and A; None for a loss that clips none.

        ppo: r > high where A > 0, r < low where A < 0. There the clipped term is the smaller one
        and the token has no gradient; on the other side it keeps it. cispo: r outside its
        thresholds, whatever A is. Those of gspo and stable_reinforce are not known here.
        """
        low, high = self.config.get(LOW), self.config.get(HIGH)
        if low is None or high is None or self.name in UNPUBLISHED:
            return None
        above, below = ratio > high, ratio < low
        if self.name == "ppo":
            return (above & (advantages > 0)) | (below & (advantages < 0))
        return above | below


def loss_of(train: TrainSection, algorithm: AlgorithmSection = _DEFAULT) -> Loss:
    """The loss that the configuration names.

    Raises `ConfigError` where the loss has no such setting, where a threshold
    makes no sense (negative, the lower one not below the upper, a β of 0 or less), and for dro with
    `sequence` normalisation: its penalty has one weight for all tokens.
    """
    loss = _named(train, algorithm)
    unknown = sorted(algorithm.loss_config.keys() - loss.config.keys())
    if unknown and loss.name not in UNPUBLISHED:
        has = ", ".join(loss.config) or "none"
        raise ConfigError(
            f"algorithm.loss_config: the loss {loss.name} has no setting {unknown[0]!r}; it has "
            f"{has}."
        )
    settings = {**loss.config, **algorithm.loss_config}
    if loss.name not in UNPUBLISHED:
        _require_sense(loss.name, settings)
    if loss.counts_prompt and algorithm.normalization == "sequence":
        raise ConfigError(
            f"the loss {loss.name} cannot be normalised by sequence, because its penalty has one "
            "weight for all tokens: set algorithm.normalization to token or constant."
        )
    return replace(loss, config=settings)


def _require_sense(name: LossName, settings: Mapping[str, float]) -> None:
    if settings.get("beta", DRO_BETA) <= 0:
        raise ConfigError(
            f"algorithm.loss_config: beta is {settings['beta']:g}, and {name} needs more than 0, "
            f"such as {DRO_BETA:g}: it weighs the penalty that holds the policy."
        )
    if LOW not in settings or HIGH not in settings:
        return
    low, high = settings[LOW], settings[HIGH]
    clips = f"the loss {name} would clip the ratio from {low:g} ({LOW}) to {high:g} ({HIGH})"
    if low < 0 or low >= high:
        raise ConfigError(
            f"algorithm.loss_config: {clips}: the lower threshold must be at least 0 and below the "
            "upper one."
        )
    if name == "ppo" and not low <= 1 <= high:
        raise ConfigError(
            f"algorithm.loss_config: {clips}: 1 must lie between, where the policy has not moved."
        )


def _named(train: TrainSection, algorithm: AlgorithmSection) -> Loss:
    low = 1 - train.clip_epsilon
    high = 1 + (train.clip_epsilon if algorithm.clip_higher is None else algorithm.clip_higher)
    losses = (
        Loss("importance_sampling"),
        Loss("ppo", {LOW: low, HIGH: high}),
        Loss("cispo", {LOW: CISPO_CLIP[0], HIGH: CISPO_CLIP[1]}),
        Loss("dro", {"beta": DRO_BETA}, counts_prompt=True),
        *(Loss(name) for name in UNPUBLISHED),
    )
    return next(loss for loss in losses if loss.name == train.loss)
