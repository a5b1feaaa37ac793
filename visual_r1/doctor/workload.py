"""What a run will ask of the server: tokens, hours, money."""

import math
from dataclasses import dataclass

from visual_r1.config import RunConfig
from visual_r1.doctor.contrast import share_without_contrast
from visual_r1.doctor.evidence import Evidence
from visual_r1.doctor.prompts import PromptSizes
from visual_r1.prices import Tokens, total
from visual_r1.rl.losses import loss_of
from visual_r1.runs.validate import validated_steps

# Neither sampling nor training: imports, Prefect's server and the engine, saving, the report.
# Wall time of `train_flow.py --train.steps 4 --train.batch_size 4` less its evaluations, steps and
# preparation, on two shared x86-64 cores: 15.6 and 15.5 s, in a new folder 20.4 and 21.1 s. And the
# preparation of its 4,864 drawn problems: 7.9 and 7.5 s.
START_SECONDS = 18.0
PREPARE_SECONDS = 0.0016


@dataclass(frozen=True, slots=True)
class Workload:
    """What the whole run asks for, its two evaluations and its validations included.

    With `at_most`, nothing was measured and each answer is taken to be as long as it may be.
    """

    tokens: Tokens
    at_most: bool
    step_seconds: float | None
    hours: float | None


def workload(
    config: RunConfig,
    prompts: PromptSizes,
    evidence: Evidence | None,
    test_rows: int,
    validation_rows: int = 0,
    rows_to_prepare: int = 0,
) -> Workload:
    """Predict the run from its prompts and from what was measured before.

    `rows_to_prepare` are those of a dataset that is not there yet.
    """
    measured = evidence.response_tokens if evidence else None
    answer = measured if measured is not None else float(config.sampling.max_new_tokens)
    size = config.train.group_size
    share = share_without_contrast(evidence.counts, size) if evidence else None

    step = _step(config, prompts, answer, share)
    evaluations = _evaluation(config, prompts, answer, test_rows, times=2)
    evaluations += _validations(config, prompts, answer, validation_rows)
    seconds = _seconds(evidence, step)
    hours = None
    if seconds is not None and evidence is not None and evidence.sample_rate:
        working = config.train.steps * seconds + evaluations.sample / evidence.sample_rate
        preparing = START_SECONDS + PREPARE_SECONDS * rows_to_prepare
        hours = (preparing + working) / 3600
    return Workload(
        tokens=total([*[step] * config.train.steps, evaluations]),
        at_most=measured is None,
        step_seconds=seconds,
        hours=hours,
    )


def _step(config: RunConfig, prompts: PromptSizes, answer: float, share: float | None) -> Tokens:
    """One step, where `share` of the groups have no contrast (None: not known)."""
    train, algorithm, second = config.train, config.algorithm, config.second_pass
    rounds, kept = 1.0, 1.0
    if train.skip_without_contrast and share is not None:
        rounds = _rounds(share, algorithm.dynamic_rounds)
        kept = min(rounds * (1 - share), 1.0)
    problems = rounds * train.batch_size
    samples = problems * train.group_size
    unseen = prompts.mean - prompts.image_mean

    asked = Tokens(prefill=problems * prompts.mean, sample=samples * answer)
    if second.enabled:
        # Each scan is a prompt of its own, without the image; at most as long as a response.
        asked += Tokens(prefill=samples * (unseen + answer), sample=samples * answer)
    if second.enabled and second.minus_question_only:
        asked += Tokens(prefill=problems * unseen, sample=samples * answer)
    if algorithm.kl_coefficient:
        asked += Tokens(prefill=samples * (prompts.mean + answer))
    learnt = kept * train.batch_size * train.group_size * (prompts.mean + answer)
    learnt *= algorithm.epochs
    ahead = learnt if loss_of(train, algorithm).counts_prompt else 0.0
    return asked + Tokens(prefill=ahead, train=learnt)


def _rounds(share: float, most: int) -> float:
    """How many draws fill a batch, of which `most` may be further ones."""
    return 1.0 + most if share >= 1 else min(1.0 + most, math.ceil(1 / (1 - share)))


def _evaluation(
    config: RunConfig, prompts: PromptSizes, answer: float, test_rows: int, times: int
) -> Tokens:
    """The passes of an evaluation: greedy, sampled, blind, and those of a second pass."""
    evaluation = config.evaluation
    problems = times * min(evaluation.problems or test_rows, test_rows)
    tokens = Tokens(2 * problems * prompts.mean, problems * (1 + evaluation.samples) * answer)
    if evaluation.blind:
        tokens += Tokens(problems * prompts.mean, problems * answer)
    if config.second_pass.enabled:
        unseen = prompts.mean - prompts.image_mean
        tokens += Tokens(problems * (2 * unseen + answer), 2 * problems * answer)
    return tokens


def _validations(
    config: RunConfig, prompts: PromptSizes, answer: float, validation_rows: int
) -> Tokens:
    """Greedy, and with the image blanked, for each checkpoint that is validated."""
    validation = config.validation
    problems = min(validation.problems or validation_rows, validation_rows)
    requests = len(validated_steps(config)) * problems * (1 + validation.blind)
    return Tokens(requests * prompts.mean, requests * answer)


def _seconds(evidence: Evidence | None, step: Tokens) -> float | None:
    if evidence is None or not evidence.sample_rate:
        return None
    training = step.train / evidence.train_rate if evidence.train_rate else 0.0
    return step.sample / evidence.sample_rate + training
