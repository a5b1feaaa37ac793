"""Sampling ahead of the learner: which weights sample what, what may go in parts, and ratios."""

import math
import threading
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tinker
from sampled import group_of, rollout

from visual_r1.config import CurriculumSection, PipelineSection, RunConfig, why_whole
from visual_r1.config.run_config import contradictions
from visual_r1.data.problem import Problem
from visual_r1.policy.policy import RolloutGroup
from visual_r1.rl.advantages import advantages_of, with_advantages
from visual_r1.rl.batches import Batches
from visual_r1.rl.correction import corrected
from visual_r1.rl.curriculum import CurriculumOrder, nothing_measured
from visual_r1.rl.datums import datum
from visual_r1.rl.learning import StepLearner, parts_of
from visual_r1.rl.step import sampled_with, staleness_of
from visual_r1.tables import pa


def config(**values: Mapping[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"preset": "quickstart", **values})


@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("steps", [range(3, 4), range(4, 6), range(4, 12)])
def test_each_batch_is_sampled_once_and_by_weights_of_no_more_than_so_many_steps_before(
    most: int, steps: range
) -> None:
    mine = config(algorithm={"max_staleness": most})
    weights_of = {batch: step for step in steps for batch in sampled_with(step, steps, mine)}
    assert list(weights_of) == list(steps)
    assert weights_of == {batch: max(steps.start, batch - most) for batch in steps}
    ages = [staleness_of(batch, steps, mine) for batch in steps]
    assert ages == [batch - weights_of[batch] for batch in steps]
    assert max(ages) <= most and ages[0] == 0


def groups() -> list[RolloutGroup]:
    found = [rollout(1.0), rollout(0.0, "wrong", sample=1)]
    alike = [rollout(1.0), rollout(1.0, sample=1)]
    return [group_of(*one) for one in (found, alike, found, found, alike, found)]


def test_advantages_are_there_with_their_group_unless_the_batch_divides_them() -> None:
    given: list[int] = []

    def arriving() -> Iterator[RolloutGroup]:
        for number, group in enumerate(groups()):
            given.append(number)
            yield group

    train = {"skip_without_contrast": True, "batch_size": 3, "group_size": 2}
    for name, there in (("grpo", [0]), ("gdpo", list(range(6)))):
        given.clear()
        mine = config(train=train, algorithm={"advantage": name, "dynamic_rounds": 2})
        following = with_advantages(arriving(), mine)
        first = next(following)
        assert given == there
        advantages = [first[1], *(one for _, one in following)]
        assert advantages == advantages_of(groups(), mine)
        # The batch of three is full before the last group that has contrast.
        assert [any(one) for one in advantages] == [True, False, True, True, False, False]


def test_the_batch_goes_in_parts_where_its_gradient_is_a_sum() -> None:
    assert parts_of(config(), in_turns=True) == 1
    assert parts_of(config(), in_turns=False) == 4
    assert parts_of(config(pipeline={"parts": 3}), in_turns=True) == 3
    whole = config(algorithm={"normalization": "token"})
    assert "normalization token" in why_whole(whole.train, whole.algorithm)
    assert parts_of(whole, in_turns=False) == 1


class Recorded:
    """A training client that notes what it is sent, and how many groups were there by then."""

    def __init__(self) -> None:
        self.sent: list[list[tinker.Datum]] = []

    def forward_backward(self, data: list[tinker.Datum], *_: object) -> None:
        self.sent.append(data)

    def optim_step(self, _: object) -> None:
        pass


def as_sent(mine: RunConfig, parts: int = 1) -> list[list[dict[str, list[float]]]]:
    """The numbers of each datum of each forward_backward."""
    training = Recorded()
    policy: Any = SimpleNamespace(config=mine)
    learner = StepLearner(cast(Any, training), policy, 0, parts=parts)
    learner.take(groups())
    learner.finish()
    assert all(len(one.loss_fn_inputs) == 3 for data in training.sent for one in data)
    return [
        [{name: list(one.data) for name, one in datum.loss_fn_inputs.items()} for datum in data]
        for data in training.sent
    ]


def test_data_that_are_made_as_groups_come_are_those_that_are_made_when_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counted(*given: Any, **named: Any) -> tinker.Datum:
        made.append(1)
        return datum(*given, **named)

    monkeypatch.setattr("visual_r1.rl.learning.datum", counted)
    batch = {"batch_size": 6, "group_size": 2}
    twice = config(train=batch, algorithm={"epochs": 2})
    whole = as_sent(twice)
    assert len(made) == len(whole[0]) == 8  # four groups have contrast; once for both epochs
    assert whole == [whole[0]] * 2
    # In parts at first; what goes again goes as a whole.
    in_parts = as_sent(twice, parts=3)
    assert [*in_parts[0], *in_parts[1]] == whole[0] == in_parts[2]
    assert [len(one) for one in in_parts] == [4, 4, 8]
    # Drawn into minibatches from all of them, and so made when they are sent.
    drawn = as_sent(config(train=batch, algorithm={"minibatches": 2}))
    assert sorted(map(str, [*drawn[0], *drawn[1]])) == sorted(map(str, whole[0]))
    # A share of the whole batch.
    shares = as_sent(config(train=batch, algorithm={"normalization": "constant"}))
    longest = config().sampling.max_new_tokens
    assert shares[0][0]["advantages"] == pytest.approx(
        [one / (8 * longest) for one in whole[0][0]["advantages"]]
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pipeline": {"parts": 2}, "algorithm": {"advantage": "gdpo"}}, "pipeline.parts is 2"),
        ({"pipeline": {"parts": 2}, "train": {"loss": "sapo"}}, "sapo is given a minibatch"),
        ({"pipeline": {"correction": "token_mask"}, "train": {"loss": "dro"}}, "which dro does"),
        (
            {"algorithm": {"max_staleness": 2}, "train": {"chunk_steps": 2}},
            "raise train.chunk_steps above 2",
        ),
        (
            {"algorithm": {"max_staleness": 1}, "sft": {"responses": "meta.solution"}},
            "samples nothing",
        ),
    ],
)
def test_what_cannot_go_together_is_refused_in_a_sentence(
    values: dict[str, dict[str, Any]], says: str
) -> None:
    given = config().model_copy(
        update={
            section: getattr(config(), section).model_copy(update=changes)
            for section, changes in values.items()
        }
    )
    assert any(says in sentence for sentence in contradictions(given))
    assert not any(contradictions(config()))


@pytest.mark.parametrize(
    ("how", "weights", "bounded"),
    [
        ("token_truncate", [0.25, 1.0, 2.0], 1),
        ("token_mask", [0.0, 1.0, 0.0], 2),
        ("sequence_truncate", [0.25 * 4] * 3, 0),
        ("sequence_mask", [0.25 * 4] * 3, 0),
    ],
)
def test_ratios_are_cut_or_left_out_by_token_or_by_response(
    how: str, weights: list[float], bounded: int
) -> None:
    sampler, learner = [-1.0, -2.0, -3.0], [-1 + math.log(0.25), -2.0, -3 + math.log(4.0)]
    settings = PipelineSection.model_validate({"correction": how})
    found = corrected(sampler, np.array(learner, dtype=np.float32), settings)
    assert found.weights == pytest.approx(weights, rel=1e-5)
    assert found.bounded == bounded
    assert found.logprobs == pytest.approx(learner)
    # A response whose ratio is far beyond the bounds counts as a whole, whatever its tokens are.
    far = corrected(sampler, np.array([0.0, -2.0, -3.0], dtype=np.float32), settings)
    expected = {"token_truncate": [2, 1, 1], "token_mask": [0, 1, 1], "sequence_mask": [0] * 3}
    assert far.weights == pytest.approx(expected.get(how, [2] * 3))


class Kinds(list[Problem]):
    def families(self) -> Any:
        return pa.array(["a"] * len(self))


def test_problems_are_drawn_by_what_was_known_when_their_weights_were_made() -> None:
    """However late the next sampler is: what was observed since has no say."""
    problems = Kinds(Problem(str(i), (), "?", "1") for i in range(12))
    mine = config(
        train={"batch_size": 6, "group_size": 2},
        curriculum={"rule": "contrast", "uniform_share": 0.0},
        algorithm={"max_staleness": 1},
    )
    assert isinstance(mine.curriculum, CurriculumSection)

    def order() -> CurriculumOrder:
        return CurriculumOrder(mine, np.arange(12), nothing_measured(12))

    def sampled(*, right: bool) -> list[RolloutGroup]:
        return [group_of(*[rollout(verdict="right" if right else "wrong")] * 30)] * 6

    by_hand = order()
    drawn = [by_hand.places(0, 0), by_hand.places(1, 0)]
    by_hand.observe(0, sampled(right=True))
    drawn.append(by_hand.places(2, 0))
    by_hand.observe(1, sampled(right=False))
    drawn.append(by_hand.places(3, 0))
    assert drawn[3] != order().places(3, 0)  # what was measured has a say

    gate = threading.Event()
    gate.set()

    def build(problem: Problem) -> tinker.ModelInput:
        assert gate.wait(60)
        return tinker.ModelInput.from_ints([int(problem.id)])

    with Batches(problems, order(), build, range(4), staleness=1) as batches:
        found = [next(batches.rounds(step)) for step in (0, 1)]
        gate.clear()  # whoever builds is slow, and is still at step 2
        batches.observe(0, sampled(right=True))
        batches.observe(1, sampled(right=False))
        batches.observe(2, sampled(right=False))
        gate.set()
        found += [next(batches.rounds(step)) for step in (2, 3)]
    assert [[int(one.problem.id) for one in batch] for batch in found] == drawn
