"""Problems in files of one's own: JSON lines, image folders, CSV; under any names of columns."""

import base64
import csv
import gzip
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from drawn import figure, hub_row, inter_gps, write_parquet, write_problem
from made_up import predictions, problems, write_evaluation

from visual_r1.config import DataSection, RunConfig
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.data.problem import Problem
from visual_r1.data.sources import open_source
from visual_r1.errors import DataError
from visual_r1.runs.folder import open_run_folder


def prepared(source: Path | str, out: Path, **settings: Any) -> Dataset:
    return prepare(DataSection.model_validate({"source": str(source), **settings}), out)


def only(dataset: Dataset, split: Any = "train") -> Problem:
    (problem,) = dataset.problems(split)
    assert dataset.counts["rejected"] == 0
    return problem


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGES: dict[str, Callable[[Path], object]] = {
    "a path": lambda folder: put(folder / "figures" / "1.png", figure(1)) and "figures/1.png",
    "a list of paths": lambda folder: [put(folder / "1.png", figure(1)).name],
    "a path with backslashes": lambda folder: put(folder / "f" / "1.png", figure(1)) and "f\\1.png",
    "an absolute path within": lambda folder: str(put(folder / "1.png", figure(1)).resolve()),
    "base64": lambda _: text(figure(1)),
    "base64 in lines": lambda _: base64.encodebytes(figure(1)).decode(),
    "a data uri": lambda _: f"data:image/png;base64,{text(figure(1))}",
    "bytes and path": lambda _: {"bytes": text(figure(1)), "path": "1.png"},
    "a path alone": lambda folder: {"bytes": None, "path": put(folder / "1.png", figure(1)).name},
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_json_lines_give_their_images_in_any_of_these_ways(
    tmp_path: Path, image: Callable[[Path], object]
) -> None:
    row = {"images": image(tmp_path / "set"), "problem": "Find x.", "answer": 5}
    file = put(tmp_path / "set" / "problems.jsonl", lines([row]))
    problem = only(prepared(file, tmp_path))
    assert (problem.problem, problem.answer) == ("<image>Find x.", "5")
    assert problem.images == (figure(1),)
    assert (problem.id, problem.source) == ("train-0", "problems")


def test_a_folder_of_json_lines_with_splits_compressed_or_not(tmp_path: Path) -> None:
    rows = [{"image": text(figure(n)), "problem": f"Find {n}.", "answer": n} for n in range(7)]
    root = tmp_path / "set"
    put(root / "train-00000-of-00002.jsonl", b"\xef\xbb\xbf" + lines(rows[:2]))
    put(root / "train-00001-of-00002.jsonl", b"\r\n" + lines(rows[2:4]).replace(b"\n", b"\r\n"))
    put(root / "val" / "more.jsonl", lines(rows[4:5]).rstrip())
    dataset = prepared(root, tmp_path)
    assert dict(dataset.counts) == {"train": 4, "validation": 1, "test": 0, "rejected": 0}
    assert [p.answer for p in dataset.problems("train")] == ["0", "1", "2", "3"]
    put(tmp_path / "gz" / "train.jsonl.gz", gzip.compress(lines(rows)))
    put(
        tmp_path / "gz" / "test" / "a.ndjson.gz",
        gzip.compress(lines([hub_row(9, images=text(figure(9)))])),
    )
    dataset = prepared(tmp_path / "gz", tmp_path)
    assert [p.answer for p in dataset.problems("train")] == [str(n) for n in range(7)]
    assert dataset.folder.name.startswith("gz-")
    damaged = put(tmp_path / "bad" / "x.jsonl.gz", gzip.compress(lines(rows))[:-20])
    with pytest.raises(DataError, match=r"x\.jsonl\.gz cannot be read beyond line"):
        prepared(damaged, tmp_path)


def image_folder(root: Path, kind: str, names: str, splits: bool = True) -> Path:
    """Image folders as `datasets` documents them: a table beside the images that it names."""
    for split, numbers in (("train", (0, 1)), ("test", (2,))) if splits else (("", (0, 1, 2)),):
        rows: list[dict[str, Any]] = []
        for n in numbers:
            put(root / split / "figures" / f"{n}.png", figure(n))
            name: object = f"figures/{n}.png"
            if names.endswith("file_names"):
                name = [name] if kind != "csv" else json.dumps([name])
            rows.append({names: name, "problem": f"Find $x_{n}$, \n or y.", "answer": str(n)})
        path = root / split / f"metadata.{kind}"
        if kind == "parquet":
            write_parquet(path, rows)
        elif kind == "jsonl":
            put(path, lines(rows))
        else:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
    return root


@pytest.mark.parametrize("names", ["file_name", "file_names", "image_file_name"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_image_folders(tmp_path: Path, kind: str, names: str) -> None:
    dataset = prepared(image_folder(tmp_path / "set", kind, names), tmp_path)
    assert dict(dataset.counts) == {"train": 2, "validation": 0, "test": 1, "rejected": 0}
    (problem,) = dataset.problems("test")
    assert problem.problem == "<image>Find $x_2$, \n or y."
    assert (problem.answer, problem.images) == ("2", (figure(2),))


def test_an_image_folder_that_datasets_reads_as_well(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set", "jsonl", "file_name")
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache")
    )
    dataset = prepared(folder, tmp_path)
    for split in ("train", "test"):
        assert [row["problem"] for row in theirs[split]] == [
            problem.question for problem in dataset.problems(split)
        ]
    alone = prepared(image_folder(tmp_path / "flat", "csv", "file_name", splits=False), tmp_path)
    assert (alone.counts["train"], alone.counts["test"]) == (2, 1)


def test_another_image_is_another_dataset(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set", "jsonl", "file_name")
    first = prepared(folder, tmp_path)
    os.utime(folder / "train" / "figures" / "0.png")
    assert prepared(folder, tmp_path) == first
    put(folder / "train" / "figures" / "0.png", figure(9))
    assert prepared(folder, tmp_path).folder != first.folder
    put(folder / "train" / "figures" / "unused.png", figure(3))
    assert len([path for path in (tmp_path / "data").iterdir() if path.is_dir()]) == 2


def test_rows_from_the_middle_on(tmp_path: Path) -> None:
    rows = [{"image": text(figure(n)), "problem": "?", "answer": n} for n in range(5)]
    put(tmp_path / "set" / "train.jsonl", b"\n" + lines(rows) + b"not JSON\n\n" + lines(rows[:1]))
    put(tmp_path / "set" / "train-2.jsonl", lines(rows[:2]))
    folder = image_folder(tmp_path / "images", "csv", "file_name", splits=False)
    for path, count in ((tmp_path / "set", 9), (folder, 3)):
        source = open_source(DataSection(source=str(path)))
        every = list(source.rows("train"))
        assert source.sizes() == {"train": count} and len(every) == count
        assert len({row.id for row in every}) == count
        for start in range(count + 2):
            assert list(source.rows("train", start)) == every[start:]


def vqa(n: int, **changes: Any) -> dict[str, Any]:
    return {"fig": {"bytes": figure(n), "path": None}, "q": f"How many, {n}?", "a": n} | changes


COLUMNS = {"images": "fig", "problem": "q", "answer": "a"}


def test_columns_by_any_name(tmp_path: Path) -> None:
    row = vqa(1, uid="u1", info={"task": "Counting", "n": 0.5}, level=3, extra=b"xx", source=None)
    write_parquet(tmp_path / "set" / "train.parquet", [row])
    columns = COLUMNS | {"id": "uid", "family": "info.task", "keep": ["level", "info.n", "extra"]}
    problem = only(prepared(tmp_path / "set", tmp_path, columns=columns))
    assert (problem.id, problem.answer, problem.family) == ("u1", "1", "Counting")
    assert problem.meta == {"level": 3, "info.n": 0.5, "extra": "2 bytes", "family": "Counting"}


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({}, r"no column 'problem' and no 'answer' and no 'images' \(it has fig, q, a\)"),
        (COLUMNS | {"problem": "question"}, r"no column 'question' \(it has fig, q, a\)"),
        (COLUMNS | {"keep": "q,level"}, r"no column 'level' \(it has fig, q, a\)"),
        (COLUMNS | {"family": "info.task"}, r"no column 'info\.task' \(it has"),
        ({"images": "fig", "problem": "q", "answer_index": "i"}, r"no column 'i' \(it has"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_column_names_those_there_are(
    tmp_path: Path, kind: str, columns: dict[str, str], sentence: str
) -> None:
    rows = [vqa(1, fig=text(figure(1)))]
    write_parquet(tmp_path / "a.parquet", rows)
    put(tmp_path / "a.jsonl", lines(rows))
    with pytest.raises(DataError, match=sentence) as raised:
        prepared(tmp_path / f"a.{kind}", tmp_path, columns=columns)
    assert "\n" not in str(raised.value) and "--data.columns.problem question" in str(raised.value)


def test_several_columns_of_images_and_a_column_a_choice(tmp_path: Path) -> None:
    rows = [
        {"image_1": text(figure(1)), "image_2": text(figure(2)),
         "q": "As <image 2>, not <image 1>?", "A": "cat", "B": "dog", "C": "cow", "key": "B"},
        {"image_1": text(figure(3)), "image_2": None, "q": "Which?", "A": "1", "B": "2", "C": None,
         "key": "A"},
    ]  # fmt: skip
    put(tmp_path / "a.jsonl", lines(rows))
    columns = {"images": "image_1,image_2", "problem": "q", "answer": "key", "choices": "A,B,C"}
    dataset = prepared(tmp_path / "a.jsonl", tmp_path, columns=columns, show_choices=True)
    both = sorted([*dataset.problems("train"), *dataset.problems("test")], key=lambda p: p.id)
    assert both[0].problem == "As <image>, not <image>?\nChoices:\nA. cat\nB. dog\nC. cow"
    assert both[0].images == (figure(2), figure(1))
    assert (both[0].answer, both[1].choices) == ("B", ("1", "2"))
    assert both[1].problem == "<image>Which?\nChoices:\nA. 1\nB. 2"


def test_the_number_of_the_right_choice(tmp_path: Path) -> None:
    row = vqa(1, options=["2 cm", "3 cm"], label=1)
    write_parquet(tmp_path / "a.parquet", [row])
    columns = {"images": "fig", "problem": "q", "answer_index": "label", "choices": "options"}
    hidden = only(prepared(tmp_path / "a.parquet", tmp_path, columns=columns))
    assert (hidden.answer, hidden.problem) == ("3 cm", "<image>How many, 1?")
    shown = only(prepared(tmp_path / "a.parquet", tmp_path, columns=columns, show_choices=True))
    assert (shown.answer, shown.choices) == ("B", ("2 cm", "3 cm"))


@pytest.mark.parametrize(("shown", "gold"), [(False, "B"), (True, "A")])
def test_choices_that_are_letters_themselves(tmp_path: Path, shown: bool, gold: str) -> None:
    """The first choice is the letter B: not shown it is the text, shown the letter before it."""
    options = ["B", "A", "C", "D"]
    row = vqa(1, options=options, label=0) | {"a": "B"}
    put(tmp_path / "a.jsonl", lines([row | {"fig": text(figure(1))}]))
    columns = {"images": "fig", "problem": "q", "choices": "options"}
    by_number = columns | {"answer_index": "label"}
    dataset = prepared(tmp_path / "a.jsonl", tmp_path, columns=by_number, show_choices=shown)
    problem = only(dataset)
    assert (problem.answer, problem.choices) == (gold, tuple(options))
    layout = tmp_path / "geo" / "train"
    write_problem(layout / "0", 0, choices=options, answer="A")
    found = only(prepared(tmp_path / "geo", tmp_path))
    assert found.answer == "B"  # not shown there
    # By its text alone nobody knows which of the two is meant.
    with pytest.raises(DataError, match="may be the letter of …, or the choice …: say"):
        prepared(tmp_path / "a.jsonl", tmp_path, columns=columns | {"answer": "a"})


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    put(tmp_path / "1.png", figure(1))
    put(tmp_path / "train.csv", b"image,problem,answer,answer\n1.png,What is x?,5,7\n")
    with pytest.raises(DataError, match="more than one column 'answer'"):
        prepared(tmp_path / "train.csv", tmp_path)
    put(tmp_path / "train.csv", b"image,problem,answer,note,note\n1.png,What is x?,5,7,8\n")
    assert only(prepared(tmp_path / "train.csv", tmp_path)).answer == "5"


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    """What follows it would be gone, and counted as one row."""
    rows = [f"{n}.png,{chr(34) * (n == 3)}What is x?,{n}" for n in range(1, 6)]
    for n in range(1, 6):
        put(tmp_path / f"{n}.png", figure(n))
    put(tmp_path / "train.csv", "\n".join(["image,problem,answer", *rows, ""]).encode())
    with pytest.raises(DataError, match="cannot be read beyond line 4: a quote"):
        prepared(tmp_path / "train.csv", tmp_path)


CHOICES: dict[str, object] = {
    "a list": ["x", "y"],
    "json": '["x", "y"]',
    "python": "['x', 'y']",
    "letters": {"A": "x", "B": "y"},
    "a table": {"text": ["x", "y"], "label": ["A", "B"]},
}


@pytest.mark.parametrize("given", CHOICES.values(), ids=CHOICES.keys())
def test_choices_in_any_of_these_ways(tmp_path: Path, given: object) -> None:
    put(tmp_path / "a.jsonl", lines([vqa(1, fig=text(figure(1)), choices=given, a="(b)")]))
    problem = only(prepared(tmp_path / "a.jsonl", tmp_path, columns=COLUMNS))
    assert (problem.choices, problem.answer) == (("x", "y"), "y")


@pytest.mark.parametrize(
    ("source", "settings", "sentence"),
    [
        ("procedural", {"columns": {"problem": "q"}}, "data.columns means nothing to generated"),
        ("procedural", {"show_choices": True}, "data.show_choices means nothing"),
        ("geo", {"columns": {"problem": "q"}}, "data.columns means nothing to the Inter-GPS"),
        ("geo", {"subset": "main"}, "data.subset means nothing to a file or folder"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(
    tmp_path: Path, source: str, settings: dict[str, Any], sentence: str
) -> None:
    inter_gps(tmp_path / "geo", {"train": 2})
    with pytest.raises(DataError, match=sentence):
        prepared(source if source == "procedural" else tmp_path / source, tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("list.jsonl", json.dumps([{"problem": "?"}]).encode(), r"holds a list, not an object\); "),
        ("notes.txt", b"hello", "is there, but holds neither Parquet files nor JSON lines"),
        ("list.json", b"[]", r"jq -c '\.\[\]' list\.json > list\.jsonl"),
        ("empty.jsonl", b"\n\n", r"has no train split \(it has no rows\)"),
        ("metadata.csv", b"", r"has no train split \(it has no rows\)"),
    ],
)
def test_files_that_are_no_source(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        prepared(put(tmp_path / name, data), tmp_path)


@pytest.mark.parametrize("kind", ["lines", "parquet", "inter-gps"])
@pytest.mark.parametrize("output", ["", "out"])
def test_what_was_made_of_a_source_is_no_row_of_it(tmp_path: Path, kind: str, output: str) -> None:
    """As where somebody works in the folder of the source, and names it by a dot."""
    source, out = tmp_path / "set", tmp_path / "set" / output
    rows = [hub_row(n) for n in range(6)]
    if kind == "parquet":
        write_parquet(source / "data" / "train.parquet", rows)
    elif kind == "lines":
        named = [{"problem": r["problem"], "answer": r["answer"], "image": text(figure(n))}
                 for n, r in enumerate(rows)]  # fmt: skip
        put(source / "data" / "train.jsonl", lines(named))
    else:
        inter_gps(source, {"train": 6})
    first = prepared(source, out)
    config = RunConfig(preset="quickstart", output_dir=out)
    with open_run_folder(config) as run_dir:
        (run_dir / "rollouts").mkdir()
        write_parquet(run_dir / "rollouts" / "chunk-00000.parquet", rows)
        put(run_dir / "metrics.jsonl", lines([{"step": 0}]))
        put(run_dir / "ledger.jsonl", lines([{"step": 1}]))
        asked = problems(3)
        write_evaluation(run_dir / "evaluations" / "final", asked, predictions(asked, 0.5, seed=0))
    put(first.folder.with_name("other-0a1b2c3d-rejected.parquet"), b"of another preparation")
    assert prepared(source, out) == first
    # With a damaged manifest it is prepared anew, and of the same rows.
    manifest = first.folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    again = prepared(source, out)
    assert (again.folder, again.counts) == (first.folder, first.counts)
    # Named itself, it is a source.
    assert open_source(DataSection(source=str(first.folder))).sizes()["train"] == 4


@pytest.mark.parametrize("name", [b"answer", b"problem", b"images", b"bytes"])
def test_a_column_whose_name_is_damaged_is_one_sentence(tmp_path: Path, name: bytes) -> None:
    path = write_parquet(tmp_path / "train.parquet", [hub_row(1)])
    path.write_bytes(path.read_bytes().replace(name, b"\x81" + name[1:]))
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as Parquet"):
        prepared(path, tmp_path)


def test_numbers_are_what_was_meant(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = [hub_row(n, answer=value) for n, value in enumerate((0.1, 12.0, 2.5, 1 / 3))]
    single = pa.schema([
        ("images", pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))),
        ("problem", pa.string()),
        ("answer", pa.float32()),
    ])  # fmt: skip
    write_parquet(tmp_path / "set" / "train.parquet", rows, single)
    write_parquet(tmp_path / "set" / "test.parquet", rows[3:])
    dataset = prepared(tmp_path / "set", tmp_path)
    answers = [problem.answer for problem in dataset.problems("train")]
    assert answers == ["0.1", "12", "2.5"]
    assert dataset.problems("test")[0].answer == repr(1 / 3)
