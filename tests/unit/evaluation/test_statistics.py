"""Statistics: against published values, against independent computation, and by their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from visual_r1.evaluation.statistics import (
    Pairs,
    distinguishable,
    exact_mcnemar,
    holm,
    paired_difference_ci,
    smallest_detectable,
    wilson,
    wilson_of,
)

CELL = st.integers(0, 400)
PAIRS = st.builds(Pairs, both=CELL, gained=CELL, lost=CELL, neither=CELL).filter(lambda p: p.n > 0)


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, Statistics in Medicine 17, 857-872, table I
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_values_that_newcombe_published(
    successes: int, n: int, expected: tuple[float, float]
):
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


def test_wilson_knows_nothing_about_no_problems_and_refuses_nonsense():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="9 successes out of 8"):
        wilson(9, 8)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        # Complete response before and after consolidation (Cavo et al. 2012), as Fagerland,
        # Lydersen and Laake's "Statistical Analysis of Contingency Tables" computes it.
        (Pairs(both=59, gained=16, lost=6, neither=80), (0.0046, 0.1186)),
        # Airway hyper-responsiveness (Bentur et al. 2009), in the same book: phi is corrected to 0.
        (Pairs(both=1, gained=7, lost=1, neither=12), (0.0256, 0.5069)),
    ],
)
def test_the_paired_interval_gives_published_values(pairs: Pairs, expected: tuple[float, float]):
    assert paired_difference_ci(pairs) == pytest.approx(expected, abs=5e-5)


def test_the_paired_interval_covers_the_truth_as_often_as_it_says():
    """Coverage by simulation at n = 100: 60 % before, 68 % after, 16 % of problems change."""
    draws = np.random.default_rng(7).multinomial(100, [0.56, 0.12, 0.04, 0.28], size=2000)
    covered = 0
    for both, gained, lost, neither in draws.tolist():
        low, high = paired_difference_ci(Pairs(both, gained, lost, neither))
        covered += low <= 0.08 <= high
    assert 0.93 <= covered / 2000 <= 0.985


@given(PAIRS)
def test_the_paired_interval_holds_the_difference_and_stays_in_range(pairs: Pairs):
    low, high = paired_difference_ci(pairs)
    assert -1 <= low <= pairs.delta + 1e-12
    assert pairs.delta - 1e-12 <= high <= 1
    assert pairs.delta == pytest.approx(pairs.after - pairs.before)


@given(PAIRS)
def test_exchanging_before_and_after_mirrors_the_paired_interval(pairs: Pairs):
    mirrored = Pairs(pairs.both, gained=pairs.lost, lost=pairs.gained, neither=pairs.neither)
    low, high = paired_difference_ci(pairs)
    assert paired_difference_ci(mirrored) == pytest.approx((-high, -low), abs=1e-12)


def test_pairs_are_counted_by_what_became_of_each_problem():
    before = [True, False, True, False, False]
    after = [True, True, False, False, True]
    assert Pairs.count(before, after) == Pairs(both=1, gained=2, lost=1, neither=1)
    with pytest.raises(ValueError):
        Pairs.count([True], [True, False])


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [(7, 1, 0.0703125), (16, 6, 0.052478790283203125), (5, 0, 0.0625), (0, 0, 1.0), (3, 3, 1.0)],
)
def test_exact_mcnemar_gives_known_values(gained: int, lost: int, expected: float):
    assert exact_mcnemar(gained, lost) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_exact_mcnemar_is_twice_the_smaller_tail(gained: int, lost: int):
    n, few = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(few + 1)) / 2**n
    assert exact_mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_a_difference_of_the_smallest_detectable_size_is_found_four_times_in_five():
    n, changed = 512, 0.2
    difference = smallest_detectable(Pairs(300, 60, 42, 110), share_changed=changed)
    assert 0.05 < difference < 0.06
    gained, lost = (changed + difference) / 2, (changed - difference) / 2
    draws = np.random.default_rng(3).multinomial(n, [gained, lost, 1 - changed], size=2000)
    found = np.mean([exact_mcnemar(int(g), int(b)) < 0.05 for g, b, _ in draws])
    assert found == pytest.approx(0.8, abs=0.03)  # three standard errors


def test_the_smallest_detectable_difference_shrinks_with_more_problems():
    sizes = [smallest_detectable(Pairs(0, 0, 0, n), share_changed=0.3) for n in (5, 50, 200, 800)]
    assert sizes[0] == 1.0, "five problems cannot show any difference: 5 to 0 has p = 0.06"
    assert sizes == sorted(sizes, reverse=True)


def test_where_few_problems_change_the_exact_test_still_needs_six_gains():
    n = 200
    difference = smallest_detectable(Pairs(both=120, gained=2, lost=0, neither=78))
    assert difference > 6 / n
    gained = np.random.default_rng(1).binomial(n, difference, size=2000)
    found = np.mean([exact_mcnemar(int(g), 0) < 0.05 for g in gained])
    assert found == pytest.approx(0.8, abs=0.03)


def test_only_p_under_five_percent_counts_as_seen():
    assert [distinguishable(p) for p in (0.049, 0.05, 1.0)] == [True, False, False]


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.2: each no smaller than the one before."""
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    draw = np.random.default_rng(2)
    for count in range(1, 13):
        p_values = (draw.random(count) ** 3).round(2).tolist()  # with ties
        theirs = multipletests(p_values, method="holm")[1]
        assert holm(p_values) == pytest.approx(theirs, abs=1e-12)


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_that_of_statsmodels(gained: int, lost: int):
    theirs = contingency_tables.mcnemar([[5, lost], [gained, 7]], exact=True).pvalue
    assert exact_mcnemar(gained, lost) == pytest.approx(float(theirs), rel=1e-9)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_is_that_of_statsmodels_with_whole_and_effective_numbers(right: int, n: int):
    right = min(right, n)
    theirs = proportion_confint(right, n, method="wilson")
    assert wilson(right, n) == pytest.approx(theirs, abs=1e-9)
    assert wilson_of(right / n, n) == pytest.approx(theirs, abs=1e-9)
