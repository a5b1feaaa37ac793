"""What a run is doing, by its folder: at work, ended, paused, failed, stopped, killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from prefect.exceptions import TerminationSignal

from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.config.overrides import with_overrides
from visual_r1.errors import BackendError, RunError, RunStopped
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.budget import BudgetEnd, note_budget_end
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.process import note_untold
from visual_r1.runs.state import SILENT_S, state_of
from visual_r1.storage import write_json

# Holds the run's folder, and says so; what it does then is for its caller to say.
AT_WORK = """
import os, sys
from pathlib import Path
from visual_r1.runs.folder import only_process
with only_process(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return with_overrides(
        "quickstart", {"run.name": "one", "train.steps": 10, "output_dir": str(tmp_path)}
    )


def trained(run_dir: Path, step: int, *, reported: bool = False) -> None:
    row = {
        "step": step, "state_path": "tinker://a", "sampler_path": "tinker://b", "expires_at": None,
        "config_digest": "c", "dataset_digest": "d", "backend": "embedded",
        "created_at": "2026-03-01T12:00:00+00:00", "updates": step,
    }  # fmt: skip
    (run_dir / "ledger.jsonl").write_text(json.dumps(row) + "\n")
    if reported:
        write_json(run_dir / "summary.json", {"steps": step})


def forget_owner(run_dir: Path) -> None:
    """As if this process, which lives, had ended: then its number belongs to nobody."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (run_dir / ".owner").write_text(f"{gone.pid}\n")


def test_a_run_that_is_reported_has_ended_and_one_with_further_to_go_has_not(config: RunConfig):
    with open_run_folder(config) as run_dir:
        trained(run_dir, 10, reported=True)
    forget_owner(run_dir)
    found = state_of(run_dir)
    assert (found.name, found.step, found.steps) == ("ended", 10, 10)
    further = config.model_copy(update={"train": config.train.model_copy(update={"steps": 20})})
    with open_run_folder(further):
        pass
    forget_owner(run_dir)
    found = state_of(run_dir)
    assert (found.name, found.step, found.steps) == ("killed", 10, 20)
    assert f"visual-r1 resume {run_dir}" in found.sentence


def test_a_run_that_its_budget_ended_has_ended(config: RunConfig):
    with open_run_folder(config) as run_dir:
        trained(run_dir, 6, reported=True)
        note_budget_end(run_dir, BudgetEnd("limits.budget_tokens", 9, 6, 10, 8, 2, 1))
    forget_owner(run_dir)
    found = state_of(run_dir)
    assert found.name == "ended"
    assert "limits.budget_tokens" in found.sentence


def test_a_process_at_work_is_seen_and_one_that_was_killed_too(config: RunConfig):
    with open_run_folder(config) as run_dir:
        trained(run_dir, 4)
    process = subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(run_dir)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        pid = int(process.stdout.readline())
        found = state_of(run_dir)
        assert (found.name, found.pid, found.is_at_work) == ("training", pid, True)
        (run_dir / "ledger.jsonl").rename(run_dir / "ledger-of-4.jsonl")
        trained(run_dir, 10, reported=True)
        assert (state_of(run_dir).name, state_of(run_dir).is_at_work) == ("evaluating", True)
        (run_dir / "ledger-of-4.jsonl").rename(run_dir / "ledger.jsonl")
        (run_dir / "summary.json").unlink()
        # To look is no harm to anybody, and two may.
        assert state_of(run_dir) == found
        old = time.time() - 2 * SILENT_S
        for path in (*run_dir.glob("*"), run_dir / ".owner"):
            os.utime(path, (old, old))
        assert state_of(run_dir).name == "waiting"
        # A step of its own takes longer than that.
        (run_dir / "metrics.jsonl").write_text(
            f'cut off\n{{"step": 0, "seconds_total": {SILENT_S}}}\n'
        )
        os.utime(run_dir / "metrics.jsonl", (old, old))
        assert state_of(run_dir).name == "training"
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = state_of(run_dir)
        assert found.name == "killed"
        assert "Step 4 of 10 is kept" in found.sentence
    finally:
        process.kill()
        process.communicate()


def test_who_waits_for_a_turn_has_the_folder_and_not_its_lock(config: RunConfig):
    with open_run_folder(config) as run_dir:
        pass
    assert state_of(run_dir).name == "waiting"
    # The same number, and a process that began later than that owner wrote it.
    os.utime(run_dir / ".owner", (1e9, 1e9))
    assert state_of(run_dir).name == "killed"


def test_how_a_start_ended_is_kept_until_the_next_one(config: RunConfig):
    with (
        pytest.raises(BackendError, match="refused"),
        open_run_folder(config) as run_dir,
    ):
        trained(run_dir, 4)
        raise BackendError("the server refused it")
    found = state_of(run_dir)
    assert (found.name, found.sentence) == ("failed", "the server refused it")
    with pytest.raises(KeyboardInterrupt), open_run_folder(config):
        raise KeyboardInterrupt
    assert state_of(run_dir).name == "stopped"
    with pytest.raises(ZeroDivisionError), open_run_folder(config):
        _ = 1 / 0
    assert state_of(run_dir).sentence == "ZeroDivisionError: division by zero"
    with open_run_folder(config):
        assert not (run_dir / ".ending.json").exists()
    # What was refused later does not undo that a run has come to its end.
    trained(run_dir, 10, reported=True)
    with pytest.raises(RunError), open_run_folder(config):
        raise RunError("fewer steps than it has")
    assert state_of(run_dir).name == "ended"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyboardInterrupt(), "stopped"),
        (RunStopped("by a button"), "stopped"),
        (TerminationSignal(signal.SIGTERM), "stopped"),
        (asyncio.CancelledError("a lease"), "failed"),
        (SystemExit(1), "failed"),
    ],
    ids=repr,
)
def test_a_run_is_stopped_by_a_person_alone(config: RunConfig, error: BaseException, name: str):
    with pytest.raises(type(error)), open_run_folder(config) as run_dir:
        trained(run_dir, 4)
        raise error
    found = state_of(config.run_dir)
    assert found.name == name
    assert (type(error).__name__ in found.sentence) == (name == "failed")


def test_a_run_is_paused_at_the_checkpoint_of_its_alarm_alone(config: RunConfig):
    with open_run_folder(config) as run_dir:
        trained(run_dir, 4)
        AlarmLog(run_dir).add([Finding("entropy", 3, 4, "pause", "Seen.", "Means.", "Advice.")])
    forget_owner(run_dir)
    found = state_of(run_dir)
    assert found.name == "paused"
    assert found.sentence == f"Seen. It goes on with: visual-r1 resume {run_dir}."
    note_untold(run_dir, 4)  # it was killed before it had said so
    found = state_of(run_dir)
    assert found.name == "paused"
    assert "goes on when it is given once more" in found.sentence
    trained(run_dir, 8)
    assert state_of(run_dir).name == "killed"


def test_what_was_only_evaluated_was_not_killed(config: RunConfig):
    with open_run_folder(config, trains=False) as run_dir:
        report = run_dir / "evaluations" / "baseline" / "report.json"
        report.parent.mkdir(parents=True)
        report.write_text("{}")
    forget_owner(run_dir)
    assert state_of(run_dir).name == "evaluated"
    write_json(run_dir / "wall.json", asdict(BudgetEnd("limits.budget_usd", 1, 1, 1, 1, 1, 1)))
    assert state_of(run_dir).name == "killed"


def test_a_folder_that_is_no_run_and_a_damaged_one_are_a_sentence(tmp_path: Path):
    with pytest.raises(RunError, match=r"no run's folder"):
        state_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        state_of(tmp_path)
