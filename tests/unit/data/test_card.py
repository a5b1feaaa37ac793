"""The card: what it tells, what `datasets` makes of it, and that it may be edited."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from drawn import figure, hub_row, write_parquet
from PIL import Image

from visual_r1.config import DataSection
from visual_r1.data.card import answer_kind
from visual_r1.data.dataset import Dataset, open_dataset, prepare

KINDS = {
    "12": "integer",
    "-5": "integer",
    "30^\\circ": "integer",
    "2.50": "decimal",
    "\\frac{15}{2}": "fraction",
    "2 1/2": "fraction",
    "5\\sqrt{3}": "radical",
    "2\\pi": "with π",
    "x + 1": "expression",
    "B": "letter",
    "(C)": "letter",
    "isosceles": "word",
    "3:4": "ratio",
    "3, 4": "several values",
    "(2, 5)": "pair or interval",
    "x > 3": "inequality",
    "50%": "percent",
    "\\int_0^1": "other",
}


@pytest.mark.parametrize(("answer", "kind"), KINDS.items())
def test_answers_by_kind(answer: str, kind: str) -> None:
    assert answer_kind(answer) == kind


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("card")
    rows: list[dict[str, Any]] = [hub_row(n) for n in range(30)]
    rows[0] = hub_row(0, answer="5\\sqrt{3}")
    rows[1] = hub_row(1, images=[{"bytes": figure(1, (640, 320)), "path": None}])
    rows[2] = hub_row(2, images=[*rows[2]["images"], *rows[3]["images"]], problem="Compare.")
    rows[4] = hub_row(4, answer="")
    rows[6] = hub_row(5)
    write_parquet(folder / "a|set" / "train.parquet", rows)
    write_parquet(folder / "a|set" / "test.parquet", [hub_row(40)])
    return prepare(DataSection(source=str(folder / "a|set")), folder)


def test_the_card_counts(dataset: Dataset) -> None:
    card = (dataset.folder / "README.md").read_text(encoding="utf-8")
    for line in (
        "| train | 28 |", "| validation | 0 |", "| test | 1 |",
        "| integer | 28 |", "| radical | 1 |",
        "| width, px | 120 | 120 | 640 |", "| height, px | 90 | 90 | 320 |",
        "| tokens of 32 x 32 px, unscaled | 12 | 12 | 200 |",
        "| 1 | 28 |", "| 2 | 1 |",
        "| the answer is empty | 1 |",
        "| the same question with the same image came before | 1 |",
        f"- Digest of source and settings: `{dataset.digest}`",
        "license: unknown",
    ):  # fmt: skip
        assert line in card.splitlines(), line
    assert "2 rows; `rejected.parquet` names each with its reason. 1 repeat another" in card


def test_datasets_reads_the_folder_by_its_card(dataset: Dataset, tmp_path: Path) -> None:
    for name, where in ((str(dataset.folder), {}), ("parquet", {"data_dir": str(dataset.folder)})):
        loaded = datasets.load_dataset(name, cache_dir=str(tmp_path / name[-6:]), **where)
        assert {split: len(rows) for split, rows in loaded.items()} == {"train": 28, "test": 1}
        assert loaded["train"][1]["images"][0].size == (640, 320)


def test_the_contact_sheet_is_the_same_each_time(dataset: Dataset, tmp_path: Path) -> None:
    with Image.open(dataset.folder / "contact_sheet.png") as sheet:
        assert sheet.size[0] == 1040
        assert len(sheet.convert("RGB").getcolors(1 << 20) or ()) > 50
    source = dataset.folder.parent.parent / "a|set"
    again = prepare(DataSection(source=str(source)), tmp_path)
    names = ("contact_sheet.png", "train-00000-of-00001.parquet", "rejected.parquet")
    for name in names:
        assert (again.folder / name).read_bytes() == (dataset.folder / name).read_bytes()


def test_the_card_may_be_edited(dataset: Dataset) -> None:
    card = dataset.folder / "README.md"
    text = card.read_text(encoding="utf-8")
    card.write_text("Mine.", encoding="utf-8")
    assert open_dataset(dataset.folder) == dataset
    source = dataset.folder.parent.parent / "a|set"
    assert prepare(DataSection(source=str(source)), dataset.folder.parent.parent) == dataset
    assert card.read_text(encoding="utf-8") == "Mine."
    card.write_text(text, encoding="utf-8")
