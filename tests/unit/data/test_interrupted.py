"""Preparations that are killed, interrupted, run out of disk or meet each other."""

import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import hub_row, write_parquet
from filelock import FileLock

from visual_r1.config import DataSection
from visual_r1.data import dataset as dataset_module
from visual_r1.data import preparation, splits
from visual_r1.data.dataset import Dataset, _name, _partial, find_prepared, prepare
from visual_r1.data.preparation_state import PreparationState
from visual_r1.data.sources import open_source
from visual_r1.data.sources.files import FilesSource
from visual_r1.data.sources.source import SplitNames
from visual_r1.errors import StorageError
from visual_r1.hashing import stable_seed
from visual_r1.progress import PlainProgress

PROBLEMS = 210
SETTINGS: dict[str, Any] = {"source": "procedural", "train": 150, "validation": 20, "test": 40}
SHARD_BYTES = 75_000
FEW: dict[str, Any] = {"source": "procedural", "train": 30, "validation": 4, "test": 8}

# Kills itself where the argument says: after so many rows, when a file of that name is renamed or
# removed, or where the last shard of that split is to be finished.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from visual_r1.config import DataSection
from visual_r1.data import shards
from visual_r1.data import preparation
from visual_r1.data.dataset import prepare

moment, settings = sys.argv[2], json.loads(sys.argv[3])
preparation.SHARD_BYTES = 75_000

class Killer:
    done = 0
    def start(self, stage, total, unit, done=0): self.done = done
    def advance(self, n=1, **shown):
        self.done += n
        if str(self.done) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    def finish(self, summary=""): pass

def watch(event, arguments):
    if event == "os.rename" and Path(arguments[1]).name.startswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "os.remove" and f"{Path(arguments[0]).name} removed" == moment:
        os.kill(os.getpid(), signal.SIGKILL)

class Sorting(preparation._Sorting):
    def _finish_shard(self, split):
        if moment == f"{split} shard":
            os.kill(os.getpid(), signal.SIGKILL)
        super()._finish_shard(split)

preparation._Sorting = Sorting
sys.addaudithook(watch)
prepare(DataSection(**settings), Path(sys.argv[1]), Killer())
"""


class Watched:
    """A progress that remembers where it began."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.before = self.done = self.total = 0
        self.shown: dict[str, float] = {}
        self._stop_at = stop_at

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:  # noqa: ARG002
        self.total, self.before, self.done = total, done, done

    def advance(self, n: int = 1, **shown: float) -> None:
        self.done += n
        self.shown = shown
        if self.done == self._stop_at:
            raise KeyboardInterrupt

    def finish(self, summary: str = "") -> None: ...


def killed_at(moment: str, out: Path, settings: dict[str, Any] = SETTINGS) -> None:
    command = [sys.executable, "-c", KILLED, str(out), moment, json.dumps(settings)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL


def contents(dataset: Dataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.folder.glob("*.parquet"))}


def visible(out: Path) -> list[str]:
    return [path.name for path in (out / "data").iterdir() if not path.name.startswith(".")]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_BYTES", SHARD_BYTES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "SHARD_BYTES", SHARD_BYTES)
        yield prepare(DataSection(**SETTINGS), tmp_path_factory.mktemp("whole"))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("moment", "before"),
    [
        ("100", 100),
        ("train-00001.part", 132),  # a shard is written, and not yet noted
        ("test-00000-of", PROBLEMS),  # the shards get their names
        ("procedural-", PROBLEMS),  # all is there, under the hidden name
    ],
)
def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, whole: Dataset, moment: str, before: int
) -> None:
    killed_at(moment, tmp_path)
    assert visible(tmp_path) == []
    progress = Watched()
    dataset = prepare(DataSection(**SETTINGS), tmp_path, progress)
    assert contents(dataset) == contents(whole)
    assert len([name for name in contents(whole) if name.startswith("train")]) > 2
    assert before - preparation.COMMIT_ROWS <= progress.before <= before
    assert (progress.done, progress.total) == (PROBLEMS, PROBLEMS)
    assert visible(tmp_path) == [dataset.folder.name]
    assert not [p for p in (tmp_path / "data").iterdir() if p.name.endswith(".partial")]


def test_rows_that_were_seen_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a source that is cut by a hash, with bad rows and repeats on both sides."""
    rows = [hub_row(n) for n in range(150)]
    rows[20] = hub_row(20, answer="")
    rows[40] = hub_row(3)
    rows[130] = hub_row(4)
    rows[131] = hub_row(5, answer="77")
    data = DataSection(source=str(write_parquet(tmp_path / "set" / "train.parquet", rows).parent))
    whole = prepare(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tmp_path / "again", Watched(stop_at=140))
    assert visible(tmp_path / "again") == []
    starts: list[int] = []
    read = FilesSource.rows

    def noted(self: FilesSource, split: Any, start: int, wanted: Any) -> Any:
        starts.append(start)
        return read(self, split, start, wanted)

    monkeypatch.setattr(FilesSource, "rows", noted)
    progress = Watched()
    dataset = prepare(data, tmp_path / "again", progress)
    assert contents(dataset) == contents(whole)
    assert starts and min(starts) > 64
    assert progress.done == 150
    assert dataset.counts == whole.counts and dataset.counts["rejected"] >= 3


def test_a_damaged_state_is_left_behind(tmp_path: Path, whole: Dataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(DataSection(**SETTINGS), tmp_path, Watched(stop_at=130))
    (state,) = (tmp_path / "data").rglob("journal.sqlite")
    damaged = bytearray(state.read_bytes())
    damaged[100:8000] = os.urandom(7900)
    state.write_bytes(damaged)
    progress = Watched()
    dataset = prepare(DataSection(**SETTINGS), tmp_path, progress)
    assert progress.before == 0
    assert dict(dataset.counts) == dict(whole.counts)


def interrupted(out: Path, stop_at: int) -> Path:
    """The folder of a preparation of few problems that was stopped behind this row."""
    with pytest.raises(KeyboardInterrupt):
        prepare(DataSection(**FEW), out, Watched(stop_at=stop_at))
    (partial,) = (out / "data").glob(".*.partial")
    return partial


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def of_an_image(journal: bytes) -> int:
    """A byte of a figure that waits for its shard."""
    return journal.rindex(b"\x89PNG") + 300


def of_a_problem(journal: bytes) -> int:
    """A byte of the question of a problem that waits."""
    return journal.rindex(b'"problem": "') + 30


def of_the_schema(journal: bytes) -> int:
    return journal.rindex(b"waiting_images") + 14


def in_the_middle(file: bytes) -> int:
    return len(file) // 2


def in_the_footer(file: bytes) -> int:
    return len(file) - 300


@pytest.mark.parametrize(
    ("name", "place", "stop_at"),
    [
        ("journal.sqlite", of_an_image, 41),
        ("journal.sqlite", of_a_problem, 41),
        ("journal.sqlite", of_the_schema, 41),
        ("dataset/test-00000.part", in_the_middle, 30),
        ("dataset/test-00000.part", in_the_footer, 30),
        ("dataset/validation-00000.part", in_the_footer, 30),
        ("dataset/train-00000.part", in_the_middle, 41),
        ("dataset/train-00000.part", None, 41),
    ],
)
def test_what_was_prepared_and_is_damaged_is_not_gone_on_with(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    place: Callable[[bytes], int] | None,
    stop_at: int,
) -> None:
    """One bit of it, and in a footer as well: that was never read again by some attempts."""
    monkeypatch.setattr(preparation, "COMMIT_ROWS", 4)
    monkeypatch.setattr(preparation, "SHARD_BYTES", 15_000 if "part" in name else SHARD_BYTES)
    whole = contents(prepare(DataSection(**FEW), tmp_path / "whole"))
    path = interrupted(tmp_path / "again", stop_at) / name
    if place is None:
        path.unlink()
    else:
        flip(path, place(path.read_bytes()))
    progress = Watched()
    assert contents(prepare(DataSection(**FEW), tmp_path / "again", progress)) == whole
    assert progress.before == 0
    assert f"{path} " in caplog.text and "begins anew" in caplog.text


@pytest.mark.parametrize("split", ["test", "validation", "train"])
@pytest.mark.parametrize("limit", [None, 12])
def test_no_row_counts_twice_where_the_last_shard_of_a_split_was_not_there(
    tmp_path: Path, split: str, limit: int | None
) -> None:
    """Fewer rows than are noted at once, one of them bad, one a repeat; and none past a limit."""
    rows = [hub_row(n) for n in range(60)]
    rows[7] = hub_row(7, answer="")
    rows[50] = hub_row(4)
    source = write_parquet(tmp_path / "set" / "train.parquet", rows).parent
    settings: dict[str, Any] = {"source": str(source), split: limit}
    whole = prepare(DataSection(**settings), tmp_path / "whole")
    killed_at(f"{split} shard", tmp_path / "again", settings)
    again = prepare(DataSection(**settings), tmp_path / "again")
    assert (contents(again), again.counts) == (contents(whole), whole.counts)


@pytest.mark.usefixtures("small_shards")
def test_what_has_its_last_name_already_is_held_against_its_digest_as_well(
    tmp_path: Path, whole: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    killed_at("procedural-", tmp_path)
    path = next((tmp_path / "data").rglob("train-00000-of-*.parquet"))
    flip(path, in_the_footer(path.read_bytes()))
    assert contents(prepare(DataSection(**SETTINGS), tmp_path)) == contents(whole)
    assert "train-00000.part is damaged" in caplog.text


def test_a_shard_without_its_withdrawn_rows_is_as_good_as_the_one_with_them(tmp_path: Path) -> None:
    """Killed when it was written and noted, and the one with them was still there."""
    rows = [hub_row(n) for n in range(20)]
    rows[19] = hub_row(5, answer="77")
    source = write_parquet(tmp_path / "set" / "train.parquet", rows).parent
    settings = {"source": str(source)}
    whole = prepare(DataSection(**settings), tmp_path / "whole")
    killed_at("train-00000.part removed", tmp_path / "again", settings)
    (partial,) = (tmp_path / "again" / "data").glob(".*.partial")
    assert sorted(path.name for path in partial.glob("dataset/train-*")) == [
        "train-00000-of-00001.parquet", "train-00000.part",
    ]  # fmt: skip
    progress = Watched()
    assert contents(prepare(DataSection(**settings), tmp_path / "again", progress)) == contents(
        whole
    )
    assert progress.before == 20
    assert whole.counts["rejected"] == 2


def test_what_an_older_version_began_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards have no digests, and its rows no sums; from now on they have."""
    monkeypatch.setattr(preparation, "COMMIT_ROWS", 1)
    whole = contents(prepare(DataSection(**FEW), tmp_path / "whole"))
    journal = interrupted(tmp_path / "again", 30) / "journal.sqlite"
    with closing(sqlite3.connect(journal)) as db:
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in db.execute(query).fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("DROP TABLE sums")
        db.execute("ALTER TABLE shards DROP COLUMN digest")
        db.execute("PRAGMA user_version = 3")
        db.commit()
    with pytest.raises(KeyboardInterrupt):
        prepare(DataSection(**FEW), tmp_path / "again", Watched(stop_at=41))
    progress = Watched()
    assert contents(prepare(DataSection(**FEW), tmp_path / "again", progress)) == whole
    assert progress.before == 41 - 1  # that of the row at which it was stopped came too late


def a_partial_of_version_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> Path:
    """One that was stopped, of a set in `set` that was cut by its ids, and goes on under its name.

    Its state notes the bounds of the cut, as that version did."""
    rows = [
        hub_row(n, images=hub_row(n // 5)["images"], problem=f"What is {n}?") for n in range(60)
    ]
    data = DataSection(source=str(write_parquet(tmp_path / "set" / "train.parquet", rows).parent))
    source = open_source(data)
    named = _name(data, source, tmp_path / "again", version=3, of=source.fingerprint)
    with monkeypatch.context() as then, pytest.raises(KeyboardInterrupt):
        then.setattr(dataset_module, "_new", lambda *_: named)
        then.setattr(preparation, "COMMIT_ROWS", 1)
        prepare(data, tmp_path / "again", Watched(stop_at=stop_at))
    partial = _partial(named.folder)
    assert partial.is_dir()
    with PreparationState(partial) as state:
        sides = state.setting("sides")
        assert sides is not None
        hashes = np.array([stable_seed("split", 0, id) for id in source.ids("train")], np.uint32)
        cut = splits.HashCut.of(hashes)
        assert (cut.sides(hashes) == splits._noted(state)).all()
        state.set_setting("cut", [cut.test_below, cut.validation_below])
        state._file.execute("DELETE FROM settings WHERE name IN ('sides', 'cut told')")
        state.commit()
    return partial


def test_what_a_version_with_another_cut_began_goes_on_with_its_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = a_partial_of_version_3(tmp_path, monkeypatch, stop_at=30)
    data = DataSection(source=str(tmp_path / "set"))
    whole = prepare(data, tmp_path / "whole")
    assert find_prepared(data, tmp_path / "again") is None
    progress = Watched()
    again = prepare(data, tmp_path / "again", progress)
    assert _partial(again.folder) == partial and progress.before == 29
    assert again.digest != whole.digest and sum(again.counts.values()) == 60
    assert [path.name for path in (tmp_path / "again" / "data").glob(".*.partial")] == []


def test_what_an_older_version_began_and_cannot_go_on_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    partial = a_partial_of_version_3(tmp_path, monkeypatch, stop_at=30)
    (partial / "journal.sqlite").write_bytes(b"damaged")
    data = DataSection(source=str(tmp_path / "set"))
    again = prepare(data, tmp_path / "again")
    assert _partial(again.folder) != partial and not partial.exists()
    assert f"{partial} is of an older version and cannot go on: it is removed" in caplog.text


def test_what_was_begun_when_a_test_file_counted_as_train_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for n, name in enumerate(("train1", "test1")):
        write_parquet(
            tmp_path / "set" / f"{name}.parquet", [hub_row(40 * n + i) for i in range(40)]
        )
    data = DataSection(source=str(tmp_path / "set"))
    with monkeypatch.context() as then:
        then.setattr(SplitNames, "_split_of_part", lambda *_: None)
        then.setattr(preparation, "COMMIT_ROWS", 1)
        former = prepare(data, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            prepare(data, tmp_path / "again", Watched(stop_at=30))
    assert former.counts["train"] == 56
    progress = Watched()
    now = prepare(data, tmp_path / "again", progress)
    assert (now.counts["train"], now.counts["test"], progress.before) == (40, 40, 0)
    assert "is of when all rows counted as train: what was prepared of" in caplog.text
    # One that is whole goes on, and says so.
    caplog.clear()
    assert prepare(data, tmp_path / "whole") == former
    assert "counted as train, test1.parquet among them, and goes on so" in caplog.text
    next(former.folder.glob("test-*")).write_bytes(b"damaged")
    assert prepare(data, tmp_path / "whole").counts == now.counts


def test_progress_shows_rate_rejected_and_repeats(tmp_path: Path) -> None:
    rows = [hub_row(n) for n in range(4)] + [hub_row(1), hub_row(9, answer="")]
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    write_parquet(tmp_path / "set" / "test.parquet", [hub_row(7)])
    text = io.StringIO()
    ticks = iter(range(1000))
    progress = PlainProgress(text, interval_s=1, clock=lambda: float(next(ticks)))
    prepare(DataSection(source=str(tmp_path / "set")), tmp_path, progress)
    first, *between, last = text.getvalue().splitlines()
    assert first == "prepare: 0 of 7 problems"
    assert "problems/s" in between[-1] and "left" in between[-1]
    assert any("rejected 1, repeats 1" in line for line in between)
    assert "4 train, 0 validation, 1 test, 2 rejected, 1 repeats among them" in last


class Said(logging.Handler):
    """Sets an event when something is said."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()
        self.event.set()


def test_the_second_of_two_processes_waits_and_says_so(tmp_path: Path) -> None:
    data = DataSection(source="procedural", train=5, validation=1, test=1)
    first = prepare(data, tmp_path)
    hidden = first.folder.rename(first.folder.with_name(".hidden"))
    said = Said()
    logger = logging.getLogger("visual_r1")
    logger.addHandler(said)
    results: list[Dataset] = []
    try:
        with FileLock(first.folder.parent / f".{first.folder.name}.lock"):
            thread = threading.Thread(target=lambda: results.append(prepare(data, tmp_path)))
            thread.start()
            assert said.event.wait(60)
            assert thread.is_alive() and not results
            hidden.rename(first.folder)  # as the other process does at its end
        thread.join(60)
    finally:
        logger.removeHandler(said)
    assert results == [first]
    assert f"another process prepares {first.folder}: it is waited for" in said.text


FULL = """
import resource, sys
from pathlib import Path
from visual_r1.config import DataSection
from visual_r1.data.dataset import prepare
from visual_r1.errors import StorageError

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    prepare(DataSection(source="procedural", train=150, validation=20, test=40), Path(sys.argv[1]))
except StorageError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("limit", [1_000, 60_000, 150_000])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, whole: Dataset, limit: int
) -> None:
    """A limit on file sizes stops the noting of the state at once or later, or a shard."""
    command = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.count("\n") == 1
    assert "free some space or choose another folder with --output-dir" in done.stdout
    assert visible(tmp_path) == []
    dataset = prepare(DataSection(**SETTINGS), tmp_path)
    assert dict(dataset.counts) == dict(whole.counts)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o500)
    if os.access(tmp_path / "data", os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(StorageError, match="--output-dir"):
        prepare(DataSection(**SETTINGS), tmp_path)
