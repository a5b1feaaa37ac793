"""What a budget buys, and whether it buys what was said."""

import pytest

from visual_r1.config import RunConfig
from visual_r1.doctor.estimates import workload
from visual_r1.doctor.evidence import Evidence
from visual_r1.doctor.prompts import FirstRows, PromptSizes
from visual_r1.doctor.proposal import FEWEST_A_BATCH, LEAST_STEPS, Proposal, propose
from visual_r1.errors import ConfigError
from visual_r1.evaluation.statistics import Pairs, smallest_detectable
from visual_r1.prices import Prices

PRICES = Prices(0.54, 1.335, 1.177)
PROMPTS = PromptSizes(prompts=64, mean=400.0, longest=900, image_mean=300.0, image_longest=800)
FIRST = FirstRows((), (), training_rows=2100, test_rows=601, validation_rows=300)
CONFIG = RunConfig.model_validate(
    {
        "model": {"name": "Qwen/Qwen3.6-35B-A3B"},
        "train": {"batch_size": 32, "group_size": 8, "chunk_steps": 10, "steps": 500},
        "validation": {"every": 2, "problems": 64},
    }
)


def evidence(*right: int) -> Evidence:
    counts = tuple((one, 8) for one in right or (4,))
    return Evidence("a test", counts * 25, 600.0, 0.0, 1000.0, 2000.0)


def bought(budget: float, seen: Evidence | None = None, **train: object) -> Proposal:
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update=train)})
    return propose(config, budget, PRICES, PROMPTS, seen, FIRST)


def test_what_is_proposed_costs_no_more_than_the_budget_and_uses_it() -> None:
    for budget in (30.0, 60.0, 200.0):
        made = bought(budget, evidence())
        work = workload(made.config, PROMPTS, evidence(), FIRST.test_rows, FIRST.validation_rows)
        assert made.usd == pytest.approx(PRICES.cost(work.tokens))
        assert made.usd <= budget
        longer = made.config.train.model_copy(update={"steps": made.config.train.steps + 10})
        more = made.config.model_copy(update={"train": longer})
        work = workload(more, PROMPTS, evidence(), FIRST.test_rows, FIRST.validation_rows)
        cost = PRICES.cost(work.tokens)
        passes = longer.steps * longer.batch_size / FIRST.training_rows
        assert cost is not None
        assert cost > budget or passes > 20
        assert made.config.train.steps % 10 == 0
        assert made.evaluations <= budget / 3


def test_groups_are_the_smallest_that_teach_and_batches_leave_forty_steps() -> None:
    assert bought(200.0, evidence()).config.train.group_size == 4
    # Half of the problems are never right, and of the others groups of four are seldom all wrong.
    assert bought(200.0, evidence(0, 3)).config.train.group_size == 8
    assert bought(200.0).config.train.group_size == CONFIG.train.group_size
    poor = bought(10.0, evidence())
    assert poor.config.train.batch_size < CONFIG.train.batch_size
    assert (
        poor.config.train.steps >= LEAST_STEPS or poor.config.train.batch_size < 2 * FEWEST_A_BATCH
    )


def test_the_gain_is_that_of_the_paired_test_on_the_problems_that_are_asked() -> None:
    made = bought(200.0, evidence())
    changed = 2 * 4 * 4 / (8 * 7)  # two samples of a problem that is right one time in two
    assert made.measured
    assert made.gain == smallest_detectable(Pairs(0, 0, 0, made.test), changed)
    assert bought(200.0).gain == smallest_detectable(Pairs(0, 0, 0, made.test), 0.25)
    fewer = bought(8.0, evidence(), chunk_steps=1, batch_size=8)
    assert fewer.test < made.test
    assert fewer.gain > made.gain
    assert f"--evaluation.problems {fewer.test}" in fewer.flags
    assert fewer.flags.endswith("--limits.budget_usd 8")


def test_what_buys_nothing_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"\$0.10 do not pay for one chunk: 10 steps of 4 x 4"):
        bought(0.1, evidence())
    with pytest.raises(ConfigError, match="cannot be planned without prices"):
        propose(CONFIG, 40.0, Prices(), PROMPTS, None, FIRST)
