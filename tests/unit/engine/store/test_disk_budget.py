"""Room on the disk: sizes, what goes to make room, and what never does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import pytest
from test_store import MODEL_ID, Clock, record

from visual_r1.engine.store.budget import parse_size, report
from visual_r1.engine.store.deletion import delete_run
from visual_r1.engine.store.ephemeral import IN_USE_S, EphemeralFiles
from visual_r1.engine.store.home import MANIFEST
from visual_r1.engine.store.records import SessionRecord, checkpoint_path, session_of
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import ConfigError, StorageError

OVERHEAD = 2_000
"""More than the manifests of a few checkpoints."""


class Seconds:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def path(name: str):
    return checkpoint_path(MODEL_ID, "weights", name)


def filled(size: int):
    return lambda folder: (folder / "state").write_bytes(bytes(size)) and None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("20GB", 20 * 10**9), ("1MB", 10**6), ("500M", 500 * 10**6), ("1k", 1000), ("77", 77)),
        *(("1.5 TiB", 3 * 2**39), ("2gib", 2**31), ("2Gi", 2**31), (" 0.5 kb ", 500), ("7 B", 7)),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "-1",
        "20 apples",
        "0",
        "0.1B",
        "inf",
        "1,5GB",
        "5.GB",
        "2 GB each",
        "1e9",
        "20Gbit",
    ],
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


def test_a_full_budget_names_what_to_delete_and_writes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock, max_disk=100_000 + OVERHEAD)
    for name in ("old", "new"):
        store.write(record(clock, path(name)), filled(50_000), size_bytes=50_000)
        clock.now += timedelta(seconds=1)
    written: list[Path] = []
    with pytest.raises(StorageError, match="--max-disk") as caught:
        store.write(record(clock, path("third")), written.append, size_bytes=50_000)
    assert written == []
    assert f"tinker checkpoint delete {path('old')}` frees 50.0 kB" in str(caught.value)
    assert sorted(one.name for one in store.folder(path("x")).parent.iterdir()) == ["new", "old"]
    store.delete(path("old"))
    store.write(record(clock, path("third")), filled(50_000), size_bytes=50_000)
    store.close()


def test_the_engine_of_a_run_names_what_works_there_and_never_the_runs_own_checkpoints(
    tmp_path: Path,
) -> None:
    clock = Clock()
    home = tmp_path / "the home"
    store = Store(home, clock, max_disk=260_000, of_run=True)
    sizes = {"old": 30_000, "large": 60_000, "": 20_000, "mine": 70_000}
    for number, (name, size) in enumerate(sizes.items()):
        clock.now += timedelta(seconds=1)
        session = f"{number}123456789abcdef"
        known = {"run": name} if name else {}
        store.put_session(SessionRecord(session, clock.now, user_metadata=known))
        for kind in ("weights", "sampler_weights"):
            saved = checkpoint_path(f"{session}:train:0", kind, "step-000001")
            store.write(record(clock, saved), filled(size // 2))
    with pytest.raises(StorageError) as caught:
        store.make_room(100_000)
    said = str(caught.value)
    assert "VISUAL_R1_ENGINE_MAX_DISK to more than 28" in said  # 180,000 and 100,000 and manifests
    assert "--backend.keep_checkpoints 2" in said
    command = f"`visual-r1 engine --home '{home}' --delete-run "
    assert f"{command}large` frees 60.0 kB; {command}old` frees 30.0 kB)" in said
    for wrong in ("--max-disk", "tinker checkpoint", "mine", "0123456789abcdef", "tinker://"):
        assert wrong not in said
    with pytest.raises(InvalidRequest, match=r"'odl'.*large, mine, old"):
        delete_run(store, "odl")
    used = store.home.used_bytes()
    assert [one.name for one in delete_run(store, "large")] == ["step-000001"] * 2
    assert 60_000 <= used - store.home.used_bytes() < 62_000
    store.make_room(100_000)
    store.close()


@pytest.mark.parametrize(("of_run", "flag"), [(True, "--backend.engine_home"), (False, "--home")])
def test_what_a_full_disk_advises_is_a_flag_that_the_reader_has(
    tmp_path: Path,
    full_disk: Callable[[int], AbstractContextManager[None]],
    of_run: bool,
    flag: str,
) -> None:
    """Of the engine that a run has started, and of one by itself."""
    store = Store(tmp_path / "home", Clock(), of_run=of_run)
    with full_disk(1000), pytest.raises(StorageError, match="could not write") as caught:
        store.write(record(Clock(), path("new")), filled(50_000))
    assert f"choose another folder for the engine with {flag};" in str(caught.value)
    store.close()
    (tmp_path / "in the way").write_text("")
    with pytest.raises(StorageError) as caught:
        Store(tmp_path / "in the way", Clock(), of_run=of_run)
    assert flag in str(caught.value)
    with pytest.raises(StorageError) as caught, full_disk(10):
        Store(tmp_path / "another", Clock(), of_run=of_run).put_session(
            SessionRecord("0123456789abcdef", Clock().now)
        )
    assert flag in str(caught.value)


def test_a_run_alone_in_its_home_is_told_so(tmp_path: Path) -> None:
    store = Store(tmp_path, Clock(), max_disk=1000, of_run=True)
    with pytest.raises(StorageError, match=r"engine_home.*no other run is known") as caught:
        store.make_room(2000)
    assert "--delete-run" not in str(caught.value)
    store.close()


def test_a_run_is_deleted_with_its_damaged_checkpoints(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.put_session(SessionRecord(session_of(MODEL_ID), clock.now, user_metadata={"run": "mine"}))
    for name in ("sound", "damaged"):
        store.write(record(clock, path(name)), filled(50_000))
    (store.folder(path("damaged")) / MANIFEST).write_text("{")
    store.close()
    store = Store(tmp_path, clock)
    assert set(delete_run(store, "mine")) == {path("sound"), path("damaged")}
    assert not list(store.folder(path("sound")).parent.iterdir())
    store.close()


def test_what_has_expired_makes_room_and_what_was_promised_stays(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock, max_disk=150_000 + OVERHEAD)
    for name, ttl in (("ends", 60), ("lasts", 3600), ("permanent", None)):
        store.write(record(clock, path(name), ttl), filled(50_000), size_bytes=50_000)
    with pytest.raises(StorageError):
        store.make_room(50_000)
    clock.now += timedelta(seconds=60)
    store.make_room(50_000)
    with pytest.raises(StorageError):
        store.make_room(60_000)
    assert [one.path.name for one in store.checkpoints()] == ["lasts", "permanent"]
    store.close()


def test_a_checkpoint_removed_by_hand_is_gone_without_a_complaint(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.write(record(clock, path("brief"), 60), filled(5))
    folder = store.folder(path("brief"))
    folder.rename(tmp_path / "elsewhere")
    clock.now += timedelta(seconds=61)
    store.sweep()
    assert store.checkpoints() == []
    store.close()


def test_copies_share_their_bytes(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock, max_disk=60_000)
    store.write(record(clock, path("one")), filled(50_000), size_bytes=50_000)
    other = checkpoint_path("fedcba9876543210:train:0", "weights", "one")
    store.copy(path("one"), record(clock, other))
    assert store.home.used_bytes() < 60_000
    store.delete(path("one"))
    assert (store.folder(other) / "state").stat().st_size == 50_000
    store.close()


def test_a_listing_does_not_wait_for_a_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    seen: list[int] = []

    def write(folder: Path) -> None:
        # On another thread, as requests are: with the write holding the lock this would hang.
        with ThreadPoolExecutor(1) as pool:
            seen.append(len(pool.submit(store.checkpoints).result(timeout=30)))
        (folder / "state").touch()

    store.write(record(clock, path("slow")), write)
    assert seen == [0] and len(store.checkpoints()) == 1
    store.close()


def test_the_report(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.write(record(clock, path("ends"), 60), filled(30_000))
    store.write(record(clock, path("permanent")), filled(50_000))
    lines = report(store.home, clock.now).splitlines()
    assert lines[1].split() == [
        MODEL_ID,
        "2",
        "80.0",
        "kB",
        "50.0",
        "kB",
        "2026-01-01",
        "00:01+00:00",
    ]
    assert "2 checkpoints" in lines[-1] and str(tmp_path) in lines[-1]
    assert report(store.home, clock.now + timedelta(hours=1)).splitlines()[1].split()[1] == "1"
    store.close()


def ephemeral(folder: Path, clock: Seconds, limit: int = 1000) -> EphemeralFiles:
    files = EphemeralFiles(folder, limit, clock)
    for key in "abc":
        files.file(key).write_bytes(bytes(300))
        files.add(key)
        clock.now += 1
    return files


def test_unnamed_weights_go_when_unused_the_least_recent_first(tmp_path: Path) -> None:
    clock = Seconds()
    files = ephemeral(tmp_path, clock)
    clock.now += IN_USE_S
    files.use("a")
    files.free(1)
    assert not files.file("b").exists()
    with pytest.raises(InvalidRequest, match="make a new sampler"):
        files.use("b")
    # The budget wants more than is not in use: what is in use stays.
    files.free(10_000)
    assert files.file("a").exists() and not files.file("c").exists()
    files.drop("a")
    files.drop("a")
    assert files.total_bytes == 0


def test_unnamed_weights_are_bounded_together(tmp_path: Path) -> None:
    clock = Seconds()
    files = ephemeral(tmp_path, clock, limit=1000)
    clock.now += IN_USE_S
    files.file("d").write_bytes(bytes(300))
    files.add("d")
    assert files.total_bytes == 900 and not files.file("a").exists()
