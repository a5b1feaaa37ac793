"""What the controls say: how much of what is right comes from the picture.

A control asks the same problems in a way in which the picture cannot be seen, or not well:

    blind           the picture is white, and of the same size
    other_image     the picture is that of another problem, see `other_images`
    masked_image    60 % of the picture's patches are black
    question_only   no picture, and no choices where the answer is a value
    scan_only       no picture, but what the policy wrote of it (its masked scan)

Each is paired with the greedy answers, problem by problem: the four outcomes (right both times,
with the image only, without it only, neither), the difference with Newcombe's interval and the
exact McNemar test.

Seeing against thinking is one figure,

    seeing = 1 - (right without the picture) / (right with it)

over the problems that were answered both times: the share of what is right that is owed to the
picture. At 1 nothing is right without it; at 0 the text alone does as well, and all that is right
was thought, known or guessed; below 0 the picture does harm. What is guessed right counts on both
sides, and so does not pass for seeing. The difference of the same two shares is what Chen et al.
(2024, MMStar) call multi-modal gain; divided by the share with the picture it can be compared
between a weak policy and a strong one, which a difference cannot: it is bounded by the accuracy.

The interval is that of the ratio of two paired proportions by Bonett and Price: the problems are
the same both times, and problems that are never right say nothing of the ratio. Without is the
first of `WITHOUT` that was asked; the figure names it, for figures of different controls are not
the same figure.

References
    Bonett and Price (2006), Confidence intervals for a ratio of binomial proportions based on
        paired data. Statistics in Medicine 25, 3039-3047 (the hybrid Wilson score interval).
    Fagerland, Lydersen and Laake (2014), Recommended tests and confidence intervals for paired
        binomial proportions. Statistics in Medicine 33, 2850-2875, who recommend it.
    Chen et al. (2024), Are we on the right way for evaluating large vision-language models?
        arXiv:2403.20330.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from visual_r1.config.judging import CONTROLS, Control
from visual_r1.evaluation.prediction import PASSES, Pass, Prediction
from visual_r1.evaluation.statistics import (
    Interval,
    Pairs,
    exact_mcnemar,
    paired_difference_ci,
    wilson,
)

WITHOUT: tuple[Control, ...] = ("blind", "question_only", "other_image")
_Z = 1.959963984540054  # the normal quantile of 95 %, two-sided


@dataclass(frozen=True, slots=True)
class ControlFigures:
    """What a control gave; shares from 0 to 1. `n` were answered in it, `paired` also greedily.

    `outcomes` are the shares of both, image_only, without_only and neither among the paired, with
    Wilson's intervals in `outcomes_ci95` (an older version wrote none). `difference` is the greedy
    accuracy minus the control's, over these.
    """

    n: int
    correct: int
    accuracy: float
    accuracy_ci95: Interval
    paired: int
    outcomes: Mapping[str, float]
    difference: float
    difference_ci95: Interval
    p_value: float
    outcomes_ci95: Mapping[str, Interval] = field(default_factory=dict[str, Interval])

    def interval(self, outcome: str) -> Interval:
        """That of an outcome's share, also where none was written."""
        known = self.outcomes_ci95.get(outcome)
        return known or wilson(round(self.outcomes[outcome] * self.paired), self.paired)


@dataclass(frozen=True, slots=True)
class Seeing:
    """Seeing against thinking, see above; `without` is the control that it is of.

    The interval's lower end is -inf where next to nothing is right with the picture; in a file it
    is null.
    """

    value: float
    ci95: tuple[float | None, float]
    without: str
    n: int


@dataclass(frozen=True, slots=True)
class BothRoundings:
    """The accuracy of a pass under the exact and the rounded comparison, over all its answers; in
    the sampled pass they are several a problem."""

    answers: int
    exact: float
    rounded: float


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls of an evaluation by name, and what comes of them; `seeing` is None where nothing
    was right with the picture, or nothing was asked without it."""

    by_name: Mapping[str, ControlFigures]
    seeing: Seeing | None
    roundings: Mapping[str, BothRoundings]


def count_controls(predictions: Sequence[Prediction]) -> Controls:
    """The figures of all controls that any of `predictions` has an answer to."""
    by_name: dict[str, ControlFigures] = {}
    seeing: Seeing | None = None
    for name in sorted(CONTROLS, key=lambda name: name not in WITHOUT):
        pairs = _pairs(predictions, name)
        answered = [right for one in predictions if (right := one.right_in(name)) is not None]
        if not answered:
            continue
        outcomes = _outcomes(pairs)
        by_name[name] = ControlFigures(
            n=len(answered),
            correct=sum(answered),
            accuracy=sum(answered) / len(answered),
            accuracy_ci95=wilson(sum(answered), len(answered)),
            paired=pairs.n,
            outcomes={name: count / pairs.n if pairs.n else 0.0 for name, count in outcomes},
            difference=pairs.delta,
            difference_ci95=paired_difference_ci(pairs),
            p_value=exact_mcnemar(pairs.gained, pairs.lost),
            outcomes_ci95={name: wilson(count, pairs.n) for name, count in outcomes},
        )
    for name in WITHOUT:
        if seeing is None and name in by_name:
            seeing = seeing_of(_pairs(predictions, name), name)
    ordered = {name: by_name[name] for name in CONTROLS if name in by_name}
    return Controls(ordered, seeing, _roundings(predictions))


def _pairs(predictions: Sequence[Prediction], name: Pass) -> Pairs:
    """Without (before) and with the picture (after), of the problems that were answered both
    times."""
    both = [
        (without, one.greedy.right)
        for one in predictions
        if one.greedy is not None and (without := one.right_in(name)) is not None
    ]
    return Pairs.count([without for without, _ in both], [seen for _, seen in both])


def _outcomes(pairs: Pairs) -> tuple[tuple[str, int], ...]:
    return (
        ("both", pairs.both),
        ("image_only", pairs.gained),
        ("without_only", pairs.lost),
        ("neither", pairs.neither),
    )


def seeing_of(pairs: Pairs, without: str) -> Seeing | None:
    """Seeing against thinking of `pairs` (before: without the picture); None where it is of
    nothing."""
    if not pairs.both + pairs.gained:
        return None
    low, high = paired_ratio_ci(pairs)
    ratio = (pairs.both + pairs.lost) / (pairs.both + pairs.gained)
    lowest = 1 - high if math.isfinite(high) else None
    return Seeing(1 - ratio, (lowest, 1 - low), without, pairs.n)


def paired_ratio_ci(pairs: Pairs) -> Interval:
    """The 95 % interval of before / after, the hybrid Wilson score interval of Bonett and Price.

    Of the n* problems that were right at least once, with counts a (before) and b (after),
        k = z A / (B + C),  A^2 = (gained + lost + 2) / ((a + 1)(b + 1)),
        B^2 = (1 - (a + 1) / (n* + 2)) / (a + 1),  C^2 the same of b,
    and the interval is [l_a / u_b, u_a / l_b] of the Wilson limits l, u at k in place of z. The
    upper end is infinite where b is 0, and (0, inf) where nothing was ever right.
    """
    n = pairs.both + pairs.gained + pairs.lost
    if n == 0:
        return 0.0, math.inf
    before, after = pairs.both + pairs.lost, pairs.both + pairs.gained
    changed = math.sqrt((pairs.gained + pairs.lost + 2) / ((before + 1) * (after + 1)))

    def spread(count: int) -> float:
        return math.sqrt((1 - (count + 1) / (n + 2)) / (count + 1))

    k = _Z * changed / (spread(before) + spread(after))

    def limits(count: int) -> Interval:
        middle, root = 2 * count + k * k, k * math.sqrt(k * k + 4 * count * (1 - count / n))
        return (middle - root) / (2 * (n + k * k)), (middle + root) / (2 * (n + k * k))

    (low_before, high_before), (low_after, high_after) = limits(before), limits(after)
    low = max(low_before, 0.0) / high_after
    return low, high_before / low_after if after else math.inf


def _roundings(predictions: Sequence[Prediction]) -> Mapping[str, BothRoundings]:
    found: dict[str, BothRoundings] = {}
    for name in PASSES:
        pairs = [pair for one in predictions for pair in one.roundings_in(name)]
        if pairs and name != "described":
            exact, rounded = (sum(right) / len(pairs) for right in zip(*pairs, strict=True))
            found[name] = BothRoundings(len(pairs), exact, rounded)
    return found
