"""Sampling of a step: G responses a problem and their second passes, graded as they arrive.

A group is given away as soon as it and all before it are complete, so that learning may begin while
others are still sampled. Batches of several steps may be under way at a time, each with weights of
its own: whoever waits for anything meanwhile takes in what arrives for all of them, in one thread.

Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2): problems are drawn until the batch is full
of groups that teach something. Round 0 is the batch of the step; round k has as many problems again
(`data.batches` of round k, or with a curriculum what comes next in the order of the step), at most
`algorithm.dynamic_rounds` times. The batch is full with `train.batch_size` groups that have
contrast; those beyond, and what is drawn without contrast, give no gradient and stay in the metrics
and rollouts. Which problems are drawn depends on the seed, the step and the samples so far, so a
resumed run draws the same.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, Self

import tinker
from tinker.lib.public_interfaces.api_future import (  # pyright: ignore[reportMissingTypeStubs]
    AwaitableConcurrentFuture,
)

from visual_r1.backend.waiting import LOOK_EVERY_S, SAMPLE_LIMIT_S, SAVE_LIMIT_S, Limit, wait
from visual_r1.errors import BackendError, RequestFailed, RequestRefused, RewardError
from visual_r1.policy.passes import Asking, Question, Reply
from visual_r1.policy.policy import Policy, RolloutGroup
from visual_r1.printing import open_logger
from visual_r1.rl.advantages import has_contrast
from visual_r1.rl.batches import PromptedProblem
from visual_r1.rl.group import GroupUnderWay, Key
from visual_r1.rl.metrics import StepTimer

logger = open_logger(__name__)


class Rounds(Protocol):
    """Whose batches are sampled: `rl.batches.Batches`, as a rule."""

    def rounds(self, step: int, /) -> Iterator[Sequence[PromptedProblem]]:
        """The batch of a step, and the rounds after it."""
        ...


class Sampling:
    """The batches that are being sampled, by their steps. Use it as a context.

        with Sampling(policy, batches, timers) as sampling:
            sampling.begin(range(3, 5), training.save_weights_and_get_sampling_client())
            for group in sampling.groups(3):
                ...

    At its end what is still under way is cancelled.

    Args:
        policy: whose weights sample, and how it is asked and graded.
        batches: the problems of the steps.
        timers: by step, what count the time it takes.
    """

    def __init__(self, policy: Policy, batches: Rounds, timers: Mapping[int, StepTimer]) -> None:
        self._policy, self._batches, self._timers = policy, batches, timers
        self._asking: Asking[tuple[int, Key]] = Asking(
            "sampling", policy.watch, retries=policy.config.limits.sample_retries
        )
        self._saving: deque[tuple[range, tinker.APIFuture[tinker.SamplingClient]]] = deque()
        self._under_way: dict[int, _BatchUnderWay] = {}

    def begin(self, steps: range, saving: "tinker.APIFuture[tinker.SamplingClient]") -> None:
        """Ask for the samples of `steps` as soon as the sampler is there that is being saved.

        `train.group_size` responses to each problem and their second passes: all prompts at once,
        and the second passes of each when it arrives and is graded. Seeds come from (train.seed,
        step, group, problem, sample), so the result does not depend on arrival. A request that the
        server refuses or fails at is sent again, `limits.sample_retries` times. A prompt that is
        lost for good gives an empty group with its samples counted as failed; a second pass that
        is lost takes its sample out of the group, counted likewise.
        """
        if steps:
            self._saving.append((steps, saving))
            self._asking.wake_when(saving.future())

    def can_begin(self, steps: range) -> None:
        """The weights are there that sample `steps`: what was asked before that has only waited,
        and is not counted as time of sampling."""
        for step in steps:
            if step in self._under_way:
                self._under_way[step].begins()

    def ask(self, step: int) -> None:
        """Wait until the batch of `step` has been asked for."""
        while step not in self._under_way:
            self._ask_next()

    def groups(self, step: int) -> Iterator[RolloutGroup]:
        """All groups of `step` in order, each as soon as it and those before it are complete.

        What the server refuses, as too long or unreadable, is a fault of the row and no sign of the
        server's health: it is named in a warning. Raises `RequestRefused` when that leaves nothing,
        `BackendError` when what the server failed at leaves less than `limits.least_sampled` of the
        others, or on any other failure, and `RunError` where log-probabilities are not finite.
        """
        self.ask(step)
        batch, limit = self._under_way[step], Limit(f"sampling of step {step}", SAMPLE_LIMIT_S)
        while True:
            yield from batch.ready()
            if batch.is_over:
                break
            if self._take_next(LOOK_EVERY_S):
                limit.begin_again()
                continue
            self._policy.watch()
            limit.require()
        del self._under_way[step]

    def meanwhile(self, pending: "Future[Any]", seconds: float) -> None:
        """Take in what arrives until `pending` is done, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        while not pending.done() and (left := deadline - time.monotonic()) > 0:
            self._take_next(left, until=pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.cancel()

    def _take_next(self, seconds: float, until: "Future[Any] | None" = None) -> bool:
        """Take in the next reply or sampler, if one comes; whether a reply did."""
        found = self._asking.within(seconds, until)
        if found is not None:
            (step, key), asked, reply = found
            self._under_way[step].take(key, asked, reply)
        while self._saving and self._saving[0][1].future().done():
            self._ask_next()
        return found is not None

    def _ask_next(self) -> None:
        """Wait for the sampler that is saved first, and ask for the batches that it is for."""
        steps, saving = self._saving.popleft()
        timer, what = self._timers[steps.start], f"the sampler of step {steps.start}"
        with timer.during("sample"), timer.during("sampler"):
            sampler = wait(saving, what, SAVE_LIMIT_S, self._policy.watch, self.meanwhile)
        for step in steps:
            self._under_way[step] = _BatchUnderWay(
                self._policy,
                step,
                self._batches.rounds(step),
                partial(self._ask, step, sampler),
                self._timers[step],
            )

    def _ask(self, step: int, sampler: tinker.SamplingClient, key: Key, asked: Question) -> None:
        self._asking.ask((step, key), asked, sampler, f"sampling of step {step}")


def sample_groups(
    sampler: tinker.SamplingClient, policy: Policy, batch: Sequence[PromptedProblem], step: int
) -> list[RolloutGroup]:
    """The groups of one batch, without further rounds; raises what `Sampling.groups` raises."""

    class Alone:
        def rounds(self, _: int) -> Iterator[Sequence[PromptedProblem]]:
            return iter([batch])

    algorithm = policy.config.algorithm.model_copy(update={"dynamic_rounds": 0})
    config = policy.config.model_copy(update={"algorithm": algorithm})
    there: Future[tinker.SamplingClient] = Future()
    there.set_result(sampler)
    with Sampling(replace(policy, config=config), Alone(), {step: StepTimer()}) as sampling:
        sampling.begin(range(step, step + 1), AwaitableConcurrentFuture(there))
        return list(sampling.groups(step))


class _BatchUnderWay:
    """What has come back so far of the batch of one step, and of its further rounds."""

    def __init__(
        self,
        policy: Policy,
        step: int,
        rounds: Iterator[Sequence[PromptedProblem]],
        ask: Callable[[Key, Question], None],
        timer: StepTimer,
    ) -> None:
        self._policy, self._step, self._rounds, self._ask = policy, step, rounds, ask
        self._timer = timer
        self._rounds_left = 1 + policy.config.algorithm.dynamic_rounds
        self._groups: list[GroupUnderWay] = []
        self._finished: dict[int, RolloutGroup] = {}
        self._given = 0
        self._first = 0
        """Where the groups of the round begin that is under way."""
        self.is_over = False
        self.begins()
        self._open_rounds()

    def begins(self) -> None:
        """Count the time from here on."""
        self._began = self._asked = self._firsts_came = time.monotonic()

    def take(self, key: Key, asked: Question, reply: Reply) -> None:
        """Grade a reply and ask for what follows from it."""
        group = self._groups[key[1]]
        with self._timer.during("grading"):
            following = group.take(key, asked, reply)
        for next_key, next_question in following:
            self._ask(next_key, next_question)
        if key[0] == "full":
            self._firsts_came = time.monotonic()
        if group.is_complete:
            self._finished[key[1]] = group.finished()
            if self._is_round_complete:
                self._end_round()
                self._open_rounds()

    def ready(self) -> Iterator[RolloutGroup]:
        """The groups that are complete, in order, each of them once."""
        while self._given in self._finished:
            self._given += 1
            yield self._finished[self._given - 1]

    @property
    def _is_round_complete(self) -> bool:
        return len(self._finished) == len(self._groups)

    def _open_rounds(self) -> None:
        """Ask for the next round, until one has something to wait for or the batch is over."""
        while not self.is_over and self._is_round_complete:
            with self._timer.during("prompts"):
                batch = next(self._rounds)
            self._first = len(self._groups)
            self._rounds_left -= 1
            self._asked = self._firsts_came = time.monotonic()
            for number, prompted in enumerate(batch, self._first):
                group = GroupUnderWay(self._policy, prompted, self._step, number)
                self._groups.append(group)
                for key, first_question in group.questions():
                    self._ask(key, first_question)
                if group.is_complete:  # no prompt could be made
                    self._finished[number] = group.finished()
            if self._is_round_complete:
                self._end_round()

    def _end_round(self) -> None:
        """Look whether enough came back, and whether the batch is full."""
        now = time.monotonic()
        self._timer.add("first_pass", self._firsts_came - self._asked)
        self._timer.add("second_pass", now - self._firsts_came)
        of_round = [self._finished[n] for n in range(self._first, len(self._groups))]
        _require_scores(of_round, self._step)
        refused: dict[Key, RequestRefused] = {}
        for group in self._groups[self._first :]:
            refused |= group.refused
        reasons = [refused[key] for key in sorted(refused)]
        further = self._first > 0
        _require_enough(of_round, self._policy, self._step, reasons, further=further)
        full = (
            sum(map(has_contrast, self._finished.values())) >= self._policy.config.train.batch_size
        )
        self.is_over = full or self._rounds_left == 0
        if self.is_over:
            self._timer.add("sample", now - self._began)


def _require_scores(groups: Sequence[RolloutGroup], step: int) -> None:
    """Say how many samples have no reward, since the user's own function or the grader failed on
    them; raise where that is all."""
    failures = [rollout.scored.failure for group in groups for rollout in group.unscored]
    if not failures:
        return
    count = len(failures) + sum(len(group.rollouts) for group in groups)
    if len(failures) == count:
        raise RewardError(
            f"The reward could not score any of the {count} samples of step {step}: "
            f"{failures[0]}. Mend it and start again: the run goes on from its last checkpoint."
        )
    logger.warning(
        "The reward could not score %d of %d samples of step %d, and they leave their groups; "
        "the first: %s. They are in the run's rollouts, with the reason in the column failure",
        len(failures),
        count,
        step,
        failures[0],
    )


def _require_enough(
    groups: Sequence[RolloutGroup],
    policy: Policy,
    step: int,
    reasons: Sequence[RequestRefused],
    *,
    further: bool,
) -> None:
    """Raise where too few samples came back for the step to be worth its update.

    Those that were refused are not wanted any more. `further` says that the step has groups of an
    earlier round.
    """
    wanted = len(groups) * policy.config.train.group_size
    failed, refused = sum(one.failed for one in groups), sum(one.refused for one in groups)
    least, kept = policy.config.limits.least_sampled, wanted - failed
    nothing_left = kept == 0 and not (further and refused == wanted)
    if failed and (nothing_left or kept < least * (wanted - refused)):
        sentence = (
            f"{failed} of {wanted} samples of step {step} failed, and limits.least_sampled "
            f"asks for {least:.0%}; the first with: "
            f"{reasons[0] if reasons else 'too few sequences in the reply'}"
        )
        # What is refused is refused again; what the server failed at is worth another session.
        if reasons and not any(isinstance(reason, RequestFailed) for reason in reasons):
            raise RequestRefused(sentence)
        raise BackendError(sentence)
    if refused:
        rows = [one for one in groups if one.refused]
        logger.warning(
            "%d of %d samples of step %d were refused and are left out, those of the problems %s; "
            "the first: %s",
            refused,
            wanted,
            step,
            ", ".join(dict.fromkeys(repr(one.problem.id) for one in rows)),
            rows[0].failure,
        )
