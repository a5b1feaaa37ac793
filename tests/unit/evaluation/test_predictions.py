"""predictions.parquet: what is written is read, whole or not at all, and `datasets` shows it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import datasets
import pytest
from made_up import answer, picture, predictions, problems, write_evaluation

from visual_r1.errors import DataError, StorageError
from visual_r1.evaluation.prediction import Prediction
from visual_r1.evaluation.predictions import (
    PREDICTIONS_NAME,
    ROW_GROUP,
    iterate_predictions,
    read_predictions,
    write_predictions,
)


def test_rows_come_back_in_order_with_picture_and_answers(tmp_path: Path):
    asked = problems(ROW_GROUP + 3)
    made = predictions(asked, accuracy=0.5, seed=2, k=4)
    write_predictions(tmp_path / PREDICTIONS_NAME, asked, made)
    rows = read_predictions(tmp_path)
    assert [row["id"] for row in rows] == [problem.id for problem in asked]
    row, prediction = rows[-1], made[-1]
    assert row["images"][0]["bytes"] == picture(ROW_GROUP + 2)
    assert prediction.greedy is not None
    assert (row["response"], row["correct"]) == (
        prediction.greedy.response,
        prediction.greedy.right,
    )
    assert (row["k"], row["sampled_correct"]) == (4, prediction.sampled_correct)
    assert len(row["sampled_responses"]) == 4


def test_a_failed_request_is_null_and_not_wrong(tmp_path: Path):
    asked = problems(2)
    made = [
        Prediction(asked[0].id, "f", None, None, (), {"greedy": "refused: too long"}),
        Prediction(asked[1].id, "f", answer(False), None, (), {}),
    ]
    write_predictions(tmp_path / PREDICTIONS_NAME, asked, made)
    rows = read_predictions(tmp_path, ["correct", "failures", "blind_correct"])
    assert [row["correct"] for row in rows] == [None, False]
    assert [row["blind_correct"] for row in rows] == [None, None]
    assert "too long" in rows[0]["failures"]


def test_datasets_opens_the_file_with_decoded_pictures(tmp_path: Path):
    asked = problems(3)
    write_predictions(tmp_path / PREDICTIONS_NAME, asked, predictions(asked, 1.0, seed=0))
    opened = datasets.Dataset.from_parquet(
        str(tmp_path / PREDICTIONS_NAME), cache_dir=str(tmp_path / "cache")
    )
    assert opened[0]["images"][0].size == (96, 96)
    assert opened["correct"][:] == [True, True, True]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path):
    asked = problems(ROW_GROUP + 1)
    made = predictions(asked, 1.0, seed=0)
    write_predictions(tmp_path / PREDICTIONS_NAME, asked[:1], made[:1])
    with pytest.raises(IndexError):
        write_predictions(tmp_path / PREDICTIONS_NAME, asked[:-1], made)
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS_NAME]
    assert len(read_predictions(tmp_path)) == 1


def test_a_folder_that_refuses_the_file_is_one_sentence(tmp_path: Path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    asked = problems(1)
    with pytest.raises(StorageError, match="could not write"):
        write_predictions(
            tmp_path / "taken" / PREDICTIONS_NAME, asked, predictions(asked, 1.0, seed=0)
        )


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
):
    asked = problems(50)
    write_predictions(tmp_path / PREDICTIONS_NAME, asked[:1], predictions(asked[:1], 1.0, seed=0))
    with pytest.raises(StorageError, match="could not write"), full_disk(4096):
        write_predictions(tmp_path / PREDICTIONS_NAME, asked, predictions(asked, 1.0, seed=0))
    assert len(read_predictions(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS_NAME]


@pytest.mark.parametrize("content", [None, b"not parquet"])
def test_an_unreadable_file_says_what_to_do(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / PREDICTIONS_NAME).write_bytes(content)
    with pytest.raises(DataError, match="evaluate again"):
        list(iterate_predictions(tmp_path))


def test_no_bit_of_the_predictions_changes_in_silence(tmp_path: Path):
    asked = problems(8)
    write_evaluation(tmp_path, asked, predictions(asked, 0.5, seed=0))
    path = tmp_path / PREDICTIONS_NAME
    whole = path.read_bytes()
    for bit in range(5, 8 * len(whole), 8 * len(whole) // 58):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"predictions\.parquet is damaged.*evaluate again"):
            read_predictions(tmp_path, ["id"])
    path.write_bytes(whole)
    assert len(read_predictions(tmp_path)) == 8


def test_predictions_of_an_older_report_are_as_they_were_or_refused_in_a_sentence(tmp_path: Path):
    """No report vouches for them; the checksums of their pages do."""
    asked = problems(8)
    write_predictions(tmp_path / PREDICTIONS_NAME, asked, predictions(asked, 0.5, seed=0))
    path = tmp_path / PREDICTIONS_NAME
    whole, rows = path.read_bytes(), read_predictions(tmp_path)
    refused = 0
    for place in range(0, len(whole) - 20, len(whole) // 60):
        path.write_bytes(whole[:place] + bytes(range(100, 120)) + whole[place + 20 :])
        try:
            assert read_predictions(tmp_path) == rows, place
        except DataError as error:
            assert str(error).startswith(f"{path} cannot be read")
            assert str(error).endswith("evaluate again.")
            refused += 1
    assert refused > 30
