"""A sweep from its file to its table: killed in the middle, one run at a time and two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect_home import Give
from train_command import ROOT, clean_environment
from warm_command import WarmCommand

SWEEP = """
at_once = {at_once}
[grid]
"train.learning_rate" = [3e-4, 1e-3]
"""
FLAGS = {
    "preset": "quickstart",
    "data.train": 64,
    "data.validation": 8,
    "data.test": 16,
    "train.steps": 2,
    "train.chunk_steps": 1,
    "train.batch_size": 4,
    "train.group_size": 4,
    "evaluation.samples": 2,
    "validation.every": 2,
}
MADE = ("table.md", "report.html", "comparison.svg", "summary.json")


def flags(folder: Path, at_once: int) -> list[str]:
    file = folder / "rates.toml"
    file.write_text(SWEEP.format(at_once=at_once))
    given = [part for name, value in FLAGS.items() for part in (f"--{name}", str(value))]
    off = ["--no-logging.wandb", "--no-evaluation.blind"]
    return ["--sweep", str(file), *given, "--output-dir", str(folder), *off]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, warm: WarmCommand) -> Path:
    """The folder of a sweep that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    ended = warm.run(*flags(folder, at_once=1), flow="sweep")
    assert ended.status == 0, ended.output
    assert "Chosen by validation" in ended.output
    assert "2 runs to train: about" in ended.output
    return folder


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "runs").iterdir())


def test_the_base_model_answers_once(whole: Path) -> None:
    one, other = (run / "evaluations/baseline/predictions.parquet" for run in runs(whole))
    assert one.read_bytes() == other.read_bytes()
    plan = json.loads((whole / "sweeps/rates/plan.json").read_text())
    assert sorted(member["run"] for member in plan["members"]) == [run.name for run in runs(whole)]


def test_a_finished_sweep_trains_nothing(whole: Path, warm: WarmCommand) -> None:
    before = {name: (whole / "sweeps/rates" / name).read_bytes() for name in MADE}
    ended = warm.run(*flags(whole, at_once=1), flow="sweep")
    assert ended.status == 0, ended.output
    assert "to train" not in ended.output
    assert "training, steps" not in ended.output
    assert {name: (whole / "sweeps/rates" / name).read_bytes() for name in MADE} == before


def test_killed_and_two_at_once_it_ends_with_the_same_bytes(
    whole: Path, warm: WarmCommand, tmp_path: Path, give_home: Give
) -> None:
    given = flags(give_home(tmp_path), at_once=2)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "flows/sweep_flow.py"), *given],
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not any((tmp_path / "runs").glob("*/ledger.jsonl")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "sweeps/rates/summary.json").exists()

    ended = warm.run(*given, flow="sweep")
    assert ended.status == 0, ended.output
    for name in MADE:
        assert (tmp_path / "sweeps/rates" / name).read_bytes() == (
            whole / "sweeps/rates" / name
        ).read_bytes(), name
    for one, other in zip(runs(whole), runs(tmp_path), strict=True):
        adapter = "export/adapter/adapter_model.safetensors"
        assert (one / adapter).read_bytes() == (other / adapter).read_bytes()


def test_a_wrong_value_is_found_before_a_server_starts(tmp_path: Path) -> None:
    given = flags(tmp_path, at_once=1)
    (tmp_path / "rates.toml").write_text('[grid]\n"train.group_size" = [4, 1]\n')
    ended = subprocess.run(
        [sys.executable, str(ROOT / "flows/sweep_flow.py"), *given],
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: The setting group_size=1 of the sweep cannot be: ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
