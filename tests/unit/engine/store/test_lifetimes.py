"""No clock that jumps, and no age, takes a checkpoint that somebody still needs."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from test_store import MODEL_ID, PATH, Clock, record, text

from visual_r1.engine.store import lifetimes
from visual_r1.engine.store.home import MANIFEST
from visual_r1.engine.store.records import CheckpointKind, checkpoint_path
from visual_r1.engine.store.store import CheckpointNotFound, Store
from visual_r1.storage import SEAL

DAYS = timedelta(days=1)


def as_an_older_version_wrote(store: Store, kind: CheckpointKind = "weights") -> None:
    """The record without digests, and what came with them."""
    file = store.folder(checkpoint_path(MODEL_ID, kind, "one")) / MANIFEST
    content = json.loads(file.read_text())
    content["files"] = {name: stored["bytes"] for name, stored in content["files"].items()}
    del content["spared"], content[SEAL]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("jump", [8 * DAYS, 3650 * DAYS])
def test_what_is_over_when_an_engine_starts_is_spared_for_a_day_once(
    tmp_path: Path, jump: timedelta
) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.write(record(clock, ttl=7 * 86400), text("needed"))
    store.close()
    clock.now += jump
    store = Store(tmp_path, clock)
    assert store.check(PATH).expires_at == clock.now + DAYS
    store.sweep()
    clock.now += DAYS - timedelta(seconds=1)
    store.sweep()
    assert store.check(PATH).spared
    store.close()

    # Nobody renewed it: now its end is one.
    clock.now += timedelta(seconds=1)
    store = Store(tmp_path, clock)
    with pytest.raises(CheckpointNotFound):
        store.find(PATH)
    assert not store.folder(PATH).exists()
    store.close()


def test_one_that_was_renewed_is_spared_again(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.write(record(clock, ttl=60), text("needed"))
    for _ in range(3):
        store.close()
        clock.now += 8 * DAYS
        store = Store(tmp_path, clock)
        store.set_ttl(PATH, 60)
    assert store.check(PATH)
    store.close()


def test_a_clock_that_jumps_back_ends_nothing_sooner(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.write(record(clock, ttl=3600), text("needed"))
    store.close()
    clock.now -= 3650 * DAYS
    store = Store(tmp_path, clock)
    store.sweep()
    assert store.check(PATH)
    store.set_ttl(PATH, 3600)  # renewed by the wrong clock, and then it is set right
    store.close()
    clock.now += 3650 * DAYS
    store = Store(tmp_path, clock)
    assert store.check(PATH)
    store.close()


@pytest.mark.parametrize("jump", [3650 * DAYS, -3650 * DAYS])
def test_while_an_engine_runs_the_wall_clock_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    store = Store(tmp_path)
    began = store.clock()
    store.write(record(Clock(), ttl=None), text("needed"))
    store.set_ttl(PATH, 3600)
    true_now = lifetimes.now_utc
    monkeypatch.setattr(lifetimes, "now_utc", lambda: true_now() + jump)
    store.sweep()
    assert store.check(PATH)
    assert timedelta(0) <= store.clock() - began < timedelta(minutes=1)
    store.close()


@pytest.mark.parametrize("of_run", [True, False])
def test_the_end_that_nobody_asked_for_counts_no_longer_in_a_run_s_own_engine(
    tmp_path: Path, of_run: bool
) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    store.write(record(clock, ttl=7 * 86400), text("of an old run"))
    exported = checkpoint_path(MODEL_ID, "external_weights", "one")
    store.write(record(clock, exported, ttl=3600), text("to be downloaded"))
    store.close()
    as_an_older_version_wrote(store)
    as_an_older_version_wrote(store, "external_weights")
    for _ in range(3):
        clock.now += 8 * DAYS
        store = Store(tmp_path, clock, of_run=of_run)
        kept = {one.path for one in store.checkpoints()}
        store.close()
    assert kept == ({PATH} if of_run else set())
    if of_run:
        store = Store(tmp_path, clock)
        assert store.find(PATH).expires_at is None
        store.close()


def test_the_clock_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 107.5])
    monkeypatch.setattr("time.clock_gettime", lambda _: next(times))
    began = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    monkeypatch.setattr(lifetimes, "now_utc", lambda: began)
    assert lifetimes.SteadyClock()() - began == timedelta(seconds=7.5)
