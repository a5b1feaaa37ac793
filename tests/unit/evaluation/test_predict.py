"""How much an evaluation asks at a time, what it keeps meanwhile, and what ends it."""

import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest
import tinker
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.types import RequestErrorCategory

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.errors import BackendError
from visual_r1.evaluation.predict import predict
from visual_r1.evaluation.prediction import Pass
from visual_r1.grading import Grade
from visual_r1.policy.policy import Policy, open_policy
from visual_r1.progress import Silent
from visual_r1.rewards import scoring

ALL: tuple[Pass, ...] = ("greedy", "blind", "question_only", "sampled", "scan_only")
MOST = 4
[ONE] = generate(77, "test", 1)


class Noticed(Problem):
    """A problem that can be asked whether it is still there."""


class Sampler:
    """Answers each request as it is sent, the `failing`-th with a failure of the server."""

    def __init__(self, policy: Policy, failing: int | None = None) -> None:
        text = "<think>so</think><scan>a circle</scan><answer>5</answer>"
        self._tokens = policy.processor.encode(text)
        self._failing, self.sent = failing, 0

    def sample(self, _: tinker.ModelInput, num_samples: int, **__: Any) -> Any:
        future: Future[tinker.SampleResponse] = Future()
        if self.sent == self._failing:
            failed = tinker.RequestFailedError("out of memory", "1", RequestErrorCategory.Server)
            future.set_exception(failed)
        else:
            answer = tinker.SampledSequence("stop", "1", _tokens_list=self._tokens)
            future.set_result(tinker.SampleResponse([answer] * num_samples))
        self.sent += 1
        return AwaitableConcurrentFuture(future)


class Drawn(Sequence[Problem]):
    """Problems that are made when they are asked for, as those of a dataset are."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._made: list[weakref.ref[Problem]] = []
        self.most_alive = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        made = Noticed(str(place), ONE.images, ONE.problem, ONE.answer)
        self._made.append(weakref.ref(made))
        self.most_alive = max(self.most_alive, sum(one() is not None for one in self._made))
        return made


@pytest.fixture(scope="module")
def policy() -> Policy:
    return open_policy(RunConfig(preset="vision_sr1"))


def test_pictures_are_not_kept(policy: Policy):
    problems = Drawn(40)
    sampler = cast("Any", Sampler(policy))
    made = predict(sampler, policy, problems, range(40), ALL, "a test", Silent(), most_at_once=MOST)
    assert [one.id for one in made] == [str(place) for place in range(40)]
    assert all(one.second is not None and one.second.response for one in made)
    # Those under way, and what is being looked at; with every picture kept it would be 40.
    assert problems.most_alive <= 2 * MOST


def test_a_single_failure_of_the_server_ends_it(policy: Policy):
    sampler = cast("Any", Sampler(policy, failing=20))
    with pytest.raises(BackendError, match="failed at a test: out of memory"):
        predict(sampler, policy, Drawn(40), range(40), ("greedy",), "a test", Silent())


def test_a_response_that_the_grader_fails_on_ends_no_evaluation(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Grade:
        raise ValueError("Exceeds the limit (4300 digits)")

    monkeypatch.setattr(scoring, "grade", broken)
    sampler = cast("Any", Sampler(policy))
    [found] = predict(sampler, policy, [ONE], range(1), ("greedy",), "a test", Silent())
    assert found.greedy is not None and found.greedy.verdict == "gave_up"
    assert "the grader failed with ValueError" in found.greedy.reason
    assert "<answer>5</answer>" in found.greedy.response
    assert any(repr(ONE.id) in one.getMessage() for one in caplog.records)
