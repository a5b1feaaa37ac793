"""Curriculum: a step draws the problems whose groups are likely to have contrast.

A group of G samples teaches nothing where all of them are right or all wrong. How likely that is
follows from what the run has measured of the problem, and of its family while little is known of
the problem itself. With n problems, at the start of a step,

    s_i, f_i   the right and wrong attempts at problem i in earlier steps, each worth 2^(-age / h)
    m_k        (1 + Σ s_i) / (2 + Σ (s_i + f_i)) over the problems of family k
    p_i        ~ Beta(α_i, β_i) with α_i = c · m_k + s_i and β_i = c · (1 - m_k) + f_i
    v_i        = E[1 - p_i^G - (1 - p_i)^G]                            the expected contrast
               = 1 - Π_j (α_i + j) / (α_i + β_i + j) - Π_j (β_i + j) / (α_i + β_i + j), j = 0 … G-1
    w_i        = u / n + (1 - u) · v_i / Σ v

where age counts the steps since (0 for the last one), h is `curriculum.half_life`, c
`curriculum.prior_attempts` and u `curriculum.uniform_share`. Problems are drawn one after another
with probabilities in proportion to w, without putting any back; a further round of the same step
goes on where the one before ended. u > 0 keeps every problem within reach: what is solved today may
be forgotten, and what nobody could solve may be learnt.

What counts is whether an answer was right, never its reward. Samples that failed, and answers on
which the grader gave up, are no attempts: the problem was not measured by them.

A Beta posterior of the pass rate, with old attempts fading, is that of Qu et al. 2025 (MoPPS,
arXiv:2507.04632), who draw from it and take the problems nearest to 1/2; weights instead of a
ranking keep the draw mixed. For G = 2, v is twice the mean of p (1 - p), the learnability of Foster
et al. 2025 (arXiv:2502.12272); see also Bae et al. 2025 (arXiv:2504.03380). The draw is that of
Efraimidis and Spirakis 2006, with -ln(U_i) / w_i as keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from visual_r1.config import CurriculumSection, RunConfig
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import RolloutGroup

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

# Below any contrast that matters, and above the rounding of 1 - p^G - (1 - p)^G.
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Measured:
    """`right_N` and `wrong_N`: the attempts at each of N problems so far, the older the less."""

    right_N: Floats
    wrong_N: Floats

    def after(self, places: Sequence[int], groups: Sequence[RolloutGroup], h: float) -> "Measured":
        """What is known after a step that sampled `groups`, of the problems at `places`."""
        fade = 2.0 ** (-1.0 / h)
        right, wrong = self.right_N * fade, self.wrong_N * fade
        for place, group in zip(places, groups, strict=True):
            # Where the user's own reward failed, the answer was graded all the same.
            verdicts = [one.scored.grade.verdict for one in (*group.rollouts, *group.unscored)]
            right[place] += verdicts.count("right")
            wrong[place] += verdicts.count("wrong")
        return Measured(right, wrong)

    @property
    def tried_N(self) -> npt.NDArray[np.bool_]:
        """Which problems were ever measured."""
        return self.right_N + self.wrong_N > 0


@dataclass(frozen=True, slots=True)
class Prospects:
    """What the groups of N problems will probably be like, and their weights in the draw."""

    pass_rate_N: Floats
    contrast_N: Floats
    tried_N: npt.NDArray[np.bool_]
    weight_N: Floats


@dataclass(frozen=True, slots=True)
class ExpectedBatch:
    """What was expected of a step's problems before anything was sampled.

    `pass_rate` is the mean of their expected pass rates, to be compared with the step's accuracy;
    `contrast` the expected share of groups with contrast; `untried` the share never measured.
    """

    pass_rate: float
    contrast: float
    untried: float

    def row(self) -> Mapping[str, float]:
        """The part of a row of metrics.jsonl that a run without a curriculum does not have."""
        return {
            "curriculum_pass_rate": self.pass_rate,
            "curriculum_contrast": self.contrast,
            "curriculum_untried": self.untried,
        }


def nothing_measured(count: int) -> Measured:
    """The state before the first step."""
    return Measured(np.zeros(count), np.zeros(count))


def prospects(
    measured: Measured, family_N: Places, group_size: int, settings: CurriculumSection
) -> Prospects:
    """m, v and w of the formulas above; `family_N` holds the number of each problem's family."""
    right, wrong = measured.right_N, measured.wrong_N
    right_F = np.bincount(family_N, weights=right)
    tried_F = right_F + np.bincount(family_N, weights=wrong)
    prior = ((1 + right_F) / (2 + tried_F))[family_N] * settings.prior_attempts
    alpha, beta = prior + right, settings.prior_attempts - prior + wrong
    contrast = expected_contrast(alpha, beta, group_size)
    share = settings.uniform_share
    weight = share / len(right) + (1 - share) * contrast / contrast.sum()
    return Prospects(alpha / (alpha + beta), contrast, measured.tried_N, weight)


def expected_contrast(alpha_N: Floats, beta_N: Floats, group_size: int) -> Floats:
    """E[1 - p^G - (1 - p)^G] for p ~ Beta(α, β), positive."""
    all_right, all_wrong = np.ones_like(alpha_N), np.ones_like(beta_N)
    for j in range(group_size):
        all_right *= (alpha_N + j) / (alpha_N + beta_N + j)
        all_wrong *= (beta_N + j) / (alpha_N + beta_N + j)
    return np.maximum(1 - all_right - all_wrong, _LEAST)


def drawing_order(weight_N: Floats, seed: int, step: int) -> Places:
    """All N problems in the order in which the step draws them; depends on the arguments alone."""
    bits = np.random.Philox(key=stable_seed("curriculum", seed, step)).random_raw(len(weight_N))
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.argsort(-np.log(uniform) / weight_N, kind="stable")


class CurriculumOrder:
    """The order of the curriculum, over problems whose families have the numbers `family_N`.

    `measured` is what is known at the start of the next step. The order of a step is drawn when it
    is first asked for, and stays as it is whatever is observed meanwhile.
    """

    needs_samples = True

    def __init__(self, config: RunConfig, family_N: Places, measured: Measured) -> None:
        self._config, self._family_N, self.measured = config, family_N, measured
        self._drawn: dict[int, tuple[Prospects, Places]] = {}

    def places(self, step: int, round: int) -> list[int]:
        """The next `train.batch_size` of the step's order; round after round through all of it."""
        _, order = self._order(step)
        size = self._config.train.batch_size
        return [int(order[at % len(order)]) for at in range(round * size, (round + 1) * size)]

    def observe(self, step: int, groups: Sequence[RolloutGroup]) -> ExpectedBatch:
        """Measure the problems that `step` sampled, see `Measured.after`."""
        found, order = self._order(step)
        places = [int(order[at % len(order)]) for at in range(len(groups))]
        half_life = self._config.curriculum.half_life
        self.measured = self.measured.after(places, groups, half_life)
        del self._drawn[step]
        return ExpectedBatch(
            pass_rate=float(found.pass_rate_N[places].mean()),
            contrast=float(found.contrast_N[places].mean()),
            untried=float(1 - found.tried_N[places].mean()),
        )

    def _order(self, step: int) -> tuple[Prospects, Places]:
        if step not in self._drawn:
            train = self._config.train
            found = prospects(
                self.measured, self._family_N, train.group_size, self._config.curriculum
            )
            self._drawn[step] = found, drawing_order(found.weight_N, train.seed, step)
        return self._drawn[step]
