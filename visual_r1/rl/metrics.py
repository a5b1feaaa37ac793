"""What a step is described by: one row of metrics.jsonl.

What the second passes of a step are described by.

Whether samples are drawn from the distribution whose log-probabilities come with them.

A server reports log-probabilities of the model itself, whatever it draws from: another temperature,
a top-p or a greedy decoder leaves them, and with them the KL between sampler and learner, as they
were. What does change is how often samples of a group part. Of k samples that begin alike, two go
on alike with probability Σ q(x)², which is the mean of q(x) over what was drawn, if q is what was
drawn from. So over all prefixes that at least two samples of a group share,

    draw ratio = Σ (k - 1) · share of pairs that part  /  Σ (k - 1) · mean of 1 - p(x)

is 1 up to noise where they are drawn from p; below where the draw is colder, above where it is
hotter. p is at temperature 1, so this says something where that is the temperature asked for.

Where the wall time of a step goes.

The phases follow one another; what overlaps on the server cannot be told apart from here. Second
passes are asked for while first ones are still sampled, so the first pass lasts until its last
answer has come, and the second pass is what is left to wait for after it.
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Literal

from visual_r1.policy.policy import Rollout, RolloutGroup
from visual_r1.policy.second_pass import OUTCOMES, Outcome
from visual_r1.prices import NO_PRICES, NO_TOKENS, Prices, Tokens, total
from visual_r1.rl.curriculum import DrawnProblems


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

    def row(self) -> dict[str, float | int | None]:
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


def second_passes(groups: Sequence[RolloutGroup]) -> SecondPasses | None:
    """Of the samples that came back; None where the run has no second pass."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    made = [rollout.second for rollout in rollouts if rollout.second is not None]
    if not made:
        return None
    scans = [second.scan for second in made]
    outcomes = [rollout.outcome for rollout in rollouts]
    known = [right for group in groups for right in group.question_only]
    return SecondPasses(
        accuracy=_share([second.right for second in made]),
        scans_missing=_share([scan is None for scan in scans]),
        scans_masked=_share([scan is not None and scan.masked > 0 for scan in scans]),
        scans_with_answer=_share([scan is not None and scan.held_answer for scan in scans]),
        leaks=_share([second.verdict == "leak" for second in made]),
        gave_up=sum(second.verdict == "gave_up" for second in made),
        outcomes={name: _share([one == name for one in outcomes]) for name in OUTCOMES},
        question_only_accuracy=_share(known),
        prompt_tokens=sum(second.prompt_tokens for second in made),
        sampled_tokens=sum(second.tokens for second in made),
    )


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


# Where fewer partings are expected in a whole step, the ratio is noise.
LEAST_EXPECTED = 5.0


def draw_ratio(groups: Sequence[RolloutGroup]) -> float | None:
    """The ratio over all samples of a step; None where too few partings are expected of them."""
    parts = [_partings([*group.rollouts, *group.unscored]) for group in groups]
    expected = math.fsum(one for _, one in parts)
    if expected < LEAST_EXPECTED:
        return None
    return math.fsum(seen for seen, _ in parts) / expected


def _partings(samples: Sequence[Rollout]) -> tuple[float, float]:
    """(partings seen, partings expected) of the samples of one problem."""
    seen = expected = 0.0
    # Sets of at least two samples that are the same up to this place.
    alike = [[sample for sample in samples if sample.tokens]]
    place = 0
    while alike := [together for together in alike if len(together) > 1]:
        following: list[list[Rollout]] = []
        for together in alike:
            by_token: dict[int, list[Rollout]] = {}
            for sample in together:
                by_token.setdefault(sample.tokens[place], []).append(sample)
            k = len(together)
            agreeing = sum(len(same) * (len(same) - 1) for same in by_token.values())
            seen += (k - 1) * (1 - agreeing / (k * (k - 1)))
            expected += (k - 1) * fmean(-math.expm1(sample.logprobs[place]) for sample in together)
            following += by_token.values()
        place += 1
        alike = [
            [sample for sample in together if len(sample.tokens) > place] for together in following
        ]
    return seen, expected


Phase = Literal["sampler", "prompts", "first_pass", "second_pass", "kl"]

PHASES: tuple[Phase, ...] = ("sampler", "prompts", "first_pass", "second_pass", "kl")


class Phases:
    """Seconds by phase, summed where a phase comes again (dynamic sampling, say).

    `grading` is what grading the answers and preparing their second passes took; it lies within
    the two passes, while the server goes on sampling.
    """

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.grading = 0.0

    def add(self, phase: Phase, seconds: float) -> None:
        """Count `seconds` more for `phase`."""
        self.seconds[phase] += seconds

    @contextmanager
    def during(self, phase: Phase) -> Generator[None]:
        """Add the time of the block to `phase`; of a block that fails, too."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(phase, time.monotonic() - began)

    @contextmanager
    def while_grading(self) -> Generator[None]:
        """Add the time of the block to `grading`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.grading += time.monotonic() - began


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
