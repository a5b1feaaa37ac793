"""What a step is described by: one row of metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from visual_r1.policy.policy import Rollout, RolloutGroup
from visual_r1.prices import NO_PRICES, NO_TOKENS, Prices, Tokens, total
from visual_r1.rl.curriculum import DrawnProblems
from visual_r1.rl.draws import draw_ratio
from visual_r1.rl.phases import PHASES, Phase
from visual_r1.rl.second_pass_metrics import SecondPasses, second_passes

JsonNumber = float | int | bool | None


@dataclass(frozen=True, slots=True)
class Update:
    """What the learner reported of the optimizer steps of one batch.

    `loss` is the sum over the tokens of the batch that Tinker's losses are, a mean over epochs;
    `grad_norm` is the largest. KL, ratios and clip share (see `agreement`) are of the first
    minibatch: sampler and learner should be the same model there, so the KL is zero and the ratios
    are one up to rounding. `off_policy_…` are the largest KL, the extremes of the ratio and the
    share of clipped tokens over all the later ones, which are learnt from with other weights than
    sampled them; None where there is no later one. The clip shares are None for a loss without a
    clip.
    """

    loss: float
    grad_norm: float | None
    kl_sampler_learner: float
    ratio_max: float
    ratio_min: float
    clip_share: float | None = None
    optimizer_steps: int = 1
    off_policy_kl: float | None = None
    off_policy_ratio_max: float | None = None
    off_policy_ratio_min: float | None = None
    off_policy_clip_share: float | None = None
    tokens: Tokens = NO_TOKENS


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall time of a step: all of sampling, training, and the whole.

    `by_phase` and `grading` divide the sampling, see `phases.Phases`.
    """

    sample: float
    train: float
    total: float
    grading: float = 0.0
    by_phase: Mapping[Phase, float] = field(default_factory=dict[Phase, float])

    def row(self) -> dict[str, JsonNumber]:
        """The part of a row of metrics.jsonl that two runs of a step need not share."""
        named = {
            "sample": self.sample,
            **{phase: self.by_phase.get(phase, 0.0) for phase in PHASES},
            "grading": self.grading,
            "train": self.train,
            "total": self.total,
        }
        return {f"seconds_{name}": round(seconds, 3) for name, seconds in named.items()}


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step. Everything but `seconds` is a function of (configuration, dataset, step).

    Rates and means are over the samples that came back, and None where none did. `accuracy` counts
    a grade that gave up as not right; `gave_up` says how many there were, `failed` how many samples
    never came back, `unscored` how many the user's own reward function could not score.
    `components` are the means of the unweighted reward components and `components_std` their
    population standard deviations, `gradient_share` is the share of all samples that were asked
    for of which a gradient came.

    `entropy` is minus the mean log-probability of the sampled tokens, in nats a token, pooled over
    the tokens of all samples. The log-probabilities are the policy's own, at temperature 1 over the
    whole vocabulary, as the learner needs them; the tokens were drawn at `sampling.temperature`. At
    temperature 1 it is an unbiased estimate of the policy's entropy along its answers. At another
    it is the cross-entropy of the draw and the policy, below the entropy where the draw is colder.
    `draw_ratio` says whether the tokens were drawn as they should (see `draws`): 1 up to noise, and
    None at any temperature but 1.

    `prompt_tokens` counts the prompt of each group once and `sampled_tokens` the responses that
    came back; `tokens` are those of all requests of the step, and `cost_usd` what they cost, None
    where nothing is paid or a price is not known.
    """

    step: int
    update: Update | None
    reward_mean: float | None
    reward_std: float | None
    components: Mapping[str, float]
    components_std: Mapping[str, float]
    accuracy: float | None
    gave_up: int
    failed: int
    unscored: int
    groups: int
    groups_without_contrast: int
    datums: int
    gradient_share: float
    response_tokens_mean: float | None
    response_tokens_max: int | None
    truncated_share: float | None
    entropy: float | None
    learning_rate: float
    prompt_tokens: int
    sampled_tokens: int
    tokens: Tokens
    cost_usd: float | None
    seconds: Seconds
    second: SecondPasses | None = None
    draw_ratio: float | None = None
    drawn: DrawnProblems | None = None

    def row(self) -> dict[str, JsonNumber]:
        """The step as a flat row of metrics.jsonl.

        A component's mean is named `reward_<component>`, its deviation `reward_<component>_std`.
        """
        return {
            "step": self.step,
            "updated": self.update is not None,
            "reward_mean": self.reward_mean,
            "reward_std": self.reward_std,
            **{f"reward_{name}": mean for name, mean in self.components.items()},
            **{f"reward_{name}_std": std for name, std in self.components_std.items()},
            "accuracy": self.accuracy,
            "format_rate": self.components.get("format"),
            "gave_up": self.gave_up,
            "failed": self.failed,
            "unscored": self.unscored,
            "groups": self.groups,
            "groups_without_contrast": self.groups_without_contrast,
            "datums": self.datums,
            "gradient_share": self.gradient_share,
            "response_tokens_mean": self.response_tokens_mean,
            "response_tokens_max": self.response_tokens_max,
            "truncated_share": self.truncated_share,
            "entropy": self.entropy,
            "draw_ratio": self.draw_ratio,
            **_update_row(self.update),
            "learning_rate": self.learning_rate,
            "prompt_tokens": self.prompt_tokens,
            "sampled_tokens": self.sampled_tokens,
            **(self.second.row() if self.second else {}),
            **(self.drawn.row() if self.drawn else {}),
            "tokens_prefill": self.tokens.prefill,
            "tokens_sampled": self.tokens.sample,
            "tokens_trained": self.tokens.train,
            "cost_usd": self.cost_usd,
            **self.seconds.row(),
        }


def summarize(
    step: int,
    groups: Sequence[RolloutGroup],
    update: Update | None,
    *,
    without_contrast: int,
    datums: int,
    with_gradient: int,
    learning_rate: float,
    seconds: Seconds,
    prices: Prices = NO_PRICES,
    temperature: float | None = None,
) -> StepMetrics:
    """The metrics of one step from its groups and what the learner reported."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.scored.reward for rollout in rollouts]
    components = _components(rollouts)
    lengths = [len(rollout.tokens) for rollout in rollouts]
    tokens = total([*(group.spent for group in groups), *([update.tokens] if update else [])])
    asked = sum(len(one.rollouts) + one.failed + len(one.unscored) for one in groups)
    return StepMetrics(
        step=step,
        update=update,
        reward_mean=_mean(rewards),
        reward_std=pstdev(rewards) if rewards else None,
        components={name: fmean(values) for name, values in components.items()},
        components_std={name: pstdev(values) for name, values in components.items()},
        accuracy=_mean([float(rollout.right) for rollout in rollouts]),
        gave_up=sum(rollout.scored.grade.verdict == "gave_up" for rollout in rollouts),
        failed=sum(group.failed for group in groups),
        unscored=sum(len(group.unscored) for group in groups),
        groups=len(groups),
        groups_without_contrast=without_contrast,
        datums=datums,
        gradient_share=with_gradient / asked if asked else 0.0,
        response_tokens_mean=_mean(lengths),
        response_tokens_max=max(lengths, default=None),
        truncated_share=_mean([float(rollout.truncated) for rollout in rollouts]),
        entropy=_mean([-logprob for rollout in rollouts for logprob in rollout.logprobs]),
        learning_rate=learning_rate,
        prompt_tokens=sum(group.prompt.length for group in groups),
        sampled_tokens=sum(lengths),
        tokens=tokens,
        cost_usd=prices.cost(tokens),
        seconds=seconds,
        second=second_passes(groups),
        draw_ratio=draw_ratio(groups) if temperature == 1 else None,
    )


_LEARNT = (
    "loss", "grad_norm", "kl_sampler_learner", "ratio_max", "ratio_min", "clip_share",
    "optimizer_steps", "off_policy_kl", "off_policy_ratio_max", "off_policy_ratio_min",
    "off_policy_clip_share",
)  # fmt: skip


def _update_row(update: Update | None) -> dict[str, JsonNumber]:
    found: dict[str, JsonNumber] = {name: getattr(update, name, None) for name in _LEARNT}
    return found | {"optimizer_steps": update.optimizer_steps if update else 0}


def _components(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """The values of each component over all rollouts; 0 where a rollout does not have it."""
    names = sorted({name for rollout in rollouts for name in rollout.scored.components})
    return {
        name: [rollout.scored.components.get(name, 0.0) for rollout in rollouts] for name in names
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
