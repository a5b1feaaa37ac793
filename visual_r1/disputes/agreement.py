"""How unlikely it is that a policy agrees so often on one wrong answer, if the label is right.

Of each problem, n answers were given, and m of them are the most frequent one among those that are
not the gold answer. On the other problems the same is counted: how often a policy of this error
rate, with this diversity of wrong answers, agrees on a wrong one. The share q of the most frequent
wrong answer is taken to vary from problem to problem as a Beta distribution,

    q ~ Beta(a, b),   m | q ~ Binomial(n, q),   so m ~ BetaBinomial(n, a, b),

with a and b of greatest likelihood over all problems but the one that is asked about. Problems on
which the policy errs in one way, because they are hard, are among them and make the tail heavy, and
so do other wrong labels: the figure errs on the side of the gold answer.

    p = P(M >= m)      of the problems whose labels are right, the share on which this policy agrees
                       as much or more on a wrong answer
    expected           p times the problems: how many of these one would see by that alone
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats  # pyright: ignore[reportMissingTypeStubs]

# From fewer problems two parameters cannot be told.
FEWEST_PROBLEMS = 20

_optimize: Any = optimize  # they have no type stubs
_stats: Any = stats


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a policy agrees on wrong answers: Beta(a, b) of the most frequent one's share."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """The mean share of the most frequent wrong answer."""
        return self.a / (self.a + self.b)

    def at_least(self, m: int, n: int) -> float:
        """P(M >= m) of n answers."""
        return float(_stats.betabinom.sf(m - 1, n, self.a, self.b))


class Agreements:
    """The agreement on all problems of a split, and what it is without one of them.

    `pairs` are (m, n) of each problem.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        self._counts = Counter(pairs)
        self.problems = sum(self._counts.values())
        self._without: dict[tuple[int, int], Agreement | None] = {}
        self._whole = _fitted(self._counts, None)

    def p_value(self, m: int, n: int) -> float | None:
        """See the head of this file, for one of the problems; None where the others are too few to
        say."""
        pair = m, n
        if pair not in self._without:
            self._without[pair] = _fitted(self._counts - Counter([pair]), self._whole)
        found = self._without[pair]
        return None if found is None else found.at_least(m, n)


def _fitted(counts: Counter[tuple[int, int]], start: Agreement | None) -> Agreement | None:
    """Of greatest likelihood; None where too few problems are there."""
    if sum(counts.values()) < FEWEST_PROBLEMS:
        return None
    m_P, n_P = (np.array(column, dtype=np.float64) for column in zip(*counts, strict=True))
    weights_P = np.array([counts[pair] for pair in counts], dtype=np.float64)

    def loss(log_ab: Any) -> float:
        a, b = np.exp(np.clip(log_ab, -12, 12))
        return -float(weights_P @ _stats.betabinom.logpmf(m_P, n_P, a, b))

    begin = (start.a, start.b) if start else (0.5, 2.0)
    found = _optimize.minimize(loss, np.log(begin), method="Nelder-Mead")
    a, b = np.exp(np.clip(found.x, -12, 12))
    return Agreement(float(a), float(b))
