"""Slips of those who write tables: what is meant is read, and else it is said what is wrong."""

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import hub_row

from visual_r1.config import DataSection
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.data.parquet import read_rows
from visual_r1.data.problem import SPLITS, Problem
from visual_r1.data.sources.records import CSVRecords
from visual_r1.errors import DataError


def figure(number: int) -> bytes:
    return hub_row(number)["images"][0]["bytes"]


def prepared(folder: Path, **settings: Any) -> Dataset:
    for number in range(8):
        (folder / f"{number}.png").write_bytes(figure(number))
    return prepare(DataSection(source=str(folder), max_rejected_share=1, **settings), folder)


def problems(dataset: Dataset) -> list[Problem]:
    return [one for split in SPLITS for one in dataset.problems(split)]


def reasons(dataset: Dataset) -> dict[str, str]:
    return {row["row"]: row["reason"] for row in read_rows(dataset.folder / "rejected.parquet")}


@pytest.mark.parametrize("between", [0, 1])
def test_two_rows_that_quotes_make_one(tmp_path: Path, between: int) -> None:
    rows = ["0.png,What is w?,3", '1.png,"What is x?,4', *["4.png,What is z?,7"] * between]
    rows += ['2.png,What is y",5', "3.png,What is v?,6"]
    (tmp_path / "train.csv").write_text("\n".join(["image,problem,answer", *rows]))
    dataset = prepared(tmp_path)
    assert sorted(one.answer for one in problems(dataset)) == ["3", "6"]
    (reason,) = reasons(dataset).values()
    assert f"ends in line {4 + between}, where a quote closes that its first line opens" in reason


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("a.png", "b.jpg"),
        ("a.JPEG", "img/b.webp"),
        ("img/a", "img/b"),
        ("./set/img/a", "./set/img/b"),
        (base64.b64encode(figure(0)).decode(), base64.b64encode(figure(1)).decode()),
    ],
)
def test_figures_of_two_rows_need_no_endings_of_one_kind(
    tmp_path: Path, first: str, last: str
) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f'image,problem,answer\n{first},"What is x,3\n{last},What is y",4\n')
    (found,) = CSVRecords(path).records(None)
    assert found.defect is not None and "ends in line 3, where a quote closes" in found.defect


@pytest.mark.parametrize(
    "text", ["Given 1/2, y\nx/y", "a/b, c/d\na/b", "see img/1\nimg", "x.cm\ny.m"]
)
def test_lines_of_a_problem_with_fractions_are_no_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f'image,problem,answer\nimg/a,"{text}, z",4\nimg/b,"{text}",4\n')
    assert [found.defect for found in CSVRecords(path).records(None)] == [None, None]


@pytest.mark.parametrize(
    "text", ["Given x, y\nfind z, w", "Given x\nfind z", "a, b\nc, d\ne, f", "see 1.png\nhere, x"]
)
def test_a_problem_of_several_lines_stays(tmp_path: Path, text: str) -> None:
    rows = [f'{number}.png,"{text} {number}",{number}' for number in range(1, 5)]
    (tmp_path / "train.csv").write_text("\n".join(["image,problem,answer", *rows]))
    found = problems(prepared(tmp_path))
    assert sorted(one.question.strip() for one in found) == [f"{text} {n}" for n in range(1, 5)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_in_utf_16(tmp_path: Path, encoding: str) -> None:
    text = "image,problem,answer\n0.png,What is x?,5\n"
    (tmp_path / "train.csv").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"train\.csv is no UTF-8 but UTF-16 or UTF-32.*iconv"):
        prepared(tmp_path)


def test_meta_that_is_text_holds_json_alone(tmp_path: Path) -> None:
    meta = '{"level": NaN, "parts": [Infinity, 1], "name": "x"}'
    row = {"image": "0.png", "problem": "What is x?", "answer": "2", "meta": meta}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    dataset = prepared(tmp_path)
    (stored,) = read_rows(dataset.folder / "train-00000-of-00001.parquet")
    known = json.loads(stored["meta"], parse_constant=pytest.fail)
    assert known == {"level": None, "parts": [None, 1], "name": "x"}


def test_a_file_whose_name_begins_with_a_bracket(tmp_path: Path) -> None:
    names = ["[1].png", "[a] [b].png", '["0.png"]', "[x].png"]
    for name in names[:2]:
        (tmp_path / name).write_bytes(figure(len(name)))
    rows = [{"image": n, "problem": f"What is {i}?", "answer": i} for i, n in enumerate(names)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = prepared(tmp_path)
    assert sorted(one.answer for one in problems(dataset)) == ["0", "1", "2"]
    assert "the image '[x].png' is missing" in reasons(dataset)["train.jsonl line 4"]


def test_decimals_are_numbers(tmp_path: Path) -> None:
    given = ["1.50", "2.00", "-0.25", "100.00", "0.00"]
    table = {
        "image": [f"{number}.png" for number in range(5)],
        "problem": [f"What is {number}?" for number in range(5)],
        "answer": pa.array(map(Decimal, given), pa.decimal128(6, 2)),
    }
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    found = {one.question.strip(): one.answer for one in problems(prepared(tmp_path))}
    assert [found[f"What is {number}?"] for number in range(5)] == ["1.5", "2", "-0.25", "100", "0"]
