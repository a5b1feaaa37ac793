"""Learning from a step's groups: parts, minibatches and epochs, and the learning rate.

**Parts.** The gradient of a batch is a sum, so groups may go to the learner while others are still
sampled: in `pipeline.parts` forward_backwards, each sent as soon as its groups are complete, and
one optim_step behind the last. Which groups are in which depends on their order alone, never on
when they came. `config.why_whole` says what needs all of them first.

**Minibatches.** Each is one forward_backward (or its parts) and one optim_step. With one minibatch
and one epoch, the default, the policy that learns is the one that sampled, or with
`algorithm.max_staleness` one a few steps later. After the first optimizer step of a batch it no
longer is: how far it has moved is logged as the off-policy `divergence`.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TypeVar

import numpy as np
import tinker

from visual_r1.backend.waiting import TRAIN_LIMIT_S, Meanwhile, stand_by, wait
from visual_r1.config import RunConfig, why_whole
from visual_r1.errors import RequestFailed, RequestRefused
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.prices import NO_TOKENS, Tokens, total
from visual_r1.rl.advantages import token_shares, with_advantages
from visual_r1.rl.correction import Corrected, corrected
from visual_r1.rl.datums import answer_part, datum, with_prompt_logprobs
from visual_r1.rl.divergence import Divergence, Floats, clip_share, divergence
from visual_r1.rl.losses import Loss, Served, loss_of
from visual_r1.rl.own_loss import LOGGED
from visual_r1.rl.replies import largest_norm, learner_logprobs, require_sound

T = TypeVar("T")

REMOTE_PARTS = 4
"""Each forward_backward waits for a turn of the server's learner: few, so that the last one, which
alone stands in the way, is small and the others cost no turn that nobody had to wait for anyway."""


@dataclass(frozen=True, slots=True)
class Example:
    """One rollout with at least one token, the prompt that it answers and its advantage.

    `corrected` holds what its tokens count, and what the loss takes their ratio to, where that is
    not the sampler (see `correction`).
    """

    prompt: tinker.ModelInput
    rollout: Rollout
    advantage: float
    corrected: Corrected | None = None

    @property
    def reference(self) -> Sequence[float]:
        """The log-probabilities of its n tokens that the ratio of the loss is taken to."""
        return self.rollout.logprobs if self.corrected is None else self.corrected.logprobs

    def advantage_of_tokens(self, share: float) -> float | list[float]:
        """That of all its tokens, or of each of the n, where each counts so much."""
        whole = self.advantage * share
        return [whole * w for w in self.corrected.weights] if self.corrected else whole


@dataclass(frozen=True, slots=True)
class Update:
    """What the learner reported of the optimizer steps of one batch.

    `loss` is the sum over the tokens of the batch that Tinker's losses are, a mean over epochs;
    `grad_norm` is the largest. KL, ratios and clip share (see `Divergence`) are of the first
    minibatch: sampler and learner should be the same model there, so the KL is zero and the ratios
    are one up to rounding, but for what the weights have moved where the samples are stale.
    `corrected_share` is the share of tokens whose ratio the correction cut or left out, None
    without one. `off_policy_…` are the largest KL, the extremes of the ratio and the
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
    corrected_share: float | None = None
    optimizer_steps: int = 1
    off_policy_kl: float | None = None
    off_policy_ratio_max: float | None = None
    off_policy_ratio_min: float | None = None
    off_policy_clip_share: float | None = None
    tokens: Tokens = NO_TOKENS
    logged: Mapping[str, float] = field(default_factory=dict[str, float])


def examples_of(
    group: RolloutGroup, advantages_G: Sequence[float], config: RunConfig
) -> list[Example]:
    """What a step learns from a group, by sample; none where it has no advantage at all.

    The other samples stay with advantage 0 too (the normalisation counts their tokens), but for
    empty and masked ones.
    """
    mask = config.algorithm.mask_truncated
    if not any(advantages_G):
        return []
    return [
        Example(group.prompt, rollout, advantage)
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
        if rollout.tokens and not (mask and rollout.truncated)
    ]


def parts_of(config: RunConfig, *, in_turns: bool) -> int:
    """In how many parts, at most, the batch of a step goes to the learner.

    `in_turns` says that the server samples and trains in turns: then parts hide nothing.
    """
    if why_whole(config.train, config.algorithm):
        return 1
    return config.pipeline.parts or (1 if in_turns else REMOTE_PARTS)


class StepLearner:
    """Learns one step: takes its groups as they come, then makes its optimizer steps.

        learner = StepLearner(training, policy, step, parts=4)
        learner.take(groups)
        learner.finish()
        update = learner.update()

    `groups`, `advantages` and `examples` are what it was given and made of it, by (group, sample).
    Nothing is awaited before `update` but what a correction or a loss needs ahead of the gradient.
    `staleness` is how many steps before its own the samples' weights were made.
    """

    def __init__(
        self,
        training: tinker.TrainingClient,
        policy: Policy,
        step: int,
        *,
        parts: int = 1,
        staleness: int = 0,
        meanwhile: Meanwhile = stand_by,
    ) -> None:
        self._training, self._policy, self._step = training, policy, step
        self._staleness, self._meanwhile = staleness, meanwhile
        self._loss = loss_of(policy.config.train, policy.config.algorithm)
        self._groups_a_part = -(-policy.config.train.batch_size // parts) if parts > 1 else None
        self._backward: list[_Backward] = []
        """The parts that were sent of the minibatch that is to come first."""
        self._rest: list[Example] = []
        config = policy.config
        uncorrected = config.pipeline.correction == "none"
        self._makes_ahead = uncorrected and not why_whole(config.train, config.algorithm)
        """Whether all that a datum holds is known before the last group is there."""
        self._made: list[tinker.Datum] = []
        """Those of all examples so far, where they are made ahead."""
        self._sent: list[_Sent] = []
        self._ahead = NO_TOKENS
        self.groups: list[RolloutGroup] = []
        self.advantages: list[list[float]] = []
        self.examples: list[Example] = []

    def take(self, groups: Iterable[RolloutGroup]) -> None:
        """Take all groups of the step, and send each part that is full."""
        config, part, full = self._policy.config, list[Example](), 0
        for group, advantages_G in with_advantages(groups, config):
            self.groups.append(group)
            self.advantages.append(advantages_G)
            if found := examples_of(group, advantages_G, config):
                part += found
                full += 1
                if self._makes_ahead:  # while others are sampled: who trains need not wait for it
                    self._made += self._data_of(found, [1.0] * len(found))
            if full == self._groups_a_part:
                self._send_part(part)
                part, full = [], 0
        self._rest = part

    def finish(self) -> None:
        """Send what is left, and the optimizer steps; nothing where there is nothing to learn."""
        if self._groups_a_part is not None:
            if self._rest:
                self._send_part(self._rest)
        else:
            self.examples = self._corrected(self._rest)
        batches = minibatches(self.examples, self._policy.config, self._step)
        for examples in batches if self.examples else ():
            backward = self._backward or [self._send(examples, self._made)]
            lengths = [len(one.rollout.tokens) for one in examples]
            stepped = self._training.optim_step(
                adam_params(self._policy.config, self._step, lengths)
            )
            self._sent.append(_Sent(backward, stepped))
            self._backward = []

    def update(self) -> Update | None:
        """What the learner reports of it; None where nothing was sent.

        Raises `BackendError` when the server fails, `LossError` when a loss of the user's own does,
        `RunError` when loss or gradient are not finite or beyond the bounds of `limits`: before the
        step is saved.
        """
        if not self._sent:
            return None
        config = self._policy.config
        learnt = [self._awaited(one) for one in self._sent]
        first, *later = (one.divergence for one in learnt)
        update = Update(
            loss=math.fsum(one.loss for one in learnt) / config.algorithm.epochs,
            grad_norm=largest_norm(one.stepped for one in learnt),
            kl_sampler_learner=first.kl,
            ratio_max=first.ratio_max,
            ratio_min=first.ratio_min,
            clip_share=clip_share([first]),
            corrected_share=_corrected_share(self.examples),
            optimizer_steps=len(learnt),
            off_policy_kl=max((one.kl for one in later), default=None),
            off_policy_ratio_max=max((one.ratio_max for one in later), default=None),
            off_policy_ratio_min=min((one.ratio_min for one in later), default=None),
            off_policy_clip_share=clip_share(later),
            tokens=total([self._ahead, *(part.tokens for one in self._sent for part in one.parts)]),
            logged={
                name: fmean(one.logged[name] for one in learnt if name in one.logged)
                for name in sorted({name for one in learnt for name in one.logged})
            },
        )
        require_sound(
            config,
            self._step,
            loss=update.loss,
            grad_norm=update.grad_norm,
            kl=update.kl_sampler_learner,
            staleness=self._staleness,
        )
        return update

    def _send_part(self, examples: Sequence[Example]) -> None:
        made = self._made[len(self.examples) :]
        part = self._corrected(examples)
        self.examples += part
        self._backward.append(self._send(part, made))

    def _corrected(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the weights of the correction, where there is one."""
        settings = self._policy.config.pipeline
        if settings.correction == "none" or not examples:
            return list(examples)
        data = [
            datum(one.prompt, one.rollout.tokens, one.rollout.logprobs, 0.0) for one in examples
        ]
        # A forward is billed as training.
        self._ahead += Tokens(train=sum(one.model_input.length for one in data))
        logprobs = self._forward(data, "importance_sampling", {})
        return [
            replace(
                one,
                corrected=corrected(
                    one.rollout.logprobs, answer_part(one.prompt, logprobs_T), settings
                ),
            )
            for one, logprobs_T in zip(examples, logprobs, strict=True)
        ]

    def _forward(
        self, data: list[tinker.Datum], loss: Served, config: Mapping[str, float]
    ) -> list[Floats]:
        """The learner's log-probabilities of each datum's T targets, as its weights are now."""
        what = f"forward of step {self._step}"
        output = self._wait(self._training.forward(data, loss, config), what)
        return learner_logprobs(output, len(data))

    def _send(self, examples: Sequence[Example], made: Sequence[tinker.Datum]) -> "_Backward":
        """Send the examples; `made` are their data, where these were made ahead."""
        config = self._policy.config
        lengths = [len(example.rollout.tokens) for example in examples]
        shares = token_shares(
            lengths, config.algorithm.normalization, config.sampling.max_new_tokens
        )
        loss = self._loss.scaled(shares[0])
        data = list(made) or self._data_of(examples, shares)
        # A forward is billed as training.
        tokens = Tokens(train=sum(one.model_input.length for one in data) * loss.passes)
        if loss.counts_prompt:
            prompts = [example.prompt for example in examples]
            logprobs = self._forward(data, loss.name, loss.config)
            data = with_prompt_logprobs(data, prompts, logprobs)
        if loss.own is not None:
            own = loss.own.at(self._step, loss.config)
            output = self._training.forward_backward_custom(data, own)
        else:
            output = self._training.forward_backward(data, loss.name, loss.config)
        return _Backward(examples, loss, output, tokens)

    def _data_of(self, examples: Sequence[Example], shares: Sequence[float]) -> list[tinker.Datum]:
        """What each example goes to the learner as, where each of its tokens counts so much."""
        return [
            datum(
                one.prompt,
                one.rollout.tokens,
                one.reference,
                one.advantage_of_tokens(share),
                mask=self._loss.mask,
                sequence_id=one.rollout.sequence_id,
            )
            for one, share in zip(examples, shares, strict=True)
        ]

    def _wait(self, future: "tinker.APIFuture[T]", what: str) -> T:
        return wait(future, what, TRAIN_LIMIT_S, self._policy.watch, self._meanwhile)

    def _awaited(self, sent: "_Sent") -> "_Learnt":
        outputs = [self._backward_output(part) for part in sent.parts]
        stepped = self._wait(sent.optim, f"optim_step of step {self._step}")
        examples = [one for part in sent.parts for one in part.examples]
        logprobs = [
            logprobs_T
            for part, output in zip(sent.parts, outputs, strict=True)
            for logprobs_T in learner_logprobs(output, len(part.examples))
        ]
        return _Learnt(
            loss=math.fsum(output.metrics.get("loss:sum", math.nan) for output in outputs),
            stepped=stepped,
            divergence=divergence(
                [np.array(one.rollout.logprobs, dtype=np.float32) for one in examples],
                [
                    answer_part(example.prompt, logprobs_T)
                    for example, logprobs_T in zip(examples, logprobs, strict=True)
                ],
                [example.advantage for example in examples],
                sent.parts[0].loss,
                reference=[np.array(one.reference, dtype=np.float32) for one in examples],
            ),
            logged={
                name.removeprefix(LOGGED): value
                for output in outputs
                for name, value in output.metrics.items()
                if name.startswith(LOGGED)
            },
        )

    def _backward_output(self, part: "_Backward") -> tinker.ForwardBackwardOutput:
        try:
            return self._wait(part.output, f"forward_backward of step {self._step}")
        except RequestRefused as error:
            if not part.loss.needs_provenance:
                raise
            # What it recorded of the samples may have gone: in a new session they are drawn again.
            raise RequestFailed(str(error)) from error


def _corrected_share(examples: Sequence[Example]) -> float | None:
    found = [one.corrected for one in examples if one.corrected is not None]
    tokens = sum(len(one.weights) for one in found)
    return sum(one.bounded for one in found) / tokens if tokens else None


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
class _Backward:
    """A forward_backward that is under way."""

    examples: Sequence[Example]
    loss: Loss
    output: "tinker.APIFuture[tinker.ForwardBackwardOutput]"
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class _Sent:
    """The parts of a minibatch and its optim_step, under way."""

    parts: Sequence[_Backward]
    optim: "tinker.APIFuture[tinker.OptimStepResponse]"


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What came back of one minibatch."""

    loss: float
    stepped: tinker.OptimStepResponse
    divergence: Divergence
    logged: Mapping[str, float]


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
