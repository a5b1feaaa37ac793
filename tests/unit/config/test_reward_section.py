"""The table of reward components: what a new one needs is a field and a function."""

from typing import Annotated

import pytest

from visual_r1.config import RewardSection, RunConfig, Weight
from visual_r1.config.run_config import contradictions


class WithOneMore(RewardSection):
    """The table with a component more."""

    invented: Annotated[float, Weight(habit=True)] = 0.25


NOTHING = dict.fromkeys(RewardSection.table(), 0.0)


def test_weights_are_by_name_and_custom_is_one_where_a_function_is_named() -> None:
    plain = RewardSection().weights
    assert list(plain) == list(RewardSection.table())
    pays = {name: weight for name, weight in plain.items() if weight}
    assert pays == {"format": 0.5, "accuracy": 1.0, "visual_grounding": 0.1}
    mine = RewardSection(custom="mine:my_reward", custom_weight=2.0)
    assert mine.weights == {**plain, "custom": 2.0}


@pytest.mark.parametrize("name", RewardSection.table())
@pytest.mark.parametrize("weight", [0.5, -0.5])
def test_every_component_may_be_the_only_one_that_counts(name: str, weight: float) -> None:
    config = RunConfig.model_validate({"reward": NOTHING | {name: weight}})
    assert config.reward.weights[name] == weight


def test_a_new_component_is_a_field_and_may_be_the_only_one_that_counts() -> None:
    assert WithOneMore().weights == {**RewardSection().weights, "invented": 0.25}
    assert WithOneMore.table()["invented"].habit
    config = RunConfig()
    alone, none = (
        config.model_copy(update={"reward": WithOneMore(**NOTHING, invented=weight)})
        for weight in (1.0, 0.0)
    )
    assert list(contradictions(alone)) == []
    [sentence] = contradictions(none)
    assert sentence.startswith("Nothing can be learnt")
