"""A conversation with a server under examination: what was asked, and what came of it in what time.

A call that does not answer is given up after `PATIENCE_S`, and when the time is over the others
count as not tried. Checkpoints are saved with the shortest lifetime that the hosted service has, an
hour, and deleted at the end, whatever happened before.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import tinker

from visual_r1.backend.endpoint import Endpoint, without_secrets
from visual_r1.backend.recovery import without_advice
from visual_r1.backend.sessions import end_session, wait_for_ends
from visual_r1.backend.waiting import call, wait
from visual_r1.conformance.findings import CALLS, REACH, Call, Finding, Report
from visual_r1.errors import BackendError
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.rl.datums import answer_part
from visual_r1.sft.datums import response_datum

T = TypeVar("T")
Logprobs = np.ndarray[tuple[int], np.dtype[np.float64]]

WITHIN_S = 60.0
PATIENCE_S = 15.0
"""Seconds that a call of an optional feature may take; those that training needs may take what is
left of the whole."""
FOR_THE_END_S = 5.0

LIFETIME_S = 3600
ANSWER_TOKENS = 8
RATE = 1e-3


class Unfit(BackendError):
    """The server answered, and the answer is not what training needs."""


class Conversation:
    """What is asked of the server at `endpoint` within `within_s` seconds, and what came of it."""

    def __init__(self, endpoint: Endpoint, within_s: float) -> None:
        self.endpoint = endpoint
        self.findings: dict[Call, Finding] = {}
        self.saved: list[str] = []
        self._began = time.monotonic()
        self._deadline = self._began + within_s - FOR_THE_END_S
        self._over = f"the {within_s:.0f} s were over"
        self._is_over = False
        self._needed = True
        self._tokens = NO_TOKENS
        self._service: tinker.ServiceClient | None = None
        self._rest: tinker.RestClient | None = None

    def attempt(self, one: Call, work: Callable[[], T]) -> T | None:
        """What `work` gives; None where it fails or comes too late. Either is a finding."""
        if self._left() <= 0:
            self._is_over = True
            return None
        self._needed = one.needed
        began = time.monotonic()
        try:
            found = work()
        except BackendError as error:
            self.findings[one] = Finding(one, "fails", time.monotonic() - began, _reason(error))
            return None
        says = found if isinstance(found, str) else ""
        self.findings[one] = Finding(one, "works", time.monotonic() - began, says)
        return found

    def works(self, one: Call) -> bool:
        """Whether a call was tried, and does what it must."""
        return one in self.findings and self.findings[one].verdict == "works"

    def report(self, model: str | None, left: Sequence[str]) -> Report:
        """What was found, and why the rest was not tried."""
        broken = (one for one in self.findings.values() if one.verdict == "fails")
        first = next((f"after {one.call.name}" for one in broken if one.call.needed), "")
        why = self._over if self._is_over or not first else first
        return Report(
            server=without_secrets(self.endpoint.base_url or "") or "the hosted service",
            model=model,
            sdk=tinker.__version__,
            seconds=time.monotonic() - self._began,
            tokens=self._tokens,
            findings=tuple(
                self.findings.get(one, Finding(one, "not tried", says=why)) for one in CALLS
            ),
            left=tuple(left),
        )

    def client(self) -> tinker.ServiceClient:
        """The client of the session, which the first call opens."""
        if self._service is None:
            self._service = tinker.ServiceClient(
                {"purpose": "visual-r1 probe"},
                base_url=self.endpoint.base_url,
                api_key=self.endpoint.api_key,
            )
        return self._service

    def rest(self) -> tinker.RestClient:
        """For what needs no session."""
        if self._rest is None:
            endpoint = self.endpoint
            self._rest = call(
                lambda: tinker.RestClient(base_url=endpoint.base_url, api_key=endpoint.api_key),
                "it",
                self._limit(),
            )
        return self._rest

    def ask(self, begin: "Callable[[], tinker.APIFuture[T]]") -> T:
        """The result of a call, which may block before it gives its future."""
        return wait(call(begin, "it", self._limit()), "it", self._limit())

    def sampled(
        self, sampler: tinker.SamplingClient, prompt: tinker.ModelInput, count: int
    ) -> tinker.SampleResponse:
        """`count` short answers, always of the same seed."""
        params = tinker.SamplingParams(max_tokens=ANSWER_TOKENS, temperature=1.0, seed=1)
        reply = self.ask(lambda: sampler.sample(prompt, num_samples=count, sampling_params=params))
        tokens = sum(len(one.tokens) for one in reply.sequences)
        self._tokens += Tokens.asked(prompt.length, count, tokens, reply.prompt_cache_hit_tokens)
        return reply

    def forward(
        self, training: tinker.TrainingClient, prompt: tinker.ModelInput, tokens: Sequence[int]
    ) -> Logprobs:
        """The learner's log-probability of each of n tokens behind the prompt."""
        one = response_datum(prompt, tokens)
        output = self.ask(lambda: training.forward([one], "cross_entropy"))
        self.spent(train=one.model_input.length)
        return answer_part(prompt, logprobs_of_all(output, one)).astype(np.float64)

    def step(self, training: tinker.TrainingClient, one: tinker.Datum) -> None:
        """An optimizer step as the loop makes it: both are sent, then both awaited."""
        params = tinker.AdamParams(learning_rate=RATE)
        send = lambda: (  # noqa: E731
            training.forward_backward([one], "importance_sampling"),
            training.optim_step(params),
        )
        backward, stepped = call(send, "it", self._limit())
        output = wait(backward, "it", self._limit())
        wait(stepped, "it", self._limit())
        self.spent(train=one.model_input.length)
        if "loss:sum" not in output.metrics:
            raise Unfit("forward_backward reports no loss:sum")
        logprobs_of_all(output, one)

    def spent(self, *, prefill: float = 0, sample: float = 0, train: float = 0) -> None:
        """Count tokens."""
        self._tokens += Tokens(prefill, sample, train)

    def clear_up(self) -> list[str]:
        """Delete what was saved and end the session; returns what would not go."""
        self._deadline = time.monotonic() + FOR_THE_END_S
        left: list[str] = []
        for path in self.saved:
            try:
                rest = self.rest()
                self.ask(lambda path=path, rest=rest: rest.delete_checkpoint_from_tinker_path(path))
            except BackendError:
                left.append(path)
        if self._service is not None:
            wait_for_ends([end_session(self._service, "success", tell=self.works(REACH))])
        return left

    def _limit(self) -> float:
        """Seconds that the next wait may take."""
        most = self._left() if self._needed else min(PATIENCE_S, self._left())
        if most <= 0:
            raise Unfit(self._over)
        return most

    def _left(self) -> float:
        return self._deadline - time.monotonic()


def logprobs_of_all(
    output: tinker.ForwardBackwardOutput, one: tinker.Datum
) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """The T log-probabilities of a datum of T positions; raises `Unfit` where there are others."""
    found = output.loss_fn_outputs[0].get("logprobs") if output.loss_fn_outputs else None
    if found is None or len(found.data) != one.model_input.length:
        raise Unfit("no log-probability for each position of the data came back")
    return found.to_numpy().reshape(-1)


def _reason(error: BackendError) -> str:
    """Why, without the advice for a run that goes on."""
    cause = error.__cause__
    if isinstance(cause, ValueError | AssertionError) and str(cause):
        return f"its answer is not what SDK {tinker.__version__} takes: {cause}"
    return without_advice(error)
