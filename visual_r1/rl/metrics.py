"""What a step is described by: one row of metrics.jsonl, merged from small parts.

Each part is a frozen dataclass whose fields are keys of the row (docs/metrics.md has them all).
Everything but the seconds is a function of (configuration, dataset, step). Rates and means are over
the samples that came back, and None where none did.

`draw_ratio` says whether samples are drawn from the distribution whose log-probabilities come with
them. A server reports log-probabilities of the model itself, whatever it draws from: another
temperature, a top-p or a greedy decoder leaves them, and with them the KL between sampler and
learner, as they were. What does change is how often samples of a group part. Of k samples that
begin alike, two go on alike with probability Σ q(x)², which is the mean of q(x) over what was
drawn, if q is what was drawn from. So over all prefixes that at least two samples of a group share,

    draw ratio = Σ (k - 1) · share of pairs that part  /  Σ (k - 1) · mean of 1 - p(x)

is 1 up to noise where they are drawn from p; below where the draw is colder, above where it is
hotter. p is at temperature 1, so this says something where that is the temperature asked for.
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from statistics import fmean, pstdev
from typing import Literal

from visual_r1.config import RunConfig
from visual_r1.policy.policy import Rollout, RolloutGroup
from visual_r1.policy.second_pass import OUTCOMES, Outcome
from visual_r1.prices import NO_PRICES, Prices, total
from visual_r1.rl.advantages import has_contrast
from visual_r1.rl.curriculum import ExpectedBatch
from visual_r1.rl.learning import Example, Update, learning_rate

JsonNumber = float | int | bool | None
RowPart = Mapping[str, JsonNumber]
"""A part of a row of metrics.jsonl."""

Phase = Literal[
    "sample", "sampler", "prompts", "first_pass", "second_pass", "kl", "grading", "train"
]
SAMPLING_PHASES: tuple[Phase, ...] = ("sampler", "prompts", "first_pass", "second_pass", "kl")
"""They follow one another and make up `sample`; `grading` lies within the two passes."""


class StepTimer:
    """Seconds of a step by phase, summed where a phase comes again (dynamic sampling, say).

    What overlaps on the server cannot be told apart from here. Second passes are asked for while
    first ones are still sampled, so the first pass lasts until its last answer has come, and the
    second pass is what is left to wait for after it. `grading` is what grading the answers and
    preparing their second passes took, while the server goes on sampling.

    `total` is the time from the update before to that of this step, where somebody says it; else
    the sum of sampling and learning. Where samples may be stale, a batch is sampled while others
    are learnt from, and its phases sum up to more.
    """

    def __init__(self) -> None:
        self.total: float | None = None
        self.seconds: dict[Phase, float] = dict.fromkeys(
            ("sample", *SAMPLING_PHASES, "grading", "train"), 0.0
        )

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

    def row(self) -> RowPart:
        """The part of the row that two runs of a step need not share."""
        whole = self.seconds["sample"] + self.seconds["train"] if self.total is None else self.total
        named = {**self.seconds, "total": whole}
        return {f"seconds_{name}": round(seconds, 3) for name, seconds in named.items()}


@dataclass(frozen=True, slots=True)
class RewardMetrics:
    """`components` are the means of the unweighted reward components, `components_std` their
    population standard deviations: `reward_<component>` and `reward_<component>_std` in the row.
    """

    reward_mean: float | None
    reward_std: float | None
    components: Mapping[str, float]
    components_std: Mapping[str, float]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> "RewardMetrics":
        """A component counts 0 where a rollout does not have it."""
        rewards = [rollout.scored.reward for rollout in rollouts]
        found = [rollout.scored.components for rollout in rollouts]
        names = sorted({name for components in found for name in components})
        values = {name: [components.get(name, 0.0) for components in found] for name in names}
        return cls(
            reward_mean=_mean(rewards),
            reward_std=pstdev(rewards) if rewards else None,
            components={name: fmean(of_all) for name, of_all in values.items()},
            components_std={name: pstdev(of_all) for name, of_all in values.items()},
        )

    def row(self) -> RowPart:
        """The part of the row."""
        return {
            "reward_mean": self.reward_mean,
            "reward_std": self.reward_std,
            **{f"reward_{name}": mean for name, mean in self.components.items()},
            **{f"reward_{name}_std": std for name, std in self.components_std.items()},
            "format_rate": self.components.get("format"),
        }


@dataclass(frozen=True, slots=True)
class SampleMetrics:
    """`accuracy` counts a grade that gave up as not right; `gave_up` says how many there were,
    `failed` how many samples never came back, `refused` how many of these the server refused as
    too long or unreadable, so that they were left out; `unscored` how many the user's own reward
    function, or the grader, failed on.

    `entropy` is minus the mean log-probability of the sampled tokens, in nats a token, pooled over
    the tokens of all samples. The log-probabilities are the policy's own, at temperature 1 over the
    whole vocabulary, as the learner needs them; the tokens were drawn at `sampling.temperature`. At
    temperature 1 it is an unbiased estimate of the policy's entropy along its answers. At another
    it is the cross-entropy of the draw and the policy, below the entropy where the draw is colder.
    `draw_ratio` (see above) is None at any temperature but 1.
    """

    accuracy: float | None
    gave_up: int
    failed: int
    refused: int
    unscored: int
    groups: int
    groups_without_contrast: int
    response_tokens_mean: float | None
    response_tokens_max: int | None
    truncated_share: float | None
    entropy: float | None
    draw_ratio: float | None

    @classmethod
    def of(
        cls, groups: Sequence[RolloutGroup], rollouts: Sequence[Rollout], temperature: float
    ) -> "SampleMetrics":
        """Of the groups and of all their rollouts."""
        lengths = [len(rollout.tokens) for rollout in rollouts]
        return cls(
            accuracy=_mean([float(rollout.right) for rollout in rollouts]),
            gave_up=sum(rollout.scored.grade.verdict == "gave_up" for rollout in rollouts),
            failed=sum(group.failed for group in groups),
            refused=sum(group.refused for group in groups),
            unscored=sum(len(group.unscored) for group in groups),
            groups=len(groups),
            groups_without_contrast=sum(not has_contrast(group) for group in groups),
            response_tokens_mean=_mean(lengths),
            response_tokens_max=max(lengths, default=None),
            truncated_share=_mean([float(rollout.truncated) for rollout in rollouts]),
            entropy=_mean([-logprob for rollout in rollouts for logprob in rollout.logprobs]),
            draw_ratio=draw_ratio(groups) if temperature == 1 else None,
        )


@dataclass(frozen=True, slots=True)
class LearningMetrics:
    """`gradient_share` is the share of all samples that were asked for of which a gradient came,
    `staleness` how many steps before this one the weights were made that sampled them."""

    datums: int
    gradient_share: float
    learning_rate: float
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class CostMetrics:
    """`prompt_tokens` counts the prompt of each group once, `sampled_tokens` the responses that
    came back; `tokens_…` are those of all requests of the step, and `cost_usd` what they cost,
    None where nothing is paid or a price is not known.
    """

    prompt_tokens: int
    sampled_tokens: int
    tokens_prefill: float
    tokens_cached: float
    tokens_sampled: float
    tokens_trained: float
    cost_usd: float | None

    @classmethod
    def of(
        cls, groups: Sequence[RolloutGroup], update: Update | None, prices: Prices
    ) -> "CostMetrics":
        """What was sampled for the groups, and learnt from them."""
        tokens = total([*(group.spent for group in groups), *([update.tokens] if update else [])])
        return cls(
            prompt_tokens=sum(group.prompt.length for group in groups),
            sampled_tokens=sum(len(one.tokens) for group in groups for one in group.rollouts),
            tokens_prefill=tokens.prefill,
            tokens_cached=tokens.cached,
            tokens_sampled=tokens.sample,
            tokens_trained=tokens.train,
            cost_usd=prices.cost(tokens),
        )


@dataclass(frozen=True, slots=True)
class SecondPassMetrics:
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


def second_pass_metrics(groups: Sequence[RolloutGroup]) -> SecondPassMetrics | None:
    """Of the samples that came back; None where the run has no second pass."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    made = [rollout.second for rollout in rollouts if rollout.second is not None]
    if not made:
        return None
    scans = [second.scan for second in made]
    outcomes = [rollout.outcome for rollout in rollouts]
    known = [right for group in groups for right in group.question_only]
    return SecondPassMetrics(
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


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step in parts; `second` and `expected` are there where the run has a second pass or a
    curriculum, `update` where the step had one.
    """

    step: int
    rewards: RewardMetrics
    samples: SampleMetrics
    learning: LearningMetrics
    update: Update | None
    cost: CostMetrics
    seconds: RowPart
    second: SecondPassMetrics | None = None
    expected: ExpectedBatch | None = None

    @property
    def optimizer_steps(self) -> int:
        """How many the step made; 0 where it had no update."""
        return self.update.optimizer_steps if self.update else 0

    def shown(self) -> Mapping[str, float | None]:
        """What the progress bar says of it: reward, accuracy, and that from the scan alone."""
        return {
            "reward": self.rewards.reward_mean,
            "accuracy": self.samples.accuracy,
            "second_pass": self.second.accuracy if self.second else None,
        }

    def row(self) -> dict[str, JsonNumber]:
        """The step as a flat row of metrics.jsonl: the parts, one after another."""
        return {
            "step": self.step,
            "updated": self.update is not None,
            **self.rewards.row(),
            **asdict(self.samples),
            **asdict(self.learning),
            **_update_row(self.update),
            **asdict(self.cost),
            **(self.second.row() if self.second else {}),
            **(self.expected.row() if self.expected else {}),
            **self.seconds,
        }


def step_metrics(
    config: RunConfig,
    step: int,
    groups: Sequence[RolloutGroup],
    examples: Sequence[Example],
    update: Update | None,
    *,
    staleness: int = 0,
    expected: ExpectedBatch | None = None,
    seconds: RowPart,
    prices: Prices = NO_PRICES,
) -> StepMetrics:
    """The metrics of one step from its groups, what was learnt from and what the learner said."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    asked = sum(len(one.rollouts) + one.failed + len(one.unscored) for one in groups)
    with_gradient = sum(example.advantage != 0 for example in examples)
    return StepMetrics(
        step=step,
        rewards=RewardMetrics.of(rollouts),
        samples=SampleMetrics.of(groups, rollouts, config.sampling.temperature),
        learning=LearningMetrics(
            datums=len(examples),
            gradient_share=with_gradient / asked if asked else 0.0,
            learning_rate=learning_rate(config, step),
            staleness=staleness,
        ),
        update=update,
        cost=CostMetrics.of(groups, update, prices),
        seconds=seconds,
        second=second_pass_metrics(groups),
        expected=expected,
    )


def _update_row(update: Update | None) -> RowPart:
    """The update's part; where there was none, all but the number of optimizer steps is unknown."""
    names = [one.name for one in fields(Update) if one.name not in ("tokens", "logged")]
    found: dict[str, JsonNumber] = {name: getattr(update, name, None) for name in names}
    if update is not None:
        found |= {
            f"loss_{name}": value if math.isfinite(value) else None
            for name, value in update.logged.items()
        }
    return found | {"optimizer_steps": update.optimizer_steps if update else 0}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
