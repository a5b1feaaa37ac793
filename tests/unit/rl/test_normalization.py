import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_r1.rl.advantages import Normalization, token_shares

lengths_lists = st.lists(st.integers(1, 500), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1.0, 1.0]),
        ("token", [1 / 8, 1 / 8]),
        ("sequence", [1 / 4, 1 / 12]),
        ("constant", [1 / 200, 1 / 200]),
    ],
)
def test_by_hand(how: Normalization, expected: list[float]) -> None:
    assert token_shares([2, 6], how, 100) == pytest.approx(expected)


@given(lengths_lists)
def test_means_have_a_weight_of_one(lengths: list[int]) -> None:
    for how in ("token", "sequence"):
        shares = token_shares(lengths, how, 500)
        assert math.fsum(n * share for n, share in zip(lengths, shares, strict=True)) == (
            pytest.approx(1)
        )


@given(lengths_lists)
def test_each_response_weighs_the_same_by_sequence_and_each_token_by_the_others(
    lengths: list[int],
) -> None:
    by_sequence = token_shares(lengths, "sequence", 500)
    weights = [n * share for n, share in zip(lengths, by_sequence, strict=True)]
    assert weights == pytest.approx([1 / len(lengths)] * len(lengths))
    for how in ("none", "token", "constant"):
        assert len(set(token_shares(lengths, how, 500))) == 1


@given(lengths_lists, st.integers(0, 19))
def test_with_a_constant_length_no_response_changes_anothers_share(
    lengths: list[int], place: int
) -> None:
    longer = list(lengths)
    longer[place % len(lengths)] += 100
    assert token_shares(longer, "constant", 500) == token_shares(lengths, "constant", 500)
