"""How much a setting gains, when each was trained with few seeds and all answer the same problems.

With one seed a setting is one run, and its gain is that of any run: Newcombe's interval and the
exact McNemar test (`evaluation.statistics`), which speak of that run.

With K seeds the gain is the mean over seeds and problems, and two things could have come out
otherwise: which problems were asked, and how the seeds fell. For d_ki in {-1, 0, 1}, what seed k
gained at problem i of n, the two-way layout without repetition gives the mean squares

    MS_p = K sum_i (d_.i - d)^2 / (n - 1)         problems
    MS_s = n sum_k (d_k. - d)^2 / (K - 1)         seeds
    MS_e = sum_ki (d_ki - d_.i - d_k. + d)^2 / ((n - 1)(K - 1))

and the interval d ± sqrt((t^2 MS_s + z^2 max(MS_p - MS_e, 0)) / (n K)): the exact t interval over
the seeds' own means, whose spread holds the noise of single answers too, and beside it what the
choice of problems adds; each part at its own confidence, so that K = 2 does not pass for many. The
p-value is the confidence at which this interval begins to hold 0.

MS_s has K - 1 degrees of freedom, next to nothing with two or three seeds. So it is pooled over the
settings of a sweep, as an analysis of variance does, which assumes that they scatter alike; where
a setting scatters more than the pool, its own counts.

References
    Cornfield and Tukey (1956), Average values of mean squares in factorials. Ann. Math. Stat. 27.
    Howe (1974), Approximate confidence limits on the mean of X + Y. JASA 69 (the sum of squares of
        half-widths).
    Holm (1979), A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6.
    Miller (2024), Adding error bars to evals. arXiv:2411.00640.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import optimize, stats  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.evaluation.statistics import (
    CONFIDENCE,
    Interval,
    Pairs,
    exact_mcnemar,
    paired_difference_ci,
)

_LEAST_LOG = -300.0  # of a p-value; below that they are all the same

Right = Sequence[Sequence[bool]]
"""Verdicts by seed and problem, [K][n]; K and n are those of the other side of the comparison."""


@dataclass(frozen=True, slots=True)
class Gain:
    """after - before as a share, over `seeds` seeds and `n` problems."""

    value: float
    ci95: Interval
    p_value: float
    seeds: int
    n: int


@dataclass(frozen=True, slots=True)
class _Squares:
    """Mean, and mean squares of problems, seeds and the rest; of one seed the last two are 0."""

    mean: float
    problems: float
    seeds: float
    rest: float
    k: int
    n: int


def gains(befores: Sequence[Right], afters: Sequence[Right]) -> list[Gain]:
    """The gain of each setting, from verdicts [setting][seed][problem] before and after.

    Raises `ValueError` where the two sides have not the same seeds and problems.
    """
    squares = [_squares(before, after) for before, after in zip(befores, afters, strict=True)]
    freedom = sum(one.k - 1 for one in squares)
    pooled = sum((one.k - 1) * one.seeds for one in squares) / freedom if freedom else 0.0
    return [
        _of_one_run(before[0], after[0])
        if one.k == 1
        else _of_seeds(one, max(one.seeds, pooled), freedom)
        for one, before, after in zip(squares, befores, afters, strict=True)
    ]


def _squares(before_KN: Right, after_KN: Right) -> _Squares:
    before, after = np.asarray(before_KN, dtype=float), np.asarray(after_KN, dtype=float)
    if before.shape != after.shape or before.ndim != 2 or before.size == 0:
        raise ValueError(f"verdicts of shapes {before.shape} and {after.shape} are no pairs")
    d = after - before
    (k, n), mean = d.shape, float(d.mean())
    by_problem, by_seed = d.mean(axis=0), d.mean(axis=1)
    rest = d - by_problem[None, :] - by_seed[:, None] + mean
    return _Squares(
        mean=mean,
        problems=k * float(((by_problem - mean) ** 2).sum()) / max(n - 1, 1),
        seeds=n * float(((by_seed - mean) ** 2).sum()) / max(k - 1, 1),
        rest=float((rest**2).sum()) / max((n - 1) * (k - 1), 1),
        k=k,
        n=n,
    )


def _of_one_run(before_N: Sequence[bool], after_N: Sequence[bool]) -> Gain:
    pairs = Pairs.count(before_N, after_N)
    p_value = exact_mcnemar(pairs.gained, pairs.lost)
    return Gain(pairs.delta, paired_difference_ci(pairs), p_value, 1, pairs.n)


def _of_seeds(found: _Squares, seeds: float, freedom: int) -> Gain:
    of_problems = max(found.problems - found.rest, 0.0)

    def half_width(p_value: float) -> float:
        t, z = _upper(stats.t, p_value / 2, freedom), _upper(stats.norm, p_value / 2)
        return math.sqrt((t * t * seeds + z * z * of_problems) / (found.n * found.k))

    half = half_width(1 - CONFIDENCE)
    low, high = max(found.mean - half, -1.0), min(found.mean + half, 1.0)
    return Gain(found.mean, (low, high), _p_value(found.mean, half_width), found.k, found.n)


def _p_value(mean: float, half_width: Callable[[float], float]) -> float:
    """Where an interval of this half-width around `mean` begins to hold 0: a smaller p-value means
    a wider one."""

    def beyond_0(logarithm: float) -> float:
        return half_width(math.exp(logarithm)) - abs(mean)

    if beyond_0(0.0) >= 0:  # no change
        return 1.0
    if beyond_0(_LEAST_LOG) <= 0:
        return math.exp(_LEAST_LOG)
    root = cast(Any, optimize).brentq(beyond_0, _LEAST_LOG, 0.0)
    return math.exp(root)


def _upper(distribution: Any, share: float, *parameters: float) -> float:
    """The quantile that so large a share lies above."""
    return float(distribution.isf(share, *parameters))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: below 0.05 where the comparison stands although
    so many were made. max over j <= i of min(1, (m - j + 1) p_(j)), of m in rising order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
