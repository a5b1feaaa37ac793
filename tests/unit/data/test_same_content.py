"""What a preparation gives is the same in every version, by however many processes."""

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import write_parquet
from numpy.typing import NDArray
from PIL import Image

from visual_r1.config import DataSection
from visual_r1.data import checking, splits
from visual_r1.data.dataset import Dataset, _name, prepare
from visual_r1.data.parquet import read_rows
from visual_r1.data.sources import open_source
from visual_r1.data.sources.files import FilesSource
from visual_r1.hashing import content_digest

# Of the code of 28 November 2026. Another one is another dataset under the same name: a version of
# the format then has to tell them apart.
DIGESTS = {
    "cut by figures, looked at first": "556b89cb6296c5650aa71dc7f527d30a",
    "cut by figures": "8a8325314c01c9cdd348aa6851d64b9e",
    "of version 3, cut, looked at first": "1db72d925bded3066624d67b2771cbb4",
    "of version 3, cut by the ids alone": "9fe79c2d86978a65a29ea27c6e4ba7bc",
    "splits of its own": "282205ea9dd33487b0c2c12d3558e715",
}


def pixels(number: int) -> NDArray[np.uint8]:
    """[48, 64, 3]: bars and a block that no other number has, the same whoever decodes it."""
    grey = np.full((48, 64), 255, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            grey[4 + 5 * bit : 7 + 5 * bit, 8:40] = 20 + 5 * bit
    grey[number % 40 : number % 40 + 6, 44 + number % 7 : 60] = 60
    return np.stack((grey, grey, np.minimum(grey, 250)), axis=2)


def encoded(values: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def row(number: int) -> dict[str, Any]:
    """Good rows, and one of each kind that becomes something else."""
    values = pixels(number)
    one: dict[str, Any] = {
        "id": f"row-{number}",
        "images": [encoded(values)],
        "problem": f"<image>Find x {number % 5}.",
        "answer": str(number % 9),
        "meta": json.dumps({"level": number % 3, "ü": [number]}),
    }
    match number % 20:
        case 3:  # mended: over white
            clear = np.full((48, 64, 1), 128, np.uint8)
            one["images"] = [encoded(np.concatenate((values, clear), axis=2))]
        case 5:  # two pictures, one of them twice the size
            one["images"].append(encoded(values.repeat(2, axis=0).repeat(2, axis=1)))
            one["problem"] = "Compare <image> and <image>."
        case 7:
            one["answer"] = ""
        case 9:  # a copy of the row two before it, at twice the size
            one |= {"images": [encoded(pixels(number - 3).repeat(2, axis=0).repeat(2, axis=1))]}
            one |= {"problem": row(number - 3)["problem"], "answer": row(number - 3)["answer"]}
        case 11:  # in conflict with one
            one |= {"images": row(number - 7)["images"], "problem": row(number - 7)["problem"]}
            one["answer"] = "77"
        case 13:
            one["id"] = f"row-{number - 1}"
        case 15:
            one["images"] = [encoded(np.full((48, 64, 3), 9, np.uint8))]
        case _:
            pass
    return one


def content(dataset: Dataset) -> Iterator[Any]:
    """All that a dataset says, but for the encoding of what was encoded anew."""
    for path in sorted(dataset.folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        groups = range(file.metadata.num_row_groups)
        yield path.name, [file.metadata.row_group(group).num_rows for group in groups]
        for stored in file.read().to_pylist():
            images = [shown(image["bytes"]) for image in stored.pop("images", ())]
            yield stored, images
    manifest: dict[str, Any] = json.loads((dataset.folder / "manifest.json").read_text())
    yield {name: manifest[name] for name in ("counts", "duplicates", "reasons")}


def shown(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return f"{image.size} {content_digest(image.convert('RGB').tobytes())}"


def contents(dataset: Dataset) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.folder.glob("*.parquet"))}


def version_3(data: DataSection, out: Path) -> Path:
    """Where a set lies that was prepared before figures were kept whole."""
    source = open_source(data)
    return _name(data, source, out, version=3, of=source.fingerprint).folder


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process is there from the second row on."""
    monkeypatch.setattr(checking, "TRIED", 1)
    monkeypatch.setattr(checking, "WORTH_A_PROCESS_S", 1e-9)
    start = checking.Checking._start

    def settled(self: checking.Checking, count: int) -> None:
        start(self, count)
        self.settle()

    monkeypatch.setattr(checking.Checking, "_start", settled)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("way", DIGESTS)
def test_what_is_prepared_is_what_it_always_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    rows = list(map(row, range(160)))
    if way == "splits of its own":
        write_parquet(tmp_path / "set" / "test.parquet", rows[50:100])
        rows = rows[:60] + rows[100:]
    if "looked at first" not in way:
        monkeypatch.setattr(splits, "SMALL", 20)
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    found: list[Dataset] = []
    for processes in (1, 3):
        monkeypatch.setattr(checking, "cores", lambda count=processes: count)
        data = DataSection(source=str(tmp_path / "set"), max_rejected_share=0.5)
        out = tmp_path / f"by {processes}"
        if "version 3" in way:  # it was there, and was damaged
            version_3(data, out).mkdir(parents=True)
        found.append(prepare(data, out))
        # One with splits of its own has the name that it always had.
        assert ("figures" in way) == (found[-1].folder != version_3(data, out))
    assert contents(found[0]) == contents(found[1])
    told = json.dumps(list(content(found[0])), ensure_ascii=False)
    assert content_digest(told.encode()) == DIGESTS[way]


@pytest.mark.parametrize(("most", "reads"), [(32 * 2**20, 1), (2_000, 5)])
def test_a_small_set_is_read_once_where_it_can_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, reads: int
) -> None:
    source = write_parquet(tmp_path / "set" / "train.parquet", map(row, range(80))).parent
    data = DataSection(source=str(source), max_rejected_share=0.5)
    whole = contents(prepare(data, tmp_path / "whole"))
    monkeypatch.setattr(splits, "REMEMBERED_BYTES", most)
    read, begun = FilesSource.rows, list[str]()

    def noted(self: FilesSource, *rest: Any) -> Any:
        begun.append("")
        return read(self, *rest)

    monkeypatch.setattr(FilesSource, "rows", noted)
    assert contents(prepare(data, tmp_path / "again")) == whole
    assert len(begun) == reads


def test_what_was_read_of_a_source_is_not_kept(tmp_path: Path) -> None:
    rows = [{"id": str(number), "image": os.urandom(2**16)} for number in range(256)]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=8)
    del rows
    before, most = pa.total_allocated_bytes(), 0
    for number, row in enumerate(read_rows(path)):
        assert row["id"] == str(number)
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4 * 2**20  # of 16 MB
