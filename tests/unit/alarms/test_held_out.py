"""The held-out loss of a cold start: what is overfitting, and what is not."""

import pytest

from visual_r1.alarms import look
from visual_r1.config import RunConfig

CONFIG = RunConfig(preset="quickstart")


def found(losses: list[float], before: float | None = None) -> list[str]:
    """The alarms at the last of so many checkpoints, two steps apart; `before` the run began."""
    rows = [
        {"step": step, "updated": True, "response_loss": 0.5}
        | ({"held_out_loss": losses[step // 2]} if step % 2 else {})
        for step in range(2 * len(losses))
    ]
    if before is not None:
        rows[0]["held_out_loss_before"] = before
    end = 2 * len(losses)
    return [one.seen for one in look(CONFIG, rows, [], [], first=end - 2, checkpoint=end)]


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [1.0],
        [1.0, 0.8, 0.6, 0.5],
        [1.0, 0.5, 0.51, 0.52],  # noise
        [1.0, 0.5, 0.7],  # once
        [1.0, 0.5, 0.7, 0.45],  # and below it again
    ],
)
def test_a_loss_that_falls_or_wavers_is_healthy(losses: list[float]) -> None:
    assert not found(losses)


def test_one_that_stays_above_its_lowest_is_told_with_its_figures() -> None:
    [seen] = found([1.0, 0.5, 0.6, 0.7])
    assert seen == (
        "the loss of held-out responses rose from 0.5 nats a token (step 3) to 0.7 (step 7)."
    )


def test_what_it_was_before_the_first_step_is_its_lowest_where_learning_did_damage() -> None:
    assert not found([3.0], before=0.3)
    [seen] = found([3.0, 2.9], before=0.3)
    assert seen == (
        "the loss of held-out responses rose from 0.3 nats a token (before step 0) to 2.9 (step 3)."
    )
    assert not found([1.0, 0.5, 0.51], before=1.4)
