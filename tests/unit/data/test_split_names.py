"""Which split the names of files and folders say."""

from pathlib import Path
from typing import Any

import pytest
from drawn import hub_row, inter_gps, write_parquet

from visual_r1.config import DataSection
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.errors import DataError


def prepared(source: Path, out: Path, **settings: Any) -> Dataset:
    return prepare(DataSection(source=str(source), **settings), out)


def test_splits_by_name(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name, n in (("mini-00000-of-00001-ab12", 0), ("full", 1), ("testmini", 2), ("train", 3)):
        write_parquet(root / "data" / f"{name}.parquet", [hub_row(n)])
    dataset = prepared(root, tmp_path, splits={"train": "mini, full", "test": ["testmini"]})
    assert [p.answer for p in dataset.problems("train")] == ["1", "0"]
    assert [p.answer for p in dataset.problems("test")] == ["2"]
    with pytest.raises(DataError, match=r"splits\.train names 'most'.*it has data, full, mini,"):
        prepared(root, tmp_path, splits={"train": "most"})
    with pytest.raises(DataError, match=r"'full' of the source is named for train and for test"):
        prepared(root, tmp_path, splits={"train": "full", "test": "full"})
    layout = inter_gps(tmp_path / "geo", {"train": 2, "minival": 1, "test": 5})
    dataset = prepared(layout, tmp_path, splits={"train": "test", "test": "minival"})
    assert (dataset.counts["train"], dataset.counts["test"]) == (5, 1)


def test_a_name_that_says_no_split_beside_others_that_do_is_not_trained_on(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for n, name in enumerate(("train", "exam", "more/unseen")):
        write_parquet(root / f"{name}.parquet", [hub_row(n)])
    with pytest.raises(DataError, match=r"exam\.parquet and 1 more in .* --data\.splits\.t"):
        prepared(root, tmp_path)
    dataset = prepared(root, tmp_path, splits={"train": "train", "test": "exam"})
    assert (dataset.counts["train"], dataset.counts["test"]) == (1, 1)
    layout = inter_gps(tmp_path / "geo", {"train": 2, "minival": 1, "test": 5})
    with pytest.raises(DataError, match=r"minival in .* may belong to any split"):
        prepared(layout, tmp_path)
    silent = tmp_path / "silent"
    for n, name in enumerate(("one", "two", "three")):  # all train, and then cut
        write_parquet(silent / f"{name}.parquet", [hub_row(10 * n + i) for i in range(10)])
    assert sum(prepared(silent, tmp_path).counts.values()) == 30


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("geo_train", "geo_test"), (10, 0, 10)),
        (("geo.train", "geo.test", "geo.dev"), (10, 10, 10)),
        (("data_train_v2", "Geo Test"), (10, 0, 10)),
        (("geo_train/a", "geo-val/a"), (10, 10, 0)),
        (("geo-train-00000-of-00002", "geo-train-00001-of-00002", "test"), (20, 0, 10)),
        (("train-00000-of-00001-0test0", "val_geo_train"), (10, 10, 0)),
        (("constrained",), (7, 1, 2)),  # cut
        (("latest", "trainer"), (14, 2, 4)),
        (("latest2", "contestA", "attestData"), (21, 3, 6)),
        (("train1", "test1"), (10, 0, 10)),
        (("geoTrain", "geoTest"), (10, 0, 10)),
        (("trainA", "valA", "testA"), (10, 10, 10)),
        (("VQATrain", "VQATest2017"), (10, 0, 10)),
        (("trainset", "testset", "geo_devData"), (10, 10, 10)),
        (("train/part1", "Test/testA"), (10, 0, 10)),
        (("TRAINING", "testMini"), (10, 0, 10)),
        (("train/geo_train", "test/geo"), (10, 0, 10)),
    ],
)
def test_any_whole_word_of_a_name_says_the_split(
    tmp_path: Path, names: tuple[str, ...], expected: tuple[int, int, int]
) -> None:
    for n, name in enumerate(names):
        rows = [hub_row(10 * n + i) for i in range(10)]
        write_parquet(tmp_path / "set" / f"{name}.parquet", rows)
    counts = prepared(tmp_path / "set", tmp_path).counts
    assert tuple(counts[split] for split in ("train", "validation", "test")) == expected


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("geo_train_test", "says 'train' and 'test' in its name, which name different splits: let"),
        ("train/geo_test", "says 'test' and 'train' in its name, which name different splits: let"),
        ("geoTrainTest2", "says 'train' and 'test' in its name, which name different splits"),
        ("eval1", "says 'eval' in its name, which may mean validation or test"),
        ("eval", "says 'eval' in its name, which may mean validation or test: let its name begin"),
        ("geo-evaluation", "says 'evaluation' in its name, which may mean validation or test"),
    ],
)
def test_a_name_that_may_mean_two_splits_is_asked_about(
    tmp_path: Path, name: str, sentence: str
) -> None:
    path = write_parquet(tmp_path / "set" / f"{name}.parquet", [hub_row(n) for n in range(10)])
    with pytest.raises(DataError, match=rf"{name}\.parquet in .* {sentence}"):
        prepared(tmp_path / "set", tmp_path)
    chosen = prepared(tmp_path / "set", tmp_path, splits={"train": path.stem})
    assert chosen.counts["train"] == 7


def test_what_was_sorted_by_beginnings_alone_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "set"
    for n, name in enumerate(("geo_train", "geo_test")):
        write_parquet(root / f"{name}.parquet", [hub_row(10 * n + i) for i in range(10)])
    with monkeypatch.context() as before:
        before.setattr("visual_r1.data.dataset.CUT_VERSION", 3)
        former = prepared(root, tmp_path)
    caplog.clear()
    assert prepared(root, tmp_path).folder == former.folder
    assert "as train, geo_test.parquet among them, and goes on so" in caplog.text
    # It cannot be made again as it was: what is made in its place has another name.
    next(former.folder.glob("test-*")).unlink()
    now = prepared(root, tmp_path)
    assert now.folder != former.folder and now.counts["test"] == 10
