"""What a run will ask of the server: tokens, hours, money."""

from dataclasses import dataclass

from visual_r1.config import RunConfig
from visual_r1.doctor.contrast import share_without_contrast
from visual_r1.doctor.evidence import Evidence
from visual_r1.doctor.prompts import PromptSizes


@dataclass(frozen=True, slots=True)
class Prices:
    """In any currency, for a million tokens; None where not given."""

    prefill: float | None = None
    sample: float | None = None
    train: float | None = None

    @property
    def known(self) -> bool:
        """Whether a cost can be told."""
        return None not in (self.prefill, self.sample, self.train)


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokens of the whole run, its two evaluations included, as they are billed.

    `prefill` counts each prompt once a request, `train` prompt and answer of every datum. With
    `at_most`, nothing was measured and each answer is taken to be as long as it may be.
    """

    prefill: float
    sample: float
    train: float
    at_most: bool
    step_seconds: float | None
    hours: float | None

    def cost(self, prices: Prices) -> float | None:
        """What that comes to; None without all three prices."""
        if prices.prefill is None or prices.sample is None or prices.train is None:
            return None
        paid = (
            self.prefill * prices.prefill + self.sample * prices.sample + self.train * prices.train
        )
        return paid / 1e6


def workload(
    config: RunConfig, prompts: PromptSizes, evidence: Evidence | None, test_rows: int
) -> Workload:
    """Predict the run from its prompts and from what was measured before."""
    train, evaluation = config.train, config.evaluation
    longest = config.sampling.max_new_tokens
    measured = evidence.response_tokens if evidence else None
    answer = measured if measured is not None else float(longest)

    samples = train.batch_size * train.group_size
    prefill = train.batch_size * prompts.mean
    sampled = samples * answer
    if config.second_pass.enabled:
        # Each scan is a prompt of its own, without the image; at most as long as a response.
        prefill += samples * (prompts.mean - prompts.image_mean + answer)
        sampled += samples * answer
    share = share_without_contrast(evidence.counts, train.group_size) if evidence else None
    kept = 1 - share if share is not None and train.skip_without_contrast else 1.0
    trained = kept * samples * (prompts.mean + answer)
    seconds = _seconds(evidence, sampled, trained)

    problems = min(evaluation.problems or test_rows, test_rows)
    calls = 2 + evaluation.blind  # greedy, pass@k, blind
    evaluated_prefill = 2 * problems * calls * prompts.mean
    evaluated = 2 * problems * (1 + evaluation.samples + evaluation.blind) * answer
    hours = None
    if seconds is not None and evidence is not None and evidence.sample_rate:
        hours = (train.steps * seconds + evaluated / evidence.sample_rate) / 3600
    return Workload(
        prefill=train.steps * prefill + evaluated_prefill,
        sample=train.steps * sampled + evaluated,
        train=train.steps * trained,
        at_most=measured is None,
        step_seconds=seconds,
        hours=hours,
    )


def _seconds(evidence: Evidence | None, sampled: float, trained: float) -> float | None:
    if evidence is None or not evidence.sample_rate:
        return None
    training = trained / evidence.train_rate if evidence.train_rate else 0.0
    return sampled / evidence.sample_rate + training
