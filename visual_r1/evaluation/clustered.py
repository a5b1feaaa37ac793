"""Means over problems: avg@k, pass@k, maj@k, and their differences between two evaluations.

The k samples of a problem hang together, so what was drawn is n problems, each with one value in
[0, 1], and not n k answers. Near 0 and 1 most problems have the same value, and neither a bootstrap
nor a t interval sees how much the few others weigh (docs/statistics.md has their coverage). So:

    a share       Wilson's interval at the effective number of problems, n_e = n m (1 - m) / s^2
                  (m the mean, s^2 the variance over problems), lessened by (z / t)^2 for the
                  t quantile of n - 1 degrees of freedom;
    a difference  the paired t interval, d ± t s / sqrt(n).

In s^2, and there alone, a quarter of a problem stands at each end of the range beside those that
were asked: what Agresti and Coull's added successes and failures do for a proportion.

Of few problems (`FEW_PROBLEMS`) a difference must also stand the test of signs turned around, which
is exact: of five it never does. The interval then holds 0 where the test does not tell.

References
    Korn and Graubard (1998), Confidence intervals for proportions with small expected number of
        positive counts estimated from survey data. Survey Methodology 24 (n_e and its t).
    Dean and Pagano (2015), Evaluating confidence interval methods for binomial proportions in
        clustered surveys. J. Survey Statistics and Methodology 3 (Wilson's at n_e).
    Agresti and Coull (1998), Approximate is better than "exact". The American Statistician 52.
    Miller (2024), Adding error bars to evals. arXiv:2411.00640.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.evaluation.statistics import (
    CONFIDENCE,
    FEW_PROBLEMS,
    Gain,
    Interval,
    Z,
    exact_sign_flip,
    holding_0,
    wilson,
    wilson_of,
)

_AT_EACH_END = 0.25  # problems


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    ci95: Interval


def mean_share(values_N: Sequence[float]) -> Estimate:
    """The mean of a share in [0, 1] of each problem; 0 with the interval (0, 1) of no problem.

    Where every value is 0 or 1 it is a proportion, and the interval Wilson's own.
    """
    n = len(values_N)
    values = np.asarray(values_N, dtype=np.float64)
    if n < 2 or not np.any((values > 0) & (values < 1)):
        right = int(np.rint(values.sum()))
        return Estimate(float(values.mean()) if n else 0.0, wilson(right, n))
    mean = float(values.mean())
    asked = n + 2 * _AT_EACH_END
    middle = (values.sum() + _AT_EACH_END) / asked
    variance = ((values**2).sum() + _AT_EACH_END - asked * middle**2) / (asked - 1)
    effective = n * middle * (1 - middle) / float(variance)
    return Estimate(mean, wilson_of(mean, float(effective) * (Z / _t(n - 1)) ** 2))


def mean_difference(values_N: Sequence[float]) -> Gain:
    """The mean over problems of a difference in [-1, 1], with its interval and two-sided p-value.

    Of fewer than two problems nothing is known: the interval is (-1, 1) and p is 1.
    """
    n = len(values_N)
    values = np.asarray(values_N, dtype=np.float64)
    mean = float(values.mean()) if n else 0.0
    if n < 2:
        return Gain(mean, (-1.0, 1.0), 1.0, 1, n)
    error = math.sqrt(variance_of_differences(values_N) / n)
    half = _t(n - 1) * error
    p_value = 2 * float(cast(Any, special).stdtr(n - 1, -abs(mean) / error))
    if n <= FEW_PROBLEMS:
        p_value = max(p_value, exact_sign_flip(values_N))
    interval = max(mean - half, -1.0), min(mean + half, 1.0)
    return Gain(mean, holding_0(interval, p_value), p_value, 1, n)


def variance_of_differences(values_N: Sequence[float]) -> float:
    """The variance over problems of differences in [-1, 1], with a quarter of a problem at each end
    beside them: never 0, however alike they are. For at least one problem."""
    values = np.asarray(values_N, dtype=np.float64)
    asked = len(values) + 2 * _AT_EACH_END
    square = float((values**2).sum()) + 2 * _AT_EACH_END
    return (square - float(values.sum()) ** 2 / asked) / (asked - 1)


def _t(freedom: int) -> float:
    return -float(cast(Any, special).stdtrit(freedom, (1 - CONFIDENCE) / 2))
