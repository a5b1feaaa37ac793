"""The rows of validation.jsonl, and the checkpoints by name: best, final, or the step."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from validated import checkpoint, path, row

from visual_r1.errors import RunError, StorageError
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations, best_checkpoint, named_checkpoint


@pytest.fixture
def validations(tmp_path: Path) -> Validations:
    made = Validations(tmp_path)
    for step in (0, 4, 8):
        made.record(row(step))
    return made


def test_rows_come_back_as_they_were_recorded(validations: Validations) -> None:
    assert validations.rows() == [row(0), row(4), row(8)]
    with_blind = replace(row(12), blind_n=4, blind_accuracy=0.25, blind_accuracy_ci95=(0.0, 0.7))
    validations.record(with_blind)
    assert validations.rows()[-1] == with_blind
    assert validations.of(4, path(4)) == row(4)
    assert validations.of(4, path(4, take=1)) is None


def test_the_file_has_the_names_that_others_read(validations: Validations) -> None:
    first = json.loads(validations.path.read_text().splitlines()[0])
    assert {
        "step", "n", "accuracy", "accuracy_ci95", "blind_accuracy", "format_rate",
        "mean_response_tokens", "sampler_path", "seconds",
    } <= set(first)  # fmt: skip


def test_a_row_that_comes_late_stands_in_its_place(validations: Validations) -> None:
    validations.record(row(2))
    assert [one.step for one in validations.rows()] == [0, 2, 4, 8]
    assert not validations.set_aside_path.exists()


def test_each_step_stands_once_and_the_older_row_is_set_aside(validations: Validations) -> None:
    validations.record(row(8, 0.75, take=1))
    assert [one.step for one in validations.rows()] == [0, 4, 8]
    assert validations.rows()[-1].accuracy == 0.75
    [aside] = validations.set_aside_path.read_text().splitlines()
    assert json.loads(aside)["sampler_path"] == path(8)


def test_going_back_sets_later_rows_aside_and_the_base_model_stays(
    validations: Validations,
) -> None:
    validations.go_back_to(8)
    assert not validations.set_aside_path.exists()
    validations.go_back_to(4)
    assert [one.step for one in validations.rows()] == [0, 4]
    validations.go_back_to(0)
    assert [one.step for one in validations.rows()] == [0]
    aside = [json.loads(line)["step"] for line in validations.set_aside_path.open()]
    assert aside == [8, 4]


def test_a_kill_between_the_two_files_loses_and_repeats_nothing(validations: Validations) -> None:
    before = validations.path.read_text()
    validations.go_back_to(4)
    validations.path.write_text(before)  # as if it had been killed before the second file
    validations.go_back_to(4)
    assert [one.step for one in validations.rows()] == [0, 4]
    assert len(validations.set_aside_path.read_text().splitlines()) == 1


@pytest.mark.parametrize("torn", ['{"step": 8, "n"', "[]", '{"step": 8}', "\ufffd", '"text"'])
def test_a_damaged_line_is_left_out_and_kept_aside(validations: Validations, torn: str) -> None:
    *kept, _ = validations.path.read_text().splitlines()
    validations.path.write_text("\n".join([*kept, torn]) + "\n")
    assert [one.step for one in validations.rows()] == [0, 4]
    validations.record(row(8))
    assert [one.step for one in validations.rows()] == [0, 4, 8]
    assert validations.set_aside_path.read_text().splitlines() == [torn]


def test_a_row_from_before_costs_were_counted_is_read(validations: Validations) -> None:
    before = validations.rows()
    lines = [json.loads(line) for line in validations.path.read_text().splitlines()]
    for line in lines:
        del line["tokens_prefill"], line["tokens_sampled"], line["cost_usd"], line["chain"]
    validations.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validations.rows() == before


def test_a_full_disk_leaves_what_was_there(
    validations: Validations, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    size = validations.path.stat().st_size
    with full_disk(size), pytest.raises(StorageError, match=r"could not write .*validation"):
        validations.record(row(12))
    assert [one.step for one in validations.rows()] == [0, 4, 8]


def test_the_best_is_the_most_accurate_and_of_equals_the_latest() -> None:
    rows = [row(0, 1.0), row(4, 0.5), row(8, 0.75), row(12, 0.75), row(16, 0.5)]
    ledger = [checkpoint(step) for step in (4, 8, 12, 16)]
    assert best_checkpoint(rows, ledger) == checkpoint(12)
    assert best_checkpoint(rows, ledger[:2]) == checkpoint(8)
    assert best_checkpoint(reversed(rows), ledger) == checkpoint(12)


def test_only_weights_that_are_there_and_were_validated_can_be_the_best() -> None:
    assert best_checkpoint([], [checkpoint(4)]) is None
    assert best_checkpoint([row(4, 1.0)], []) is None
    assert best_checkpoint([row(4, 1.0), row(8, 0.25)], [checkpoint(4, take=1)]) is None
    unanswered = replace(row(4, 0.0), n=0)
    assert best_checkpoint([unanswered], [checkpoint(4)]) is None


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step, accuracy in ((4, 0.5), (8, 0.75), (12, 0.25)):
        Ledger(tmp_path).append(checkpoint(step))
        Validations(tmp_path).record(row(step, accuracy))
    return tmp_path


@pytest.mark.parametrize(("name", "step"), [("best", 8), ("final", 12), ("4", 4)])
def test_each_name_is_a_checkpoint(run_dir: Path, name: str, step: int) -> None:
    assert named_checkpoint(run_dir, name) == checkpoint(step)


def test_a_step_that_is_not_there_lists_those_that_are(run_dir: Path) -> None:
    with pytest.raises(RunError, match=r"no checkpoint '7' .* best, final, .* 4, 8, 12"):
        named_checkpoint(run_dir, "7")


def test_without_validation_none_is_the_best(run_dir: Path) -> None:
    Validations(run_dir).path.unlink()
    with pytest.raises(RunError, match=r"none is the best.*--validation\.every 1"):
        named_checkpoint(run_dir, "best")
    assert named_checkpoint(run_dir, "final").step == 12


def test_the_best_is_among_the_checkpoints_that_are_left(run_dir: Path) -> None:
    Validations(run_dir).record(replace(row(12, 0.9), sampler_path="tinker://another"))
    Ledger(run_dir).drop({8})
    assert named_checkpoint(run_dir, "best") == checkpoint(4)


def test_a_run_that_has_not_begun_has_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint yet"):
        named_checkpoint(tmp_path, "final")
