"""A set of one split is cut so that no figure of test is one that is trained on."""

import io
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import hub_row, write_parquet
from PIL import Image

from visual_r1.config import DataSection
from visual_r1.data import splits
from visual_r1.data.dataset import Dataset, _name, prepare
from visual_r1.data.figures import FigureGroups, group_keys
from visual_r1.data.problem import SPLITS
from visual_r1.data.sources import open_source
from visual_r1.data.splits import cut_whole_figures

Rows = Iterable[dict[str, Any]]


def figure(number: int) -> bytes:
    return hub_row(number)["images"][0]["bytes"]


def question(number: int, *figures: bytes, **changes: Any) -> dict[str, Any]:
    images = [{"bytes": one, "path": None} for one in figures]
    return (
        hub_row(number, id=f"q{number:03}", images=images, problem=f"Question {number}?") | changes
    )


def resized(data: bytes) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


def cut(rows: Rows, out: Path, **settings: Any) -> Dataset:
    source = write_parquet(out / "set" / "train.parquet", rows).parent
    return prepare(DataSection(source=str(source), **settings), out)


def sides(dataset: Dataset) -> Mapping[str, str]:
    return {one.id: split for split in SPLITS for one in dataset.problems(split)}


def apart(dataset: Dataset, groups: Iterable[Iterable[int]]) -> list[Iterable[int]]:
    """The groups that are not on one side."""
    side = sides(dataset)
    return [one for one in groups if len({side[f"q{number:03}"] for number in one}) != 1]


@pytest.mark.parametrize("small", [2000, 10])
def test_the_questions_of_a_figure_are_in_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(splits, "SMALL", small)
    dataset = cut([question(n, figure(n // 5)) for n in range(100)], tmp_path)
    assert apart(dataset, (range(start, start + 5) for start in range(0, 100, 5))) == []
    assert [dataset.counts[split] for split in SPLITS] == [70, 10, 20]
    told = json.loads((dataset.folder / "manifest.json").read_text())["cut"]
    assert told == {"problems": 100, "figures": 20, "shared": 0}
    assert "100 problems are 20 groups" in (dataset.folder / "README.md").read_text()


def test_figures_hang_together_through_problems_of_several(tmp_path: Path) -> None:
    """0 and 1 show a figure, 1 and 2 another one, and so on."""
    rows = [question(n, figure(n), figure(n + 1)) for n in range(8)]
    rows += [question(n, figure(n + 10)) for n in range(8, 40)]
    assert apart(cut(rows, tmp_path), [range(8)]) == []


@pytest.mark.parametrize("remembered", [32 * 2**20, 1000])
def test_figures_that_were_resized_are_the_same_in_a_small_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr(splits, "REMEMBERED_BYTES", remembered)
    images = [figure(n // 2) if n % 2 else resized(figure(n // 2)) for n in range(40)]
    dataset = cut([question(n, image) for n, image in enumerate(images)], tmp_path)
    assert apart(dataset, ((n, n + 1) for n in range(0, 40, 2))) == []
    assert dataset.counts["test"] == 8


def test_a_set_of_different_figures_is_cut_as_by_its_ids(tmp_path: Path) -> None:
    rows = [question(n, figure(n)) for n in range(60)]
    data = DataSection(source=str(write_parquet(tmp_path / "set" / "train.parquet", rows).parent))
    source = open_source(data)
    before = _name(data, source, tmp_path / "before", version=3, of=source.fingerprint).folder
    before.mkdir(parents=True)
    former, now = prepare(data, tmp_path / "before"), prepare(data, tmp_path / "now")
    assert former.folder == before and now.digest != former.digest
    assert sides(former) == sides(now)


def test_a_set_that_was_cut_before_goes_on_and_is_mended_as_it_was(tmp_path: Path) -> None:
    rows = [question(n, figure(n // 5)) for n in range(50)]
    data = DataSection(source=str(write_parquet(tmp_path / "set" / "train.parquet", rows).parent))
    source = open_source(data)
    _name(data, source, tmp_path, version=3, of=source.fingerprint).folder.mkdir(parents=True)
    former = prepare(data, tmp_path)
    side, files = sides(former), {p.name: p.read_bytes() for p in former.folder.glob("*.parquet")}
    assert "cut by figures" not in (former.folder / "README.md").read_text()
    assert prepare(data, tmp_path).folder == former.folder
    next(former.folder.glob("test-*")).write_bytes(b"damaged")
    again = prepare(data, tmp_path)
    assert (again.folder, again.digest, sides(again)) == (former.folder, former.digest, side)
    assert {p.name: p.read_bytes() for p in again.folder.glob("*.parquet")} == files


def test_where_all_hangs_together_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "visual_r1"):
        dataset = cut([question(n, figure(0)) for n in range(20)], tmp_path)
    assert [dataset.counts[split] for split in SPLITS] == [14, 2, 4]
    assert "6 of validation and test show one that is trained on" in caplog.text
    assert "**6 problems of validation and test" in (dataset.folder / "README.md").read_text()


def grouped(*rows: tuple[str, str]) -> tuple[Any, Any, Any]:
    """The groups, keys and hashes of rows with these ids and pictures."""
    groups = FigureGroups()
    for number, (id, picture) in enumerate(rows):
        groups.add(number, id, [picture.encode()])
    ids = [id for id, _ in rows]
    hashes = np.array([splits.stable_seed("split", 0, id) for id in ids], np.uint32)
    of_rows = groups.of_rows(len(rows))
    return of_rows, group_keys(of_rows, hashes, ids), hashes


def test_questions_that_are_added_later_leave_a_figure_where_it_was() -> None:
    rows = [(f"{number}", f"picture {number % 40}") for number in range(100)]
    _, before, _ = grouped(*rows)
    _, after, _ = grouped(*rows, *((f"{n}", f"picture {n % 50}") for n in range(100, 200)))
    assert (after[:100] == before).all()
    # Nor does it matter where they stand.
    _, turned, _ = grouped(*reversed(rows))
    assert (turned[::-1] == before).all()


def test_rows_of_one_id_stay_together() -> None:
    groups, _, _ = grouped(("a", "1"), ("b", "2"), ("a", "3"), ("c", "2"))
    assert groups.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_figure_that_is_too_large_for_test_is_trained_on(seed: int) -> None:
    rows = [(f"{seed}-{n}", "large" if n < 60 else f"{n}") for n in range(100)]
    groups, keys, hashes = grouped(*rows)
    found = cut_whole_figures(groups, keys, hashes, np.ones(100, np.bool_)).sides
    assert [int((found == side).sum()) for side in range(3)] == [70, 10, 20]
    assert set(found[:60].tolist()) == {0}
    # Where all are, the smallest is test.
    rows = [(f"{seed}-{n}", "abc"[min(n // 40, 2)]) for n in range(100)]
    groups, keys, hashes = grouped(*rows)
    found = cut_whole_figures(groups, keys, hashes, np.ones(100, np.bool_)).sides
    assert set(found[80:].tolist()) == {2} and set(found[:80].tolist()) == {0}
