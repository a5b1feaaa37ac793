from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.config import RunConfig
from visual_r1.rl.learning import adam_params, minibatches


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(sections)


def parts(examples: list[int], count: int, epochs: int = 1, step: int = 0) -> list[list[int]]:
    settings = config(algorithm={"minibatches": count, "epochs": epochs})
    return [list(part) for part in minibatches(examples, settings, step)]


def test_by_default_a_batch_is_one_part_in_its_own_order() -> None:
    assert parts([3, 1, 2], 1) == [[3, 1, 2]]
    assert parts([3, 1, 2], 1, epochs=2) == [[3, 1, 2]] * 2


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 3), st.integers(0, 100))
def test_each_epoch_has_each_example_once(size: int, count: int, epochs: int, step: int) -> None:
    found = parts(list(range(size)), count, epochs, step)
    a_while = min(size, count)
    assert len(found) == epochs * a_while
    for epoch in range(epochs):
        mine = found[epoch * a_while : (epoch + 1) * a_while]
        assert sorted(one for part in mine for one in part) == list(range(size))
        assert all(part == sorted(part) for part in mine)
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
    assert found == parts(list(range(size)), count, epochs, step)


def test_parts_differ_by_epoch_and_step() -> None:
    first, second = parts(list(range(40)), 2, epochs=2)[::2]
    assert first != second
    assert first != parts(list(range(40)), 2, step=1)[0]


@pytest.mark.parametrize(("per", "norm"), [("sum", 0.5), ("response", 1.5), ("token", 6.0)])
def test_a_clip_of_the_mean_is_that_much_more_of_the_sum(per: str, norm: float) -> None:
    settings = config(optimizer={"grad_clip_norm": 0.5, "grad_clip_per": per})
    assert adam_params(settings, 0, [2, 4, 6]).grad_clip_norm == norm


def test_the_rate_is_that_of_the_step() -> None:
    settings = config(
        train={"learning_rate": 1e-3}, optimizer={"schedule": "linear", "schedule_steps": 4}
    )
    assert adam_params(settings, 1, [1]).learning_rate == pytest.approx(7.5e-4)
