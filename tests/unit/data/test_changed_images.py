"""Another image behind a path is another dataset, whatever type of column the path stands in."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import hub_row

from visual_r1.config import DataSection
from visual_r1.data.dataset import prepare
from visual_r1.data.parquet import names_files
from visual_r1.data.sources import open_source

PATHS = ["0.png", "1.png"]
OBJECT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VIEWED = pa.struct([("bytes", pa.binary()), ("path", pa.string_view())])
OBJECTS = [{"bytes": None, "path": path} for path in PATHS]


def write(folder: Path, column: Any) -> DataSection:
    folder.mkdir(exist_ok=True)
    for number, path in enumerate(PATHS):
        (folder / path).write_bytes(figure(number))
    table = pa.table({"images": column, "problem": ["q0", "q1"], "answer": ["1", "2"]})
    pq.write_table(table, folder / "train.parquet")
    return DataSection(source=str(folder))


def figure(number: int) -> bytes:
    return hub_row(number)["images"][0]["bytes"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(PATHS, pa.string()),
        pa.array(PATHS, pa.string_view()),
        pa.array(PATHS).dictionary_encode(),
        pa.array([[path] for path in PATHS], pa.large_list(pa.string())),
        pa.array([[path] for path in PATHS], pa.list_(pa.string(), 1)),
        pa.array(OBJECTS, OBJECT),
        pa.array(OBJECTS, VIEWED),
        pa.array([[one] for one in OBJECTS], pa.list_(OBJECT)),
        pa.array([[one] for one in OBJECTS], pa.large_list(OBJECT)),
        pa.array([{"path": path} for path in PATHS]),
    ],
    ids=lambda column: str(column.type).replace(" ", ""),
)
def test_a_changed_image_is_noticed(tmp_path: Path, column: Any) -> None:
    data = write(tmp_path / "set", column)
    before = prepare(data, tmp_path)
    (tmp_path / "set" / "1.png").write_bytes(figure(7))
    now = prepare(data, tmp_path)
    assert now.folder != before.folder
    shown = {one.images[0] for split in ("train", "test") for one in now.problems(split)}
    assert figure(7) in shown


def test_images_that_are_all_there_are_not_read_for_their_paths(tmp_path: Path) -> None:
    rows = [[{"bytes": figure(n), "path": path}] for n, path in enumerate(PATHS)]
    data = write(tmp_path / "set", pa.array(rows, pa.list_(OBJECT)))
    path = tmp_path / "set" / "train.parquet"
    assert not names_files(path, ["images"])
    assert open_source(data).fingerprint == open_source(data).former  # as it always was
    rows[0][0]["bytes"] = None
    write(tmp_path / "set", pa.array(rows, pa.list_(OBJECT)))
    assert names_files(path, ["images"])


def test_a_path_within_an_object(tmp_path: Path) -> None:
    data = write(tmp_path / "set", pa.array([{"where": path} for path in PATHS]))
    data = data.model_copy(
        update={"columns": data.columns.model_copy(update={"images": "images.where"})}
    )
    before = open_source(data).fingerprint
    (tmp_path / "set" / "1.png").write_bytes(figure(7))
    assert open_source(data).fingerprint != before


def test_a_dataset_from_before_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write(tmp_path / "set", pa.array(OBJECTS, OBJECT))
    with monkeypatch.context() as before:
        before.setattr("visual_r1.data.dataset.CUT_VERSION", 3)
        before.setattr("visual_r1.data.sources.records.names_files", lambda *_: False)
        former = prepare(data, tmp_path)
    assert prepare(data, tmp_path).folder == former.folder
    assert "nobody looked whether the images behind paths" in caplog.text
