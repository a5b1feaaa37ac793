"""How many groups will have no contrast: all samples right, or all wrong.

A problem that is solved with probability p gives a group of G without contrast with probability
p^G + (1 - p)^G. The mean of that over problems is what matters, and it is far larger than the same
formula at the mean of p: most problems are easy or hard. So p's spread is estimated too.
"""

import math
from collections.abc import Sequence
from statistics import fmean

Counts = Sequence[tuple[int, int]]


def share_without_contrast(counts: Counts, group_size: int) -> float | None:
    """The predicted share of groups of `group_size` without contrast.

    Args:
        counts: for each problem, how many of its n samples were right, and n.
        group_size: G.

    Where n >= G, it is unbiased: [C(c, G) + C(n - c, G)] / C(n, G), the share of subsets of G that
    agree (as for pass@k; Chen et al. 2021, arXiv 2107.03374). Else p is taken to follow a Beta
    distribution with the mean and the E[p(1 - p)] that pairs of samples show. None where no problem
    has two samples.
    """
    counts = [(right, samples) for right, samples in counts if samples >= 2]
    if not counts:
        return None
    if all(samples >= group_size for _, samples in counts):
        return fmean(_agreeing(right, samples, group_size) for right, samples in counts)
    mean = sum(right for right, _ in counts) / sum(samples for _, samples in counts)
    disagreeing = 1 - fmean(_agreeing(right, samples, 2) for right, samples in counts)
    return _beta_share(mean, disagreeing / 2, group_size)


def smallest_group(counts: Counts, most: float, candidates: Sequence[int]) -> int | None:
    """The smallest of `candidates` whose predicted share is at most `most`, if any."""
    for size in sorted(candidates):
        share = share_without_contrast(counts, size)
        if share is not None and share <= most:
            return size
    return None


def _agreeing(right: int, samples: int, size: int) -> float:
    same = math.comb(right, size) + math.comb(samples - right, size)
    return same / math.comb(samples, size)


def _beta_share(mean: float, variation: float, size: int) -> float:
    """E[p^G + (1-p)^G] for a Beta with E[p] = `mean` and E[p(1-p)] = `variation`.

    With s = a + b, E[p(1-p)] = mean (1 - mean) s / (s + 1), so s = r / (1 - r) for the ratio r.
    """
    most = mean * (1 - mean)
    if variation <= 0 or most <= 0:
        return 1.0
    ratio = variation / most
    if ratio >= 1:  # all problems alike
        return float(mean**size + (1 - mean) ** size)
    total = ratio / (1 - ratio)
    a, b = mean * total, (1 - mean) * total
    return math.prod((a + i) / (total + i) for i in range(size)) + math.prod(
        (b + i) / (total + i) for i in range(size)
    )
