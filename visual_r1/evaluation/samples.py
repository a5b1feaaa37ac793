"""What k samples of a problem are worth: avg@k, pass@k and maj@k.

    avg@k   the share of right samples;
    pass@k  the chance that one of k is right, unbiased from n >= k samples (Chen et al. 2021);
    maj@k   the chance that the answer most samples agree on is right. Right samples are one
            answer, the others are grouped by the grader's equivalence. A sample without an answer
            has no vote. Where several answers lead with as many votes each is drawn with the same
            chance, and the value is the expected one: no order of the samples decides it.

References
    Chen et al. (2021), Evaluating large language models trained on code. arXiv:2107.03374.
    Wang et al. (2022), Self-consistency improves chain of thought reasoning. arXiv:2203.11171.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from visual_r1.evaluation.clustered import Estimate, mean_share
from visual_r1.grading import Rounding, is_equivalent


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate that one of k samples is right, from `correct` of `n`.

    1 - C(n - c, k) / C(n, k). Raises `ValueError` unless 1 <= k <= n and 0 <= correct <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} cannot be estimated from {correct} right of {n} samples")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mean_pass_at_k(counts_N: Iterable[tuple[int, int]], k: int) -> Estimate:
    """pass@k over problems, from (samples, correct) of each, with a 95 % interval over problems.

    pass@1 is avg@n. Problems with fewer than k samples are left out.
    """
    return mean_share([pass_at_k(n, c, k) for n, c in counts_N if n >= k])


def majority(answers_K: Sequence[tuple[str | None, bool]], rounding: Rounding = "exact") -> float:
    """The chance that the majority's answer is right, from the k (answer, whether it is right)."""
    right = sum(is_right for _, is_right in answers_K)
    wrong = Counter(answer for answer, is_right in answers_K if not is_right and answer is not None)
    if right == 0 or right > wrong.total():
        return float(right > 0)
    votes: list[list[str]] = []  # a list a group: its spellings
    for answer in wrong:
        group = next((one for one in votes if _same(answer, one[0], rounding)), None)
        if group is None:
            votes.append([answer])
        else:
            group.append(answer)
    counts = [sum(wrong[answer] for answer in group) for group in votes]
    if max(counts) > right:
        return 0.0
    return 1.0 / (1 + counts.count(right))


@lru_cache(maxsize=65_536)
def _same(answer: str, other: str, rounding: Rounding) -> bool:
    return is_equivalent(answer, other, rounding)
