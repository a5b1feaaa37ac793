from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.data.batches import batch_indices
from visual_r1.errors import DataError

COUNT = 50


def ids(step: int, size: int = 8, seed: int = 0, **more: int) -> list[int]:
    return batch_indices(COUNT, size, seed, step, **more)


def test_a_step_is_a_function_of_seed_and_number_alone() -> None:
    forwards = [ids(step) for step in range(30)]
    backwards = [ids(step) for step in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert ids(3, seed=1) != ids(3) and ids(3, round=1) != ids(3)
    assert ids(3, round=1) != ids(3, round=2)
    # What it is today it stays: a resumed run depends on it.
    assert batch_indices(10, 3, 0, 0) == [0, 6, 5]
    assert batch_indices(10, 3, 7, 5, 2) == [1, 0, 3]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99), st.integers(0, 9))
def test_batches_are_whole_and_an_epoch_repeats_nothing(
    count: int, size: int, seed: int, epoch: int
) -> None:
    steps = max(1, count // size)
    epoch_steps = range(epoch * steps, (epoch + 1) * steps)
    drawn = [batch_indices(count, size, seed, step) for step in epoch_steps]
    assert all(len(indices) == size for indices in drawn)
    flat = [index for indices in drawn for index in indices]
    assert set(flat) <= set(range(count))
    if size <= count:
        assert len(set(flat)) == len(flat)


def test_epochs_are_shuffled_anew_and_everything_comes_up() -> None:
    epochs = [[i for s in range(6) for i in ids(6 * e + s)] for e in range(8)]
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert set().union(*epochs) == set(range(COUNT))


def test_a_batch_larger_than_the_split_goes_round() -> None:
    seen = Counter(i for step in range(7) for i in batch_indices(7, 10, 0, step))
    assert set(seen.values()) == {10}


def test_no_problems_is_an_error() -> None:
    with pytest.raises(DataError, match="no training problems"):
        batch_indices(0, 4, 0, 0)
