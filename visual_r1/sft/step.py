"""The loop of a supervised run: a step takes its batch of problems and learns their responses.

The loss is cross entropy over the response tokens alone, summed as Tinker sums it; the weights of
a response's tokens are the shares of `algorithm.normalization`, as in `rl.learning`, and so are
minibatches, epochs, the optimizer's settings and the learning rate. What is written down is the
mean over response tokens, in nats, before the step:

    response_loss = -Σ log p(token) / tokens

`held_out_loss` is the same of the validation problems that have a response, at each checkpoint.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import tinker

from visual_r1.backend.waiting import TRAIN_LIMIT_S, wait
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.policy.policy import Policy
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.rl.advantages import token_shares
from visual_r1.rl.batches import Batches
from visual_r1.rl.datums import answer_part
from visual_r1.rl.learning import adam_params, learning_rate, minibatches
from visual_r1.rl.metrics import StepTimer
from visual_r1.rl.replies import largest_norm, learner_logprobs, require_sound
from visual_r1.sft.datums import response_datum
from visual_r1.sft.metrics import SupervisedMetrics, SupervisedResult
from visual_r1.sft.responses import Responses

HELD_OUT_AT_ONCE = 64
_LOSS = "cross_entropy"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and the tokens of the response to it."""

    prompt: tinker.ModelInput
    tokens: Sequence[int]


def learn_responses(
    steps: range,
    training: tinker.TrainingClient,
    policy: Policy,
    batches: Batches,
    responses: Responses,
    held_out: Sequence[Problem],
    journal: Callable[[SupervisedResult], None],
) -> None:
    """Run `steps`, one after another; `journal` is told each when it is done.

    The loss of `held_out` is measured behind the last of them, and before the very first of a run.
    Raises `BackendError` when the server fails, `RunError` when loss or gradient are not finite or
    beyond `limits`; the weights on the server are then not to be used any further.
    """
    for step in steps:
        timer = StepTimer()
        with timer.during("prompts"):
            batch = next(batches.rounds(step))
            batches.observe(step, ())
            examples = [
                Example(one.prompt, responses.tokens(one.problem)) for one in batch if not one.fault
            ]
        before, after, spent = None, None, NO_TOKENS
        if step == 0:
            before, spent = held_out_loss(training, policy, responses, held_out)
        with timer.during("train"):
            learnt = _learn(training, policy, examples, step)
        spent += learnt.tokens
        if step == steps[-1]:
            after, positions = held_out_loss(training, policy, responses, held_out)
            spent += positions
        metrics = SupervisedMetrics(
            step=step,
            updated=bool(examples),
            response_loss=learnt.loss,
            held_out_loss=after,
            held_out_loss_before=before,
            grad_norm=learnt.grad_norm,
            learning_rate=learning_rate(policy.config, step),
            optimizer_steps=learnt.optimizer_steps,
            datums=len(examples),
            refused=len(batch) - len(examples),
            response_tokens=[len(one.tokens) for one in examples],
            prompt_tokens=sum(one.prompt.length for one in examples),
            tokens=spent,
            cost_usd=policy.prices.cost(spent),
            seconds=timer.row(),
        )
        journal(SupervisedResult(metrics))


@dataclass(frozen=True, slots=True)
class _Learnt:
    loss: float | None
    grad_norm: float | None
    optimizer_steps: int
    tokens: Tokens


def _learn(
    training: tinker.TrainingClient, policy: Policy, examples: Sequence[Example], step: int
) -> _Learnt:
    """All minibatches are sent back to back, then all are awaited."""
    if not examples:
        return _Learnt(None, None, 0, NO_TOKENS)
    config = policy.config
    parts = list(minibatches(examples, config, step))
    sent = [_send(training, config, part, step) for part in parts]
    losses: list[float] = []
    replies: list[tinker.OptimStepResponse] = []
    for part, (backward, stepped) in zip(parts, sent, strict=True):
        output = wait(backward, f"forward_backward of step {step}", TRAIN_LIMIT_S, policy.watch)
        replies.append(wait(stepped, f"optim_step of step {step}", TRAIN_LIMIT_S, policy.watch))
        losses.append(_mean_loss(output, part))
    norm = largest_norm(replies)
    require_sound(config, step, loss=losses[-1], grad_norm=norm)
    positions = sum(one.prompt.length + len(one.tokens) - 1 for part in parts for one in part)
    return _Learnt(losses[0], norm, len(parts), Tokens(train=positions))


def _send(
    training: tinker.TrainingClient, config: RunConfig, part: Sequence[Example], step: int
) -> tuple[
    "tinker.APIFuture[tinker.ForwardBackwardOutput]", "tinker.APIFuture[tinker.OptimStepResponse]"
]:
    lengths = [len(one.tokens) for one in part]
    shares = token_shares(lengths, config.algorithm.normalization, config.sampling.max_new_tokens)
    data = [
        response_datum(one.prompt, one.tokens, share)
        for one, share in zip(part, shares, strict=True)
    ]
    return (
        training.forward_backward(data, _LOSS),
        training.optim_step(adam_params(config, step, lengths)),
    )


def _mean_loss(output: tinker.ForwardBackwardOutput, part: Sequence[Example]) -> float:
    """Minus the mean log-probability of all response tokens of `part`, in nats."""
    logprobs = [
        float(value)
        for one, logprobs_T in zip(part, learner_logprobs(output, len(part)), strict=True)
        for value in answer_part(one.prompt, logprobs_T)
    ]
    return -math.fsum(logprobs) / len(logprobs)


def held_out_loss(
    training: tinker.TrainingClient,
    policy: Policy,
    responses: Responses,
    problems: Sequence[Problem],
) -> tuple[float | None, Tokens]:
    """The mean loss of a response token of `problems`, in nats, and what reading them took.

    The weights and the optimizer stay as they are. None where there are no problems.
    """
    total, count, positions = 0.0, 0, 0
    for part in _prompted(policy, responses, problems):
        data = [response_datum(one.prompt, one.tokens) for one in part]
        forward = training.forward(data, _LOSS)
        output = wait(forward, "the held-out loss", TRAIN_LIMIT_S, policy.watch)
        tokens = sum(len(one.tokens) for one in part)
        total += _mean_loss(output, part) * tokens
        count += tokens
        positions += sum(one.model_input.length for one in data)
    return (total / count if count else None), Tokens(train=positions)


def _prompted(
    policy: Policy, responses: Responses, problems: Sequence[Problem]
) -> Iterator[list[Example]]:
    """The examples of `problems`, some at a time; without one of which no prompt can be made."""
    part: list[Example] = []
    for problem in problems:
        try:
            prompt = policy.prompter.model_input(problem)
        except DataError:
            continue
        part.append(Example(prompt, responses.tokens(problem)))
        if len(part) == HELD_OUT_AT_ONCE:
            yield part
            part = []
    if part:
        yield part
