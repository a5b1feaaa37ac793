import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from visual_r1.config import RunConfig
from visual_r1.rl.learning import learning_rate


def rates(steps: int, total: int = 500, **optimizer: Any) -> list[float]:
    config = RunConfig.model_validate(
        {"train": {"learning_rate": 8e-4, "steps": total}, "optimizer": optimizer}
    )
    return [learning_rate(config, step) for step in range(steps)]


def test_the_default_is_constant() -> None:
    assert rates(3) == [8e-4] * 3


def test_warm_up_by_hand() -> None:
    assert rates(6, warmup_steps=4) == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4, 8e-4])


def test_linear_by_hand() -> None:
    found = rates(6, schedule="linear", schedule_steps=4)
    assert found == pytest.approx([8e-4, 6e-4, 4e-4, 2e-4, 0, 0])
    half = rates(6, schedule="linear", schedule_steps=4, final_fraction=0.5)
    assert half == pytest.approx([8e-4, 7e-4, 6e-4, 5e-4, 4e-4, 4e-4])


def test_cosine_by_hand() -> None:
    found = rates(6, schedule="cosine", schedule_steps=4)
    root = math.sqrt(0.5)
    shares = [1, (1 + root) / 2, 0.5, (1 - root) / 2, 0, 0]
    assert found == pytest.approx([8e-4 * share for share in shares], abs=1e-12)


def test_warm_up_and_fall() -> None:
    found = rates(7, schedule="linear", schedule_steps=6, warmup_steps=2)
    assert found == pytest.approx([4e-4, 8e-4, 8e-4, 6e-4, 4e-4, 2e-4, 0])


@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.integers(0, 20),
    st.integers(21, 60),
    st.floats(0, 1),
)
def test_it_rises_then_falls_to_the_fraction_whatever_the_goal_of_the_run(
    schedule: str, warmup: int, end: int, left: float
) -> None:
    settings = {
        "schedule": schedule,
        "warmup_steps": warmup,
        "schedule_steps": end,
        "final_fraction": left,
    }
    found = rates(80, **settings)
    assert found[:warmup] == sorted(found[:warmup])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert found[-1] == pytest.approx(8e-4 * (1 if schedule == "constant" else left))
    # A run made longer has the same rate at every step it has done.
    assert rates(80, total=900, **settings) == found


def test_a_schedule_needs_its_own_end() -> None:
    with pytest.raises(ValidationError, match=r"cosine schedule needs optimizer\.schedule_steps"):
        rates(1, schedule="cosine")
    with pytest.raises(ValidationError, match=r"more than optimizer\.warmup_steps"):
        rates(1, schedule="linear", schedule_steps=5, warmup_steps=5)


def test_it_is_part_of_the_run_and_the_goal_is_not() -> None:
    def digest(**optimizer: Any) -> str:
        return RunConfig.model_validate({"optimizer": optimizer}).digest()

    cosine = {"schedule": "cosine", "schedule_steps": 100}
    assert len({digest(), digest(**cosine), digest(**cosine | {"schedule_steps": 200})}) == 3
