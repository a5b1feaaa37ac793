"""What a budget buys: groups, batch and steps of a run, and the smallest gain that it could show.

The rule, in this order:

1. `evaluation.samples` is halved, down to 1, and then `evaluation.problems`, down to 100, until the
   two evaluations take no more than a third of the budget: what is not trained cannot gain.
2. `train.group_size` is the smallest of 4, 8, 16, 32 and 64 of whose groups at most half are
   without contrast, at the pass rates that were measured; the configured one where nothing was, or
   none of them does.
3. `train.batch_size` is the configured one, halved, down to 4 problems, until the rest pays for 40
   steps: a policy needs updates more than large ones.
4. `train.steps` are as many as the rest pays for, in whole chunks, with their validations; no more
   than 20 passes over the training problems.

The gain: what the exact paired test at 5 % finds in four of five evaluations, see
`smallest_detectable`, on the test problems that are asked, of which as many change their verdict as
two independent samples of the base model differ in; a quarter where nothing was sampled twice.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.doctor.checks import GROUP_SIZES, MOST_EPOCHS, MOST_WITHOUT_CONTRAST
from visual_r1.doctor.estimates import evaluation_tokens, workload
from visual_r1.doctor.evidence import Evidence, smallest_group
from visual_r1.doctor.prompts import FirstRows, PromptSizes
from visual_r1.errors import ConfigError
from visual_r1.evaluation.statistics import Pairs, smallest_detectable
from visual_r1.prices import Prices

MOST_FOR_EVALUATIONS = 1 / 3
FEWEST_PROBLEMS = 100
FEWEST_A_BATCH = 4
LEAST_STEPS = 40
CHANGED_UNKNOWN = 0.25

Cost = Callable[[RunConfig], float]
"""What a run of a configuration takes, in US dollars."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run that `budget` US dollars pay for; it would take `usd`, `evaluations` of them for both
    evaluations, and show a gain of `gain` (a share) on `test` problems. `measured` says
    that what that depends on was. With `at_most` each answer is taken to be as long as it may be.
    """

    budget: float
    config: RunConfig
    changes: Mapping[str, int]
    usd: float
    evaluations: float
    test: int
    gain: float
    measured: bool
    at_most: bool

    @property
    def flags(self) -> str:
        """The flags that ask for it, its budget among them."""
        flags = [f"--{name} {value}" for name, value in self.changes.items()]
        return " ".join([*flags, f"--limits.budget_usd {self.budget:g}"])

    def lines(self) -> Iterator[tuple[str, str]]:
        """What it is, and what it could show."""
        train, most = self.config.train, "at most " if self.at_most else "about "
        yield (
            "groups, batch, steps",
            f"{train.group_size} samples a problem, {train.batch_size} problems a step, "
            f"{train.steps} steps",
        )
        yield (
            "cost",
            f"{most}${self.usd:,.2f}, of which both evaluations ${self.evaluations:,.2f}",
        )
        change = "measured" if self.measured else "assumed"
        yield (
            "smallest gain",
            f"{100 * self.gain:.1f} points of accuracy on {self.test} test problems would show in "
            f"four of five runs (share of verdicts that change: {change})",
        )
        yield "flags", self.flags


def propose(
    config: RunConfig,
    budget: float,
    prices: Prices,
    prompts: PromptSizes,
    evidence: Evidence | None,
    first: FirstRows,
) -> Proposal:
    """What `budget` US dollars buy of a run of `config`, by the rule above.

    Raises `ConfigError` where they do not pay for one chunk, or where prices are missing.
    """

    def usd(config: RunConfig) -> float:
        work = workload(config, prompts, evidence, first.test_rows, first.validation_rows)
        return prices.cost(work.tokens) or 0.0

    def both_evaluations(config: RunConfig) -> float:
        answer = _answer(config, evidence)
        once = evaluation_tokens(config, prompts, answer, first.test_rows)
        return 2 * (prices.cost(once) or 0.0)

    if not 0 < budget < math.inf:
        raise ConfigError(f"A budget of {budget} US dollars buys nothing: it is more than 0.")
    if not prices.known:
        raise ConfigError(
            "A budget cannot be planned without prices: set --prices.prefill, --prices.sample and "
            "--prices.train."
        )
    proposed = _with_evaluation(config, both_evaluations, budget, first.test_rows)
    proposed = _with(proposed, "train", group_size=_group_size(config, evidence))
    chunk = config.train.chunk_steps
    while True:
        steps = _steps(proposed, usd, budget, first.training_rows)
        if steps >= LEAST_STEPS or proposed.train.batch_size // 2 < FEWEST_A_BATCH:
            break
        proposed = _with(proposed, "train", batch_size=proposed.train.batch_size // 2)
    if steps < 1:
        least = usd(_with(proposed, "train", steps=min(chunk, config.train.steps)))
        raise ConfigError(
            f"${budget:,.2f} do not pay for one chunk: {chunk} steps of "
            f"{proposed.train.batch_size} x {proposed.train.group_size} samples and both "
            f"evaluations take {'at most' if _answer_unknown(evidence) else 'about'} "
            f"${least:,.2f}. Take a larger budget, a cheaper model, fewer --train.chunk_steps or a "
            "shorter --sampling.max_new_tokens."
        )
    proposed = _with(proposed, "train", steps=steps)
    test = proposed.evaluation.count(first.test_rows)
    changed = _share_that_changes(evidence)
    return Proposal(
        budget=budget,
        config=proposed,
        changes={
            f"{section}.{name}": value
            for section, name, value, before in _compared(config, proposed)
            if value != before or section == "train"
        },
        usd=usd(proposed),
        evaluations=both_evaluations(proposed),
        test=test,
        gain=smallest_detectable(
            Pairs(0, 0, 0, test), CHANGED_UNKNOWN if changed is None else changed
        ),
        measured=changed is not None,
        at_most=_answer_unknown(evidence),
    )


def _with_evaluation(config: RunConfig, cost: Cost, budget: float, test_rows: int) -> RunConfig:
    while cost(config) > MOST_FOR_EVALUATIONS * budget:
        evaluation = config.evaluation
        asked = evaluation.count(test_rows)
        if evaluation.samples > 1:
            config = _with(config, "evaluation", samples=evaluation.samples // 2)
        elif asked // 2 >= FEWEST_PROBLEMS:
            config = _with(config, "evaluation", problems=asked // 2)
        else:
            break
    return config


def _group_size(config: RunConfig, evidence: Evidence | None) -> int:
    if evidence is None:
        return config.train.group_size
    found = smallest_group(evidence.counts, MOST_WITHOUT_CONTRAST, GROUP_SIZES)
    return found or config.train.group_size


def _steps(config: RunConfig, cost: Cost, budget: float, training_rows: int) -> int:
    """As many steps, in whole chunks, as the budget pays for; 0 where it pays for no chunk."""
    chunk = config.train.chunk_steps

    def of(chunks: int) -> float:
        return cost(_with(config, "train", steps=chunks * chunk))

    most = max(MOST_EPOCHS * training_rows // (config.train.batch_size * chunk), 1)
    low, high = 0, most + 1  # chunks that are paid for, and that are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if of(middle) <= budget else (low, middle)
    return low * chunk


def _share_that_changes(evidence: Evidence | None) -> float | None:
    """How often two samples of a problem differ, as a mean over problems: 2 c (n - c) / n (n - 1)
    of c right ones of n."""
    counts = [(c, n) for c, n in evidence.counts if n >= 2] if evidence else []
    return fmean(2 * c * (n - c) / (n * (n - 1)) for c, n in counts) if counts else None


def _answer(config: RunConfig, evidence: Evidence | None) -> float:
    measured = evidence.response_tokens if evidence else None
    return float(config.sampling.max_new_tokens) if measured is None else measured


def _answer_unknown(evidence: Evidence | None) -> bool:
    return evidence is None or evidence.response_tokens is None


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    changed = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: changed})


def _compared(config: RunConfig, proposed: RunConfig) -> Iterator[tuple[str, str, Any, Any]]:
    for section, name in (
        ("train", "group_size"),
        ("train", "batch_size"),
        ("train", "steps"),
        ("evaluation", "samples"),
        ("evaluation", "problems"),
    ):
        before, after = (getattr(getattr(one, section), name) for one in (config, proposed))
        yield section, name, after, before
