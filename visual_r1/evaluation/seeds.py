"""How much better one side is than another, where a side was trained with several seeds.

With one run on each side the difference is that of any two runs: Newcombe's interval and the exact
McNemar test (`statistics`), which speak of those runs.

With seeds two things could have come out otherwise: which problems were asked, and how the seeds
fell. Each side, y_ki of K seeds and n problems, is a two-way layout without repetition, with the
mean squares

    MS_s = n sum_k (y_k. - y)^2 / (K - 1)                             seeds
    MS_e = sum_ki (y_ki - y_.i - y_k. + y)^2 / ((n - 1)(K - 1))       the rest

of which MS_s - MS_e over n K is what the choice of seeds adds to the variance of the side's mean.
What the choice of problems adds to that of the difference, with the noise of single answers in it,
is the variance over problems of d_i = after_.i - before_.i, over n. The interval is

    d ± sqrt(t_n^2 var(d_i) / n + t_K^2 sum over sides of max(MS_s - MS_e, 0) / (n K)),

each part at its own confidence, with the t quantiles of n - 1 and of sum (K - 1) degrees of
freedom, so that neither two seeds nor two problems pass for many. var(d_i) is that of `clustered`,
never 0: two problems whose differences happen to be alike say next to nothing of a third. The
p-value is the confidence at which the interval begins to hold 0; of at most `FEW_PROBLEMS` it is
also no less than that of the exact test of signs turned around, one sign a problem, and where that
does not tell, the interval holds 0. Of fewer than six problems no outcome is beyond chance. Sides
need not have as many seeds: the base model has one, a side whose seeds all answered alike counts as
one, and adds nothing.

MS_s has K - 1 degrees of freedom, next to nothing with two or three seeds. So it is pooled over all
sides that are compared, as an analysis of variance does, which assumes that they scatter alike; a
side that scatters more than the pool counts with its own.

References
    Cornfield and Tukey (1956), Average values of mean squares in factorials. Ann. Math. Stat. 27.
    Howe (1974), Approximate confidence limits on the mean of X + Y. JASA 69 (the sum of squares of
        half-widths).
    Miller (2024), Adding error bars to evals. arXiv:2411.00640.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import optimize, special  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.evaluation.clustered import variance_of_differences
from visual_r1.evaluation.statistics import (
    CONFIDENCE,
    FEW_PROBLEMS,
    Gain,
    Pairs,
    exact_mcnemar,
    exact_sign_flip,
    holding_0,
    paired_difference_ci,
)

_LEAST_LOG = -300.0  # of a p-value; below that they are all the same

Right = Sequence[Sequence[bool]]
"""Verdicts by seed and problem, [K][n]; both sides of a comparison have the same n."""


@dataclass(frozen=True, slots=True)
class _Side:
    """A side's mean by problem [n], and its mean squares of seeds and of the rest, 0 of one seed.

    `verdicts` tell sides apart that stand in more than one comparison.
    """

    by_problem: Any
    seeds: float
    rest: float
    k: int
    n: int
    verdicts: bytes

    @classmethod
    def of(cls, right_KN: Right) -> "_Side":
        y = np.asarray(right_KN, dtype=float)
        if y.ndim != 2 or y.size == 0:
            raise ValueError(f"verdicts of shape {y.shape} are no table of seeds and problems")
        if (y == y[:1]).all():
            y = y[:1]
        (k, n), mean = y.shape, float(y.mean())
        by_problem, by_seed = y.mean(axis=0), y.mean(axis=1)
        rest = y - by_problem[None, :] - by_seed[:, None] + mean
        return cls(
            by_problem=by_problem,
            seeds=n * float(((by_seed - mean) ** 2).sum()) / max(k - 1, 1),
            rest=float((rest**2).sum()) / max((n - 1) * (k - 1), 1),
            k=k,
            n=n,
            verdicts=y.tobytes(),
        )


def gains(befores: Sequence[Right], afters: Sequence[Right]) -> list[Gain]:
    """The gain of each comparison, from verdicts [comparison][seed][problem] before and after.

    Raises `ValueError` where the two sides have not the same problems.
    """
    compared = [
        (_Side.of(before), _Side.of(after)) for before, after in zip(befores, afters, strict=True)
    ]
    scattered = {side.verdicts: side for pair in compared for side in pair if side.k > 1}.values()
    freedom = sum(side.k - 1 for side in scattered)
    pooled = sum((side.k - 1) * side.seeds for side in scattered) / max(freedom, 1)
    found: list[Gain] = []
    for (before, after), rows in zip(compared, afters, strict=True):
        if before.n != after.n:
            raise ValueError(f"verdicts on {before.n} and on {after.n} problems are no pairs")
        if before.k == after.k == 1:
            gain = _of_one_run(before.by_problem, after.by_problem, len(rows))
        else:
            gain = _of_seeds(before, after, pooled, freedom, len(rows))
        found.append(gain)
    return found


def _of_one_run(before_N: Sequence[float], after_N: Sequence[float], seeds: int) -> Gain:
    pairs = Pairs.count([one > 0 for one in before_N], [one > 0 for one in after_N])
    p_value = exact_mcnemar(pairs.gained, pairs.lost)
    return Gain(pairs.delta, paired_difference_ci(pairs), p_value, seeds, pairs.n)


def _of_seeds(before: _Side, after: _Side, pooled: float, freedom: int, seeds: int) -> Gain:
    d = after.by_problem - before.by_problem
    n, mean = after.n, float(d.mean())
    if n < 2:
        return Gain(mean, (-1.0, 1.0), 1.0, seeds, n)
    of_problems = variance_of_differences(d.tolist()) / n
    of_seeds = sum(
        max(max(side.seeds, pooled) - side.rest, 0.0) / (n * side.k)
        for side in (before, after)
        if side.k > 1
    )

    def half_width(p_value: float) -> float:
        # Quantiles that half the p-value lies below: exact also where it is tiny.
        t_n, t_k = (
            float(cast(Any, special).stdtrit(degrees, p_value / 2)) for degrees in (n - 1, freedom)
        )
        return math.sqrt(t_n * t_n * of_problems + t_k * t_k * of_seeds)

    half = half_width(1 - CONFIDENCE)
    low, high = max(mean - half, -1.0), min(mean + half, 1.0)
    p_value = _p_value(mean, half_width)
    if n <= FEW_PROBLEMS:
        p_value = max(p_value, exact_sign_flip(d.tolist()))
    if n < 3:
        low, high = -1.0, 1.0
    return Gain(mean, holding_0((low, high), p_value), p_value, seeds, n)


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
