import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.rewards.scoring import length_penalty, repetition_penalty, truncation_penalty


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (120, -1.0)],
)
def test_length_by_hand(tokens: int, expected: float) -> None:
    assert length_penalty(tokens, 100, 0.2) == pytest.approx(expected)


def test_dapos_own_numbers() -> None:
    # 16,384 tokens expected, a buffer of 4,096, so 20,480 at most.
    assert length_penalty(16_384, 20_480, 0.2) == 0.0
    assert length_penalty(18_432, 20_480, 0.2) == pytest.approx(-0.5)
    assert length_penalty(20_480, 20_480, 0.2) == -1.0


@given(st.integers(0, 5000), st.integers(0, 4096), st.floats(0.01, 1.0))
def test_a_longer_response_is_never_better(tokens: int, most: int, buffer: float) -> None:
    shorter, longer = (length_penalty(n, most, buffer) for n in (tokens, tokens + 1))
    assert -1.0 <= longer <= shorter <= 0.0


def test_truncation() -> None:
    assert (truncation_penalty(truncated=True), truncation_penalty(truncated=False)) == (-1, 0)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0.0),
        ([1], 0.0),
        ([1, 2], 0.0),
        ([1, 2, 3, 4], 0.0),
        ([1, 1, 1], -1 / 2),  # 11 11
        ([1, 2, 1, 2], -1 / 3),  # 12 21 12
        ([1, 2, 9, 1, 2], -1 / 4),
    ],
)
def test_repetition_by_hand(tokens: list[int], expected: float) -> None:
    assert repetition_penalty(tokens, 2) == pytest.approx(expected)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(2, 6))
def test_saying_all_of_it_once_more_never_pays(tokens: list[int], ngram: int) -> None:
    once = repetition_penalty(tokens, ngram)
    assert -1.0 < once <= 0.0
    assert repetition_penalty(tokens + tokens, ngram) <= once
