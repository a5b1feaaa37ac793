"""The statistics of an evaluation: intervals, a paired test, Holm, and what a test can see.

Every number of a report comes with an interval, and two evaluations of the same problems are
compared as pairs: the difference lives in the problems that changed (gained, lost), whatever
happened on all others.

References
    Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
    Newcombe (1998), Improved confidence intervals for the difference between binomial proportions
        based on paired data. Statistics in Medicine 17, 2635-2650 (method 10).
    McNemar (1947), Note on the sampling error of the difference between correlated proportions
        or percentages. Psychometrika 12; here with the exact binomial p-value.
    Duffy (1984), Asymptotic and exact power for the McNemar test and its analogue with R controls
        per case. Biometrics 40, 1005-1015.
    Fisher (1935), The design of experiments, chapter III (signs turned around), by problems as in
        Canay, Romano and Shaikh (2017), Randomization tests under an approximate symmetry
        assumption. Econometrica 85, 1013-1030.
    Holm (1979), A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6.

Means of several samples are in `clustered` and `samples`, several seeds in `seeds`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
Z = 1.959963984540054  # the normal quantile of CONFIDENCE, two-sided
POWER = 0.8
FEW_PROBLEMS = 30
"""Up to so many, a difference of means is tested by turning its signs around as well."""
FEWEST_PROBLEMS = 6
"""Of fewer no outcome is beyond chance: five of five gains have p = 2 / 2^5 = 0.0625."""
_GRID = 20_160  # the quotients of most numbers of samples are whole on it

Interval = tuple[float, float]


class _BinomialTest(Protocol):
    pvalue: float

    def proportion_ci(self, confidence_level: float, method: str) -> Any: ...


def _binomial_test(successes: int, n: int) -> _BinomialTest:
    # It takes most of a second to import, and who reads figures that are there does without.
    from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

    return cast(_BinomialTest, stats.binomtest(successes, n))  # pyright: ignore[reportUnknownMemberType]


@lru_cache(maxsize=65_536)
def wilson(successes: int, n: int) -> Interval:
    """The 95 % Wilson score interval of `successes` out of `n`; (0, 1) where n is 0.

    Raises `ValueError` unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} is no proportion")
    if n == 0:
        return 0.0, 1.0
    found = _binomial_test(successes, n).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)


def wilson_of(share: float, n: float) -> Interval:
    """The same of a share of n trials, where n may be an effective number and no whole one."""
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    centre, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of shares in [-1, 1], over `seeds` seeds and `n` problems."""

    value: float
    ci95: Interval
    p_value: float
    seeds: int
    n: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """The same problems before and after, counted by what became of them."""

    both: int
    gained: int
    lost: int
    neither: int

    @classmethod
    def count(cls, before_N: Sequence[bool], after_N: Sequence[bool]) -> "Pairs":
        """Count two aligned lists of verdicts. Raises `ValueError` where the lengths differ."""
        cells = Counter(zip(before_N, after_N, strict=True))
        return cls(
            both=cells[True, True],
            gained=cells[False, True],
            lost=cells[True, False],
            neither=cells[False, False],
        )

    @property
    def n(self) -> int:
        """How many problems were paired."""
        return self.both + self.gained + self.lost + self.neither

    @property
    def before(self) -> float:
        """The share that was right before; 0 where nothing was paired."""
        return (self.both + self.lost) / self.n if self.n else 0.0

    @property
    def after(self) -> float:
        """The share that is right after; 0 where nothing was paired."""
        return (self.both + self.gained) / self.n if self.n else 0.0

    @property
    def delta(self) -> float:
        """after - before = (gained - lost) / n; 0 where nothing was paired."""
        return (self.gained - self.lost) / self.n if self.n else 0.0


def exact_mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided McNemar p-value: are gains and losses equally likely?

    Given gained + lost changed problems, gained ~ Binomial(gained + lost, 1/2) under the null.
    1 where nothing changed.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"counts cannot be negative: gained {gained}, lost {lost}")
    if gained + lost == 0:
        return 1.0
    return float(_binomial_test(gained, gained + lost).pvalue)


def exact_sign_flip(values_N: Sequence[float]) -> float:
    """The exact two-sided p-value of a sum of differences: had each problem's difference in [-1, 1]
    come with the other sign as easily, how often would the sum be as far from 0?

    All 2^n signs count, as a convolution; for at most `FEW_PROBLEMS` values. 1 where none differs.
    """
    whole = [round(value * _GRID) for value in values_N]
    step = math.gcd(*whole) or 1  # of seeds and samples it is large, and the table small
    sizes = [abs(one) // step for one in whole if one]
    most = sum(sizes)
    chances = np.zeros(2 * most + 1)
    chances[most] = 1.0
    for size in sizes:
        turned = np.zeros_like(chances)
        turned[size:] += chances[: chances.size - size] / 2
        turned[: chances.size - size] += chances[size:] / 2
        chances = turned
    # Each was rounded by half a part: sums as near as that count as equal.
    as_far = abs(sum(whole)) - len(sizes)
    sums = np.abs(np.arange(-most, most + 1)) * step
    return min(1.0, float(chances[sums >= as_far].sum()))


def holding_0(interval: Interval, p_value: float) -> Interval:
    """The interval of a difference, as far as 0 where the test does not tell it from none."""
    low, high = interval
    return interval if distinguishable(p_value) else (min(low, 0.0), max(high, 0.0))


def paired_difference_ci(pairs: Pairs) -> Interval:
    """The 95 % interval of after - before, Newcombe's method 10 (square-and-add).

    With Wilson limits l, u of each proportion p and the correlation phi of the paired table,
        delta - sqrt((p2 - l2)^2 - 2 phi (p2 - l2)(u1 - p1) + (u1 - p1)^2)  up to
        delta + sqrt((u2 - p2)^2 - 2 phi (u2 - p2)(p1 - l1) + (p1 - l1)^2),
    1 before and 2 after. phi is corrected for continuity towards 0 where positive, and 0 where a
    margin of the table is empty. (-1, 1) of fewer than three pairs, and of fewer than
    `FEWEST_PROBLEMS` it holds 0: Wilson's limits hold far less than 95 % there.
    """
    if pairs.n < 3:
        return -1.0, 1.0
    p1, p2, n = pairs.before, pairs.after, pairs.n
    low1, high1 = wilson(pairs.both + pairs.lost, n)
    low2, high2 = wilson(pairs.both + pairs.gained, n)
    phi = _newcombe_phi(pairs)
    down2, up2, down1, up1 = p2 - low2, high2 - p2, p1 - low1, high1 - p1
    below = down2 * down2 - 2 * phi * down2 * up1 + up1 * up1
    above = up2 * up2 - 2 * phi * up2 * down1 + down1 * down1
    low = pairs.delta - math.sqrt(max(below, 0.0))
    high = pairs.delta + math.sqrt(max(above, 0.0))
    found = max(low, -1.0), min(high, 1.0)
    return found if n >= FEWEST_PROBLEMS else holding_0(found, 1.0)


def _newcombe_phi(pairs: Pairs) -> float:
    margins = (
        (pairs.both + pairs.lost)
        * (pairs.gained + pairs.neither)
        * (pairs.both + pairs.gained)
        * (pairs.lost + pairs.neither)
    )
    if margins == 0:
        return 0.0
    excess = float(pairs.both * pairs.neither - pairs.gained * pairs.lost)
    if excess > 0:
        excess = max(excess - pairs.n / 2, 0.0)
    return excess / math.sqrt(margins)


def smallest_detectable(pairs: Pairs, share_changed: float | None = None) -> float:
    """The true difference that n pairs show at 5 % in four of five repetitions (power 80 %).

    Where the exact power of the exact McNemar test, over how many problems change and how many of
    these are gained (Duffy 1984), reaches 80 %, by bisection. The share of problems that change is
    by default the observed one, and never less than the difference itself. 1 where no difference
    would show: without a single loss the test needs six gains.
    """
    n = pairs.n
    observed = (pairs.gained + pairs.lost) / n if n else 0.0
    changed = observed if share_changed is None else share_changed
    if _power(n, 1.0, changed) < POWER:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(n, middle, changed) < POWER else (low, middle)
    return high


def _power(n: int, difference: float, share_changed: float) -> float:
    """How often exact McNemar sees a true difference in n pairs."""
    from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

    changed = max(share_changed, difference)
    binom = cast(Any, stats).binom
    # How many change: beyond eight standard deviations it is no chance at all.
    mean, spread = n * changed, 8 * math.sqrt(n * changed * (1 - changed)) + 8
    m = np.arange(max(0, math.floor(mean - spread)), min(n, math.ceil(mean + spread)) + 1)
    gained_of_changed = (changed + difference) / (2 * changed)
    # Seen where no more than so many of the m are losses, or gains: twice the tail is under 5 %.
    most = binom.ppf(SIGNIFICANCE / 2, m, 0.5) - 1
    losses = binom.cdf(most, m, 1 - gained_of_changed)
    gains = binom.cdf(most, m, gained_of_changed)
    return float(binom.pmf(m, n, changed) @ (losses + gains))


def distinguishable(p_value: float) -> bool:
    """Whether a difference counts as seen: p under 0.05."""
    return p_value < SIGNIFICANCE


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """One yes-or-no outcome of the same n problems, before and after.

    `baseline` and `final` are shares with Wilson's intervals, `delta` is their difference with
    Newcombe's (method 10), `p_value` is the exact McNemar test's. `both` to `neither` count the
    problems by what became of them; `smallest_detectable` is the difference that n could show.
    """

    baseline: float
    final: float
    delta: float
    delta_ci95: Interval
    p_value: float
    baseline_ci95: Interval
    final_ci95: Interval
    n: int
    both: int
    gained: int
    lost: int
    neither: int
    smallest_detectable: float

    @classmethod
    def of(cls, pairs: Pairs) -> "Comparison":
        """The comparison of what was counted."""
        return cls(
            baseline=pairs.before,
            final=pairs.after,
            delta=pairs.delta,
            delta_ci95=paired_difference_ci(pairs),
            p_value=exact_mcnemar(pairs.gained, pairs.lost),
            baseline_ci95=wilson(pairs.both + pairs.lost, pairs.n),
            final_ci95=wilson(pairs.both + pairs.gained, pairs.n),
            n=pairs.n,
            both=pairs.both,
            gained=pairs.gained,
            lost=pairs.lost,
            neither=pairs.neither,
            smallest_detectable=smallest_detectable(pairs),
        )
