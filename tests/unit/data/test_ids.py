"""The ids that a source is cut by, and rows of it that are wanted: as if all of it were read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from drawn import hub_row, inter_gps, write_parquet, write_problem

from visual_r1.config import DataSection
from visual_r1.data.sources import Source, open_source

Rows = list[dict[str, Any]]


def bare(number: int, **changes: Any) -> dict[str, Any]:
    """A row whose picture is a file that is not there: no matter here."""
    return {"images": [f"{number}.png"], "problem": "Find x.", "answer": "1"} | changes


def parquet(folder: Path, rows: Rows) -> None:
    """More rows than are read at a time."""
    write_parquet(folder / "train-1.parquet", rows[:4])
    write_parquet(folder / "train-2.parquet", rows[4:])


def json_lines(folder: Path, rows: Rows) -> None:
    lines = [json.dumps(row, default=str) for row in rows]
    lines[2] = "{torn"
    (folder / "train.jsonl.gz").write_bytes(gzip.compress("\n\n".join(lines).encode()))


def comma_separated(folder: Path, rows: Rows) -> None:
    names = list(rows[0])
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    lines[3] += ",one too many"
    (folder / "train.csv").write_text("\n".join(lines))


def problem_folders(folder: Path, rows: Rows) -> None:
    inter_gps(folder, {"": len(rows)})
    write_problem(folder / "100", 100, id=None)
    write_problem(folder / "101", 101, id=7, choices=5)
    (folder / "3" / "data.json").write_text("{torn")


@pytest.mark.parametrize(
    ("write", "rows"),
    [
        (parquet, [hub_row(n) for n in range(80)]),
        (parquet, [hub_row(n, id=f"p{n}") for n in range(80)]),
        (parquet, [hub_row(n, id=n * 1.0 if n % 2 else None) for n in range(9)]),
        (json_lines, [bare(n) for n in range(9)]),
        (json_lines, [bare(n, id=[n] if n < 5 else [n, n]) for n in range(9)]),
        (comma_separated, [bare(n, id=n) for n in range(9)]),
        (problem_folders, [bare(n) for n in range(9)]),
    ],
)
def test_ids_and_wanted_rows_are_those_of_all_rows(tmp_path: Path, write: Any, rows: Rows) -> None:
    write(tmp_path, rows)
    source: Source = open_source(DataSection(source=str(tmp_path)))
    every = [row.read() for row in source.rows("train")]
    assert len(every) == source.sizes()["train"] >= 9
    assert list(source.ids("train")) == [row.id for row in every]
    for start in (0, 1, 4, 6, 40, len(every)):
        for wanted in (lambda n: n % 3 == 0, lambda n: n > 6, lambda _: False, lambda _: True):
            found = [row.read() for row in source.rows("train", start, wanted)]
            assert found == [row for n, row in enumerate(every) if n >= start and wanted(n)]
