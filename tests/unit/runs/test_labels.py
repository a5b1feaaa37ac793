"""Decisions about labels: kept, found again, and gone by from a run's beginning to its end."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, open_dataset, prepare
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError, RunError, VisualR1Error
from visual_r1.hashing import file_digest
from visual_r1.runs import labels
from visual_r1.runs.decisions import (
    DISPUTES_FILE,
    Decision,
    content_of,
    content_of_problem,
    read_decisions,
    record,
)
from visual_r1.runs.labels import (
    LABELS_FILE,
    evaluated_problems,
    labels_now,
    labels_of_evaluation,
    labels_of_run,
    settle_labels,
)
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.training_rows import carried, training_problems


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    return prepare(config_of(folder).data, folder)


def config_of(folder: Path, **evaluation: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder,
            "data": {"train": 10, "validation": 4, "test": 6},
            "evaluation": evaluation,
            "run": {"name": "mine"},
        }
    )


@pytest.fixture(autouse=True)
def said_anew() -> None:
    labels._say.cache_clear()  # pyright: ignore[reportPrivateUsage]


def decide(folder: Path, problem: Problem, kind: Any, answer: str = "") -> Decision:
    return record(
        folder, problem.id, content_of_problem(problem), kind,
        gold=problem.answer, answer=answer, who="ada", why="read twice",
    )  # fmt: skip


def test_the_newest_decision_holds_and_may_be_withdrawn(tmp_path: Path, dataset: Dataset) -> None:
    one = dataset.problems("train")[0]
    content = content_of_problem(one)
    made = [decide(tmp_path, one, *how) for how in (("drop",), ("other", "-1"), ("gold",))]
    found = read_decisions(tmp_path)
    assert found.rows == tuple(made) and found.about(one.id, content) == made[-1]
    assert (made[1].answer, made[1].gold, made[1].who) == ("-1", one.answer, "ada")
    decide(tmp_path, one, "withdrawn")
    assert read_decisions(tmp_path).about(one.id, content) is None
    assert len(read_decisions(tmp_path).rows) == 4
    rows = [json.loads(line) for line in (tmp_path / DISPUTES_FILE).read_text().splitlines()]
    assert all("chain" in row for row in rows)
    with pytest.raises(DataError, match="nothing to withdraw"):
        decide(tmp_path, one, "withdrawn")


@pytest.mark.parametrize(
    ("kind", "answer", "says"),
    [
        ("other", " ", "needs the answer"),
        ("other", "{}", "cannot be the answer to problem"),
        ("drop", "5", "goes with the decision other alone"),
    ],
)
def test_a_decision_that_makes_no_sense_is_one_sentence_and_not_kept(
    tmp_path: Path, dataset: Dataset, kind: str, answer: str, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        decide(tmp_path, dataset.problems("train")[0], kind, answer)
    assert not (tmp_path / DISPUTES_FILE).exists()


def test_another_answer_is_another(tmp_path: Path, dataset: Dataset) -> None:
    one = dataset.problems("train")[0]
    with pytest.raises(DataError, match="is the gold answer"):
        decide(tmp_path, one, "other", f"{one.answer}.0")


def test_a_damaged_row_is_said_and_set_aside(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = dataset.problems("train")[:3]
    for one in (first, second):
        decide(tmp_path, one, "drop")
    path = tmp_path / DISPUTES_FILE
    path.write_text(path.read_text().replace(first.id, first.id[:-1] + "x", 1))
    with caplog.at_level(logging.WARNING):
        found = read_decisions(tmp_path)
    assert [one.problem_id for one in found.rows] == [second.id]
    assert "Row 1 of" in caplog.text and "is not used" in caplog.text
    decide(tmp_path, third, "drop")
    assert [one.problem_id for one in read_decisions(tmp_path).rows] == [second.id, third.id]
    assert first.id[:-1] in (tmp_path / "disputes.set-aside.jsonl").read_text()


def test_a_decision_goes_with_the_problem_and_hits_no_other_of_its_id(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    one = dataset.problems("train")[3]
    decide(tmp_path, one, "drop")
    again = prepare(config_of(tmp_path).data.model_copy(update={"train": 8}), tmp_path)
    assert again.digest != dataset.digest
    assert [(row.split, row.id) for row in labels_now(tmp_path, again).rows] == [("train", one.id)]
    assert not caplog.text
    for changed in (
        replace(one, answer="-1"),
        replace(one, problem="<image>Another question"),
        replace(one, images=(b"another", *one.images[1:])),
    ):
        assert content_of_problem(changed) != content_of_problem(one)
        record(tmp_path / "other", one.id, content_of_problem(changed), "drop", gold=changed.answer)
    with caplog.at_level(logging.WARNING):
        assert labels_now(tmp_path / "other", dataset).rows == ()
    assert f"another problem {one.id!r}" in caplog.text
    # What stands where one part ends and the next begins is told apart.
    assert content_of("a", "bc", [b"d"]) != content_of("ab", "c", [b"d"])


def test_a_run_goes_by_what_was_decided_when_it_began(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path)
    train, held = dataset.problems("train"), dataset.problems("test")
    decide(tmp_path, train[2], "drop")
    decide(tmp_path, train[5], "other", "-1")
    decide(tmp_path, train[6], "gold")
    decide(tmp_path, held[1], "drop")
    caplog.set_level(logging.WARNING)
    settle_labels(config, dataset, begun=False)
    assert "hold for this run: 3 (" in caplog.text and LABELS_FILE in caplog.text
    before = file_digest(config.run_dir / LABELS_FILE)
    caplog.clear()
    settle_labels(config, dataset, begun=True)
    assert not caplog.text, "nothing came since"
    decide(tmp_path, train[0], "drop")
    for begun in (False, True):
        settle_labels(config, dataset, begun=begun)
    assert caplog.text.count("goes by the decisions about labels with which it began") == 1
    assert file_digest(config.run_dir / LABELS_FILE) == before
    problems = training_problems(config, dataset, None)
    assert problems.ids() == [one.id for place, one in enumerate(train) if place != 2]
    assert [one.answer for one in problems][4] == problems.answers()[4] == "-1"
    assert [one.answer for one in problems] == problems.answers()
    own = labels_of_evaluation(config, dataset, "final")
    assert own.digest == labels_of_evaluation(config, dataset, "baseline").digest != ""
    decide(tmp_path, held[1], "withdrawn")
    assert labels_of_evaluation(config, dataset, "final").digest == own.digest
    assert labels_of_evaluation(config, dataset, "step-4").digest == "", "every other is of now"


def test_at_a_checkpoint_the_copy_must_be_the_same(tmp_path: Path, dataset: Dataset) -> None:
    config = config_of(tmp_path)
    decide(tmp_path, dataset.problems("train")[2], "drop")
    settle_labels(config, dataset, begun=False)
    path = config.run_dir / LABELS_FILE
    problems = training_problems(config, dataset, None)
    row = LedgerRow(
        step=4, state_path="tinker://a", sampler_path="tinker://b", expires_at=None,
        config_digest="", dataset_digest=dataset.digest, backend="embedded", created_at="",
        updates=4, carry=carried(problems, dataset), digests={LABELS_FILE: file_digest(path)},
    )  # fmt: skip
    assert len(training_problems(config, dataset, row)) == 9
    # A run from before went by none, and must not be given any.
    with pytest.raises(RunError, match="put the file back"):
        training_problems(config, dataset, replace(row, digests={}))
    whole = path.read_text()
    path.write_text(whole.replace('"place": 2', '"place": 3'))
    with pytest.raises(RunError, match="cannot be read"):
        training_problems(config, dataset, None)
    path.unlink()
    with pytest.raises(RunError, match="put the file back"):
        training_problems(config, dataset, row)


def test_a_dropped_problem_leaves_n_and_no_other_comes_in_its_place(
    tmp_path: Path, dataset: Dataset
) -> None:
    config = config_of(tmp_path, problems=4)
    held = list(dataset.problems("test"))
    decide(tmp_path, held[1], "drop")
    decide(tmp_path, held[5], "drop")  # beyond those that are asked
    decide(tmp_path, held[3], "other", "-1")
    found = labels_of_evaluation(config, dataset, "step-4")
    problems = evaluated_problems(config, dataset, found)
    assert [one.id for one in problems] == [held[place].id for place in (0, 2, 3)]
    assert [one.answer for one in problems] == [held[0].answer, held[2].answer, "-1"]
    alone = labels_of_evaluation(config_of(tmp_path, problems=1), dataset, "step-4")
    assert alone.digest == ""
    assert evaluated_problems(config, dataset, alone).ids() == [one.id for one in held]


def test_without_decisions_nothing_is_written_and_nothing_named(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path)
    decide(tmp_path, dataset.problems("train")[0], "gold")
    settle_labels(config, dataset, begun=False)
    assert not (config.run_dir / LABELS_FILE).exists() and not caplog.text
    assert labels_of_run(config.run_dir).digest == ""
    problems = training_problems(config, dataset, None)
    assert carried(problems, dataset) == {} and len(problems) == 10


def test_the_copy_of_another_dataset_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    config = config_of(tmp_path)
    decide(tmp_path, dataset.problems("train")[0], "drop")
    settle_labels(config, dataset, begun=False)
    other = replace(open_dataset(dataset.folder), digest="01234567")
    with pytest.raises(VisualR1Error, match="is of the dataset"):
        settle_labels(config, other, begun=True)
