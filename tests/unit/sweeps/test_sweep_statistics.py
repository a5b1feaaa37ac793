"""Gains over seeds and Holm's correction, against values worked out by hand."""

import math
import random

import pytest
from scipy import stats

from visual_r1.evaluation.statistics import Pairs, exact_mcnemar, paired_difference_ci
from visual_r1.sweeps.statistics import gains, holm

BEFORE = [[False, False, False, False]] * 2
AFTER = [[True, True, False, False], [True, False, False, False]]
# d = 3/8; problem means 1, 1/2, 0, 0 and seed means 1/2, 1/4 give the mean squares
MS_P, MS_S, MS_E = 2 * 0.6875 / 3, 4 * 2 * 0.125**2, 0.375 / 3


def test_of_one_seed_it_is_that_run_alone():
    before = [True] * 30 + [False] * 20
    after = [True] * 28 + [False] * 2 + [True] * 9 + [False] * 11
    (gain,) = gains([[before]], [[after]])
    pairs = Pairs(both=28, gained=9, lost=2, neither=11)
    assert gain.value == pytest.approx(7 / 50)
    assert gain.ci95 == paired_difference_ci(pairs)
    assert gain.p_value == exact_mcnemar(9, 2)


def test_the_interval_over_seeds_by_hand():
    """Two settings alike: the seeds' mean square is pooled to two degrees of freedom."""
    first, second = gains([BEFORE] * 2, [AFTER] * 2)
    t, z = 4.302652729911275, 1.959963984540054
    half = math.sqrt((t**2 * MS_S + z**2 * (MS_P - MS_E)) / 8)
    assert half == pytest.approx(0.670316, abs=1e-6)
    assert first == second
    assert first.value == 3 / 8
    assert first.ci95 == (pytest.approx(3 / 8 - half), 1.0)  # no share is above 1
    assert (first.seeds, first.n) == (2, 4)


def test_the_p_value_is_where_the_interval_begins_to_hold_0():
    (gain, _) = gains([BEFORE] * 2, [AFTER] * 2)
    t, z = stats.t.isf(gain.p_value / 2, 2), stats.norm.isf(gain.p_value / 2)
    assert math.sqrt((t**2 * MS_S + z**2 * (MS_P - MS_E)) / 8) == pytest.approx(3 / 8)
    assert 0.05 < gain.p_value < 0.5


def test_a_setting_that_scatters_more_than_the_others_is_no_surer_for_them():
    calm = [[False] * 100, [False] * 100], [[True] * 50 + [False] * 50] * 2
    wild = [[False] * 100, [False] * 100], [[True] * 80 + [False] * 20, [True] * 20 + [False] * 80]
    (alone,) = gains([wild[0]], [wild[1]])
    _, beside = gains([calm[0], wild[0]], [calm[1], wild[1]])
    # Its own mean square counts, and only the degrees of freedom are shared.
    widths = [ci[1] - ci[0] for ci in (alone.ci95, beside.ci95)]
    assert widths[0] > widths[1] > 1.0


def test_no_change_is_no_gain():
    (gain,) = gains([BEFORE], [BEFORE])
    assert (gain.value, gain.p_value, gain.ci95) == (0.0, pytest.approx(1.0), (0.0, 0.0))


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="no pairs"):
        gains([BEFORE], [[row[:3] for row in AFTER]])


def test_the_interval_holds_what_it_should():
    """Of 100 sweeps of 4 settings x 2 seeds whose seeds scatter by 3 points, 95 % or more."""
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
    assert held / 400 > 0.94


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.2: each no smaller than the one before."""
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
