"""The ways of asking a policy: what it is shown, and the requests that ask it.

    full            the problem with its image: the first pass
    blank           the image replaced by a white one of the same size
    other           the image replaced by that of another problem
    masked          the image with 60 % of its patches black
    described       the problem with its image, in the template that asks for a scan
    question_only   neither image nor scan
    scan_only       the masked scan of an earlier answer in place of the image: the second pass

Training and evaluation both ask through `Asking`: a request is a `Question`, what comes back is
graded when it arrives, and may lead to a further question while others are still under way.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

import tinker

from visual_r1.backend.waiting import SAMPLE_LIMIT_S, Arrivals, Watch, nothing_to_watch
from visual_r1.data.problem import Problem
from visual_r1.errors import RequestRefused
from visual_r1.policy.policy import Policy
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prices import Tokens
from visual_r1.prompts.prompts import Prompter
from visual_r1.rewards import RewardInput
from visual_r1.rewards.blindfold.choices import in_order, order_of, unaided, with_its_choices
from visual_r1.rewards.blindfold.masking import MaskedScan
from visual_r1.rewards.scoring import grade_of

View = Literal["full", "blank", "other", "masked", "described", "question_only", "scan_only"]
Key = TypeVar("Key")
Reply = tinker.SampleResponse | RequestRefused

# Enough to keep a batching server busy, few enough that images do not fill its queue.
MOST_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Question:
    """One request: `samples` answers to `prompt`, which shows `problem` in one of the views.

    `scan` is what stands in place of the image in a second pass, else None, and `order` that of the
    choices there, see `rewards.blindfold.choices.order_of`.
    """

    problem: Problem
    view: View
    prompt: tinker.ModelInput
    samples: int
    params: tinker.SamplingParams
    scan: MaskedScan | None = None
    order: str = ""

    @property
    def shown(self) -> Problem:
        """The problem as its view shows it, and as the answer is graded: in each view by the same
        choices, those that only its text lists among them."""
        return _shown(self.problem, self.view, self.order)

    def spent(self, reply: tinker.SampleResponse) -> Tokens:
        """What the reply is paid for: the prompt once in full and for each further sample as out of
        the cache, and every sampled token."""
        sampled = sum(len(sequence.tokens) for sequence in reply.sequences)
        known = reply.prompt_cache_hit_tokens
        return Tokens.asked(self.prompt.length, self.samples, sampled, known)


def question(
    policy: Policy,
    problem: Problem,
    view: View,
    seed: int,
    *,
    samples: int = 1,
    temperature: float,
    prompt: tinker.ModelInput | None = None,
    scan: MaskedScan | None = None,
    images: Sequence[bytes] = (),
) -> Question:
    """The request for `samples` answers, drawn from `seed`; the server derives a stream a sample.

    `prompt` is the one of this view where it was built before; `scan` goes with scan_only, and it,
    described and question_only need a policy with a reader. `images` are what other shows. The
    order of choices in a second pass comes of `seed` too. Raises `DataError` where no prompt can be
    made.
    """
    order = order_of(unaided(problem), seed) if view == "scan_only" else ""
    if prompt is None:
        prompter = prompter_of(policy, view)
        match view:
            case "full" | "blank" | "masked":
                prompt = prompter.model_input(problem, image=view)
            case "described":
                prompt = prompter.model_input(problem)
            case "other":
                prompt = prompter.model_input(replace(problem, images=tuple(images)))
            case "question_only" | "scan_only":
                prompt = prompter.model_input(
                    _shown(problem, view, order), image="none", scan=scan.text if scan else None
                )
    params = tinker.SamplingParams(
        max_tokens=policy.config.sampling.max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop=policy.processor.stop_token_ids,
    )
    return Question(problem, view, prompt, samples, params, scan, order)


def _shown(problem: Problem, view: View, order: str) -> Problem:
    if view not in ("question_only", "scan_only"):
        return with_its_choices(problem)
    return in_order(unaided(problem), order)


def prompter_of(policy: Policy, view: View) -> Prompter:
    """The prompter whose template a view is shown in."""
    reader = policy.reader
    if view not in ("described", "question_only", "scan_only"):
        return policy.prompter
    assert reader is not None, f"a policy without a reader has no view {view}"
    if view == "described":
        return reader.describer or policy.prompter
    return reader.prompter if view == "scan_only" else reader.question_only_prompter


def reward_input(
    policy: Policy, asked: Question, sequence: tinker.SampledSequence, seed: int = 0
) -> RewardInput:
    """An answer as the reward looks at it; `seed` is for components that need chance."""
    prompter = prompter_of(policy, asked.view)
    return RewardInput(
        problem=asked.shown,
        response=policy.text_of(sequence.tokens),
        truncated=sequence.stop_reason == "length",
        seed=seed,
        opens_think=prompter.opens_think,
        tags=prompter.tags,
        tokens=tuple(sequence.tokens),
        max_tokens=policy.config.sampling.max_new_tokens,
    )


def second_question(
    policy: Policy,
    problem: Problem,
    response: str,
    seed: int,
    *,
    temperature: float,
    named: Collection[Fraction] | None = None,
) -> Question | SecondPass:
    """The second pass of a response to the first; one that is over where there is none to ask.

    `named` are the numbers that other responses see in the figure; None where they do not count.
    Where the reader has a describer, the response is one to its template.
    """
    assert policy.reader is not None, "a policy without a second pass has nothing to read"
    asked_in = prompter_of(policy, "described")
    seen = policy.reader.look(problem, response, opens_think=asked_in.opens_think, named=named)
    if isinstance(seen, SecondPass):
        return seen
    return question(policy, problem, "scan_only", seed, temperature=temperature, scan=seen)


def second_pass(policy: Policy, asked: Question, sequence: tinker.SampledSequence) -> SecondPass:
    """The graded answer to a question that shows the scan only."""
    sample = reward_input(policy, asked, sequence)
    found = grade_of(policy.config.reward, sample)
    return SecondPass(
        found.verdict,
        found.reason,
        asked.scan,
        sample.response,
        prompt_tokens=asked.prompt.length,
        tokens=len(sequence.tokens),
        order=asked.order,
    )


@dataclass(frozen=True, slots=True)
class _Asked(Generic[Key]):
    """A question under way: who is asked, for what, and how often it was before."""

    key: Key
    question: Question
    sampler: tinker.SamplingClient
    what: str
    attempt: int


class Asking(Generic[Key]):
    """Questions to samplers, and their replies in the order of arrival.

        asking = Asking("sampling of step 3", policy.watch, sampler=sampler, retries=2)
        for key, question, reply in asking.replies(questions):
            ...  # may `asking.ask(...)` what follows from the reply

    A question that the server refuses or fails at is asked again, `retries` times; then its
    `RequestRefused` (`RequestFailed`) comes in place of a reply, and whether enough is left is for
    the caller to say. Any other failure raises `BackendError`; `what` names the work for messages.
    """

    def __init__(
        self,
        what: str,
        watch: Watch = nothing_to_watch,
        *,
        sampler: tinker.SamplingClient | None = None,
        retries: int = 0,
        limit_s: float = SAMPLE_LIMIT_S,
    ) -> None:
        """`sampler` is whom to ask where a question names none."""
        self._what, self._sampler, self._retries = what, sampler, retries
        self._arrivals: Arrivals[_Asked[Key], tinker.SampleResponse] = Arrivals(
            what, limit_s, watch
        )

    def __len__(self) -> int:
        """How many questions are under way."""
        return len(self._arrivals)

    def ask(
        self,
        key: Key,
        asked: Question,
        sampler: tinker.SamplingClient | None = None,
        what: str = "",
    ) -> None:
        """Send a question at once; its reply comes with `key`."""
        asked_of = sampler or self._sampler
        assert asked_of is not None, "nobody is named to be asked"
        self._send(_Asked(key, asked, asked_of, what or self._what, attempt=0))

    def replies(
        self, questions: Iterable[tuple[Key, Question]] = (), most: int | None = None
    ) -> Iterator[tuple[Key, Question, Reply]]:
        """Ask the questions, and yield each reply.

        They are drawn while fewer than `most` are under way, those of `ask` counted, so that about
        so many prompts exist at a time. It ends when nothing is under way; what is pending when it
        is left early is cancelled.
        """
        waiting = iter(questions)
        self._fill(waiting, most)
        try:
            while self._arrivals:
                if (found := self._final(self._arrivals.following())) is not None:
                    # Before the reply is looked at, so that the server need not wait for that.
                    self._fill(waiting, most)
                    yield found
        finally:
            self.cancel()

    def within(
        self, seconds: float, until: "Future[Any] | None" = None
    ) -> tuple[Key, Question, Reply] | None:
        """The next reply; None where none comes in `seconds`, or `until` is done before."""
        found = self._arrivals.within(seconds, until)
        return None if found is None else self._final(found)

    def wake_when(self, done: "Future[Any]") -> None:
        """Let `within` return without a reply when that is done: there is something else to do."""
        self._arrivals.wake_when(done)

    def cancel(self) -> None:
        """Give up on all that is under way."""
        self._arrivals.cancel()

    def _final(
        self, arrived: tuple[_Asked[Key], tinker.SampleResponse | RequestRefused]
    ) -> tuple[Key, Question, Reply] | None:
        """The reply; None where the question is asked again."""
        asked, reply = arrived
        if isinstance(reply, RequestRefused) and asked.attempt < self._retries:
            self._send(replace(asked, attempt=asked.attempt + 1))
            return None
        if not isinstance(reply, RequestRefused):
            # Copies, which keep the lists that are made of their arrays and go with them: the SDK's
            # own lie in a cycle with their future until the garbage collector finds them.
            reply = replace(reply, sequences=[replace(one) for one in reply.sequences])
        return asked.key, asked.question, reply

    def _send(self, asked: _Asked[Key]) -> None:
        question = asked.question
        future = asked.sampler.sample(
            question.prompt, num_samples=question.samples, sampling_params=question.params
        )
        self._arrivals.add(asked, future, asked.what)

    def _fill(self, waiting: Iterator[tuple[Key, Question]], most: int | None) -> None:
        while most is None or len(self._arrivals) < most:
            following = next(waiting, None)
            if following is None:
                return
            self.ask(*following)
