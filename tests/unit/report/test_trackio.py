"""trackio: told by a program of its own, each thing once; read back by trackio's own functions."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from made_up import (
    picture,
    predictions,
    problems,
    write_evaluation,
    write_metrics,
    write_validation,
)

from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.config.command_line import load_config
from visual_r1.errors import ConfigError
from visual_r1.report import trackio
from visual_r1.report.summary import summarize
from visual_r1.report.tracking import require_tracker, track_run, track_steps
from visual_r1.runs.alarms import AlarmLog
from visual_r1.tables import pa, write_table

installed = pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="needs pip install 'visual-r1[trackio]'"
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run that trackio is to be told of, in a database of its own."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    trackio._gave_up.clear()
    given = {"run": {"name": "told run"}, "logging": {"tracker": "trackio"}}
    return RunConfig(preset="quickstart", output_dir=tmp_path, **given)  # type: ignore[arg-type]


def write_steps(run_dir: Path, count: int) -> None:
    """The first rows of one run, however many of them there are."""
    write_metrics(run_dir, steps=100)
    path = run_dir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))


def ended(config: RunConfig) -> None:
    program = trackio._programs.get(config.run_dir)
    if program is not None:
        program.wait(300)


def read_back(config: RunConfig) -> dict[str, Any]:
    """What trackio has, by its own functions, in a process whose trackio looks in that place."""
    program = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "runs = S.get_runs('visual-r1'); name = runs[-1]\n"
        "plain = lambda log: {k: v for k, v in log.items() if k != 'timestamp'}\n"
        "print(json.dumps({'runs': runs, 'logs': list(map(plain, S.get_logs('visual-r1', name))),"
        "'traces': S.get_traces('visual-r1', name), 'config': S.get_run_config('visual-r1', name),"
        "'alerts': S.get_alerts('visual-r1', run_name=name)}, default=str))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(said.stdout)


def steps(found: dict[str, Any]) -> list[int]:
    return [log["step"] for log in found["logs"] if "train/accuracy" in log]


def rollouts(run_dir: Path, chunk: int, step: int) -> None:
    (run_dir / "rollouts").mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "step": step, "problem_id": f"p{group}", "group": group, "sample": sample,
            "response": f"<b>{step}-{group}-{sample}", "reward": 0.5, "advantage": 1.0,
            "verdict": "right" if (group == 1 and sample) else "wrong", "reason": "",
        }
        for group in range(3)
        for sample in range(2)
    ]  # fmt: skip
    write_table(run_dir / "rollouts" / f"chunk-{chunk:05d}.parquet", pa.Table.from_pylist(rows))


@installed
def test_a_run_is_told_whole_and_each_thing_once(config: RunConfig) -> None:
    run_dir, asked = config.run_dir, problems(5)
    write_evaluation(run_dir / "evaluations/baseline", asked, predictions(asked, 0.4, seed=0))
    write_steps(run_dir, 4)
    rollouts(run_dir, 0, 3)
    write_validation(run_dir, 4, 0.5)
    track_steps(config)
    ended(config)
    write_steps(run_dir, 8)
    rollouts(run_dir, 1, 7)
    found = Finding("length", 7, 8, "warn", "It grew.", "Why.", "Do this.")
    AlarmLog(run_dir).add([found])
    write_evaluation(run_dir / "evaluations/final", asked, predictions(asked, 0.9, seed=0))
    summarize(run_dir, steps=8, wall_seconds=3)
    track_run(config)
    track_run(config)
    there = read_back(config)
    assert len(there["runs"]) == 1
    assert there["runs"][0].startswith("told-run-")
    assert steps(there) == list(range(8))
    assert there["config"]["train"]["batch_size"] == 16
    assert [log["step"] for log in there["logs"] if "validation/accuracy" in log] == [4]
    assert [log["step"] for log in there["logs"] if "final/accuracy" in log] == [8]
    [table] = [log["final/predictions"] for log in there["logs"] if "final/predictions" in log]
    assert len(table["_value"]) == 5
    place = Path(os.environ["TRACKIO_DIR"]) / "media" / table["_value"][0]["image"][0]["file_path"]
    assert place.read_bytes() == picture(0)
    traces = {(one["step"], one["messages"][1]["content"]) for one in there["traces"]}
    assert traces == {(step, f"<b>{step}-1-{sample}") for step in (3, 7) for sample in (0, 1)}
    assert {one["metadata"]["verdict"] for one in there["traces"]} == {"right", "wrong"}
    assert [one["title"] for one in there["alerts"]] == ["told run: alarm length at step 8"]
    assert not (run_dir / "trackio" / "pictures").exists()


@installed
def test_a_kill_at_any_moment_repeats_nothing_and_loses_nothing(config: RunConfig) -> None:
    write_steps(config.run_dir, 60)
    for patience in (0.0, 0.8, 1.6, 2.4):
        trackio._programs.clear()  # as after a kill of the run itself
        track_steps(config)
        program = trackio._programs.get(config.run_dir)
        if program is None:
            break
        time.sleep(patience)
        program.send_signal(signal.SIGKILL)
        program.wait()
    trackio._programs.clear()
    write_steps(config.run_dir, 64)
    track_run(config)
    there = read_back(config)
    assert len(there["runs"]) == 1
    assert steps(there) == list(range(64))


@installed
def test_a_run_that_went_back_goes_on_under_another_name(config: RunConfig) -> None:
    write_steps(config.run_dir, 4)
    track_run(config)
    write_metrics(config.run_dir, steps=5)  # others than those that were told
    track_run(config)
    there = read_back(config)
    assert len(there["runs"]) == 2
    assert len(set(there["runs"])) == 2


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("import time; time.sleep(3600)", "stood still"),
        ("raise RuntimeError('the disk is gone')", "the disk is gone"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "status -9"),
    ],
)
def test_a_tracker_that_hangs_fails_or_dies_is_one_warning(
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    what: str,
    said: str,
) -> None:
    broken = tmp_path / "broken" / "trackio"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(what)
    path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", ""), *sys.path])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(trackio, "STANDS_STILL_S", 2.0)
    write_steps(config.run_dir, 3)
    began = time.monotonic()
    track_steps(config)
    assert time.monotonic() - began < 5, "nobody waits for it"
    track_run(config)
    track_run(config)
    warned = [one.message for one in caplog.records if "trackio" in one.message]
    assert len(warned) == 1
    assert said in warned[0]


def test_which_tracker_is_told() -> None:
    assert load_config([]).logging.told == "wandb"
    assert load_config(["--no-logging.wandb"]).logging.told == "none"
    both = ["--no-logging.wandb", "--logging.tracker", "trackio"]
    assert load_config(both).logging.told == "trackio"
    assert load_config(["--logging.tracker", "none"]).logging.told == "none"
    with pytest.raises(ConfigError, match=r"logging\.tracker is wandb and logging\.wandb is false"):
        load_config(["--no-logging.wandb", "--logging.tracker", "wandb"])
    with pytest.raises(ConfigError, match="mlflow"):
        load_config(["--logging.tracker", "mlflow"])
    assert load_config(both).digest() == load_config([]).digest()


def test_a_missing_package_is_said_before_anything_starts(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visual_r1.report.tracking.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'visual-r1\[trackio\]'"):
        require_tracker(config)
    require_tracker(config.model_copy(update={"logging": load_config([]).logging}))
