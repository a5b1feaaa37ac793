"""The policy losses by name, as Tinker computes them; with r = exp(logp - sampled logp):

importance_sampling   -Σ r A
ppo                   -Σ min(r A, clip(r, 1 - ε, 1 + ε') A)           ε is train.clip_epsilon; ε' is
                      algorithm.clip_higher (DAPO's clip-higher, arXiv:2503.14476), else ε too
cispo                 -Σ stop_grad(clip(r, 0, 4)) logp A              (MiniMax-M1, arXiv:2506.13585)
dro                   -Σ (logp A - ½ β (logp - sampled logp)²)        β = 0.05 (arXiv:2405.19107)
gspo                  -Σ min(s A, clip(s, 1 - 3e-4, 1 + 4e-4) A)      s is the geometric mean of r
                      over the response, with the gradient of each token's own logp: GSPO-token
                      (arXiv:2507.18071, equations 13 and 14; thresholds of its section 5.1)
stable_reinforce      the hosted service's own, which has published no formula
sapo                  -Σ f(r) A with a gate that closes smoothly      (arXiv:2511.20347, see `sapo`)
module:function       a user's own, see `own_loss`; sapo is one that ships

`algorithm.loss_config` lays values over these thresholds. Thresholds are always sent: Tinker's page
of gspo shows the formula, and its defaults were not seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from visual_r1.config import AlgorithmSection, LossName, TrainSection
from visual_r1.errors import ConfigError
from visual_r1.rl.own_loss import MASK, OwnLoss, load_loss

Served = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce"
]
"""What a server is asked for."""

CISPO_CLIP = (0.0, 4.0)
DRO_BETA = 0.05
GSPO_CLIP = (1 - 3e-4, 1 + 4e-4)
SEQUENCE_MASK = "sequence_ratio_mask"
"""gspo's input of a datum that is 1 on the tokens of the response."""
LOW, HIGH = "clip_low_threshold", "clip_high_threshold"
UNPUBLISHED: Served = "stable_reinforce"
SHIPPED = {"sapo": "visual_r1.rl.sapo:sapo"}
"""Losses of one's own that are ours."""

_DEFAULT = AlgorithmSection()


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss as it is sent: its name at the server and `loss_fn_config`.

    `counts_prompt` says that positions with advantage 0 have a gradient all the same, which then
    has to be cancelled (`learning.with_prompt_logprobs`). `mask` is the input of a datum that is 1
    on the answer's tokens, where the loss reads one. `own` is computed here, from a forward, and
    learnt from as cross_entropy; `config` are then its settings.
    """

    name: Served
    config: Mapping[str, float] = field(default_factory=dict[str, float])
    counts_prompt: bool = False
    mask: str | None = None
    own: OwnLoss | None = None

    @property
    def needs_provenance(self) -> bool:
        """Whether a datum must name the sampled sequence that it was made of."""
        return self.name == UNPUBLISHED

    @property
    def passes(self) -> int:
        """How often a datum goes through the model, backward pass or not: all are billed alike."""
        return 2 if self.counts_prompt or self.own is not None else 1

    def scaled(self, share: float) -> "Loss":
        """The loss whose advantages are multiplied by `share`: dro's penalty goes with them."""
        if share == 1.0 or not self.counts_prompt:
            return self
        return replace(self, config={**self.config, "beta": self.config["beta"] * share})

    def clips(
        self, log_ratios_D: list[npt.NDArray[np.float64]], advantages: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_] | None:
        """Which tokens the loss clips, by the log r of D responses and the A of all their tokens.

        ppo and gspo: r (s) > high where A > 0, < low where A < 0. There the clipped term is the
        smaller one and the token has no gradient; on the other side it keeps it. cispo: r outside
        its thresholds, whatever A is. None for a loss that clips none, or none that is known here.
        """
        low, high = self.config.get(LOW), self.config.get(HIGH)
        if low is None or high is None or self.own is not None or self.name == UNPUBLISHED:
            return None
        if self.name == "gspo":
            log_ratios_D = [np.full_like(one, one.mean()) for one in log_ratios_D]
        with np.errstate(over="ignore"):
            ratio = np.exp(np.concatenate(log_ratios_D))
        above, below = ratio > high, ratio < low
        if self.name == "cispo":
            return above | below
        return (above & (advantages > 0)) | (below & (advantages < 0))


def loss_of(train: TrainSection, algorithm: AlgorithmSection = _DEFAULT) -> Loss:
    """The loss that the configuration names.

    Raises `ConfigError` where there is no such function of the user's, where the loss has no such
    setting, where a threshold makes no sense (negative, the lower one not below the upper, a β or
    τ of 0 or less), and for dro with `sequence` normalisation: its penalty has one weight for all
    tokens.
    """
    loss = _named(train, algorithm)
    open_ended = loss.name == UNPUBLISHED
    unknown = sorted(algorithm.loss_config.keys() - loss.config.keys())
    if unknown and not open_ended:
        has = ", ".join(loss.config) or "none"
        raise ConfigError(
            f"algorithm.loss_config: the loss {train.loss} has no setting {unknown[0]!r}; it has "
            f"{has}."
        )
    settings = {**loss.config, **algorithm.loss_config}
    if not open_ended:
        _require_sense(train.loss, settings)
    if loss.counts_prompt and algorithm.normalization == "sequence":
        raise ConfigError(
            f"the loss {loss.name} cannot be normalised by sequence, because its penalty has one "
            "weight for all tokens: set algorithm.normalization to token or constant."
        )
    return replace(loss, config=settings)


def names_of_losses(*, embedded: bool) -> str:
    """Those to choose among, for a message; on the embedded engine without the one it lacks."""
    names = [name for name in get_args(LossName) if not (embedded and name == UNPUBLISHED)]
    return f"{', '.join(names)}, or your own as module:function"


_POSITIVE = {
    ("dro", "beta"): f"{DRO_BETA:g}: it weighs the penalty that holds the policy",
    ("sapo", "tau_pos"): "1: it says how fast the gate closes",
    ("sapo", "tau_neg"): "1.05: it says how fast the gate closes",
}
"""What must be above 0, what is usual, and why."""


def _require_sense(name: str, settings: Mapping[str, float]) -> None:
    for setting, value in settings.items():
        usual = _POSITIVE.get((name, setting))
        if usual is not None and value <= 0:
            raise ConfigError(
                f"algorithm.loss_config: {setting} is {value:g}, and {name} needs more than 0, "
                f"such as {usual}."
            )
    if name not in ("ppo", "cispo", "gspo"):
        return
    low, high = settings[LOW], settings[HIGH]
    clips = f"the loss {name} would clip the ratio from {low:g} ({LOW}) to {high:g} ({HIGH})"
    if low < 0 or low >= high:
        raise ConfigError(
            f"algorithm.loss_config: {clips}: the lower threshold must be at least 0 and below the "
            "upper one."
        )
    if name != "cispo" and not low <= 1 <= high:
        raise ConfigError(
            f"algorithm.loss_config: {clips}: 1 must lie between, where the policy has not moved."
        )


def _named(train: TrainSection, algorithm: AlgorithmSection) -> Loss:
    path = SHIPPED.get(train.loss, train.loss)
    if ":" in path:
        own = load_loss(path)
        return Loss("cross_entropy", own.settings, mask=MASK, own=own)
    low = 1 - train.clip_epsilon
    high = 1 + (train.clip_epsilon if algorithm.clip_higher is None else algorithm.clip_higher)
    losses = (
        Loss("importance_sampling"),
        Loss("ppo", {LOW: low, HIGH: high}),
        Loss("cispo", {LOW: CISPO_CLIP[0], HIGH: CISPO_CLIP[1]}),
        Loss("dro", {"beta": DRO_BETA}, counts_prompt=True),
        Loss("gspo", {LOW: GSPO_CLIP[0], HIGH: GSPO_CLIP[1]}, mask=SEQUENCE_MASK),
        Loss(UNPUBLISHED),
    )
    return next(loss for loss in losses if loss.name == train.loss)
