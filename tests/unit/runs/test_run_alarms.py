"""Alarms at a checkpoint: written down once, said once, and a pause that says how it goes on."""

import json
import logging
from pathlib import Path

import pytest

from visual_r1.config import RunConfig
from visual_r1.runs.alarms import AlarmLog, check_alarms, pause
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow

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
