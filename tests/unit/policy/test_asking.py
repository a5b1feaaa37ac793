"""Questions to a sampler, so many at a time: the SDK's own futures, resolved by hand."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest
import tinker
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.types import RequestErrorCategory

from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, EngineError, RequestFailed, RequestRefused
from visual_r1.policy.passes import Asking, Question, Reply

Sent = list["Future[Any]"]
PROMPT = tinker.ModelInput.from_ints([1])


class Sampler:
    """A sampler whose server is `on_send`, called whenever one more request has been sent."""

    def __init__(self, on_send: Callable[[Sent], None]) -> None:
        self.on_send, self.sent = on_send, Sent()

    def sample(self, _: tinker.ModelInput, **__: Any) -> "tinker.APIFuture[Any]":
        self.sent.append(Future())
        future = self.sent[-1]
        self.on_send(self.sent)
        return AwaitableConcurrentFuture(future)


def answer(number: int) -> tinker.SampleResponse:
    """Answers that are told apart by their length."""
    tokens = np.arange(number, dtype=np.int32)
    one = tinker.SampledSequence(stop_reason="stop", sequence_id=str(number), tokens_np=tokens)
    return tinker.SampleResponse(sequences=[one])


def never(sent: Sent) -> None:
    """Answer nothing."""


def at_once(sent: Sent) -> None:
    """Answer each request as it is sent."""
    sent[-1].set_result(answer(len(sent) - 1))


def asked(
    sampler: Sampler, count: int, most: int | None = None, **how: Any
) -> Iterator[tuple[int, int | RequestRefused]]:
    """`count` questions, and which answers come, by the questions' numbers."""
    asking: Asking[int] = Asking("a test", sampler=cast("Any", sampler), **how)
    one = Question(Problem("1", (), "?", "1"), "full", PROMPT, 1, tinker.SamplingParams())
    replies = asking.replies(((number, one) for number in range(count)), most)
    return ((key, number_of(reply)) for key, _, reply in replies)


def number_of(reply: Reply) -> int | RequestRefused:
    """Which answer it is."""
    return reply if isinstance(reply, RequestRefused) else len(reply.sequences[0].tokens)


def failure(text: str, category: RequestErrorCategory) -> tinker.RequestFailedError:
    return tinker.RequestFailedError(text, "request-1", category)


def test_each_question_gets_its_own_reply():
    assert list(asked(Sampler(at_once), 300)) == [(i, i) for i in range(300)]


def test_what_was_made_of_an_answer_goes_with_it():
    """The SDK's future and what it came with hold the answer in a cycle, which may lie for long."""
    sampler = Sampler(at_once)
    assert list(asked(sampler, 3)) == [(0, 0), (1, 1), (2, 2)]
    assert all("tokens" not in vars(one.result().sequences[0]) for one in sampler.sent)


def test_replies_come_in_the_order_of_arrival_and_no_more_than_so_many_wait():
    most = 0

    def newest_first(sent: Sent) -> None:
        nonlocal most
        pending = [future for future in sent if not future.done()]
        most = max(most, len(pending))
        if len(pending) == 3:
            pending[-1].set_result(answer(1))
        if len(sent) == 7:
            for future in pending[:-1]:
                future.set_result(answer(2))

    got = list(asked(Sampler(newest_first), 7, most=3))
    assert most == 3
    assert [key for key, _ in got] == [2, 3, 4, 5, 0, 1, 6]


def test_a_question_is_asked_only_when_another_was_answered():
    sampler = Sampler(at_once)
    for received, _ in enumerate(asked(sampler, 20, most=3), start=1):
        assert len(sampler.sent) - received <= 3


def test_a_reply_may_lead_to_a_further_question():
    sampler = Sampler(at_once)
    asking: Asking[int] = Asking("a test", sampler=cast("Any", sampler))
    one = Question(Problem("1", (), "?", "1"), "full", PROMPT, 1, tinker.SamplingParams())
    got: list[int] = []
    for key, question, _ in asking.replies([(0, one)]):
        got.append(key)
        if key < 4:
            asking.ask(key + 1, question)
    assert got == [0, 1, 2, 3, 4]


def test_questions_that_follow_from_replies_count_among_those_under_way():
    """As scans do that are read after the answers: they must not pile up beside the window."""
    most = 0

    def slowly(sent: Sent) -> None:
        nonlocal most
        pending = [future for future in sent if not future.done()]
        most = max(most, len(pending))
        if len(pending) > 3:
            pending[0].set_result(answer(1))

    sampler = Sampler(slowly)
    asking: Asking[tuple[int, str]] = Asking("a test", sampler=cast("Any", sampler))
    one = Question(Problem("1", (), "?", "1"), "full", PROMPT, 1, tinker.SamplingParams())
    first = (((number, "first"), one) for number in range(40))
    got = 0
    for (number, which), question, _ in asking.replies(first, most=4):
        got += 1
        if which == "first":
            asking.ask((number, "second"), question)
        if got > 70:  # the last ones have nobody who pushes them out
            for future in sampler.sent:
                if not future.done():
                    future.set_result(answer(1))
    assert got == 80
    assert most <= 5


def test_a_refusal_is_data_and_the_others_go_on():
    def refuse_the_first(sent: Sent) -> None:
        if len(sent) == 1:
            sent[0].set_exception(failure("prompt too long", RequestErrorCategory.User))
        else:
            at_once(sent)

    got = dict(asked(Sampler(refuse_the_first), 3))
    assert isinstance(got[0], RequestRefused)
    assert "prompt too long" in str(got[0])
    assert (got[1], got[2]) == (1, 2)


def test_what_failed_is_asked_again_as_often_as_wanted():
    def fail_twice(sent: Sent) -> None:
        if len(sent) <= 2:
            sent[-1].set_exception(failure("out of memory", RequestErrorCategory.Server))
        else:
            at_once(sent)

    assert list(asked(Sampler(fail_twice), 1, retries=2)) == [(0, 2)]
    [(_, reply)] = asked(Sampler(fail_twice), 1, retries=1)
    assert isinstance(reply, RequestFailed)
    assert "out of memory" in str(reply)


def test_what_is_pending_when_it_is_left_early_is_cancelled():
    def answer_the_second(sent: Sent) -> None:
        if len(sent) == 2:
            at_once(sent)

    sampler = Sampler(answer_the_second)
    replies = asked(sampler, 3)
    assert next(replies) == (1, 1)
    cast("Any", replies).close()
    del replies
    assert [future.cancelled() for future in sampler.sent] == [True, False, True]


def test_a_watch_that_finds_the_server_dead_ends_the_wait():
    def dead() -> None:
        raise EngineError("the engine died")

    sampler = Sampler(never)
    with pytest.raises(EngineError, match="died"):
        list(asked(sampler, 1, watch=dead, limit_s=0.1))
    assert sampler.sent[0].cancelled()


def test_a_server_that_says_nothing_is_not_waited_for_for_ever():
    with pytest.raises(BackendError, match="No answer to a test within"):
        list(asked(Sampler(never), 1, limit_s=0.05))
