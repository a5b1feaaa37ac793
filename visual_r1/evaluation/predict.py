"""The ways of asking each problem, and the graded answers: the passes of an evaluation.

    greedy         temperature 0, one sample: the accuracy that is reported and compared;
    blind          the same with the picture replaced by a white one of its size;
    other_image    the same with the picture of another problem;
    masked_image   the same with 60 % of the picture's patches black;
    question_only  greedy, without image and scan;
    described      greedy, in the template that asks for a scan: only where the run's own asks for
                   none and scan_only has to read one;
    scan_only      greedy, the answer from the masked scan of the greedy answer, or of described;
    sampled        k samples at the temperature of `evaluation`, seeded by problem: pass@k.

So many requests are under way at a time. Validation asks in the same ways.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import tinker

from visual_r1.config.reward import RewardSection
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, RequestFailed, RequestRefused
from visual_r1.evaluation.answers import Answer, digest_of
from visual_r1.evaluation.other_images import other_places
from visual_r1.evaluation.prediction import GradedResponse, Pass, Prediction, Roundings
from visual_r1.grading import extract_answer
from visual_r1.hashing import stable_seed
from visual_r1.policy.passes import (
    MOST_AT_ONCE,
    Asking,
    Question,
    Reply,
    View,
    question,
    reward_input,
    second_pass,
    second_question,
)
from visual_r1.policy.policy import Policy
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.rewards import RewardInput, score
from visual_r1.rewards.grounding import opened
from visual_r1.rewards.scoring import grade_of

logger = open_logger(__name__)

_ONE_ANSWER: Collection[Pass] = ("greedy", "blind", "other_image", "masked_image", "described")

Key = tuple[Pass, int]  # a pass and the index of a problem

VIEWS: dict[Pass, View] = {
    "greedy": "full",
    "blind": "blank",
    "other_image": "other",
    "masked_image": "masked",
    "question_only": "question_only",
    "described": "described",
    "sampled": "full",
    "scan_only": "scan_only",
}

# Beyond this share of refused requests the rest is no fair sample of the problems any more.
MOST_REFUSED = 0.1
NO_OTHER = "no other problem has as many pictures and another answer"


def _nowhere(_: Answer) -> None:
    """Where answers are kept that nobody wants kept."""


def predict(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    chosen: Sequence[int],
    passes: Sequence[Pass],
    what: str,
    progress: Progress,
    *,
    kept: Mapping[int, Prediction] = MappingProxyType({}),
    keep: Callable[[Answer], None] = _nowhere,
    most_at_once: int = MOST_AT_ONCE,
) -> list[Prediction]:
    """The graded answers of `sampler` to the problems with the indices `chosen`, in that order.

    `passes` are which ways of asking; scan_only needs greedy, whose scan it reads, or described.
    `what` names the work for messages, `kept` are answers by index that need not be asked for, and
    `keep` is told each other one as it comes. Each request but those of scan_only advances the open
    stage of `progress`. Raises `BackendError` as `evaluate` does: also where the server failed at a
    single request, unlike in training, for an evaluation over the problems that a failing server
    happened to answer would be no honest figure.
    """
    before: list[Pass] = [name for name in passes if name != "scan_only"]
    answers = {i: _Collected.with_kept(policy, kept[i], passes) for i in chosen if i in kept}
    first: list[Key] = [
        (name, index)
        for name in before
        for index in chosen
        if index not in kept or not kept[index].has(name)
    ]
    source: Pass = "described" if "described" in passes else "greedy"
    asking: Asking[Key] = Asking(what, policy.watch, sampler=sampler)

    def collected(index: int, problem: Problem) -> _Collected:
        if index not in answers:
            answers[index] = _Collected(policy, problem.id, problem.family)
        return answers[index]

    def lacks_other(index: int, problem: Problem) -> None:
        collected(index, problem).failures["other_image"] = NO_OTHER
        progress.advance()

    def questions() -> Iterator[tuple[Key, Question]]:
        yield from _first_questions(policy, problems, first, lacks_other)
        for index in kept if "scan_only" in passes else ():
            there = kept[index]
            if not there.has("scan_only") and there.has(source) and source not in there.failures:
                second = answers[index].second_question(problems[index])
                if second is not None:
                    yield ("scan_only", index), second

    greedy = sum(one.greedy is not None for one in answers.values())
    right = sum(one.greedy_right for one in answers.values())
    for (name, index), asked, reply in asking.replies(questions(), most_at_once):
        if isinstance(reply, RequestFailed):
            raise BackendError(str(reply))
        one = collected(index, asked.problem)
        answer = one.take(name, asked, reply)
        if answer is not None:
            keep(answer)
            if name == "greedy":
                greedy, right = greedy + 1, right + one.greedy_right
            is_read = "scan_only" in passes and name == source
            if is_read and (second := one.second_question(asked.problem)):
                asking.ask(("scan_only", index), second)
        if name != "scan_only":
            progress.advance(1, accuracy=right / max(greedy, 1))
    found = [answers[index] for index in chosen]
    _require_few_refused(found, len(before) * len(chosen), what)
    return [one.prediction() for one in found]


def _first_questions(
    policy: Policy,
    problems: Sequence[Problem],
    keys: Sequence[Key],
    lacks_other: Callable[[int, Problem], None],
) -> Iterator[tuple[Key, Question]]:
    """What asks the passes that read no other answer; `lacks_other` is told of a problem that is to
    be shown another's picture where no other has one for it."""
    is_swapped = any(name == "other_image" for name, _ in keys)
    most = max((index for _, index in keys), default=0) + 1
    others = other_places(problems, most) if is_swapped else ()
    for name, index in keys:
        problem, images = problems[index], ()
        if name == "other_image":
            place = others[index]
            if place is None:
                lacks_other(index, problem)
                continue
            images = problems[place].images
        yield (name, index), _question(policy, problem, name, images)


def _require_few_refused(found: Sequence["_Collected"], requests: int, what: str) -> None:
    failures = [why for one in found for why in one.failures.values() if why != NO_OTHER]
    if len(failures) > MOST_REFUSED * requests:
        raise BackendError(
            f"{len(failures)} of {requests} requests of {what} were refused, too many for the "
            f"rest to be a fair sample; the first with: {failures[0]}"
        )


def _question(policy: Policy, problem: Problem, name: Pass, images: Sequence[bytes]) -> Question:
    sampled, asks = name == "sampled", policy.config.evaluation
    return question(
        policy,
        problem,
        VIEWS[name],
        _seed(policy, problem, name),
        samples=asks.samples if sampled else 1,
        temperature=asks.temperature or policy.config.sampling.temperature if sampled else 0.0,
        images=images,
    )


def _seed(policy: Policy, problem: Problem, name: Pass) -> int:
    return stable_seed("evaluation", policy.config.evaluation.seed, problem.id, name)


@dataclass
class _Collected:
    """What has come back so far to one problem, whose pictures are not kept."""

    policy: Policy
    problem_id: str
    family: str
    graded: dict[Pass, tuple[GradedResponse, ...]] = field(
        default_factory=dict[Pass, tuple[GradedResponse, ...]]
    )
    failures: dict[Pass, str] = field(default_factory=dict[Pass, str])
    second: SecondPass | None = None
    second_roundings: Roundings | None = None
    question_only: tuple[bool | None, str | None, Roundings | None] = (None, None, None)
    spent: Tokens = NO_TOKENS

    @classmethod
    def with_kept(cls, policy: Policy, kept: Prediction, passes: Sequence[Pass]) -> "_Collected":
        """What need not be asked for, of the passes that are wanted."""
        found = cls(policy, kept.id, kept.family)
        for name in passes:
            if name in _ONE_ANSWER and (one := getattr(kept, name)) is not None:
                found.graded[name] = (one,)
        if "sampled" in passes and kept.sampled:
            found.graded["sampled"] = kept.sampled
        found.failures = {name: kept.failures[name] for name in passes if name in kept.failures}
        if "scan_only" in passes:
            found.second, found.second_roundings = kept.second, kept.scan_only_roundings
        if "question_only" in passes:
            text, pair = kept.question_only_response, kept.question_only_roundings
            found.question_only = kept.question_only, text, pair
        return found

    def single(self, name: Pass) -> GradedResponse | None:
        """The one answer of a pass."""
        return next(iter(self.graded.get(name, ())), None)

    @property
    def greedy(self) -> GradedResponse | None:
        return self.single("greedy")

    @property
    def greedy_right(self) -> bool:
        return self.greedy is not None and self.greedy.right

    def take(self, name: Pass, asked: Question, reply: Reply) -> Answer | None:
        """Grade what came; None where the request was refused."""
        if isinstance(reply, RequestRefused):
            self.failures[name] = str(reply)
            return None
        spent = asked.spent(reply)
        self.spent += spent
        if len(reply.sequences) != asked.samples:
            raise BackendError(
                f"The server returned {len(reply.sequences)} of {asked.samples} samples for "
                f"problem {self.problem_id} ({name} pass); pass@k would be wrong, so the "
                "evaluation stops."
            )
        if name == "scan_only":
            sequence = reply.sequences[0]
            self.second = second_pass(self.policy, asked, sequence)
            sample = reward_input(self.policy, asked, sequence)
            self.second_roundings = _roundings(
                self.policy.config.reward, sample, self.second.verdict == "right"
            )
            read = self.single("described") or self.greedy
            return Answer(
                self.problem_id,
                self.family,
                name,
                (),
                spent,
                second=self.second,
                read=digest_of(read.response) if read else "",
                roundings=self.second_roundings,
            )
        graded = tuple(grade_answer(self.policy, asked, one) for one in reply.sequences)
        if name == "question_only":
            [one] = graded
            self.question_only = one.right, one.response, one.roundings
        else:
            self.graded[name] = graded
        return Answer(self.problem_id, self.family, name, graded, spent)

    def second_question(self, problem: Problem) -> Question | None:
        """What asks for the answer from a scan; None where it ends here."""
        read = self.single("described") or self.greedy
        if read is None or self.policy.reader is None:
            return None
        seed = _seed(self.policy, problem, "scan_only")
        found = second_question(self.policy, problem, read.response, seed, temperature=0.0)
        if isinstance(found, Question):
            return found
        self.second, self.second_roundings = found, (False, False)
        return None

    def prediction(self) -> Prediction:
        right, text, pair = self.question_only
        return Prediction(
            id=self.problem_id,
            family=self.family,
            greedy=self.greedy,
            blind=self.single("blind"),
            sampled=self.graded.get("sampled", ()),
            failures={name: self.failures[name] for name in VIEWS if name in self.failures},
            second=self.second,
            question_only=right,
            spent=self.spent,
            other_image=self.single("other_image"),
            masked_image=self.single("masked_image"),
            described=self.single("described"),
            question_only_response=text,
            question_only_roundings=pair,
            scan_only_roundings=self.second_roundings,
        )


def grade_answer(
    policy: Policy, asked: Question, sequence: tinker.SampledSequence
) -> GradedResponse:
    """Grade one sampled response as training does, and under both roundings."""
    # A user's own component says nothing about the answer, and must not fail an evaluation.
    reward = policy.config.reward.model_copy(update={"custom": None})
    sample = reward_input(policy, asked, sequence)
    scored = score(reward, sample)
    if scored.failure:  # a fault of ours, which must not end an evaluation either
        logger.warning(
            "A response to problem %r could not be scored: %s. It is kept with the predictions.",
            sample.problem.id,
            scored.failure,
        )
    exact, rounded = _roundings(reward, sample, scored.grade.verdict == "right")
    return GradedResponse(
        response=sample.response,
        extracted=extract_answer(opened(sample.response, sample.opens_think)),
        verdict=scored.grade.verdict,
        reason=scored.failure or scored.grade.reason,
        right_exact=exact,
        right_rounded=rounded,
        format_ok=scored.components["format"] > 0,
        grounded=scored.components["visual_grounding"] > 0,
        truncated=sample.truncated,
        tokens=len(sample.tokens),
    )


def _roundings(reward: RewardSection, sample: RewardInput, right: bool) -> Roundings:
    """Whether an answer is right under the exact and the rounded comparison; it is known to be
    `right`, or not, under that of the run."""
    other = "exact" if reward.rounding == "rounded" else "rounded"
    again = grade_of(reward.model_copy(update={"rounding": other}), sample).right
    return (right, again) if reward.rounding == "exact" else (again, right)
