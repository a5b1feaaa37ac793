"""What a step is described by: one row of metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from visual_r1.rl.rollouts import Rollout, RolloutGroup
from visual_r1.rl.second_pass import OUTCOMES, Outcome

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


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall time of a step: sampling and grading, training, and all of it."""

    sample: float
    train: float
    total: float


@dataclass(frozen=True, slots=True)
class SecondPasses:
    """The second passes of a step. Shares and accuracies are over the samples that came back.

    `scans_masked` is the share of samples in whose scan something was masked, `scans_with_answer`
    of those whose scan held an answer, gold or the response's own, masked or not; `leaks` and
    `scans_missing` are the shares that were wrong without being asked. `outcomes` are the shares of
    both, image_only, scan_only and neither. `question_only_accuracy` is that of the answers without
    image and scan, None where there were none.
    """

    accuracy: float | None
    scans_missing: float | None
    scans_masked: float | None
    scans_with_answer: float | None
    leaks: float | None
    gave_up: int
    outcomes: Mapping[Outcome, float | None]
    question_only_accuracy: float | None
    prompt_tokens: int
    sampled_tokens: int

    def row(self) -> dict[str, JsonNumber]:
        """The part of a row of metrics.jsonl that a run without a second pass does not have."""
        return {
            "second_pass_accuracy": self.accuracy,
            "scans_missing": self.scans_missing,
            "scans_masked": self.scans_masked,
            "scans_with_answer": self.scans_with_answer,
            "leaks": self.leaks,
            "second_pass_gave_up": self.gave_up,
            **{f"outcome_{name}": share for name, share in self.outcomes.items()},
            "question_only_accuracy": self.question_only_accuracy,
            "second_pass_prompt_tokens": self.prompt_tokens,
            "second_pass_tokens": self.sampled_tokens,
        }


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
    seconds: Seconds
    second: SecondPasses | None = None

    def row(self) -> dict[str, JsonNumber]:
        """The step as a flat row of metrics.jsonl.

        A component's mean is named `reward_<component>`, its deviation `reward_<component>_std`.
        """
        update = self.update
        return {
            "step": self.step,
            "updated": update is not None,
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
            "loss": update.loss if update else None,
            "grad_norm": update.grad_norm if update else None,
            "kl_sampler_learner": update.kl_sampler_learner if update else None,
            "ratio_max": update.ratio_max if update else None,
            "ratio_min": update.ratio_min if update else None,
            "clip_share": update.clip_share if update else None,
            "optimizer_steps": update.optimizer_steps if update else 0,
            "off_policy_kl": update.off_policy_kl if update else None,
            "off_policy_ratio_max": update.off_policy_ratio_max if update else None,
            "off_policy_ratio_min": update.off_policy_ratio_min if update else None,
            "off_policy_clip_share": update.off_policy_clip_share if update else None,
            "learning_rate": self.learning_rate,
            "prompt_tokens": self.prompt_tokens,
            "sampled_tokens": self.sampled_tokens,
            **(self.second.row() if self.second else {}),
            "seconds_sample": round(self.seconds.sample, 3),
            "seconds_train": round(self.seconds.train, 3),
            "seconds_total": round(self.seconds.total, 3),
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
) -> StepMetrics:
    """The metrics of one step from its groups and what the learner reported."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.scored.reward for rollout in rollouts]
    components = _components(rollouts)
    lengths = [len(rollout.tokens) for rollout in rollouts]
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
        seconds=seconds,
        second=_second_passes(rollouts, groups),
    )


def _second_passes(
    rollouts: Sequence[Rollout], groups: Sequence[RolloutGroup]
) -> SecondPasses | None:
    made = [rollout.second for rollout in rollouts if rollout.second is not None]
    if not made:
        return None
    scans = [second.scan for second in made]
    outcomes = [rollout.outcome for rollout in rollouts]
    known = [float(right) for group in groups for right in group.question_only]
    return SecondPasses(
        accuracy=_share([second.right for second in made]),
        scans_missing=_share([scan is None for scan in scans]),
        scans_masked=_share([scan is not None and scan.masked > 0 for scan in scans]),
        scans_with_answer=_share([scan is not None and scan.held_answer for scan in scans]),
        leaks=_share([second.verdict == "leak" for second in made]),
        gave_up=sum(second.verdict == "gave_up" for second in made),
        outcomes={name: _share([one == name for one in outcomes]) for name in OUTCOMES},
        question_only_accuracy=_mean(known),
        prompt_tokens=sum(second.prompt_tokens for second in made),
        sampled_tokens=sum(second.tokens for second in made),
    )


def _components(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """The values of each component over all rollouts; 0 where a rollout does not have it."""
    names = sorted({name for rollout in rollouts for name in rollout.scored.components})
    return {
        name: [rollout.scored.components.get(name, 0.0) for rollout in rollouts] for name in names
    }


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
