"""avg@k, pass@k and maj@k against enumeration, and the intervals of means over problems."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visual_r1.evaluation.clustered import mean_difference, mean_share
from visual_r1.evaluation.samples import majority, mean_pass_at_k, pass_at_k
from visual_r1.evaluation.statistics import wilson

SHARES = st.lists(st.sampled_from([0, 0.125, 0.5, 0.875, 1]), min_size=2, max_size=40)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9))
def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_right_answer(n: int, c: int, k: int):
    c, k = min(c, n), min(k, n)
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_refuses_more_draws_than_samples():
    with pytest.raises(ValueError, match="pass@9"):
        pass_at_k(8, 3, 9)


def test_mean_pass_at_k_with_all_samples_is_a_proportion_with_wilsons_interval():
    found = mean_pass_at_k([(8, 0)] * 30 + [(8, 3)] * 50 + [(8, 8)] * 20, k=8)
    assert found.value == pytest.approx(0.7)
    assert found.ci95 == wilson(70, 100)


def test_pass_at_k_leaves_out_problems_with_too_few_samples_and_admits_ignorance():
    assert mean_pass_at_k([(8, 8), (0, 0)], k=8).value == 1.0
    assert mean_pass_at_k([(8, 8)] * 10, k=2).ci95 == wilson(10, 10)
    assert mean_pass_at_k([], k=8).ci95 == (0.0, 1.0)


@given(st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=7))
def test_maj_at_k_is_the_share_of_all_ways_to_break_the_tie(answers: list[str | None]):
    """By hand: each leading answer is drawn with the same chance, 7 is the right one."""
    given_ = [one for one in answers if one is not None]
    leading = [one for one in set(given_) if given_.count(one) == max(map(given_.count, given_))]
    expected = sum(one == "7" for one in leading) / len(leading) if leading else 0.0
    assert majority([(one, one == "7") for one in answers]) == pytest.approx(expected)


def test_maj_at_k_over_all_outcomes_of_three_samples():
    """Right with 0.6, else one of two wrong ones alike: the expected value by enumeration."""
    chances = {"7": 0.6, "8": 0.2, "9": 0.2}
    expected = sum(
        math.prod(chances[one] for one in drawn) * majority([(one, one == "7") for one in drawn])
        for drawn in product(chances, repeat=3)
    )
    # Two or three right; or one right and two different wrong ones, a third of the time.
    assert expected == pytest.approx(0.6**3 + 3 * 0.6**2 * 0.4 + 6 * 0.6 * 0.2 * 0.2 / 3)


def test_votes_for_one_answer_in_several_spellings_are_one():
    right = [("12", True)] * 3
    assert majority([*right, ("0.5", False), ("1/2", False), ("\\frac{1}{2}", False)]) == 0.5
    assert majority([*right, ("0.5", False), ("1/2", False), ("3", False)]) == 1.0
    assert majority([*right, *[("0.5", False), ("1/2", False)] * 2]) == 0.0
    # No answer is no vote, however many there are.
    assert majority([("12", True), *[(None, False)] * 5]) == 1.0


def test_whether_two_wrong_answers_are_one_depends_on_the_rounding():
    answers = [("12", True), ("3.1", False), ("3.14", False)]
    assert majority(answers, "exact") == pytest.approx(1 / 3)
    assert majority(answers, "rounded") == 0.0


@given(SHARES)
def test_a_mean_lies_within_its_interval_and_the_interval_within_its_range(values: list[float]):
    found = mean_share(values)
    low, high = found.ci95
    assert 0 <= low <= found.value + 1e-12
    assert found.value - 1e-12 <= high <= 1
    shift = mean_difference([value - values[0] for value in values])
    assert -1 <= shift.ci95[0] <= shift.value <= shift.ci95[1] <= 1
    assert (shift.p_value < 0.05) == (shift.ci95[0] > 0 or shift.ci95[1] < 0)


def test_both_are_what_scipy_says_where_there_are_many_problems():
    """Bootstrap over problems (BCa), and the paired t test."""
    draw = np.random.default_rng(5)
    before, after = (draw.binomial(8, draw.beta(2, 1, 512)) / 8 for _ in range(2))
    boot = stats.bootstrap((after,), np.mean, rng=np.random.default_rng(1)).confidence_interval
    found = mean_share(after.tolist())
    assert found.ci95 == pytest.approx((boot.low, boot.high), abs=0.002)
    paired = stats.ttest_rel(after, before)
    shift = mean_difference((after - before).tolist())
    assert shift.ci95 == pytest.approx(tuple(paired.confidence_interval()), abs=0.001)
    assert shift.p_value == pytest.approx(float(paired.pvalue), abs=0.005)


def test_where_every_problem_is_solved_alike_there_is_still_doubt():
    """A bootstrap would give an interval of no width, and so a difference of none."""
    assert mean_share([1.0] * 40).ci95 == wilson(40, 40)
    assert mean_share([0.5] * 40).ci95[0] < 0.49
    low, high = mean_difference([0.0] * 40).ci95
    assert low < -0.02 < 0.02 < high
    assert mean_difference([0.5]).ci95 == (-1.0, 1.0)


def test_intervals_of_clustered_samples_cover_what_they_should():
    """At n = 100 problems of 8 samples each; benchmarks/intervals.py does it at length."""
    draw = np.random.default_rng(9)
    held = held_shift = 0
    for _ in range(400):
        chance = draw.beta(0.9, 0.1, 100)
        before, after = (draw.binomial(8, chance) / 8 for _ in range(2))
        low, high = mean_share(after.tolist()).ci95
        held += low <= 0.9 <= high
        low, high = mean_difference((after - before).tolist()).ci95
        held_shift += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.98
    assert 0.92 <= held_shift / 400 <= 0.99
