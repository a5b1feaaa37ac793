"""Alarms at a checkpoint: written down once, said once, and a pause that says how it goes on."""

import json
import logging
from pathlib import Path

import pytest

from visual_r1.config import RunConfig
from visual_r1.runs.alarms import AlarmLog, check_alarms, pause
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.process import UNTOLD, is_untold, note_told, note_untold

STEPS, CHUNK = 30, 5


def config(folder: Path, action: str = "pause", steps: int = STEPS) -> RunConfig:
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "run": {"name": "watched"},
            "train": {"steps": steps, "chunk_steps": CHUNK},
            "alarms": {"mismatch": action, "window": 5, "max_kl": 0.01},
        }
    )


def checkpoint(run: RunConfig, step: int) -> None:
    """What a chunk leaves behind that ends at `step`; the sampler is another policy from 10 on."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    with (run.run_dir / "metrics.jsonl").open("a") as out:
        for one in range(step - CHUNK, step):
            kl = 0.02 if one >= 10 else 1e-13
            out.write(json.dumps({"step": one, "kl_sampler_learner": kl, "accuracy": 0.5}) + "\n")
    paths = (f"tinker://m/weights/{step}", f"tinker://m/sampler_weights/{step}")
    where = ("c0ffee", "da7a", "embedded", "2026-05-01T10:00:00+00:00")
    Ledger(run.run_dir).append(LedgerRow(step, *paths, None, *where, updates=step))


def test_a_pause_comes_once_and_says_how_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = config(tmp_path)
    for step in (5, 10):
        checkpoint(run, step)
        assert check_alarms(run, step) == []
    checkpoint(run, 15)
    with caplog.at_level(logging.WARNING, "visual_r1"):
        found = check_alarms(run, 15)
    (told,) = caplog.messages
    assert told == found[0].sentence
    assert "sampler and learner differ by 0.02 nats a token" in told
    paused = pause(run, found)
    assert "Paused at the checkpoint of step 15 (mismatch); nothing is lost." in str(paused)
    assert f"visual-r1 resume {run.run_dir}" in str(paused)
    assert (run.run_dir / "alarms.jsonl").read_text().count("\n") == 1

    # Killed before anybody was told, it finds it again, and writes it down once.
    assert [check_alarms(run, step) for step in (5, 10, 15)] == [[], [], found]
    assert (run.run_dir / "alarms.jsonl").read_text().count("\n") == 1
    note_told(run.run_dir, 15)
    # Started again it goes through the same checkpoints, and on from there.
    assert [check_alarms(run, step) for step in (5, 10, 15)] == [[], [], []]
    for step in (20, 25, 30):
        checkpoint(run, step)
        assert check_alarms(run, step) == []
    assert AlarmLog(run.run_dir).findings() == found


def test_a_warning_does_not_pause(tmp_path: Path) -> None:
    run = config(tmp_path, "warn")
    for step in (5, 10, 15):
        checkpoint(run, step)
    found = check_alarms(run, 15)
    assert [finding.action for finding in found] == ["warn"]
    assert pause(run, found) is None


@pytest.mark.parametrize("changed", ["warn", "off"])
def test_who_wants_no_pause_any_more_is_not_paused_by_one_that_was_not_told(
    tmp_path: Path, changed: str
) -> None:
    run = config(tmp_path)
    for step in (5, 10, 15):
        checkpoint(run, step)
    assert pause(run, check_alarms(run, 15)) is not None
    [again] = check_alarms(config(tmp_path, changed), 15)
    assert again.action == "warn"
    [kept] = AlarmLog(run.run_dir).findings()
    assert kept.action == "pause"


def test_a_pause_of_an_older_version_was_told(tmp_path: Path) -> None:
    run = config(tmp_path)
    for step in (5, 10, 15):
        checkpoint(run, step)
    assert check_alarms(run, 15)
    (run.run_dir / UNTOLD).unlink()
    assert check_alarms(run, 15) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"checkpoint": "x"}', "\x00"])
def test_a_damaged_note_of_what_is_untold_tells_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    run = config(tmp_path)
    for step in (5, 10, 15):
        checkpoint(run, step)
    found = check_alarms(run, 15)
    (run.run_dir / UNTOLD).write_text(content)
    assert check_alarms(run, 15) == found
    assert "is damaged" in caplog.text
    note_told(run.run_dir, 15)
    assert not (run.run_dir / UNTOLD).exists()
    assert check_alarms(run, 15) == []


def test_who_has_told_a_pause_does_not_forget_one_that_came_after_it(tmp_path: Path) -> None:
    note_untold(tmp_path, 20)
    note_told(tmp_path, 15)
    assert is_untold(tmp_path, 20)
    assert not is_untold(tmp_path, 15)


def test_at_the_end_there_is_nothing_to_pause(tmp_path: Path) -> None:
    run = config(tmp_path, steps=15)
    for step in (5, 10, 15):
        checkpoint(run, step)
    assert [finding.action for finding in check_alarms(run, 15)] == ["warn"]


def test_what_was_found_later_is_forgotten_by_a_run_that_goes_back(tmp_path: Path) -> None:
    run = config(tmp_path)
    for step in (5, 10, 15):
        checkpoint(run, step)
    found = check_alarms(run, 15)
    log = AlarmLog(run.run_dir)
    log.go_back_to(15)
    assert log.findings() == found
    Journal(run.run_dir).copy_aside(10, log.path)
    log.go_back_to(10)
    assert log.findings() == []
    (kept,) = (run.run_dir / "set-aside").glob("*/alarms.jsonl")
    assert json.loads(kept.read_text()).items() >= found[0].row().items()
    # Trained again, it is found again.
    Ledger(run.run_dir).go_back_to(10)
    Journal(run.run_dir).rewind(10)
    checkpoint(run, 15)
    assert check_alarms(run, 15) == found


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    run = config(tmp_path)
    for step in (5, 10, 15):
        checkpoint(run, step)
    found = check_alarms(run, 15)
    path = AlarmLog(run.run_dir).path
    torn = ['{"alarm": "format", "st', '{"alarm": "unknown"}', "[1]", '"text"', "\x00\ufffd"]
    path.write_text("\n".join([*torn, path.read_text().strip(), ""]))
    assert AlarmLog(run.run_dir).findings() == found


def test_what_leaves_the_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = config(tmp_path)
    for step in (5, 10, 15):
        checkpoint(run, step)
    found = check_alarms(run, 15)
    log = AlarmLog(run.run_dir)
    of_a_newer_version = json.dumps(found[0].row() | {"alarm": "format", "tried": 3})
    with log.path.open("a") as out:
        out.write(of_a_newer_version + "\n")
    assert log.findings() == found
    caplog.clear()
    log.go_back_to(10)
    assert log.findings() == []
    first, second = log.set_aside_path.read_text().splitlines()
    assert json.loads(first).items() >= found[0].row().items()
    assert second == of_a_newer_version
    assert "1 damaged row(s) of" in caplog.text
