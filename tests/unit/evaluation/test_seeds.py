"""Gains over seeds, against values worked out by hand."""

import math
import random
from itertools import product

import numpy as np
import pytest
from scipy import stats

from visual_r1.evaluation.seeds import gains
from visual_r1.evaluation.statistics import (
    Pairs,
    exact_mcnemar,
    exact_sign_flip,
    paired_difference_ci,
)

BEFORE = [[False, False, False, False]] * 2
AFTER = [[True, True, True, False], [True, False, False, False]]
# d = 1/2, its square with a quarter of a problem at each end (1.5 + 0.5 - 2^2 / 4.5) / 3.5
# beside them; problem means 1, 1/2, 1/2, 0 and seed means 3/4, 1/4 give, with the rest +-1/4 each
VAR_D, MS_S, MS_E = (2 - 4 / 4.5) / 3.5, 4 * 2 * 0.25**2, 8 * 0.25**2 / 3
T_1, T_3 = 12.706204736432095, 3.182446305284263


def test_of_one_seed_it_is_that_run_alone():
    before = [True] * 30 + [False] * 20
    after = [True] * 28 + [False] * 2 + [True] * 9 + [False] * 11
    (gain,) = gains([[before]], [[after]])
    pairs = Pairs(both=28, gained=9, lost=2, neither=11)
    assert gain.value == pytest.approx(7 / 50)
    assert gain.ci95 == paired_difference_ci(pairs)
    assert gain.p_value == exact_mcnemar(9, 2)


def test_the_interval_over_seeds_by_hand():
    """Before, the seeds answered alike: that side is one, and has nothing to scatter."""
    (gain,) = gains([BEFORE], [AFTER])
    assert gain.value == 1 / 2
    assert gain.ci95 == (-1.0, 1.0)  # no difference of shares is larger
    assert (gain.seeds, gain.n) == (2, 4)
    t, z = (stats.t.isf(gain.p_value / 2, degrees) for degrees in (1, 3))
    assert math.sqrt(z**2 * VAR_D / 4 + t**2 * (MS_S - MS_E) / 8) == pytest.approx(1 / 2)


def test_alike_on_two_problems_is_no_evidence_of_a_third():
    """Each seed gained one of two problems: their means are alike, and nothing is known."""
    (gain,) = gains([[[False, False]]], [[[True, False], [False, True]]])
    assert (gain.value, gain.ci95, gain.p_value) == (0.5, (-1.0, 1.0), 0.5)
    (one,) = gains([[[False]]], [[[True], [False]]])
    assert (one.ci95, one.p_value) == ((-1.0, 1.0), 1.0)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10, 30])
@pytest.mark.parametrize("counts", [(1, 1), (1, 3), (3, 3)])
def test_it_is_wrong_of_few_problems_one_time_in_twenty_at_most(n: int, counts: tuple[int, int]):
    """As many problems become certain as are lost, so nothing has changed on average: 200 draws
    have a standard error of 1.5 points. benchmarks/intervals.py does it at length."""
    draw, seen, held = np.random.default_rng(n), 0, 0
    for _ in range(200):
        fate = draw.random(n)
        chances = [np.where(fate < 0.45, way, np.where(fate < 0.9, 1 - way, 0.5)) for way in (0, 1)]
        answers = [
            draw.random((count, n))
            < np.clip(chance + draw.normal(0, 0.05 * (count > 1), (count, 1)), 0, 1)
            for chance, count in zip(chances, counts, strict=True)
        ]
        (gain,) = gains([answers[0].tolist()], [answers[1].tolist()])
        seen += gain.p_value < 0.05
        held += gain.ci95[0] <= 0 <= gain.ci95[1]
    assert seen / 200 <= (0 if n < 6 else 0.08)
    assert held / 200 >= 0.92


def test_turned_signs_are_counted_all():
    values = [0.5, 0.25, -0.125, 1.0, 0.0, 0.375, -0.75]
    turned = list(product((-1, 1), repeat=len(values)))
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in turned]
    by_hand = sum(one >= abs(sum(values)) for one in sums) / len(turned)
    assert exact_sign_flip(values) == pytest.approx(by_hand)
    assert exact_sign_flip([1.0] * 5) == pytest.approx(2 / 2**5)
    assert exact_sign_flip([1.0] * 9 + [-1.0]) == pytest.approx(exact_mcnemar(9, 1))
    assert exact_sign_flip([0.0, 0.0]) == exact_sign_flip([]) == 1.0


def test_sides_with_seeds_of_their_own_add_up_and_are_pooled():
    """Each side's mean squares, and the degrees of freedom of both."""
    other = [[False, True, False, False], [False, False, False, False], [True, True, True, True]]
    table = np.array(other, dtype=float)
    k, n = table.shape
    by_seed, by_problem, mean = table.mean(1), table.mean(0), table.mean()
    seeds = n * ((by_seed - mean) ** 2).sum() / (k - 1)
    rest = table - by_problem[None, :] - by_seed[:, None] + mean
    rest_square = (rest**2).sum() / ((n - 1) * (k - 1))
    pooled = (1 * MS_S + 2 * seeds) / 3
    d = np.array(AFTER, dtype=float).mean(0) - by_problem
    of_seeds = (max(MS_S, pooled) - MS_E) / 8 + (max(seeds, pooled) - rest_square) / 12
    (gain,) = gains([other], [AFTER])
    assert gain.value == pytest.approx(d.mean())
    t = z = stats.t.isf(gain.p_value / 2, 3)  # of three differences of seeds, and four problems
    variance = ((d**2).sum() + 0.5 - d.sum() ** 2 / (n + 0.5)) / (n - 0.5)
    half = math.sqrt(z**2 * variance / n + t**2 * of_seeds)
    assert half == pytest.approx(abs(d.mean()), rel=1e-6)


def test_a_side_that_stands_in_several_comparisons_is_pooled_once():
    assert gains([BEFORE] * 2, [AFTER] * 2) == gains([BEFORE], [AFTER]) * 2


def test_a_setting_that_scatters_more_than_the_others_is_no_surer_for_them():
    calm = (
        [[False] * 100, [False] * 100],
        [[True] * 50 + [False] * 50, [True] * 52 + [False] * 48],
    )
    wild = [[False] * 100, [False] * 100], [[True] * 55 + [False] * 45, [True] * 45 + [False] * 55]
    (alone,) = gains([wild[0]], [wild[1]])
    _, beside = gains([calm[0], wild[0]], [calm[1], wild[1]])
    # Its own mean square counts, and only the degrees of freedom are shared.
    widths = [ci[1] - ci[0] for ci in (alone.ci95, beside.ci95)]
    assert widths[0] > 1.0 > widths[1] > 0.4


def test_no_change_is_no_gain():
    (gain,) = gains([BEFORE], [BEFORE])
    assert (gain.value, gain.p_value) == (0.0, pytest.approx(1.0))
    assert gain.ci95 == paired_difference_ci(Pairs(0, 0, 0, 4))


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="no pairs"):
        gains([BEFORE], [[row[:3] for row in AFTER]])


def test_the_interval_holds_what_it_should():
    """Of 100 sweeps of 4 settings x 2 seeds whose seeds scatter by 3 points; 400 intervals have a
    standard error of 1.1 points. benchmarks/intervals.py does it at length."""
    draw, held = random.Random(4), 0
    for _ in range(100):
        befores: list[list[list[bool]]] = []
        afters: list[list[list[bool]]] = []
        for _setting in range(4):
            lucks = [draw.gauss(0, 0.03) for _seed in range(2)]
            before = [draw.random() < 0.6 for _problem in range(128)]
            after = [[draw.random() < 0.8 + luck for _problem in before] for luck in lucks]
            befores.append([before] * 2)
            afters.append(after)
        held += sum(gain.ci95[0] <= 0.2 <= gain.ci95[1] for gain in gains(befores, afters))
    assert 0.92 <= held / 400 <= 0.985
