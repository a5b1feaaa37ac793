"""Problems that were there before: found also in another file, another size, another split."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from drawn import figure, hub_row, read_rejected, write_parquet
from PIL import Image

from visual_r1.config import DataSection
from visual_r1.data import preparation
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.data.manifest import read_manifest
from visual_r1.data.procedural import generate

SAME = "the same question with the same image"


def prepared(tmp_path: Path, **splits: list[dict[str, Any]]) -> Dataset:
    for split, rows in splits.items():
        write_parquet(tmp_path / "set" / f"{split}.parquet", rows)
    return prepare(DataSection(source=str(tmp_path / "set")), tmp_path)


def reasons(dataset: Dataset) -> Mapping[str, str]:
    return {row["row"]: row["reason"] for row in read_rejected(dataset.folder)}


def ids(dataset: Dataset, split: Any) -> list[str]:
    return [problem.id for problem in dataset.problems(split)]


def again(data: bytes, scale: float = 1, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    """The image encoded again."""
    with Image.open(io.BytesIO(data)) as image:
        size = (round(image.width * scale), round(image.height * scale))
        out = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(out, kind, **options)
    return {"bytes": out.getvalue(), "path": None}


def test_a_repeat_inside_train_names_the_row_it_repeats(tmp_path: Path) -> None:
    spelled = hub_row(1, problem="<image>  FIND \n $x_{1}$. ", answer="1.0")
    dataset = prepared(tmp_path, train=[hub_row(0), hub_row(1), spelled], test=[hub_row(5)])
    assert ids(dataset, "train") == ["train-0", "train-1"]
    assert reasons(dataset) == {
        "train.parquet row 2": f"{SAME} came before: train.parquet row 1 (train)"
    }
    assert read_manifest(dataset.folder).duplicates == {"repeats": 1, "conflicts": 0}
    assert read_manifest(dataset.folder).reasons == {f"{SAME} came before": 1}


@pytest.mark.parametrize(
    "copy",
    [
        again(figure(3), kind="JPEG", quality=40),
        again(figure(3), scale=2),
        again(figure(3), scale=0.5),
        again(figure(3), kind="WEBP", quality=50),
    ],
    ids=["JPEG", "twice", "half", "WebP"],
)
def test_copies_of_a_test_problem_are_kept_out_of_training(
    tmp_path: Path, copy: dict[str, Any]
) -> None:
    train = [hub_row(n) for n in range(3)] + [hub_row(3, images=[copy])]
    dataset = prepared(tmp_path, train=train, test=[hub_row(3)])
    assert ids(dataset, "test") == ["test-0"]
    assert ids(dataset, "train") == ["train-0", "train-1", "train-2"]
    assert reasons(dataset) == {
        "train.parquet row 3": f"{SAME} came before: test.parquet row 0 (test)"
    }


def test_another_question_another_picture_or_another_order_is_another_problem(
    tmp_path: Path,
) -> None:
    two = [{"bytes": figure(n), "path": None} for n in (1, 2)]
    rows = [
        hub_row(1),
        hub_row(1, problem="<image>Find $y$."),
        hub_row(1, images=hub_row(30)["images"]),
        hub_row(1, images=two, problem="<image><image>Find $x_{1}$."),
        hub_row(1, images=two[::-1], problem="<image><image>Find $x_{1}$."),
    ]
    dataset = prepared(tmp_path, train=rows, test=[hub_row(5)])
    assert (dataset.counts["train"], dataset.counts["rejected"]) == (5, 0)


def test_a_copy_of_several_images_is_one_of_all_of_them(tmp_path: Path) -> None:
    one, two, three = ({"bytes": figure(n), "path": None} for n in (1, 2, 43))
    text = "<image><image>Which is larger?"
    rows = [
        hub_row(1, images=[one, two], problem=text),
        hub_row(1, images=[one, three], problem=text),
        hub_row(1, images=[again(figure(1), kind="JPEG"), again(figure(2), 2)], problem=text),
    ]
    dataset = prepared(tmp_path, train=rows, test=[hub_row(5)])
    assert ids(dataset, "train") == ["train-0", "train-1"]


def test_validation_gives_way_to_test_and_both_keep_their_own_repeats(tmp_path: Path) -> None:
    dataset = prepared(
        tmp_path,
        train=[hub_row(n) for n in (1, 2, 4)],
        validation=[hub_row(n) for n in (2, 2, 3)],
        test=[hub_row(n) for n in (3, 3, 5)],
    )
    assert ids(dataset, "test") == ["test-0", "test-1", "test-2"]
    assert ids(dataset, "validation") == ["validation-0", "validation-1"]
    assert ids(dataset, "train") == ["train-0", "train-2"]
    assert reasons(dataset) == {
        "validation.parquet row 2": f"{SAME} came before: test.parquet row 0 (test)",
        "train.parquet row 1": f"{SAME} came before: validation.parquet row 0 (validation)",
    }
    found = read_manifest(dataset.folder).duplicates
    assert found == {"repeats": 2, "conflicts": 0, "kept in test": 1, "kept in validation": 1}
    card = (dataset.folder / "README.md").read_text()
    assert "1 problems of test repeat another one" in card


@pytest.mark.parametrize("shard_bytes", [1, 2**28])
def test_labels_in_conflict_are_not_trained_on(
    tmp_path: Path, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the two, wherever the first was written; a third one repeats them."""
    monkeypatch.setattr(preparation, "SHARD_BYTES", shard_bytes)
    train = [hub_row(0), hub_row(1), hub_row(2), hub_row(1, answer="7"), hub_row(1), hub_row(3)]
    dataset = prepared(tmp_path, train=[*train, hub_row(5, answer="6")], test=[hub_row(5)])
    assert ids(dataset, "train") == ["train-0", "train-2", "train-5"]
    assert ids(dataset, "test") == ["test-0"]
    told = f"{SAME} has another answer"
    assert reasons(dataset) == {
        "train.parquet row 3": f"{told}: '7' here, '1' in train.parquet row 1 (train)",
        "train.parquet row 1": f"{told}: '1' here, '7' in train.parquet row 3 (train)",
        "train.parquet row 4": f"{SAME} came before: train.parquet row 1 (train)",
        "train.parquet row 6": f"{told}: '6' here, '5' in test.parquet row 0 (test)",
    }
    assert dict(dataset.counts) == {"train": 3, "validation": 0, "test": 1, "rejected": 4}
    assert read_manifest(dataset.folder).duplicates == {"repeats": 1, "conflicts": 3}


def test_copies_are_found_in_shards_that_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SHARD_BYTES", 4_000)
    rows = [hub_row(n, problem="<image>Find x.") for n in range(40)]
    copies = [
        hub_row(n, problem="<image>Find x.", images=[again(figure(n), kind="JPEG", quality=60)])
        for n in range(0, 40, 5)
    ]
    dataset = prepared(tmp_path, train=rows + copies, test=[hub_row(77)])
    assert ids(dataset, "train") == [f"train-{n}" for n in range(40)]
    assert list(reasons(dataset).values()) == [
        f"{SAME} came before: train.parquet row {n} (train)" for n in range(0, 40, 5)
    ]


def test_drawn_problems_with_one_question_are_all_different(tmp_path: Path) -> None:
    rows = [
        hub_row(n, problem="<image>Find x.", images=[{"bytes": p.images[0], "path": None}])
        for n, p in enumerate(generate(0, "train", 300))
    ]
    dataset = prepared(tmp_path, train=rows, test=[hub_row(77)])
    assert (dataset.counts["train"], dataset.counts["rejected"]) == (300, 0)
