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

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, Self

import tinker

from visual_r1.errors import BackendError, RequestFailed, RequestRefused, RewardError, RunError
from visual_r1.hashing import stable_seed
from visual_r1.policy.passes import (
    Asking,
    Question,
    Reply,
    View,
    question,
    reward_input,
    second_pass,
    second_question,
)
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup
from visual_r1.policy.second_pass import (
    MOST_MOVES,
    SecondPass,
    after_moving,
    moved,
    with_bonus,
)
from visual_r1.prices import NO_TOKENS
from visual_r1.printing import open_logger
from visual_r1.rewards import score
from visual_r1.rewards.blindfold.masking import named_by_others
from visual_r1.rewards.grounding import spoken
from visual_r1.rewards.scoring import grade_of
from visual_r1.rl.advantages import has_contrast
from visual_r1.rl.batches import PromptedProblem
from visual_r1.rl.losses import UNPUBLISHED
from visual_r1.rl.metrics import StepTimer

logger = open_logger(__name__)

Key = tuple[View | Literal["moved"], int, int]
"""A view, the group, and the sample (0 where it is all of them); `moved` is a second pass that is
read again with the numbers of its scan moved."""


class Sampling:
    """The batches that are being sampled, by their steps. Use it as a context.

        with Sampling(policy) as sampling:
            sampling.begin(3, sampler, batches.rounds(3))
            for group in sampling.groups(3):
                ...

    At its end what is still under way is cancelled.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._asking: Asking[tuple[int, Key]] = Asking(
            "sampling", policy.watch, retries=policy.config.limits.sample_retries
        )
        self._batches: dict[int, _BatchUnderWay] = {}

    def begin(
        self,
        step: int,
        sampler: tinker.SamplingClient,
        rounds: Iterator[Sequence[PromptedProblem]],
        timer: StepTimer | None = None,
    ) -> None:
        """Ask for the samples of `step`; `rounds` gives its batch and the rounds after it.

        `train.group_size` responses to each problem and their second passes: all prompts at once,
        and the second passes of each when it arrives and is graded. Seeds come from (train.seed,
        step, group, problem, sample), so the result does not depend on arrival. A request that the
        server refuses or fails at is sent again, `limits.sample_retries` times. A prompt that is
        lost for good gives an empty group with its samples counted as failed; a second pass that
        is lost takes its sample out of the group, counted likewise. `timer` counts what it took.
        """

        def ask(key: Key, asked: Question) -> None:
            self._asking.ask((step, key), asked, sampler, f"sampling of step {step}")

        timer = timer or StepTimer()
        self._batches[step] = _BatchUnderWay(self._policy, step, rounds, ask, timer)

    def groups(self, step: int) -> Iterator[RolloutGroup]:
        """All groups of `step` in order, each as soon as it and those before it are complete.

        What the server refuses, as too long or unreadable, is a fault of the row and no sign of the
        server's health: it is named in a warning. Raises `RequestRefused` when that leaves nothing,
        `BackendError` when what the server failed at leaves less than `limits.least_sampled` of the
        others, or on any other failure, and `RunError` where log-probabilities are not finite.
        """
        batch = self._batches[step]
        while True:
            yield from batch.ready()
            if batch.is_over:
                break
            self._take(*self._asking.following())
        del self._batches[step]

    def meanwhile(self, pending: "Future[Any]", seconds: float) -> None:
        """Take in what arrives until `pending` is done, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        while not pending.done() and (left := deadline - time.monotonic()) > 0:
            if (found := self._asking.within(left, until=pending)) is not None:
                self._take(*found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.cancel()

    def _take(self, key: tuple[int, Key], asked: Question, reply: Reply) -> None:
        step, of_group = key
        self._batches[step].take(of_group, asked, reply)


def sample_groups(
    sampler: tinker.SamplingClient, policy: Policy, batch: Sequence[PromptedProblem], step: int
) -> list[RolloutGroup]:
    """The groups of one batch, without further rounds; raises what `Sampling.groups` raises."""
    algorithm = policy.config.algorithm.model_copy(update={"dynamic_rounds": 0})
    config = policy.config.model_copy(update={"algorithm": algorithm})
    with Sampling(replace(policy, config=config)) as sampling:
        sampling.begin(step, sampler, iter([batch]))
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
        self._groups: list[_GroupUnderWay] = []
        self._finished: dict[int, RolloutGroup] = {}
        self._given = 0
        self._first = 0
        """Where the groups of the round begin that is under way."""
        self.is_over = False
        self._began = self._asked = self._firsts_came = time.monotonic()
        self._open_rounds()

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
                group = _GroupUnderWay(self._policy, prompted, self._step, number)
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


class _GroupUnderWay:
    """What has come back so far of one group."""

    def __init__(self, policy: Policy, prompted: PromptedProblem, step: int, number: int) -> None:
        self._policy, self._step, self._number = policy, step, number
        self._problem, self._prompt, fault = prompted
        self._first: tuple[Rollout, ...] = ()
        self._second: dict[int, SecondPass] = {}
        self._moves: Counter[int] = Counter()  # by sample: how often its numbers were moved
        self._question_only: tuple[bool, ...] = ()
        self._spent = NO_TOKENS
        self._unanswered = 0
        self.refused: dict[Key, RequestRefused] = {}
        if fault:
            self.refused["full", number, 0] = RequestRefused(fault)

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked has been answered."""
        return self._unanswered == 0

    def questions(self) -> Iterable[tuple[Key, Question]]:
        """The first pass, and answers without image and scan where they are wanted."""
        config = self._policy.config
        if self.refused:  # there is no prompt
            return
        self._unanswered += 1
        yield self._question("full", "rollout", prompt=self._prompt)
        if self._policy.reader is not None and config.second_pass.minus_question_only:
            self._unanswered += 1
            yield self._question("question_only", "question_only")

    def take(self, key: Key, asked: Question, reply: Reply) -> Sequence[tuple[Key, Question]]:
        """Grade a reply; what is to be asked because of it."""
        following = list(self._following(key, asked, reply))
        self._unanswered += len(following) - 1
        return following

    def _following(self, key: Key, asked: Question, reply: Reply) -> Iterable[tuple[Key, Question]]:
        if isinstance(reply, RequestRefused):
            self.refused[key] = reply
            return
        self._spent += asked.spent(reply)
        match key:
            case ("full", _, _):
                self._first = tuple(
                    self._rollout(asked, sample, sequence)
                    for sample, sequence in enumerate(reply.sequences)
                )
                if self._policy.reader is not None:
                    yield from self._second_questions()
            case ("scan_only" | "moved", _, _) if not reply.sequences:
                self.refused[key] = RequestFailed("The server returned no second pass.")
            case ("scan_only", _, sample):
                self._second[sample] = second_pass(self._policy, asked, reply.sequences[0])
                yield from self._moved_question(sample)
            case ("moved", _, sample):
                again = second_pass(self._policy, asked, reply.sequences[0])
                last = self._moves[sample] == MOST_MOVES
                self._second[sample] = after_moving(self._second[sample], again, last=last)
                if again.right and not last:
                    yield from self._moved_question(sample)
            case _:
                self._question_only = tuple(
                    grade_of(
                        self._policy.config.reward, reward_input(self._policy, asked, sequence)
                    ).right
                    for sequence in reply.sequences
                )

    def finished(self) -> RolloutGroup:
        """The group as it ended."""
        unscored = tuple(rollout for rollout in self._first if rollout.scored.failure)
        # Without the share that the question gives away no bonus of the group is known.
        whole = ("question_only", self._number, 0) not in self.refused
        kept = [
            finished
            for rollout in self._first
            if whole
            and not rollout.scored.failure
            and (finished := self._with_bonus(rollout)) is not None
        ]
        failures = [self.refused[key] for key in sorted(self.refused)]
        left = {rollout.sample for rollout in (*kept, *unscored)}
        lost = [n for n in range(self._policy.config.train.group_size) if n not in left]
        return RolloutGroup(
            problem=self._problem,
            prompt=self._prompt,
            rollouts=tuple(kept),
            failed=len(lost),
            refused=sum(map(self._is_refused, lost)),
            failure=str(failures[0]) if failures else "",
            question_only=self._question_only,
            unscored=unscored,
            spent=self._spent,
        )

    def _is_refused(self, sample: int) -> bool:
        """Whether a sample was lost because the server refused what belongs to its row."""
        group = self._number
        keys: list[Key] = [
            ("full", group, 0),
            ("question_only", group, 0),
            ("scan_only", group, sample),
            ("moved", group, sample),
        ]
        causes = [self.refused[key] for key in keys if key in self.refused]
        return bool(causes) and not any(isinstance(one, RequestFailed) for one in causes)

    def _question(
        self, view: View, seed: str, prompt: tinker.ModelInput | None = None
    ) -> tuple[Key, Question]:
        config = self._policy.config
        asked = question(
            self._policy,
            self._problem,
            view,
            stable_seed(seed, config.train.seed, self._step, self._number, self._problem.id),
            samples=config.train.group_size,
            temperature=config.sampling.temperature,
            prompt=prompt,
        )
        return (view, self._number, 0), asked

    def _second_questions(self) -> Iterable[tuple[Key, Question]]:
        config, number = self._policy.config, self._number
        least = config.second_pass.named_by
        named: Sequence[frozenset[Fraction] | None] = [None] * len(self._first)
        if least:
            named = named_by_others([self._spoken(rollout) for rollout in self._first], least)
        for rollout, others in zip(self._first, named, strict=True):
            if rollout.scored.failure:
                continue
            asked = second_question(
                self._policy,
                self._problem,
                rollout.response,
                self._seed("second_pass", rollout.sample),
                temperature=config.sampling.temperature,
                named=others,
            )
            if isinstance(asked, SecondPass):
                self._second[rollout.sample] = asked
            else:
                yield ("scan_only", number, rollout.sample), asked

    def _moved_question(self, sample: int) -> Iterable[tuple[Key, Question]]:
        """A second pass that was right is read again with its numbers moved, where that is set."""
        settings, second = self._policy.config.second_pass, self._second[sample]
        if not settings.moved_numbers or not second.right:
            return
        self._moves[sample] += 1
        seed = self._seed("moved" if self._moves[sample] == 1 else "moved again", sample)
        others = [self._spoken(one) for one in self._first if one.sample != sample]
        asked = moved(self._problem, second, seed, others if settings.named_by else None)
        if isinstance(asked, SecondPass):
            self._second[sample] = asked
        elif asked is not None:
            problem, scan = asked
            # Greedy, so that what can be read is read, and chance counts for nothing.
            yield (
                ("moved", self._number, sample),
                question(self._policy, problem, "scan_only", seed, temperature=0.0, scan=scan),
            )

    def _spoken(self, rollout: Rollout) -> str:
        return spoken(rollout.response, self._policy.prompter.opens_think)

    def _seed(self, what: str, sample: int) -> int:
        seed = self._policy.config.train.seed
        return stable_seed(what, seed, self._step, self._number, self._problem.id, sample)

    def _rollout(self, asked: Question, sample: int, sequence: tinker.SampledSequence) -> Rollout:
        """What came back as sample `sample`, scored."""
        config, step, number = self._policy.config, self._step, self._number
        logprobs = sequence.logprobs
        if logprobs is None or len(logprobs) != len(sequence.tokens):
            raise BackendError(
                f"The server returned {len(logprobs or ())} log-probabilities for "
                f"{len(sequence.tokens)} sampled tokens in step {step}; training needs one a "
                "token, so this server cannot be trained with."
            )
        if not all(map(math.isfinite, logprobs)):
            raise RunError(
                f"The log-probabilities of the samples of step {step} are not finite: an update "
                "before it has broken the weights. The run stops before this step is saved. Go "
                "back to a sound checkpoint with --train.resume_from_step, or lower "
                "train.learning_rate under another --run.name."
            )
        seed = stable_seed("reward", config.train.seed, step, number, self._problem.id, sample)
        scored_input = reward_input(self._policy, asked, sequence, seed)
        return Rollout(
            problem_id=self._problem.id,
            group=number,
            sample=sample,
            tokens=tuple(sequence.tokens),
            logprobs=tuple(logprobs),
            response=scored_input.response,
            stop_reason=sequence.stop_reason,
            scored=score(config.reward, scored_input, config.penalty),
            sequence_id=sequence.sequence_id if config.train.loss == UNPUBLISHED else None,
        )

    def _with_bonus(self, rollout: Rollout) -> Rollout | None:
        """The rollout with the bonus of its second pass; None where that was lost."""
        if self._policy.reader is None:
            return rollout
        second = self._second.get(rollout.sample)
        if second is None or ("moved", self._number, rollout.sample) in self.refused:
            return None
        known = self._question_only
        share = sum(known) / len(known) if known else 0.0
        scored = with_bonus(rollout.scored, second, self._policy.config.second_pass, share)
        return replace(rollout, scored=scored, second=second)


def _require_scores(groups: Sequence[RolloutGroup], step: int) -> None:
    """Say how many samples the user's reward function failed on; raise where that is all."""
    failures = [rollout.scored.failure for group in groups for rollout in group.unscored]
    if not failures:
        return
    count = len(failures) + sum(len(group.rollouts) for group in groups)
    if len(failures) == count:
        raise RewardError(
            f"reward.custom could not score any of the {count} samples of step {step}: "
            f"{failures[0]}. Mend it and start again: the run goes on from its last checkpoint."
        )
    logger.warning(
        "reward.custom could not score %d of %d samples of step %d, and they leave their groups; "
        "the first: %s",
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
