"""A group while it is sampled: its questions, and what becomes of their replies."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import tinker

from visual_r1.errors import BackendError, RequestFailed, RequestRefused, RunError
from visual_r1.hashing import stable_seed
from visual_r1.policy.passes import (
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
from visual_r1.rewards import score
from visual_r1.rewards.blindfold.masking import named_by_others
from visual_r1.rewards.grounding import spoken
from visual_r1.rewards.scoring import grade_of
from visual_r1.rl.batches import PromptedProblem
from visual_r1.rl.losses import UNPUBLISHED

Key = tuple[View | Literal["moved"], int, int]
"""A view, the group, and the sample (0 where it is all of them); `moved` is a second pass that is
read again with the numbers of its scan moved."""


class GroupUnderWay:
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
