"""Sampling of a step: G responses a problem and their second passes, graded as they arrive.

Dynamic sampling: problems are drawn until the batch is full of groups that teach something.

DAPO (arXiv:2503.14476, section 3.2). Round 0 is the batch of the step; round k draws
`batch(seed, step, k)` (with a curriculum, what comes next in the order of the step), as many
problems again, at most `algorithm.dynamic_rounds` times. The batch is full with `train.batch_size`
groups that have contrast; those beyond, and what is drawn without contrast, give no gradient and
stay in the metrics and rollouts. Which problems are drawn depends on the seed, the step and the
samples so far, so a resumed run draws the same.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import tinker

from visual_r1.backend.waiting import SAMPLE_LIMIT_S, Arrivals
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, RequestFailed, RequestRefused, RewardError
from visual_r1.policy.passes import graded, sampling_params
from visual_r1.policy.policy import Policy, Rollout, RolloutGroup, response_text
from visual_r1.policy.second_pass import ScanReader, SecondPass, with_bonus
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.rewards.blindfold.masking import MaskedScan
from visual_r1.rl.advantages import has_contrast
from visual_r1.rl.metrics import Phases

logger = logging.getLogger(__name__)


def sample_groups(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    step: int,
    first: int = 0,
    phases: Phases | None = None,
) -> list[RolloutGroup]:
    """Sample `train.group_size` responses to each of the step's problems, and their second passes.

    The groups are numbered from `first`, which is not 0 for further draws of the same step;
    `phases` counts what it took.
    All prompts are requested at once; each is graded when it arrives and its second passes are
    requested then, while other first passes are still sampled. Seeds come from (train.seed, step,
    group, problem, sample), so the result does not depend on arrival. A request that the server
    refuses or fails at is sent again, `limits.sample_retries` times. A prompt that is lost for good
    gives an empty group with its samples counted as failed; a second pass that is lost takes its
    sample out of the group, counted likewise. Raises `BackendError` or `RequestRefused` when that
    leaves less than `limits.least_sampled`, and `BackendError` on any other failure.
    """
    phases = phases or Phases()
    with phases.during("prompts"):
        under_way = _UnderWay(sampler, policy, dict(enumerate(problems, first)), step, phases)
    began = time.monotonic()
    under_way.ask()
    firsts_came = under_way.take_all()
    phases.add("first_pass", firsts_came - began)
    phases.add("second_pass", time.monotonic() - firsts_came)
    ordered = [under_way.group(first + index) for index in range(len(problems))]
    _require_scores(ordered, step)
    under_way.require_enough(ordered)
    return ordered


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


_Pass = Literal["first", "second", "question_only"]
_Key = tuple[_Pass, int, int]  # a pass, the group, and the sample (0 where it is all of them)


class _UnderWay:
    """The requests of one step and what has come back so far."""

    def __init__(
        self,
        sampler: tinker.SamplingClient,
        policy: Policy,
        problems: Mapping[int, Problem],
        step: int,
        phases: Phases,
    ) -> None:
        self._sampler, self._policy, self._problems, self._step = sampler, policy, problems, step
        self._phases = phases
        self._prompts = {group: policy.prompt(problem) for group, problem in problems.items()}
        self._arrivals: Arrivals[_Key, tinker.SampleResponse] = Arrivals(
            f"sampling of step {step}", SAMPLE_LIMIT_S, policy.watch
        )
        self._first: dict[int, tuple[Rollout, ...]] = {}
        self._second: dict[tuple[int, int], SecondPass] = {}
        self._read: dict[tuple[int, int], tuple[MaskedScan, tinker.ModelInput]] = {}
        self._question_only: dict[int, tuple[bool, ...]] = {}
        self._refused: dict[_Key, RequestRefused] = {}
        self._sent: dict[_Key, tuple[tinker.ModelInput, int, tinker.SamplingParams]] = {}
        self._attempts: Counter[_Key] = Counter()
        self._spent: dict[int, Tokens] = dict.fromkeys(problems, NO_TOKENS)

    def ask(self) -> None:
        """Request all first passes, and answers without image and scan where they are wanted."""
        policy, reader = self._policy, self._policy.reader
        size = policy.config.train.group_size
        for group, problem in self._problems.items():
            prompt = self._prompts[group]
            params = sampling_params(policy, self._step, group, problem)
            self._ask(("first", group, 0), prompt, size, params)
            if reader is not None and policy.config.second_pass.minus_question_only:
                params = reader.question_params(self._step, group, problem)
                self._ask(
                    ("question_only", group, 0), reader.question_prompt(problem), size, params
                )

    def take_all(self) -> float:
        """Wait until nothing is under way; when the last first pass came (`time.monotonic`)."""
        firsts_came = time.monotonic()
        for key, response in self._arrivals:
            if isinstance(response, RequestRefused):
                self._ask_again(key, response)
            else:
                self._spend(key, response)
                with self._phases.while_grading():
                    self._take(key, response)
            if key[0] == "first":
                firsts_came = time.monotonic()
        return firsts_came

    def group(self, index: int) -> RolloutGroup:
        """The group as it ended."""
        drawn = self._first.get(index, ())
        unscored = tuple(rollout for rollout in drawn if rollout.scored.failure)
        failures = [self._refused[key] for key in sorted(self._refused) if key[1] == index]
        question_only = self._question_only.get(index, ())
        whole = not any(("question_only", index, 0) == key for key in self._refused)
        kept = [
            finished
            for rollout in drawn
            if whole
            and not rollout.scored.failure
            and (finished := self._finished(rollout, question_only)) is not None
        ]
        return RolloutGroup(
            problem=self._problems[index],
            prompt=self._prompts[index],
            rollouts=tuple(kept),
            failed=self._policy.config.train.group_size - len(kept) - len(unscored),
            failure=str(failures[0]) if failures else "",
            question_only=question_only,
            unscored=unscored,
            spent=self._spent[index],
        )

    def require_enough(self, groups: Sequence[RolloutGroup]) -> None:
        """Raise where too few samples came back for the step to be worth its update."""
        wanted = len(groups) * self._policy.config.train.group_size
        failed = sum(group.failed for group in groups)
        least = self._policy.config.limits.least_sampled
        if failed == 0 or (failed < wanted and wanted - failed >= least * wanted):
            return
        reasons = [self._refused[key] for key in sorted(self._refused)]
        sentence = (
            f"{failed} of {wanted} samples of step {self._step} failed, and limits.least_sampled "
            f"asks for {least:.0%}; the first with: "
            f"{reasons[0] if reasons else 'too few sequences in the reply'}"
        )
        # What is refused is refused again; what the server failed at is worth another session.
        if reasons and not any(isinstance(reason, RequestFailed) for reason in reasons):
            raise RequestRefused(sentence)
        raise BackendError(sentence)

    def _ask(
        self, key: _Key, prompt: tinker.ModelInput, samples: int, params: tinker.SamplingParams
    ) -> None:
        self._sent[key] = prompt, samples, params
        self._attempts[key] += 1
        future = self._sampler.sample(prompt, num_samples=samples, sampling_params=params)
        self._arrivals.add(key, future)

    def _ask_again(self, key: _Key, refusal: RequestRefused) -> None:
        if self._attempts[key] <= self._policy.config.limits.sample_retries:
            self._ask(key, *self._sent[key])
        else:
            self._refused[key] = refusal

    def _spend(self, key: _Key, response: tinker.SampleResponse) -> None:
        prompt, *_ = self._sent.pop(key)
        sampled = sum(len(sequence.tokens) for sequence in response.sequences)
        self._spent[key[1]] += Tokens(prefill=prompt.length, sample=sampled)

    def _take(self, key: _Key, response: tinker.SampleResponse) -> None:
        match key:
            case ("first", group, _):
                self._take_first(group, response)
            case ("second", group, sample):
                self._take_second(group, sample, response)
            case ("question_only", group, _):
                self._take_question_only(group, response)

    def _take_first(self, group: int, response: tinker.SampleResponse) -> None:
        problem, reader = self._problems[group], self._policy.reader
        rollouts = tuple(
            graded(self._policy, problem, self._step, group, sample, sequence)
            for sample, sequence in enumerate(response.sequences)
        )
        self._first[group] = rollouts
        if reader is not None:
            for rollout in rollouts:
                if not rollout.scored.failure:
                    self._ask_second(reader, rollout)

    def _ask_second(self, reader: ScanReader, rollout: Rollout) -> None:
        group, sample = place = rollout.group, rollout.sample
        problem = self._problems[group]
        opens_think = self._policy.prompter.opens_think
        seen = reader.look(problem, rollout.response, opens_think=opens_think)
        if isinstance(seen, SecondPass):
            self._second[place] = seen
            return
        prompt = reader.prompt(problem, seen)
        self._read[place] = seen, prompt
        params = reader.params(self._step, group, problem, sample)
        self._ask(("second", group, sample), prompt, 1, params)

    def _take_second(self, group: int, sample: int, response: tinker.SampleResponse) -> None:
        reader, problem = self._policy.reader, self._problems[group]
        assert reader is not None
        scan, prompt = self._read.pop((group, sample))
        if not response.sequences:
            why = RequestFailed("The server returned no second pass.")
            self._refused["second", group, sample] = why
            return
        tokens = response.sequences[0].tokens
        text = response_text(self._policy.processor, tokens)
        second = reader.graded(problem, scan, prompt, text, len(tokens))
        self._second[group, sample] = second

    def _take_question_only(self, group: int, response: tinker.SampleResponse) -> None:
        reader, problem = self._policy.reader, self._problems[group]
        assert reader is not None
        self._question_only[group] = tuple(
            reader.grade_question_only(
                problem, response_text(self._policy.processor, sequence.tokens)
            ).right
            for sequence in response.sequences
        )

    def _finished(self, rollout: Rollout, question_only: tuple[bool, ...]) -> Rollout | None:
        """The rollout with its bonus; None where its second pass was refused."""
        if self._policy.reader is None:
            return rollout
        second = self._second.get((rollout.group, rollout.sample))
        if second is None:
            return None
        known = sum(question_only) / len(question_only) if question_only else 0.0
        scored = with_bonus(rollout.scored, second, self._policy.config.second_pass, known)
        return replace(rollout, scored=scored, second=second)


Draw = Callable[[int], Sequence[Problem]]


def sample_until_full(
    sampler: tinker.SamplingClient,
    policy: Policy,
    draw: Draw,
    step: int,
    phases: Phases | None = None,
) -> list[RolloutGroup]:
    """All groups that were sampled, in order; `draw(round)` gives a round's problems.

    Raises what `sample_groups` raises, for a further round too.
    """
    config = policy.config
    groups = sample_groups(sampler, policy, draw(0), step, phases=phases)
    for turn in range(1, config.algorithm.dynamic_rounds + 1):
        if sum(map(has_contrast, groups)) >= config.train.batch_size:
            break
        groups += sample_groups(sampler, policy, draw(turn), step, len(groups), phases)
    return groups


def surplus(groups: Sequence[RolloutGroup], most: int) -> set[int]:
    """The places of the groups with contrast that come after the first `most` of them."""
    return set([place for place, group in enumerate(groups) if has_contrast(group)][most:])
