"""docs/metrics.md names every key of a row, and no other."""

import re
from dataclasses import replace
from pathlib import Path

from sampled import group_of, rollout

from visual_r1.config import RunConfig
from visual_r1.policy.second_pass import SecondPass
from visual_r1.rl.curriculum import ExpectedBatch
from visual_r1.rl.learning import Update
from visual_r1.rl.metrics import StepTimer, step_metrics

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_has_every_key_of_a_row() -> None:
    group = group_of(replace(rollout(components={"format": 1.0}), second=SecondPass("right", "")))
    row = step_metrics(
        RunConfig(preset="quickstart"),
        0,
        [group],
        [],
        Update(0, 0, 0, 1, 1, logged={"gate_mean": 0.9}),
        expected=ExpectedBatch(0.5, 0.5, 0.5),
        seconds=StepTimer().row(),
    ).row()
    written = {key.replace("reward_format", "reward_<component>") for key in row}
    written = {key.replace("loss_gate_mean", "loss_<name>") for key in written}
    cells = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    assert named == written | {"seconds_checkpoint"}  # it comes after the row
