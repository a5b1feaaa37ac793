"""Sources to dataset folders: what comes in, what is left out, what survives a kill."""

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import (
    CHOICES,
    figure,
    hub_row,
    inter_gps,
    read_rejected,
    write_parquet,
    write_problem,
)

from visual_r1.config import DataSection
from visual_r1.data import shards
from visual_r1.data.dataset import Dataset, find_prepared, open_dataset, prepare
from visual_r1.data.sources import open_source
from visual_r1.errors import DataError, StorageError

REAL = "VISUAL_R1_GEOMETRY3K"


def prepared(source: Path | str, out: Path, **settings: Any) -> Dataset:
    return prepare(DataSection(source=str(source), **settings), out)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.iterdir())}


class Counted:
    """A progress that remembers."""

    def __init__(self, at: int | None = None, then: Callable[[], None] | None = None) -> None:
        self.total = self.done = self.before = 0
        self.summary = ""
        self._at, self._then = at, then

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:  # noqa: ARG002
        self.total = total
        self.before = self.done = done

    def advance(self, n: int = 1, **shown: float) -> None:  # noqa: ARG002
        self.done += n
        if self.done == self._at and self._then is not None:
            self._then()

    def finish(self, summary: str = "") -> None:
        self.summary = summary


def test_whether_a_dataset_is_there_is_known_without_making_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", [hub_row(n) for n in range(8)])
    mine = DataSection(source=str(tmp_path / "set"))
    assert not find_prepared(mine, tmp_path)
    assert not (tmp_path / "data").exists()
    folder = prepare(mine, tmp_path).folder
    assert find_prepared(mine, tmp_path)
    (folder / "manifest.json").unlink()
    assert not find_prepared(mine, tmp_path)


def test_inter_gps_layout(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 6, "val": 2, "test": 3})
    progress = Counted()
    dataset = prepare(DataSection(source=str(source)), tmp_path, progress)
    assert dict(dataset.counts) == {"train": 6, "validation": 2, "test": 3, "rejected": 0}
    assert dataset.folder == tmp_path / "data" / f"geo-{dataset.digest}"
    assert (progress.done, progress.total) == (11, 11)
    assert "6 train" in progress.summary and "0 rejected" in progress.summary
    problem = dataset.problems("train")[1]
    assert problem.id == "1"
    assert problem.problem == "<image>Find $x_{1}$."
    assert problem.answer == "5 \\sqrt { 3 }"
    assert problem.choices == tuple(CHOICES)
    assert problem.images == (figure(1),)
    assert problem.family == "triangle"
    assert problem.source == "geometry3k"


def test_the_logic_form_is_what_is_known_of_the_figure(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 4})
    forms = {
        "0": ["Equals(LengthOf(Line(A, B)), 13)", "PointLiesOnCircle(S, Circle(P, radius_5_0))"],
        "1": [""],
        "2": None,
    }
    for name, form in forms.items():
        (source / "train" / name / "logic_form.json").write_text(
            json.dumps({"text_logic_form": ["Find(x)"], "diagram_logic_form": form})
        )
    problems = {one.id: one for one in prepared(source, tmp_path).problems("train")}
    facts = {name: one.meta.get("facts") for name, one in problems.items()}
    known = ["Equals(LengthOf(Line(A, B)), 13)", "PointLiesOnCircle(S, Circle(P))"]
    expected = {"0": known, "1": None, "2": None, "3": None}
    assert facts == {name: expected[name] for name in facts}
    assert problems  # some of the four may be test problems


def test_a_dataset_of_the_version_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 3, "test": 1})
    with monkeypatch.context() as before:
        before.setattr("visual_r1.data.dataset.FORMAT_VERSION", 2)
        former = prepared(source, tmp_path)
    logic = source / "train" / "0" / "logic_form.json"
    logic.write_text('{"diagram_logic_form": ["Parallel(Line(A, B), Line(C, D))"]}')
    assert prepared(source, tmp_path).digest == former.digest
    # Where it is not there any more, and anywhere else, it is made as it is made now.
    former.folder.rename(tmp_path / "elsewhere")
    now = prepared(source, tmp_path)
    assert now.digest != former.digest
    assert "facts" in {p.id: p for p in now.problems("train")}["0"].meta
    (tmp_path / "elsewhere").rename(former.folder)
    assert prepared(source, tmp_path).digest == now.digest


def test_a_train_folder_alone_is_split_by_a_hash_of_the_id(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 10})
    dataset = prepared(source, tmp_path)
    assert dict(dataset.counts) == {"train": 7, "validation": 1, "test": 2, "rejected": 0}
    members = {s: {p.id for p in dataset.problems(s)} for s in ("train", "validation", "test")}
    assert sum(map(len, members.values())) == len(set().union(*members.values())) == 10
    # The place in the source does not matter, the seed does.
    other = inter_gps(tmp_path / "other", {"": 10})
    again = prepared(other, tmp_path)
    assert {p.id for p in again.problems("test")} == members["test"]
    reseeded = {
        tuple(sorted(p.id for p in prepared(source, tmp_path, seed=seed).problems("test")))
        for seed in range(1, 5)
    }
    assert len(reseeded | {tuple(sorted(members["test"]))}) > 1


@pytest.mark.parametrize(
    ("count", "shares"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (5, (3, 1, 1))]
)
def test_tiny_sets_keep_a_training_and_a_test_problem(
    tmp_path: Path, count: int, shares: tuple[int, int, int]
) -> None:
    dataset = prepared(inter_gps(tmp_path / "geo", {"train": count}), tmp_path)
    assert tuple(dataset.counts[s] for s in ("train", "validation", "test")) == shares


def test_a_bad_row_cannot_leave_test_empty(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 4})
    (bad,) = prepared(source, tmp_path).problems("test")
    (source / "train" / bad.id / "img_diagram.png").write_bytes(b"")
    dataset = prepared(source, tmp_path, max_rejected_share=0.25)
    assert (dataset.counts["test"], dataset.counts["rejected"]) == (1, 1)
    assert dataset.counts["train"] == 2


def test_hub_schema_in_and_out_again(tmp_path: Path) -> None:
    source = tmp_path / "geometry3k"
    rows = [hub_row(n) for n in range(9)]
    write_parquet(source / "data" / "train-00000-of-00002.parquet", rows[:4])
    write_parquet(source / "data" / "train-00001-of-00002.parquet", rows[4:6])
    write_parquet(source / "data" / "validation-00000-of-00001.parquet", rows[6:7])
    write_parquet(source / "data" / "test-00000-of-00001.parquet", rows[7:])
    dataset = prepared(source, tmp_path)
    assert [p.id for p in dataset.problems("train")] == [f"train-{n}" for n in range(6)]
    problem = dataset.problems("test")[1]
    assert (problem.problem, problem.answer) == (rows[8]["problem"], "8")
    assert problem.images == (rows[8]["images"][0]["bytes"],)
    # What was prepared is itself a source, and gives the same problems.
    again = prepared(dataset.folder, tmp_path)
    assert again.folder != dataset.folder
    for split in ("train", "validation", "test"):
        assert list(again.problems(split)) == list(dataset.problems(split))


def test_datasets_decodes_the_images(tmp_path: Path) -> None:
    dataset = prepared(inter_gps(tmp_path / "geo", {"train": 3, "test": 1}), tmp_path)
    loaded = datasets.load_dataset(
        "parquet", data_dir=str(dataset.folder), cache_dir=str(tmp_path / "cache")
    )
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "test": 1}
    row = loaded["train"][2]
    assert row["images"][0].size == (120, 90)
    assert (row["id"], row["answer"]) == ("2", CHOICES[2])
    assert json.loads(row["meta"])["family"] == "triangle"
    assert loaded["train"].column_names == [
        "id", "images", "problem", "answer", "choices", "source", "meta"
    ]  # fmt: skip


def test_procedural_is_made_in_any_number(tmp_path: Path) -> None:
    dataset = prepared("procedural", tmp_path, train=300, validation=20, test=30)
    assert dict(dataset.counts) == {"train": 300, "validation": 20, "test": 30, "rejected": 0}
    train = dataset.problems("train")
    assert train[299].meta["facts"] and train[-1] == train[299]
    assert [p.id for p in train[5:8]] == [train[i].id for i in (5, 6, 7)]
    with pytest.raises(IndexError):
        train[300]
    assert prepared("procedural", tmp_path, seed=1, train=5, validation=1, test=1).problems(
        "train"
    )[0] != train[0]  # fmt: skip


def test_counts_limit_each_split(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 6, "val": 3, "test": 3})
    dataset = prepared(source, tmp_path, train=2, test=1)
    assert dict(dataset.counts) == {"train": 2, "validation": 3, "test": 1, "rejected": 0}


def test_preparing_again_does_nothing_and_a_change_makes_another_folder(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 5})
    first = prepared(source, tmp_path)
    before = snapshot(first.folder)
    progress = Counted()
    assert prepare(DataSection(source=str(source)), tmp_path, progress) == first
    assert progress.total == 0 and snapshot(first.folder) == before
    os.utime(source / "train" / "0" / "data.json")
    assert prepared(source, tmp_path) == first
    write_problem(source / "train" / "77", 77)
    second = prepared(source, tmp_path)
    assert second.folder != first.folder
    assert snapshot(first.folder) == before
    assert prepared(source, tmp_path, train=2).folder not in (first.folder, second.folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path, bit: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    bit = 4 * len(content) if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip])
@pytest.mark.parametrize("name", ["manifest.json", "train-00000-of-00001.parquet"])
def test_damage_is_found_and_mended(
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 5})
    dataset = prepared(source, tmp_path)
    problems = list(dataset.problems("train"))
    damage(dataset.folder / name)
    left = {path.name: path.read_bytes() for path in dataset.folder.iterdir()}
    with pytest.raises(DataError, match=rf"{name}.*prepare it again"):
        open_dataset(dataset.folder)
    assert prepared(source, tmp_path) == dataset
    assert list(open_dataset(dataset.folder).problems("train")) == problems
    aside = dataset.folder.with_name(f".{dataset.folder.name}.damaged-1")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left
    assert name in caplog.text
    assert f"the damaged folder is {aside} now" in caplog.text


def test_no_bit_of_a_dataset_changes_in_silence(tmp_path: Path) -> None:
    dataset = prepared(inter_gps(tmp_path / "geo", {"train": 5}), tmp_path)
    for path in sorted(dataset.folder.glob("*.parquet")):
        whole = path.read_bytes()
        for bit in range(3, 8 * len(whole), 8 * len(whole) // 60):
            flip(path, bit)
            with pytest.raises(DataError, match=f"{path.name} is damaged: its digest is"):
                open_dataset(dataset.folder)
            path.write_bytes(whole)
    assert open_dataset(dataset.folder) == dataset


def test_a_shard_that_is_damaged_after_it_was_opened_is_one_sentence(tmp_path: Path) -> None:
    """Also one of an older version, which has no digest."""
    dataset = prepared(inter_gps(tmp_path / "geo", {"train": 5}), tmp_path)
    [path] = dataset.folder.glob("train-*.parquet")
    whole = path.read_bytes()
    right = list(dataset.problems("train"))
    found = 0
    for bit in range(3, 8 * len(whole), 8 * len(whole) // 60):
        flip(path, bit)
        try:
            assert list(dataset.problems("train")) == right
        except DataError as error:
            found += 1
            assert path.name in str(error)
        path.write_bytes(whole)
    assert found > 20  # the others are in what nobody reads: statistics, padding


def test_a_manifest_of_another_version_is_read_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    dataset = prepared(inter_gps(tmp_path / "geo", {"train": 5}), tmp_path)
    path = dataset.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["checksum"]  # it has one since files have digests
    older = {name: value for name, value in manifest.items() if name != "duplicates"}
    path.write_text(json.dumps(older), encoding="utf-8")
    assert open_dataset(dataset.folder) == dataset
    path.write_text(json.dumps({**manifest, "compressed": True}), encoding="utf-8")
    assert open_dataset(dataset.folder) == dataset
    path.write_text(json.dumps({**manifest, "counts": "many"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest.json is damaged \(counts: .*\); prepare it"):
        open_dataset(dataset.folder)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 3})
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="--output-dir"):
        prepared(source, tmp_path / "out")


def rejection(source: Path, out: Path) -> list[tuple[str, str]]:
    """What was rejected of a source whose other three rows are good."""
    dataset = prepared(source, out, max_rejected_share=1.0)
    rejected = read_rejected(dataset.folder)
    assert dataset.counts["rejected"] == len(rejected)
    assert dataset.counts["train"] + dataset.counts["test"] == 3
    return [(row["row"], row["reason"]) for row in rejected]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no problem": ({"problem": None}, "the problem is missing"),
    "empty problem": ({"problem": " <image> "}, "the problem is empty"),
    "no answer": ({"answer": None}, "the answer is missing"),
    "empty answer": ({"answer": "  "}, "the answer is empty"),
    "an answer beyond the grader": ({"answer": "\\int_0^1 x"}, "does not grade as itself"),
    "an answer of two kinds": ({"answer": "5 = 6"}, "does not grade as itself"),
    "an endless problem": ({"problem": "x" * 60_000}, "60000 characters"),
    "control characters": ({"problem": "Find\x00x"}, "not text"),
    "no images": ({"images": []}, "there is no image"),
    "null images": ({"images": None}, "there is no image"),
    "an image without bytes": ({"images": [{"bytes": None, "path": None}]}, "image 1 is missing"),
    "a zero-byte image": ({"images": [{"bytes": b"", "path": None}]}, "empty (0 bytes)"),
    "text for an image": ({"images": [{"bytes": b"404", "path": None}]}, "does not decode"),
    "two markers": ({"problem": "<image><image>Find x."}, "2 <image> markers and 1 images"),
    "an image path that leads out": (
        {"images": [{"bytes": None, "path": "../../etc/passwd"}]}, "leads out of"),
    "an image path to nothing": (
        {"images": [{"bytes": None, "path": "gone.png"}]}, "'gone.png' is missing: No such file"),
    "a bad second image": (
        {"images": [{"bytes": figure(1), "path": None}, {"bytes": b"x", "path": None}],
         "problem": "<image><image>?"}, "image 2: "),
    "a repeated question": ({"images": [{"bytes": figure(0, mode="RGBA"), "path": None}],
                             "problem": "<image> find  $x_{0}$.", "answer": "0"}, "same question"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_row_is_rejected_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    rows = [hub_row(0), hub_row(1), hub_row(9, **changes)]
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(3)])
    ((place, why),) = rejection(tmp_path / "set", tmp_path)
    assert reason in why
    assert place == "train.parquet row 2"


def test_text_that_is_not_utf8_spoils_its_own_row_alone(tmp_path: Path) -> None:
    rows = [hub_row(n) for n in range(3)]
    table = pa.Table.from_pylist(rows)
    texts = pa.array([b"<image>Find x.", b"<image>\xff\xfe", b"<image>Find y."], pa.binary())
    broken = texts.view(pa.string())
    table = table.set_column(table.schema.get_field_index("problem"), "problem", broken)
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(7)])
    assert rejection(tmp_path / "set", tmp_path) == [
        ("train.parquet row 1", "the problem is not UTF-8")
    ]


def test_own_ids_must_differ_and_other_columns_are_kept(tmp_path: Path) -> None:
    rows = [hub_row(n, id=f"p{n % 2}", meta='{"family": "kites"}') for n in range(3)]
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(7, answer="A", choices=["1", "2"])])
    assert rejection(tmp_path / "set", tmp_path) == [
        ("train.parquet row 2", "the id 'p0' came before, in train.parquet row 0 (train)")
    ]
    dataset = prepared(tmp_path / "set", tmp_path)
    assert dataset.problems("train")[0].family == "kites"
    assert dataset.problems("test")[0].choices == ("1", "2")


def test_numbers_and_image_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "set" / "figures").mkdir(parents=True)
    (tmp_path / "set" / "figures" / "0.jpg").write_bytes(figure(0, kind="JPEG"))
    row = {"image": {"bytes": None, "path": "figures/0.jpg"}, "problem": "Find x.", "answer": 12}
    write_parquet(tmp_path / "set" / "train.parquet", [row])
    (problem,) = prepared(tmp_path / "set", tmp_path).problems("train")
    assert (problem.problem, problem.answer) == ("<image>Find x.", "12")
    assert problem.images == (figure(0, kind="JPEG"),)


def test_broken_folders_of_the_inter_gps_layout(tmp_path: Path) -> None:
    source = inter_gps(tmp_path / "geo", {"train": 3})
    write_problem(source / "train" / "10", 10, answer="E")
    write_problem(source / "train" / "11", 11, answer=None)
    write_problem(source / "train" / "12", 12, choices="none")
    write_problem(source / "train" / "13", 13)
    (source / "train" / "13" / "img_diagram.png").unlink()
    write_problem(source / "train" / "14", 14)
    (source / "train" / "14" / "data.json").write_text("{")
    write_problem(source / "train" / "15", 15)
    (source / "train" / "15" / "data.json").write_bytes(b'{"id": "\xff"}')
    write_problem(source / "train" / "16", 16)
    (source / "train" / "16" / "data.json").write_text("[]")
    write_problem(source / "train" / "17", 17, annotat_text=None, problem_text=None)
    write_problem(source / "train" / "18", 0)
    write_problem(source / "train" / "19", 19)
    (source / "train" / "19" / "logic_form.json").write_text("{")
    reasons = dict(rejection(source, tmp_path))
    shown = {place: re.split(r":| \(", reasons[place])[0] for place in sorted(reasons)}
    assert shown == {
        "train/10": "the answer 'E' names none of the 4 choices",
        "train/11": "the answer is missing",
        "train/12": "choices are the text 'none', which is no list",
        "train/13": "image 1 is missing",
        "train/14": "data.json is not JSON",
        "train/15": "data.json is not UTF-8",
        "train/16": "data.json holds no object",
        "train/17": "the problem is missing",
        "train/18": "the id '0' came before, in train/0",
        "train/19": "logic_form.json is not JSON",
    }


def test_a_training_problem_that_repeats_a_test_problem_is_left_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", [hub_row(n) for n in range(4)])
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(2), hub_row(2)])
    dataset = prepared(tmp_path / "set", tmp_path)
    assert dict(dataset.counts) == {"train": 3, "validation": 0, "test": 2, "rejected": 1}
    assert read_rejected(dataset.folder)[0]["row"] == "train.parquet row 2"


def test_a_source_with_test_problems_alone_is_prepared_for_whom_that_is_enough(
    tmp_path: Path,
) -> None:
    write_parquet(tmp_path / "set" / "testmini.parquet", [hub_row(n) for n in range(3)])
    data = DataSection(source=str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"no train split \(it has test\).*evaluate_flow"):
        prepare(data, tmp_path)
    dataset = prepare(data, tmp_path, needs=["test"])
    assert dict(dataset.counts) == {"train": 0, "validation": 0, "test": 3, "rejected": 0}
    assert [problem.answer for problem in dataset.problems("test")] == ["0", "1", "2"]
    with pytest.raises(DataError, match=r"no train split"):
        dataset.require(["train", "test"])
    # All are bad: then it is none.
    write_parquet(tmp_path / "bad" / "test.parquet", [hub_row(n, answer="") for n in range(3)])
    data = DataSection(source=str(tmp_path / "bad"), max_rejected_share=1)
    with pytest.raises(DataError, match="can be used: 3 rows were rejected"):
        prepare(data, tmp_path, needs=["test"])


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither Parquet files nor JSON lines nor folders"):
        prepared(tmp_path / "empty", tmp_path)
    with pytest.raises(DataError, match="is not there"):
        prepared("./nowhere", tmp_path)
    with pytest.raises(DataError, match="is not there"):
        prepared("a/b/c", tmp_path)
    write_parquet(tmp_path / "other" / "train.parquet", [{"question": "?", "answer": "1"}])
    with pytest.raises(DataError, match=r"no column 'problem' and no 'images' \(it has question"):
        prepared(tmp_path / "other", tmp_path)
    write_parquet(tmp_path / "tests" / "test.parquet", [hub_row(1)])
    with pytest.raises(DataError, match=r"no train split \(it has test\)"):
        prepared(tmp_path / "tests", tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as Parquet"):
        prepared(tmp_path / "damaged", tmp_path)
    write_parquet(tmp_path / "bad" / "train.parquet", [hub_row(n, answer="") for n in range(3)])
    with pytest.raises(DataError, match="3 rows were rejected, 3 because the answer is empty; see"):
        prepared(tmp_path / "bad", tmp_path, max_rejected_share=1.0)
    assert not [p for p in (tmp_path / "data").iterdir() if p.is_dir()]


def test_a_hub_dataset_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/nothing-at-all'.*--data.source procedural"):
        prepared("nobody/nothing-at-all", tmp_path)


def test_a_hub_that_nobody_answers_at_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(DataError, match=r"'nobody/nothing-at-all'.*check the name and the net"):
            prepared("nobody/nothing-at-all", tmp_path)
    assert "Retrying" not in "".join(capfd.readouterr())
    assert not datasets.config.HF_HUB_OFFLINE


def test_many_row_groups_are_read_by_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fits into the memory they may take."""
    dataset = prepared("procedural", tmp_path, train=700, validation=1, test=1)
    order = [(index * 389) % 700 for index in range(700)]
    in_order = [problem.id for problem in dataset.problems("train")]
    assert len(set(in_order)) == 700
    for room in (0, 400_000):
        monkeypatch.setattr(shards, "CACHED_BYTES", room)
        train = dataset.problems("train")
        assert [train[index].id for index in order[:60]] == [in_order[i] for i in order[:60]]
        held = train._cache.values()
        assert len(held) == 1 or sum(table.nbytes for table in held) <= room


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no folder of Geometry3K")
def test_real_problems(tmp_path: Path) -> None:
    """All of them are used, and their figures kept byte for byte."""
    dataset = prepared(os.environ[REAL], tmp_path)
    assert dataset.counts["rejected"] == 0
    files = {path.read_bytes() for path in Path(os.environ[REAL]).rglob("img_diagram.png")}
    kept = {p.images[0] for s in ("train", "validation", "test") for p in dataset.problems(s)}
    assert kept == files


def test_rows_of_a_source_from_the_middle_on(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([hub_row(n) for n in range(9)])
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "train-0.parquet", row_group_size=2)
    pq.write_table(table, tmp_path / "set" / "train-1.parquet", row_group_size=5)
    for name in (
        str(tmp_path / "set"),
        str(inter_gps(tmp_path / "geo", {"train": 5})),
        "procedural",
    ):
        source = open_source(DataSection(source=name, train=12))
        rows = list(source.rows("train"))
        for start in (*range(len(rows) + 1), len(rows) + 3):
            assert list(source.rows("train", start)) == rows[start:], (name, start)
