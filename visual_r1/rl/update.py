"""The update of a step: its examples to the learner, in minibatches and epochs.

Each minibatch is one forward_backward and one optim_step. With one minibatch and one epoch, the
default, the policy that learns is the one that sampled. After the first optimizer step of a batch
it no longer is: how far it has moved is logged as the off-policy ratio.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import tinker

from visual_r1.backend.waiting import TRAIN_LIMIT_S, wait
from visual_r1.config import RunConfig
from visual_r1.errors import BackendError, RunError
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.prices import Tokens, total
from visual_r1.rl.agreement import Agreement, agreement, clip_share
from visual_r1.rl.datums import Floats, answer_part, datum, with_prompt_logprobs
from visual_r1.rl.losses import Loss, loss_of
from visual_r1.rl.metrics import Update
from visual_r1.rl.normalization import token_shares
from visual_r1.rl.schedule import learning_rate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """One rollout with at least one token, its group and its advantage."""

    group: RolloutGroup
    rollout: Rollout
    advantage: float


@dataclass(frozen=True, slots=True)
class _Sent:
    """A minibatch whose forward_backward and optim_step are under way."""

    examples: Sequence[Example]
    loss: Loss
    backward: "tinker.APIFuture[tinker.ForwardBackwardOutput]"
    optim: "tinker.APIFuture[tinker.OptimStepResponse]"
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What came back of one minibatch."""

    loss: float
    grad_norm: float | None
    agreement: Agreement


def send_update(
    training: tinker.TrainingClient, policy: Policy, examples: Sequence[Example], step: int
) -> Update:
    """Learn from `examples`; all requests are sent back to back, then all are awaited.

    Raises `BackendError` when the server fails, `RunError` when loss or gradient are not finite or
    beyond the bounds of `limits`: before the step is saved.
    """
    config = policy.config
    sent = [_send(training, policy, part, step) for part in minibatches(examples, config, step)]
    learnt = [_awaited(one, policy, step) for one in sent]
    first, *later = (one.agreement for one in learnt)
    norms = [one.grad_norm for one in learnt if one.grad_norm is not None]
    update = Update(
        loss=math.fsum(one.loss for one in learnt) / config.algorithm.epochs,
        grad_norm=max(norms, key=lambda norm: norm if math.isfinite(norm) else math.inf)
        if norms
        else None,
        kl_sampler_learner=first.kl,
        ratio_max=first.ratio_max,
        ratio_min=first.ratio_min,
        clip_share=clip_share([first]),
        optimizer_steps=len(learnt),
        off_policy_kl=max((one.kl for one in later), default=None),
        off_policy_ratio_max=max((one.ratio_max for one in later), default=None),
        off_policy_ratio_min=min((one.ratio_min for one in later), default=None),
        off_policy_clip_share=clip_share(later),
        tokens=total(one.tokens for one in sent),
    )
    _require_sound(update, config, step)
    return update


def minibatches(examples: Sequence[T], config: RunConfig, step: int) -> Iterator[Sequence[T]]:
    """The parts of a batch in the order in which they are learnt from, epoch by epoch.

    Each epoch has each example once. The parts differ in size by one at most; which example is in
    which is drawn anew each epoch, from (train.seed, step, epoch). Within a part examples keep
    their order, by (group, sample).
    """
    count = min(config.algorithm.minibatches, len(examples))
    for epoch in range(config.algorithm.epochs):
        places = list(range(len(examples)))
        if count > 1:
            seed = stable_seed("minibatches", config.train.seed, step, epoch)
            random.Random(seed).shuffle(places)
        for part in range(count):
            yield [examples[place] for place in sorted(places[part::count])]


def adam_params(config: RunConfig, step: int, lengths_D: Sequence[int]) -> tinker.AdamParams:
    """The optimizer's settings for one minibatch of D responses, of so many tokens each.

    A sum over N tokens has N times the gradient of their mean: where `optimizer.grad_clip_norm` is
    meant for the mean, the clip of the sum is N times that.
    """
    optimizer = config.optimizer
    times = {"sum": 1, "response": len(lengths_D), "token": sum(lengths_D)}
    return tinker.AdamParams(
        learning_rate=learning_rate(config, step),
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        grad_clip_norm=optimizer.grad_clip_norm * times[optimizer.grad_clip_per],
    )


def _send(
    training: tinker.TrainingClient, policy: Policy, examples: Sequence[Example], step: int
) -> _Sent:
    config = policy.config
    lengths = [len(example.rollout.tokens) for example in examples]
    shares = token_shares(lengths, config.algorithm.normalization, config.sampling.max_new_tokens)
    loss = loss_of(config.train, config.algorithm).scaled(shares[0])
    data = [
        datum(example.group, example.rollout, example.advantage * share)
        for example, share in zip(examples, shares, strict=True)
    ]
    positions = sum(one.model_input.length for one in data)
    if loss.counts_prompt:
        forward = training.forward(data, loss.name, loss.config)
        ahead = wait(forward, f"forward of step {step}", TRAIN_LIMIT_S, policy.watch)
        groups = [example.group for example in examples]
        data = with_prompt_logprobs(data, groups, _logprobs_of(ahead, len(data)))
    return _Sent(
        examples,
        loss,
        training.forward_backward(data, loss.name, loss.config),
        training.optim_step(adam_params(config, step, lengths)),
        Tokens(prefill=positions if loss.counts_prompt else 0, train=positions),
    )


def _awaited(sent: _Sent, policy: Policy, step: int) -> _Learnt:
    output = wait(sent.backward, f"forward_backward of step {step}", TRAIN_LIMIT_S, policy.watch)
    stepped = wait(sent.optim, f"optim_step of step {step}", TRAIN_LIMIT_S, policy.watch)
    sampler = [np.array(one.rollout.logprobs, dtype=np.float32) for one in sent.examples]
    logprobs = _logprobs_of(output, len(sent.examples))
    learner = [
        answer_part(example.group, logprobs_T)
        for example, logprobs_T in zip(sent.examples, logprobs, strict=True)
    ]
    return _Learnt(
        loss=output.metrics.get("loss:sum", math.nan),
        grad_norm=_grad_norm(stepped),
        agreement=agreement(
            sampler, learner, [example.advantage for example in sent.examples], sent.loss
        ),
    )


def _logprobs_of(output: tinker.ForwardBackwardOutput, datums: int) -> list[Floats]:
    found = [one["logprobs"].to_numpy() for one in output.loss_fn_outputs if "logprobs" in one]
    if len(found) != datums:
        raise BackendError(
            f"The server returned log-probabilities for {len(found)} of {datums} datums: it does "
            "not speak the protocol that training needs."
        )
    return found


def _grad_norm(stepped: tinker.OptimStepResponse) -> float | None:
    for name, value in (stepped.metrics or {}).items():
        if "grad_norm" in name or "grad/norm" in name:
            return value
    return None


def _require_sound(update: Update, config: RunConfig, step: int) -> None:
    limits = config.limits
    values = (
        ("loss", update.loss, math.inf, ""),
        ("gradient norm", update.grad_norm, limits.max_grad_norm, "limits.max_grad_norm"),
        (
            "KL between sampler and learner",
            update.kl_sampler_learner,
            limits.max_kl,
            "limits.max_kl",
        ),
    )
    for name, value, most, setting in values:
        if value is None:
            continue
        if not math.isfinite(value):
            raise RunError(
                f"The {name} of step {step} is {value}; the run stops before this step is saved. "
                "Lower train.learning_rate or set optimizer.grad_clip_norm under another "
                "--run.name; the checkpoints before it stay as they are."
            )
        if most is not None and value > most:
            raise RunError(
                f"The {name} of step {step} is {value:.4g}, over {setting} ({most:g}); the run "
                f"stops before this step is saved. {_advice(setting)}"
            )


def _advice(setting: str) -> str:
    if setting == "limits.max_kl":
        return (
            "The server samples from another policy than it trains (another temperature, stale "
            "weights, a lower precision): mend that, or raise the limit to go on from the last "
            "checkpoint."
        )
    return (
        "Set optimizer.grad_clip_norm or lower train.learning_rate under another --run.name, or "
        "raise the limit to go on from the last checkpoint."
    )
