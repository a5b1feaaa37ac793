"""What a card says of a run that did not begin with the base model, or did not sample."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from visual_r1.config import RunConfig
from visual_r1.exports.record import CARD_NAME, Export
from visual_r1.models import TINY_GEOMETRY
from visual_r1.report.model_card import write_card
from visual_r1.runs.origin import START_FILE, Origin
from visual_r1.storage import write_json

STATE = "tinker://cold/weights/step-000002"
MADE = Export(
    4, 4, True, TINY_GEOMETRY, "adapter", "tinker://m/sampler", "tinker://m/state", (),
    "2026-11-28T10:00:00+00:00",
)  # fmt: skip


def card(place: Path, **settings: Any) -> str:
    config = RunConfig.model_validate(
        {"preset": "quickstart", "output_dir": place, "run": {"name": "mine"}, **settings}
    )
    if (path := config.model.start_from) is not None:
        origin = Origin(path, False, TINY_GEOMETRY, 32, "cold", 2)
        write_json(config.run_dir / START_FILE, asdict(origin))
    write_card(place, MADE, "apache-2.0", config)
    return (place / CARD_NAME).read_text()


@pytest.mark.parametrize("start", [None, STATE])
def test_the_card_names_what_the_run_began_with(tmp_path: Path, start: str | None) -> None:
    said = card(tmp_path, model={"start_from": start})
    assert ("Begun with: cold, step 2, without its optimizer" in said) is (start is not None)
    assert "- Reward: " in said


def test_the_card_of_a_cold_start_names_its_responses_and_no_reward(tmp_path: Path) -> None:
    said = card(tmp_path, sft={"responses": "solution"})
    assert "- Learnt: the responses in solution, by cross entropy" in said
    assert "- sft\n" in said
    assert "reinforcement-learning" not in said
    assert "- Reward: " not in said
    assert "- Algorithm: " not in said


def test_the_weight_of_a_custom_reward_is_named_where_there_is_one(tmp_path: Path) -> None:
    assert "custom_weight" not in card(tmp_path).replace("\\", "").partition("<details>")[0]
    own = tmp_path / "own.py"
    own.write_text("def reward(sample):\n    return 0.0\n")
    said = card(tmp_path, reward={"custom": f"{own}:reward"}).replace("\\", "")
    assert "custom_weight 1" in said
    assert "a reward function of the user's: own.py" in said
