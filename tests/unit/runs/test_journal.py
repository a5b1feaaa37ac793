import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sampled import group_of, rollout

from visual_r1.config import RunConfig
from visual_r1.errors import RunError, StorageError
from visual_r1.grading import GRADER_VERSION
from visual_r1.rl.metrics import StepTimer, step_metrics
from visual_r1.rl.step import ScoredRollout, StepResult
from visual_r1.runs.journal import Journal, read_rollouts, rollout_table
from visual_r1.tables import ROW_GROUP, open_table, pa, write_table


def result(step: int, reward: float = 0.5) -> StepResult:
    samples = [
        rollout(reward, "right", sample=0, components={"format": 1.0, "accuracy": 1.0}),
        rollout(0.0, "gave_up", sample=1, stop_reason="length"),
    ]
    config, seconds = RunConfig(preset="quickstart"), StepTimer().row()
    metrics = step_metrics(config, step, [group_of(*samples)], [], None, seconds=seconds)
    advantages = (1.0, -1.0)
    scored = [ScoredRollout(one, a) for one, a in zip(samples, advantages, strict=True)]
    return StepResult(metrics, tuple(scored))


def tables(*results: StepResult) -> list[Any]:
    """As a chunk keeps them: a step each."""
    return [rollout_table([one]) for one in results]


def steps_of(journal: Journal) -> list[int]:
    lines = journal.metrics_path.read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Two chunks of three steps, written to the end."""
    made = Journal(tmp_path)
    for chunk in range(2):
        results = [result(step) for step in range(3 * chunk, 3 * chunk + 3)]
        for one in results:
            made.append(one.metrics)
        made.write_rollouts(chunk, tables(*results))
    return made


def test_a_row_is_there_as_soon_as_its_step_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(result(0).metrics)
    assert steps_of(journal) == [0]
    journal.append(result(1).metrics)
    assert [row["step"] for row in journal.rows()] == [0, 1]


def test_what_is_known_later_is_added_to_the_newest_row(journal: Journal) -> None:
    before = journal.rows()
    journal.add_to_last(seconds_checkpoint=1.5)
    assert journal.rows() == [*before[:-1], before[-1] | {"seconds_checkpoint": 1.5}]
    journal.rewind(0)
    journal.add_to_last(seconds_checkpoint=1.5)
    assert journal.rows() == []


def test_a_broken_chunk_is_written_again_and_each_step_stands_once(journal: Journal) -> None:
    for step in (6, 7):
        journal.append(result(step).metrics)
    with journal.metrics_path.open("a") as out:
        out.write('{"step": 8, "updat')
    whole = journal.metrics_path.read_text().splitlines(keepends=True)[:6]
    journal.rewind(6)
    assert journal.metrics_path.read_text() == "".join(whole)
    for step in (6, 7, 8):
        journal.append(result(step).metrics)
    assert steps_of(journal) == list(range(9))
    aside = journal.metrics_path.with_name("metrics.set-aside.jsonl")
    assert aside.read_text() == '{"step": 8, "updat\n'  # it is never lost


def test_nothing_changes_where_there_is_nothing_to_rewind(journal: Journal) -> None:
    before = {path: path.stat().st_mtime_ns for path in journal.rollouts_dir.iterdir()}
    text = journal.metrics_path.read_bytes()
    journal.rewind(6)
    assert journal.metrics_path.read_bytes() == text
    assert {p: p.stat().st_mtime_ns for p in journal.rollouts_dir.iterdir()} == before


def test_going_back_takes_later_rollouts_away_and_keeps_a_copy(
    journal: Journal, tmp_path: Path
) -> None:
    journal.copy_aside(2)
    journal.rewind(2)
    assert steps_of(journal) == [0, 1]
    [left] = sorted(journal.rollouts_dir.iterdir())
    assert read_rollouts(left)["step"].to_pylist() == [0, 0, 1, 1]
    [aside] = (tmp_path / "set-aside").iterdir()
    assert len((aside / "metrics.jsonl").read_text().splitlines()) == 6
    assert len(list((aside / "rollouts").glob("*.parquet"))) == 2


def test_copies_that_somebody_deleted_keep_no_run_from_going_back(
    journal: Journal, tmp_path: Path
) -> None:
    for step in (4, 3):
        journal.copy_aside(step)
    first, _ = sorted((tmp_path / "set-aside").iterdir())
    shutil.rmtree(first)
    journal.copy_aside(3)
    names = sorted(path.name[:4] for path in (tmp_path / "set-aside").iterdir())
    assert names == ["001-", "002-"]


def test_a_chunk_that_was_cut_short_is_continued_in_its_file(journal: Journal) -> None:
    journal.rewind(4)
    path = journal.write_rollouts(1, tables(result(4), result(5)))
    assert path.name == "chunk-00001.parquet"
    assert read_rollouts(path)["step"].to_pylist() == [3, 3, 4, 4, 5, 5]


def test_a_file_is_the_same_whether_its_steps_came_one_by_one_or_together(
    journal: Journal,
) -> None:
    """Also where a component is not in all steps: the user's own that failed in each sample."""
    own = rollout(0.5, "right", sample=0, components={"custom": 0.5}, weights={"custom": 1})
    second = result(7)
    later = replace(second, rollouts=(ScoredRollout(own, 0.0),))
    path = journal.write_rollouts(7, tables(result(6), later, result(8)))
    one_by_one = path.read_bytes()
    path.unlink()
    journal.write_rollouts(7, [rollout_table([result(6), later, result(8)])])
    assert path.read_bytes() == one_by_one


def test_a_row_a_sample_with_all_that_the_report_reads(journal: Journal) -> None:
    first, second = read_rollouts(journal.rollouts_dir / "chunk-00000.parquet").to_pylist()[:2]
    assert first == {
        "step": 0,
        "problem_id": "p0",
        "group": 0,
        "sample": 0,
        "response": "<answer>5</answer>",
        "reward": 0.5,
        "reward_accuracy": 1.0,
        "reward_format": 1.0,
        "advantage": 1.0,
        "response_tokens": 3,
        "stop_reason": "stop",
        "verdict": "right",
        "reason": "",
        "grader_version": GRADER_VERSION,
        "outcome": None,
        "second_verdict": None,
        "scan_read": None,
        "second_response": None,
        "second_order": None,
        "failure": None,
        "sequence_id": None,
        "staleness": 0,
    }
    assert (second["verdict"], second["reason"]) == ("gave_up", "too deep")
    assert (second["stop_reason"], second["advantage"]) == ("length", -1.0)


def test_metrics_that_are_missing_are_said_to_be(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    lines = journal.metrics_path.read_text().splitlines(keepends=True)
    journal.metrics_path.write_text("".join([*lines[:2], "\0\0\n", *lines[3:]]))
    with caplog.at_level(logging.WARNING):
        journal.rewind(6)
    assert "no row for steps 2" in caplog.text
    assert steps_of(journal) == [0, 1, 3, 4, 5]
    # Damaged, it is kept all the same.
    aside = journal.metrics_path.with_name("metrics.set-aside.jsonl")
    assert aside.read_bytes() == b"\0\0\n"


def test_rows_that_another_program_wrote_anew_do_not_pass_for_old_ones(journal: Journal) -> None:
    path = journal.metrics_path
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    found = journal.read()
    assert not found.sound
    assert list(found.damaged) == [1, 2, 3, 4, 5, 6][: len(rows)]


def test_rows_that_stay_are_not_written_anew(journal: Journal) -> None:
    """Those of a version without a chain, some of them by hand."""
    rows = [json.dumps(row) for row in journal.rows()]
    by_hand = "\n".join(rows).replace('"step": 0,', '"step":0, "loss_of_old": NaN,') + "\n"
    journal.metrics_path.write_text(by_hand)
    journal.rewind(5)
    journal.add_to_last(seconds_checkpoint=1.5)
    assert journal.metrics_path.read_text().splitlines()[:4] == by_hand.splitlines()[:4]
    assert journal.rows()[-1]["seconds_checkpoint"] == 1.5
    assert journal.read().unverified == 4


def test_leftovers_of_a_kill_are_cleared(journal: Journal) -> None:
    (journal.rollouts_dir / ".chunk-00002.parquet.123.tmp").write_bytes(b"half")
    journal.rewind(6)
    assert {p.name for p in journal.rollouts_dir.iterdir()} == {
        "chunk-00000.parquet",
        "chunk-00001.parquet",
    }


def test_a_full_disk_is_one_sentence_and_what_was_there_stays(
    journal: Journal, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = {path: path.read_bytes() for path in journal.rollouts_dir.iterdir()}
    with full_disk(64):
        with pytest.raises(StorageError, match=r"could not write .*metrics"):
            journal.append(result(6).metrics)
        with pytest.raises(StorageError, match=r"could not write .*chunk-00001"):
            journal.write_rollouts(1, tables(result(6)))
        with pytest.raises(StorageError, match="could not keep a copy"):
            journal.copy_aside(2)
    assert {path: path.read_bytes() for path in journal.rollouts_dir.iterdir()} == before
    assert not list((journal.rollouts_dir.parent / "set-aside").iterdir())  # no part of a copy
    assert [row["step"] for row in journal.rows()] == list(range(6))


@pytest.mark.parametrize("where", ["end", "middle", "footer"])
def test_damaged_rollouts_are_put_aside_and_the_run_goes_on(
    journal: Journal, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    path = journal.rollouts_dir / "chunk-00001.parquet"
    whole = path.read_bytes()
    place = {"end": len(whole) - 4, "middle": 40, "footer": len(whole) - 400}[where]
    damaged = whole[:place] + b"\xff" * 20 + whole[place + 20 :]
    path.write_bytes(damaged)
    for step in (3, 4):
        journal.rewind(step)
    assert not path.exists()
    assert (path.parents[1] / "set-aside" / f"{path.name}.damaged-1").read_bytes() == damaged
    assert "chunk-00001.parquet cannot be read as Parquet" in caplog.text
    assert "the run goes on" in caplog.text


def test_rollouts_that_are_not_those_of_the_ledger_are_not_continued(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    path = journal.rollouts_dir / "chunk-00001.parquet"
    digests = journal.rollouts_digest(path)
    journal.write_rollouts(1, tables(result(6)), lambda: digests)
    assert not caplog.records
    journal.rewind(6)  # as after a kill: the same rows in another layout
    assert journal.rollouts_digest(path) == digests
    journal.write_rollouts(1, tables(result(3, reward=0.25)))
    journal.write_rollouts(1, tables(result(6)), lambda: digests)
    assert "chunk-00001.parquet is damaged: its rows have the digest" in caplog.text
    assert read_rollouts(path)["step"].to_pylist() == [6, 6]


def test_parquet_of_another_kind_is_a_damaged_file_of_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "chunk-00000.parquet"
    write_table(path, pa.table({"id": ["a"]}))
    with pytest.raises(RunError, match=r"chunk-00000\.parquet .*step"):
        read_rollouts(path)


def test_who_wants_one_group_of_a_large_chunk_decodes_a_part_of_it(journal: Journal) -> None:
    """Rows lie by step, and each part says in the footer which steps it has."""
    samples = 2 * ROW_GROUP // 2  # of two each
    path = journal.write_rollouts(9, tables(*map(result, range(45, 45 + samples))))
    with open_table(path) as file:
        groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP, ROW_GROUP]
    bounds = [(one.column(0).statistics.min, one.column(0).statistics.max) for one in groups]
    assert bounds[0][0] == 45 and bounds[0][1] < bounds[1][0]
