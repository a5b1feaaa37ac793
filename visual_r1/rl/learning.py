"""Learning from a step's examples: datums, minibatches and epochs, and the learning rate.

**Datums.** With a prompt of P tokens (image tokens counted) and an answer of n tokens
a_0 … a_{n-1}, the model reads prompt + a_0 … a_{n-2}, T = P + n - 1 positions, and position i is
scored on the token at i + 1 of the whole sequence:

    position         0 … P-2            P-1   P    …   T-1
    reads            prompt, images     p     a_0  …   a_{n-2}
    target_tokens    0                  a_0   a_1  …   a_{n-1}
    logprobs         0                  q_0   q_1  …   q_{n-1}     of the sampler
    advantages       0                  A     A    …   A
    a mask           0                  1     1    …   1      where the loss reads one

Tinker's losses are plain sums over all T positions: what must not count has advantage 0.

**Provenance.** Where the loss needs it (stable_reinforce), a datum names the sampled sequence
behind each place of what is read (P places of its prompt, n - 1 of its tokens) and of the targets
(P - 1 and n). A server lets a session train on its own samples alone. So a chunk samples and learns
in one session, and a chunk that is begun again samples again.

**Minibatches.** Each is one forward_backward and one optim_step. With one minibatch and one epoch,
the default, the policy that learns is the one that sampled. After the first optimizer step of a
batch it no longer is: how far it has moved is logged as the off-policy `divergence`.

**Learning rate** of a step, a function of the configuration and the step's number alone. With
warm-up over W steps, and an end at step S (`optimizer.schedule_steps`):

    step < W     rate · (step + 1) / W
    constant     rate
    linear       rate · (1 - (1 - f) · p)
    cosine       rate · (f + (1 - f) · ½ (1 + cos(π p)))       (Loshchilov & Hutter, 2017)

where p = (step - W) / (S - W), at most 1, and f = `optimizer.final_fraction`. S is not
`train.steps`: that may be raised when a run goes on, and the steps that are done would then have
had another rate.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TypeVar

import numpy as np
import tinker

from visual_r1.backend.waiting import TRAIN_LIMIT_S, wait
from visual_r1.config import RunConfig
from visual_r1.errors import RequestFailed, RequestRefused
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.prices import NO_TOKENS, Tokens, total
from visual_r1.rl.advantages import token_shares
from visual_r1.rl.divergence import Divergence, Floats, clip_share, divergence
from visual_r1.rl.losses import Loss, loss_of
from visual_r1.rl.own_loss import LOGGED
from visual_r1.rl.replies import largest_norm, learner_logprobs, require_sound

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """One rollout with at least one token, the prompt that it answers and its advantage."""

    prompt: tinker.ModelInput
    rollout: Rollout
    advantage: float


@dataclass(frozen=True, slots=True)
class Update:
    """What the learner reported of the optimizer steps of one batch.

    `loss` is the sum over the tokens of the batch that Tinker's losses are, a mean over epochs;
    `grad_norm` is the largest. KL, ratios and clip share (see `Divergence`) are of the first
    minibatch: sampler and learner should be the same model there, so the KL is zero and the ratios
    are one up to rounding. `off_policy_…` are the largest KL, the extremes of the ratio and the
    share of clipped tokens over all the later ones, which are learnt from with other weights than
    sampled them; None where there is no later one. The clip shares are None for a loss without a
    clip. `logged` is what a loss of the user's own logs, as means over the minibatches.
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
    logged: Mapping[str, float] = field(default_factory=dict[str, float])


def examples_of(
    groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]], config: RunConfig
) -> list[Example]:
    """What a step learns from, by (group, sample); `advantages` has one for each rollout.

    A group without any advantage is left out. The other samples stay with advantage 0 too (the
    normalisation counts their tokens), but for empty and masked ones.
    """
    mask = config.algorithm.mask_truncated
    return [
        Example(group.prompt, rollout, advantage)
        for group, advantages_G in zip(groups, advantages, strict=True)
        if any(advantages_G)
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
        if rollout.tokens and not (mask and rollout.truncated)
    ]


def learn(
    training: tinker.TrainingClient, policy: Policy, examples: Sequence[Example], step: int
) -> Update | None:
    """Learn from `examples`; all requests are sent back to back, then all are awaited.

    None where there is none: then nothing is sent. Raises `BackendError` when the server fails,
    `LossError` when a loss of the user's own does, `RunError` when loss or gradient are not finite
    or beyond the bounds of `limits`: before the step is saved.
    """
    if not examples:
        return None
    config = policy.config
    sent = [_send(training, policy, part, step) for part in minibatches(examples, config, step)]
    learnt = [_awaited(one, policy, step) for one in sent]
    first, *later = (one.divergence for one in learnt)
    update = Update(
        loss=math.fsum(one.loss for one in learnt) / config.algorithm.epochs,
        grad_norm=largest_norm(one.stepped for one in learnt),
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
        logged={
            name: fmean(one.logged[name] for one in learnt if name in one.logged)
            for name in sorted({name for one in learnt for name in one.logged})
        },
    )
    require_sound(
        config, step, loss=update.loss, grad_norm=update.grad_norm, kl=update.kl_sampler_learner
    )
    return update


def minibatches(examples: Sequence[T], config: RunConfig, step: int) -> Iterator[Sequence[T]]:
    """The minibatches in the order in which they are learnt from, epoch by epoch.

    Each epoch has each example once. The minibatches differ in size by one at most; which example
    is in which is drawn anew each epoch, from (train.seed, step, epoch). Within one, examples keep
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


@dataclass(frozen=True, slots=True)
class _Sent:
    """A minibatch whose forward_backward and optim_step are under way."""

    examples: Sequence[Example]
    loss: Loss
    backward: "tinker.APIFuture[tinker.ForwardBackwardOutput]"
    optim: "tinker.APIFuture[tinker.OptimStepResponse]"
    tokens: Tokens


def _send(
    training: tinker.TrainingClient, policy: Policy, examples: Sequence[Example], step: int
) -> _Sent:
    config = policy.config
    lengths = [len(example.rollout.tokens) for example in examples]
    shares = token_shares(lengths, config.algorithm.normalization, config.sampling.max_new_tokens)
    loss = loss_of(config.train, config.algorithm).scaled(shares[0])
    data = [
        datum(
            one.prompt,
            one.rollout.tokens,
            one.rollout.logprobs,
            one.advantage * share,
            mask=loss.mask,
            sequence_id=one.rollout.sequence_id,
        )
        for one, share in zip(examples, shares, strict=True)
    ]
    positions = sum(one.model_input.length for one in data)
    if loss.counts_prompt:
        forward = training.forward(data, loss.name, loss.config)
        ahead = wait(forward, f"forward of step {step}", TRAIN_LIMIT_S, policy.watch)
        prompts = [example.prompt for example in examples]
        data = with_prompt_logprobs(data, prompts, learner_logprobs(ahead, len(data)))
    if loss.own is not None:
        backward = training.forward_backward_custom(data, loss.own.at(step, loss.config))
    else:
        backward = training.forward_backward(data, loss.name, loss.config)
    return _Sent(
        examples,
        loss,
        backward,
        training.optim_step(adam_params(config, step, lengths)),
        # A forward is billed as training.
        Tokens(train=positions * loss.passes),
    )


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What came back of one minibatch."""

    loss: float
    stepped: tinker.OptimStepResponse
    divergence: Divergence
    logged: Mapping[str, float]


def _awaited(sent: _Sent, policy: Policy, step: int) -> _Learnt:
    what = f"forward_backward of step {step}"
    try:
        output = wait(sent.backward, what, TRAIN_LIMIT_S, policy.watch)
    except RequestRefused as error:
        if not sent.loss.needs_provenance:
            raise
        # What it recorded of the samples may have gone: in a new session they are drawn again.
        raise RequestFailed(str(error)) from error
    stepped = wait(sent.optim, f"optim_step of step {step}", TRAIN_LIMIT_S, policy.watch)
    logprobs = learner_logprobs(output, len(sent.examples))
    return _Learnt(
        loss=output.metrics.get("loss:sum", math.nan),
        stepped=stepped,
        divergence=divergence(
            [np.array(one.rollout.logprobs, dtype=np.float32) for one in sent.examples],
            [
                answer_part(example.prompt, logprobs_T)
                for example, logprobs_T in zip(sent.examples, logprobs, strict=True)
            ],
            [example.advantage for example in sent.examples],
            sent.loss,
        ),
        logged={
            name.removeprefix(LOGGED): value
            for name, value in output.metrics.items()
            if name.startswith(LOGGED)
        },
    )


def datum(
    prompt: tinker.ModelInput,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    advantage: float,
    *,
    mask: str | None = None,
    sequence_id: str | None = None,
) -> tinker.Datum:
    """The training example of an answer of n >= 1 tokens with the sampler's n log-probabilities.

    Its arrays have T entries each, see above. `mask` is the name of the input that is 1 on the
    answer's tokens, where there is to be one; `sequence_id` names what was sampled, where that is
    to be its provenance.
    """
    silent = prompt.length - 1
    answer = len(tokens)
    chunks = list(prompt.chunks)
    if answer > 1:
        chunks.append(tinker.EncodedTextChunk(tokens=list(tokens[:-1])))
    inputs = {
        "target_tokens": tinker.TensorData.from_numpy(
            np.array([0] * silent + list(tokens), dtype=np.int64)
        ),
        "logprobs": _floats([0.0] * silent + list(logprobs)),
        "advantages": _floats([0.0] * silent + [advantage] * answer),
    }
    if mask is not None:
        inputs[mask] = _floats([0.0] * silent + [1.0] * answer)
    made = tinker.Datum(tinker.ModelInput(chunks=chunks), inputs)
    if sequence_id is None:
        return made
    return made.with_provenance(
        _spans(sequence_id, 0, prompt.length, answer - 1),
        _spans(sequence_id, 1, silent, answer),
    )


def _spans(
    sequence_id: str, offset: int, prompt: int, sampled: int
) -> list[tinker.PromptProvenanceSpan | tinker.SampledProvenanceSpan]:
    """So many places of the sequence's prompt from `offset` on, and so many of its tokens."""
    of_prompt = tinker.PromptProvenanceSpan(sequence_id=sequence_id, offset=offset, length=prompt)
    of_answer = tinker.SampledProvenanceSpan(sequence_id=sequence_id, length=sampled)
    return [one for one in (of_prompt, of_answer) if one.length]


def answer_part(prompt: tinker.ModelInput, values_T: Floats) -> Floats:
    """The n values of the answer's tokens out of the T of a datum."""
    return values_T[prompt.length - 1 :]


def with_prompt_logprobs(
    datums: Sequence[tinker.Datum],
    prompts: Sequence[tinker.ModelInput],
    learner: Sequence[Floats],
) -> list[tinker.Datum]:
    """The datums with the learner's own log-probabilities on their prompt positions.

    A loss with a term in (logp - q)² counts prompt positions too, whatever their advantage. With
    q equal to the learner's logp there, that term and its gradient are zero. `prompts` and
    `learner` go with `datums` one by one.
    """
    found: list[tinker.Datum] = []
    for one, prompt, logprobs_T in zip(datums, prompts, learner, strict=True):
        silent = prompt.length - 1
        filled = one.loss_fn_inputs["logprobs"].to_numpy().copy()
        filled[:silent] = logprobs_T[:silent]
        inputs = {**one.loss_fn_inputs, "logprobs": tinker.TensorData.from_numpy(filled)}
        found.append(replace(one, loss_fn_inputs=inputs))
    return found


def _floats(values: Sequence[float]) -> tinker.TensorData:
    return tinker.TensorData.from_numpy(np.array(values, dtype=np.float32))


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


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of `step`, counted from 0."""
    rate, settings = config.train.learning_rate, config.optimizer
    warmup = settings.warmup_steps
    if step < warmup:
        return rate * (step + 1) / warmup
    if settings.schedule == "constant" or settings.schedule_steps is None:
        return rate
    done = min(1.0, (step - warmup) / (settings.schedule_steps - warmup))
    left = 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return rate * (settings.final_fraction + (1.0 - settings.final_fraction) * left)
