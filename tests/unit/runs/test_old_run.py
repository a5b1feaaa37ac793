"""What an older version wrote is read as it was meant, and written again as it was.

`tests/data/old_run` is a run that `benchmarks/old_runs.py make --at c484f86` made (preset
`vision_sr1`, finished), without its pictures, weights and most of its Parquet files. The files are
never made anew: whatever is changed in the readers, they are what some user has.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visual_r1.config import RunConfig
from visual_r1.data.dataset import open_dataset
from visual_r1.evaluation.metrics import read_report
from visual_r1.exports.record import adapter_folder, read_export
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.config_file import read_config
from visual_r1.runs.curriculum_state import load_measured
from visual_r1.runs.folder import config_of_run, open_run_folder
from visual_r1.runs.journal import Journal, read_metrics, read_rollouts
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations, named_checkpoint
from visual_r1.stopwatch import Stopwatch

OLD = Path(__file__).parents[2] / "data/old_run"
NAME = "vision_sr1-7c480596"
DATASET = "procedural-c2d70134"
GIVEN: dict[str, Any] = {
    "preset": "vision_sr1",
    "data": {"train": 64, "validation": 8, "test": 16},
    "model": {"lora_rank": 1},
    "train": {"steps": 7, "chunk_steps": 3, "batch_size": 4, "group_size": 4, "loss": "ppo"},
    "algorithm": {
        "advantage": "dr_grpo",
        "normalization": "token",
        "epochs": 2,
        "minibatches": 2,
        "dynamic_rounds": 1,
        "kl_coefficient": 0.02,
    },
    "curriculum": {"rule": "contrast"},
    "optimizer": {"schedule": "linear", "schedule_steps": 9, "warmup_steps": 1},
    "reward": {"length": 0.1},
    "second_pass": {"minus_question_only": True},
    "evaluation": {"samples": 2},
}
"""What the command that began the run said, but for what does not make another run."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / NAME


def test_the_configuration_is_that_of_the_command_and_has_its_name(run: Path) -> None:
    config = config_of_run(run)
    assert config.older_digest() == "7c480596"
    assert config.run_name == NAME
    assert config.run_dir == run
    command = RunConfig.model_validate(GIVEN | {"output_dir": run.parents[1]})
    assert command.identity() == config.identity()
    assert command.run_name == NAME
    assert RunConfig.model_validate(GIVEN).run_name == f"vision_sr1-{config.digest()}"


def test_another_evaluation_goes_on_in_the_folder_as_well(run: Path) -> None:
    """It was a part of the run's name and of the digests in its ledger."""
    place = {"output_dir": run.parents[1]}
    for samples in (4, 8, 2):
        asked = GIVEN | place | {"evaluation": {"samples": samples, "problems": 8}}
        config = RunConfig.model_validate(asked)
        assert config.run_dir == run
        with open_run_folder(config) as opened:
            assert opened == run
        assert config_of_run(run).evaluation.samples == samples
    assert [row.step for row in Ledger(run).rows()] == [3, 6, 7]
    assert RunConfig.model_validate(GIVEN | place).run_dir == run
    other = RunConfig.model_validate(GIVEN | place | {"sampling": {"temperature": 0.5}})
    assert other.run_name == f"vision_sr1-{other.digest()}"


def test_a_folder_without_its_configuration_is_still_that_of_the_command(run: Path) -> None:
    """As the sentence about a damaged one advises, where the user is sure."""
    (run / "config.json").unlink()
    command = RunConfig.model_validate(GIVEN | {"output_dir": run.parents[1]})
    assert command.run_dir == run


def test_the_folder_opens_for_the_same_command(run: Path) -> None:
    config = RunConfig.model_validate(GIVEN | {"output_dir": run.parents[1]})
    with open_run_folder(config) as opened:
        assert opened == run
        assert read_config(run) == config


def test_going_further_says_once_that_its_bonus_is_another_measure(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = GIVEN | {"output_dir": run.parents[1]}
    further = RunConfig.model_validate(given | {"train": GIVEN["train"] | {"steps": 9}})
    with open_run_folder(further):
        assert "from step 7 on its rewards go by them too" in caplog.text
    caplog.clear()
    with open_run_folder(further):
        assert "moved_numbers" not in caplog.text


def test_a_run_that_is_whole_has_nothing_to_say(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run_folder(RunConfig.model_validate(GIVEN | {"output_dir": run.parents[1]})):
        assert "moved_numbers" not in caplog.text


def test_the_ledger(run: Path) -> None:
    ledger = Ledger(run)
    rows = ledger.rows()
    assert [(row.step, row.updates) for row in rows] == [(3, 12), (6, 24), (7, 28)]
    assert {row.config_digest for row in rows} == {"7c480596"}
    assert [row.expires_at is None for row in rows] == [False, False, True]
    assert rows[1].state_path == (
        "tinker://8f6df8f1398641f489803c6db2b06a9a:train:0/weights/step-000006"
    )
    assert rows[1].carry == {"curriculum": "curriculum/step-000006-a8a68952f71935b2.parquet"}
    ledger.require_same_origin(dataset_digest="c2d70134", backend="embedded")


def test_the_validations_and_the_best_checkpoint(run: Path) -> None:
    rows = Validations(run).rows()
    assert [(row.step, row.right) for row in rows] == [
        (0, "11110011"),
        (3, "11111011"),
        (6, "11111011"),
        (7, "11111011"),
    ]
    assert rows[3].accuracy_ci95 == (0.5291118177871464, 0.9775825085499433)
    assert named_checkpoint(run, "best").step == 7
    assert named_checkpoint(run, "6").step == 6


def test_the_metrics(run: Path) -> None:
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(7))
    assert rows == Journal(run).rows()
    assert rows[6]["reward_mean"] == 0.9857906146583156
    assert rows[6]["reward_second_pass"] == 0.53125


def test_the_alarms(run: Path) -> None:
    [finding] = AlarmLog(run).findings()
    assert (finding.alarm, finding.step, finding.checkpoint, finding.action) == (
        "mismatch",
        3,
        6,
        "warn",
    )
    assert finding.sentence.startswith("Alarm mismatch: sampler and learner differ by 2.1e-14 nats")


def test_the_report(run: Path) -> None:
    report = read_report(run / "evaluations/final")
    assert (report.n, report.correct, report.pass_at_k) == (16, 9, 0.6875)
    assert report.second_pass is not None
    assert report.by_family["rectangle"].pass_at_k == 0.5
    assert report.conditions.dataset_digest == "c2d70134"
    assert report.conditions.sampler_path == Ledger(run).rows()[-1].sampler_path


def test_the_export(run: Path) -> None:
    weights = run / "export/adapter/adapter_model.safetensors"
    assert read_export(run) is None  # it is not complete without its weights
    weights.write_bytes(b"weights")
    record = json.loads((run / "export/export.json").read_text())
    record["files"][1] |= {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    (run / "export/export.json").write_text(json.dumps(record))
    export = read_export(run)
    assert export is not None
    assert (export.step, export.trained) == (7, True)
    assert adapter_folder(run) == weights.parent
    assert export.state_path == Ledger(run).rows()[-1].state_path


def test_the_dataset(run: Path) -> None:
    folder = run.parents[1] / "data" / DATASET
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, stored in manifest["files"].items():
        with (folder / name).open("wb") as stand_in:
            stand_in.truncate(stored["bytes"])
    dataset = open_dataset(folder)
    assert dataset.digest == "c2d70134"
    assert dataset.counts == {"train": 64, "validation": 8, "test": 16, "rejected": 0}
    dataset.require(["train", "validation", "test"])


def test_the_rollouts(run: Path) -> None:
    rows = read_rollouts(run / "rollouts/chunk-00002.parquet").to_pylist()
    metrics = read_metrics(run)[6]
    assert {row["step"] for row in rows} == {6}
    assert len({row["group"] for row in rows}) == metrics["groups"]
    right = sum(row["verdict"] == "right" for row in rows)
    assert right / len(rows) == metrics["accuracy"]
    assert all(row["second_verdict"] for row in rows)


def test_what_the_curriculum_measured(run: Path) -> None:
    measured = load_measured(run, 6, Ledger(run).rows()[1].carry, 64)
    samples = sum(row["groups"] * 4 for row in read_metrics(run)[:6])
    attempts = measured.right_N.sum() + measured.wrong_N.sum()
    assert 0.9 * samples < attempts < samples  # a few have faded a little


def test_the_wall_time_counts_on(run: Path) -> None:
    assert 35.533 < Stopwatch(run).seconds() < 60


REWRITTEN: dict[str, Callable[[Path], object]] = {
    "ledger.jsonl": lambda run: Ledger(run).renew(3, Ledger(run).rows()[0].expires_at),
    "validation.jsonl": lambda run: Validations(run).record(Validations(run).rows()[0]),
    "metrics.jsonl": lambda run: Journal(run).add_to_last(step=6),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_file_is_written_again_as_it_was(run: Path, name: str) -> None:
    before = (run / name).read_bytes()
    REWRITTEN[name](run)
    assert (run / name).read_bytes() == before


def test_nothing_of_a_finished_run_is_taken_back(run: Path) -> None:
    Journal(run).rewind(7)
    Validations(run).go_back_to(7)
    AlarmLog(run).go_back_to(7)
    Ledger(run).go_back_to(7)
    left = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert left == {path.name: path.read_bytes() for path in (OLD / "runs" / NAME).glob("*.*")}
