"""The card of an export: what the training began with, and what it learnt from."""

from dataclasses import asdict
from pathlib import Path

from made_up import conditions, predictions, problems, write_evaluation, write_metrics

from visual_r1.config import RunConfig
from visual_r1.exports.record import CARD_NAME, Export
from visual_r1.report.model_card import write_card
from visual_r1.report.summary import summarize
from visual_r1.runs.start import START_FILE, Origin
from visual_r1.storage import write_json

START = "tinker://ID/weights/step-000010"


def card_of(folder: Path, *, updates: int = 3, **sections: dict[str, object]) -> str:
    """The card of a finished run with these sections in its configuration."""
    wanted = {"preset": "quickstart", "run": {"name": "one"}, "output_dir": folder, **sections}
    config = RunConfig.model_validate(wanted)
    run_dir, asked = config.run_dir, problems(40)
    for name, accuracy in (("baseline", 0.5), ("final", 0.8)):
        made = predictions(asked, accuracy, seed=1)
        write_evaluation(run_dir / "evaluations" / name, asked, made)
    write_metrics(run_dir, steps=3)
    summarize(run_dir, steps=3, wall_seconds=10)
    if config.model.start_from:
        origin = Origin(START, False, config.model.name, 16, "cold", 10)
        write_json(run_dir / START_FILE, asdict(origin))
    exported = Export(
        3, updates, updates > 0, config.model.name, "adapter", conditions().sampler_path,
        "tinker://ID/weights/3", (), "2026-11-28T12:00:00+00:00",
    )  # fmt: skip
    place = run_dir / "export"
    place.mkdir()
    write_card(place, exported, "apache-2.0", config)
    return (place / CARD_NAME).read_text()


def test_figures_are_held_against_what_the_training_began_with(tmp_path: Path) -> None:
    card = card_of(tmp_path, model={"start_from": START})
    assert "Training began with cold, step 10, without its optimizer" in card
    assert "| the same test problems | start of the run | this |" in card
    assert "| base model |" not in card


def test_without_a_start_it_is_the_base_model(tmp_path: Path) -> None:
    card = card_of(tmp_path)
    assert "| the same test problems | base model | this |" in card
    assert "Training began with" not in card


def test_what_was_not_trained_is_what_the_run_began_with(tmp_path: Path) -> None:
    card = card_of(tmp_path, updates=0, model={"start_from": START})
    assert "Nothing was trained: the weights are those of the start of the run." in card


def test_a_cold_start_had_no_reward(tmp_path: Path) -> None:
    card = card_of(tmp_path, sft={"responses": "response"})
    assert "cross entropy on responses" in card
    assert "- sft\n" in card
    for other in ("reinforcement-learning", "- Reward:", "advantages"):
        assert other not in card
