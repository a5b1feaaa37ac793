"""Checkpoints on disk, with a clock in the test's hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from visual_r1.engine.store.records import (
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    SessionRecord,
    checkpoint_path,
    parse_path,
)
from visual_r1.engine.store.store import CheckpointNotFound, Store
from visual_r1.engine.types import InvalidRequest, LoraSpec
from visual_r1.errors import EngineError, StorageError

MODEL_ID = "0123456789abcdef:train:0"
PATH = checkpoint_path(MODEL_ID, "weights", "one")


class Clock:
    """A time that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def record(clock: Clock, path: CheckpointPath = PATH, ttl: int | None = None) -> CheckpointRecord:
    return CheckpointRecord(
        path=path,
        base_model="base",
        spec=LoraSpec(rank=4, seed=1),
        optimizer=True,
        created_at=clock.now,
        expires_at=None if ttl is None else clock.now + timedelta(seconds=ttl),
        user_metadata={"step": "3"},
    )


def text(content: str):
    return lambda folder: (folder / "state").write_text(content) and None


def reopened(store: Store, clock: Clock) -> Store:
    store.close()
    return Store(store.home.path, clock)


def test_everything_is_there_after_a_restart(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    run = RunRecord(MODEL_ID, "base", LoraSpec(rank=4), clock.now, {"a": "b"})
    session = SessionRecord("0123456789abcdef", clock.now, "name")
    store.put_session(session)
    store.add_run(run)
    written = store.write(record(clock, ttl=60), text("whole"))
    again = reopened(store, clock)
    assert again.find(PATH) == written and written.files["state"].bytes == 5
    assert again.runs() == [run] and again.sessions() == [session]
    assert (again.folder(PATH) / "state").read_text() == "whole"
    again.close()


def test_a_failed_write_leaves_nothing_and_keeps_the_old(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    store.write(record(clock), text("old"))

    def full(folder: Path) -> None:
        (folder / "state").write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device"):
        store.write(record(clock), full, overwrite=True)
    with pytest.raises(StorageError):
        store.write(record(clock, checkpoint_path(MODEL_ID, "weights", "two")), full)
    assert [one.path for one in store.checkpoints()] == [PATH]
    assert (store.folder(PATH) / "state").read_text() == "old"
    assert [entry.name for entry in store.folder(PATH).parent.iterdir()] == ["one"]
    store.close()


@pytest.mark.parametrize("new_is_there", [True, False])
def test_a_crash_while_overwriting_leaves_the_old_or_the_new(
    home: Path, clock: Clock, new_is_there: bool
) -> None:
    store = Store(home, clock)
    store.write(record(clock), text("old"))
    folder = store.folder(PATH)
    folder.rename(folder.with_name(".replaced-one"))
    if new_is_there:
        folder.mkdir()
        for file in folder.with_name(".replaced-one").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    again = reopened(store, clock)
    assert again.find(PATH)
    assert [entry.name for entry in folder.parent.iterdir()] == ["one"]
    again.close()


def test_what_is_half_written_or_damaged_is_not_listed(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    for name in ("cut", "no-manifest", "bad-manifest", "moved"):
        store.write(record(clock, checkpoint_path(MODEL_ID, "weights", name)), text("whole"))
    kind = store.folder(PATH).parent
    (kind / "cut" / "state").write_text("who")
    (kind / "no-manifest" / "manifest.json").unlink()
    (kind / "bad-manifest" / "manifest.json").write_text("{")
    (kind / "moved").rename(kind / "elsewhere")
    (kind / ".one.0000.tmp").mkdir()
    (kind / ".two.0000.gone").mkdir()
    again = reopened(store, clock)
    assert again.checkpoints() == []
    assert not list(kind.glob(".*"))
    again.close()


def test_time_to_live(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    store.write(record(clock, ttl=60), text("brief"))
    clock.now += timedelta(seconds=59)
    assert store.find(PATH)
    store.set_ttl(PATH, 60)
    clock.now += timedelta(seconds=59)
    assert store.find(PATH)
    store.set_ttl(PATH, None)
    clock.now += timedelta(days=400)
    assert store.find(PATH)
    store.set_ttl(PATH, 1)
    clock.now += timedelta(seconds=1)
    with pytest.raises(CheckpointNotFound):
        store.find(PATH)
    assert store.checkpoints() == [] and store.folder(PATH).exists()
    store.sweep()
    assert not list(store.folder(PATH).parent.iterdir())
    # The name is free again.
    store.write(record(clock), text("new"))
    store.close()


@pytest.mark.parametrize("seconds", [0, -1, 10**12])
def test_a_time_to_live_out_of_range(home: Path, clock: Clock, seconds: int) -> None:
    store = Store(home, clock)
    store.write(record(clock), text("x"))
    with pytest.raises(InvalidRequest, match=str(seconds)):
        store.set_ttl(PATH, seconds)
    assert store.find(PATH).expires_at is None
    store.close()


def test_an_expired_name_can_be_written_before_it_was_swept(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    store.write(record(clock, ttl=1), text("old"))
    clock.now += timedelta(seconds=2)
    store.write(record(clock), text("new"))
    assert (store.folder(PATH) / "state").read_text() == "new"
    store.close()


def test_one_engine_a_home(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    with pytest.raises(EngineError, match="another engine"):
        Store(home, clock)
    store.close()
    Store(home, clock).close()


def test_a_closed_store_writes_no_more(home: Path, clock: Clock) -> None:
    store = Store(home, clock)
    store.close()
    with pytest.raises(EngineError, match="stopping"):
        store.write(record(clock), text("late"))


def test_paths() -> None:
    assert parse_path(str(PATH)) == PATH
    assert str(PATH) == f"tinker://{MODEL_ID}/weights/one"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tinker://",
        f"tinker://{MODEL_ID}/weights",
        f"tinker://{MODEL_ID}/weights/a/b",
        f"tinker://{MODEL_ID}/weights/..",
        f"tinker://{MODEL_ID}/weights/.one",
        f"tinker://{MODEL_ID}/weights/one\n",
        f"tinker://{MODEL_ID}/other/one",
        f"tinker://{MODEL_ID}/../one",
        "tinker://../weights/one",
        "tinker://0123456789abcdef:train:-1/weights/one",
        "tinker://0123456789ABCDEF:train:0/weights/one",
        f"http://{MODEL_ID}/weights/one",
    ],
)
def test_paths_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_path(text)


def test_records_that_a_killed_engine_left_half_written_are_cleared(
    home: Path, clock: Clock
) -> None:
    store = Store(home, clock)
    store.write(record(clock), text("whole"))
    folder = store.folder(PATH)
    halves = [folder / ".manifest.json.77.tmp", folder.parents[2] / ".session.json.77.tmp"]
    for half in halves:
        half.write_text("{")
    again = reopened(store, clock)
    assert not [half for half in halves if half.exists()]
    assert again.find(PATH).files["state"].bytes == 5
    again.close()
