"""What is said where a run begins that is much like one that is there."""

import json
import os
from pathlib import Path
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.runs.config_file import CONFIG_FILE
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.nearest import why_anew


def config(tmp_path: Path, **sections: Any) -> RunConfig:
    return RunConfig.model_validate({"preset": "quickstart", "output_dir": tmp_path, **sections})


def trained(mine: RunConfig, steps: int, age_s: int = 0) -> RunConfig:
    with open_run_folder(mine) as run_dir:
        where = (mine.digest(), "da7a", "embedded", "2026-05-01T10:00:00+00:00")
        row = LedgerRow(steps, "tinker://m", "tinker://m", None, *where, updates=steps)
        Ledger(run_dir).append(row)
        os.utime(run_dir / CONFIG_FILE, times=(10**9 - age_s, 10**9 - age_s))
    return mine


def test_what_differs_from_the_nearest_run_is_said(tmp_path: Path) -> None:
    first = trained(config(tmp_path), 60)
    trained(config(tmp_path, train={"learning_rate": 0.3, "seed": 4}), 10)
    mine = config(tmp_path, train={"learning_rate": 0.002})
    assert why_anew(mine) == (
        f"{mine.run_dir} is a new run: another train.learning_rate (there 0.001, here 0.002) than "
        f"{first.run_dir}, which has 60 steps."
    )


def test_of_two_that_are_as_near_the_newer_one_counts(tmp_path: Path) -> None:
    trained(config(tmp_path, train={"seed": 1}), 10, age_s=100)
    newer = trained(config(tmp_path, train={"seed": 2}), 20)
    assert f"than {newer.run_dir}, which has 20 steps" in why_anew(config(tmp_path))


def test_another_name_alone_is_said(tmp_path: Path) -> None:
    first = trained(config(tmp_path), 60)
    again = config(tmp_path, run={"name": "again"})
    assert f"another name than {first.run_dir}" in why_anew(again)


def test_nothing_is_said_where_it_goes_on_or_nothing_is_like_it(tmp_path: Path) -> None:
    assert why_anew(config(tmp_path)) == ""
    mine = trained(config(tmp_path), 60)
    assert why_anew(mine) == ""
    assert why_anew(config(tmp_path, train={"steps": 80}, evaluation={"samples": 2})) == ""
    far = {"train": {"learning_rate": 0.5, "seed": 3, "batch_size": 2, "group_size": 2}}
    assert why_anew(config(tmp_path, **far)) == ""
    with open_run_folder(config(tmp_path, train={"seed": 9})):
        pass  # nothing was trained there
    assert "seed-" not in why_anew(config(tmp_path, train={"seed": 8, "chunk_steps": 3}))


def test_a_damaged_run_beside_it_is_passed_over(tmp_path: Path) -> None:
    damaged = trained(config(tmp_path), 60).run_dir / CONFIG_FILE
    damaged.write_text(json.dumps({"trian": 1}))
    assert why_anew(config(tmp_path, train={"seed": 9})) == ""


def test_a_run_of_the_model_that_its_preset_named_before_is_told_apart(tmp_path: Path) -> None:
    """The same command asks for another model since, and so for another run."""
    once = "Qwen/Qwen3-VL-30B-A3B-Instruct"
    there = {"preset": "geometry3k", "output_dir": tmp_path}
    begun = trained(RunConfig.model_validate(there | {"model": {"name": once}}), 40)
    assert begun.run_name == "geometry3k-5ee800ea"
    assert why_anew(RunConfig.model_validate(there)).endswith(
        f'another model.name (there "{once}", here "Qwen/Qwen3.6-35B-A3B"), model.thinking (there '
        f'null, here "off") than {begun.run_dir}, which has 40 steps.'
    )
    assert why_anew(begun) == ""
