"""What a run will ask of the server, and of the engine's disk: its limit, and what is free."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from visual_r1.config import RunConfig
from visual_r1.doctor.checks import checkpoint_room
from visual_r1.doctor.estimates import Room, needed_bytes, room_for, step_tokens, workload
from visual_r1.doctor.evidence import Evidence
from visual_r1.doctor.examination import examine
from visual_r1.doctor.prompts import PromptSizes
from visual_r1.engine.store.records import CheckpointRecord, checkpoint_path
from visual_r1.engine.store.store import Store
from visual_r1.engine.types import LoraSpec
from visual_r1.models import TINY_GEOMETRY
from visual_r1.policy.second_pass import MOST_MOVES
from visual_r1.prices import Prices, Tokens
from visual_r1.runs.ledger import Ledger, LedgerRow

PROMPTS = PromptSizes(prompts=64, mean=100.0, longest=300, image_mean=60.0, image_longest=250)
EVIDENCE = Evidence("a test", ((4, 8),) * 10, 50.0, 0.0, sample_rate=1000.0, train_rate=2000.0)
ADAPTER = 823_344
"""Bytes of a saved adapter of rank 16 on the shipped model, and of its training state."""
STATE = 2_472_808
LIMIT = "VISUAL_R1_ENGINE_MAX_DISK"


def config(**sections: object) -> RunConfig:
    return RunConfig.model_validate({"preset": "geometry3k", **sections})


def test_tokens_and_cost_of_a_run() -> None:
    mine = config(train={"steps": 10, "batch_size": 32, "group_size": 8})
    work = workload(mine, PROMPTS, EVIDENCE, test_rows=600)
    evaluations = 2 * 600
    tokens = work.tokens
    assert tokens.prefill == 10 * 32 * 100 + evaluations * 3 * 100
    assert tokens.cached == 10 * 32 * 7 * 100 + evaluations * 7 * 100
    assert tokens.sample == 10 * 256 * 50 + evaluations * (1 + 8 + 1) * 50
    assert tokens.train == pytest.approx(10 * 256 * 150, rel=0.02)
    assert Prices(1.0, 2.0).cost(tokens) is None
    paid = Prices(1.0, 2.0, 3.0).cost(tokens)
    full = tokens.prefill + 2 * tokens.sample + 3 * tokens.train
    assert paid == pytest.approx((full + 0.2 * tokens.cached) / 1e6)
    blind = workload(mine, PROMPTS, None, test_rows=600)
    assert blind.at_most
    assert blind.hours is None
    assert blind.tokens.sample > tokens.sample


def test_the_start_and_the_preparation_are_part_of_the_time() -> None:
    """A small run takes longer to start than to train."""
    mine = config(train={"steps": 1}, validation={"every": 0})
    there = workload(mine, PROMPTS, EVIDENCE, test_rows=0)
    fresh = workload(mine, PROMPTS, EVIDENCE, test_rows=0, rows_to_prepare=5000)
    assert there.hours is not None
    assert there.step_seconds is not None
    assert fresh.hours is not None
    assert 10 < 3600 * there.hours - there.step_seconds < 30
    assert 3600 * (fresh.hours - there.hours) == pytest.approx(8, abs=2)


def test_validation_is_part_of_the_work() -> None:
    """Of 400 steps in chunks of 20, each second checkpoint, the last and the base model: 11."""
    train = {"steps": 400, "chunk_steps": 20}
    off = config(train=train, validation={"every": 0})
    on = config(train=train, validation={"every": 2, "problems": 100})
    without, with_it = (workload(one, PROMPTS, EVIDENCE, 600, 300) for one in (off, on))
    assert with_it.tokens.sample - without.tokens.sample == 11 * 100 * 2 * 50
    assert with_it.tokens.prefill - without.tokens.prefill == 11 * 100 * 2 * 100
    assert with_it.tokens.train == without.tokens.train
    assert without.hours is not None
    assert with_it.hours == pytest.approx(without.hours + 11 * 200 * 50 / 1000 / 3600)
    assert (
        workload(on, PROMPTS, EVIDENCE, 600, 20).tokens.sample
        == without.tokens.sample + 11 * 20 * 2 * 50
    )
    assert workload(on, PROMPTS, EVIDENCE, 600, 0) == workload(off, PROMPTS, EVIDENCE, 600, 0)


def test_a_second_pass_is_part_of_the_work() -> None:
    once = config(train={"steps": 10})
    twice = config(train={"steps": 10}, second_pass={"enabled": True})
    before, after = (workload(mine, PROMPTS, EVIDENCE, 600).tokens for mine in (once, twice))
    evaluations = 2 * 600
    # From the scan in each step, and at most as often with its numbers moved; in the evaluations
    # from the scan, and from the question alone.
    samples = 10 * 32 * 8
    assert after.sample - before.sample == samples * 2 * 50 + evaluations * 2 * 50
    scans = 40 + 50
    read = samples * 2 * scans + evaluations * (scans + 40)
    assert after.prefill - before.prefill == read
    plain = config(train={"steps": 10}, second_pass={"enabled": True, "moved_numbers": False})
    assert workload(plain, PROMPTS, EVIDENCE, 600).tokens.sample == after.sample - samples * 50


def test_what_else_an_algorithm_asks_for_is_part_of_the_work() -> None:
    def step(loss: str = "ppo", counts: tuple[int, int] = (8, 16), **algorithm: object) -> Tokens:
        mine = config(
            train={"steps": 1, "batch_size": 10, "group_size": 2, "loss": loss},
            algorithm=algorithm,
        )
        seen = replace(EVIDENCE, counts=(counts,) * 10)
        return workload(mine, PROMPTS, seen, test_rows=0).tokens

    # Of groups of two, (C(8, 2) + C(8, 2)) / C(16, 2) have no contrast; the others are learnt from.
    kept = 1 - 56 / 120
    plain = step()
    # The second sample of each group reads its prompt out of the cache.
    assert plain == Tokens(1000, 20 * 50, pytest.approx(20 * kept * 150), cached=1000)
    assert step(epochs=3).train == pytest.approx(3 * plain.train)
    scored = step(kl_coefficient=0.1)
    assert scored.prefill == plain.prefill + 20 * 150
    assert scored.sample == plain.sample + 20  # one token each, that nobody looks at
    # A forward ahead of each update, which is billed as training.
    assert step("dro") == step("sapo") == replace(plain, train=pytest.approx(2 * plain.train))
    # Two draws fill the batch, and no more than the batch is learnt from.
    assert step(dynamic_rounds=4) == Tokens(2000, 2000, 20 * 150, cached=2000)
    assert step(dynamic_rounds=4, counts=(16, 16)) == Tokens(5000, 5000, 0, cached=5000)


def test_a_forward_for_the_correction_is_part_of_the_work() -> None:
    """One ahead of the step's update, whatever the epochs: billed as training."""
    mine = config(algorithm={"epochs": 3})
    bounded = config(algorithm={"epochs": 3}, pipeline={"correction": "token_truncate"})
    without, with_it = (step_tokens(one, PROMPTS, 50.0, None) for one in (mine, bounded))
    assert without.train == 3 * 32 * 8 * 150
    assert with_it == replace(without, train=4 * 32 * 8 * 150)


def test_at_most_counts_all_rounds_and_second_passes_that_there_may_be() -> None:
    """Where no answer was measured; with the share of groups without contrast, those it needs."""
    train = {"steps": 1, "batch_size": 10, "group_size": 2}
    dynamic = config(train=train, algorithm={"dynamic_rounds": 2})
    scans = config(train=train, second_pass={"enabled": True})
    longest = float(dynamic.sampling.max_new_tokens)
    assert workload(dynamic, PROMPTS, None, 0).tokens.sample == 3 * 20 * longest
    assert workload(dynamic, PROMPTS, None, 0).tokens.train == 20 * (100 + longest)
    assert workload(scans, PROMPTS, None, 0).tokens.sample == (1 + 1 + MOST_MOVES) * 20 * longest
    never = replace(EVIDENCE, response_tokens=None)
    assert workload(dynamic, PROMPTS, never, 0).tokens.sample == 3 * 20 * longest
    assert (
        workload(dynamic, PROMPTS, EVIDENCE, 0).tokens.sample == 2 * 20 * 50
    )  # for half have none
    unknown = replace(EVIDENCE, counts=())
    assert workload(dynamic, PROMPTS, unknown, 0).tokens.sample == 3 * 20 * 50
    assert step_tokens(scans, PROMPTS, 1.0, None, "least").sample == 20


def test_the_held_out_loss_of_a_supervised_run_is_part_of_the_work() -> None:
    """Before the first step, and at each checkpoint."""
    train = {"steps": 10, "chunk_steps": 4, "batch_size": 2}
    mine = config(train=train, sft={"responses": "r"}, validation={"every": 0, "problems": 5})
    with_it, without = (workload(mine, PROMPTS, EVIDENCE, 0, rows).tokens for rows in (20, 0))
    assert without == Tokens(train=10 * 2 * 150)
    assert with_it.train - without.train == (1 + 3) * 5 * 150


def quickstart(folder: Path, steps: int = 4, **backend: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": str(folder),
            "train": {"steps": steps, "chunk_steps": 1},
            "validation": {"every": 0},
            "backend": backend,
        }
    )


def fill(home: Path, size: int, ttl: timedelta | None = None, age: timedelta = timedelta()) -> None:
    """An engine that ran before, and a checkpoint that it left."""
    then = datetime.now(UTC) - age
    store = Store(home, clock=lambda: then)
    record = CheckpointRecord(
        checkpoint_path(f"{size:016x}:train:0", "weights", "one"),
        TINY_GEOMETRY,
        LoraSpec(16),
        True,
        then,
        None if ttl is None else then + ttl,
        spared=True,
    )
    store.write(record, lambda folder: (folder / "state").write_bytes(bytes(size)) and None)
    store.close()


@pytest.mark.parametrize(("steps", "checkpoints"), [(1, 1), (4, 4), (40, 40)])
def test_what_a_run_needs_is_what_its_checkpoints_take(
    tmp_path: Path, steps: int, checkpoints: int
) -> None:
    needed = needed_bytes(quickstart(tmp_path, steps))
    assert needed == pytest.approx(checkpoints * (STATE + ADAPTER) + ADAPTER, rel=0.02)


def test_what_a_run_deletes_itself_is_not_needed(tmp_path: Path) -> None:
    """Two are kept, and a third is there while it is saved."""
    needed = needed_bytes(quickstart(tmp_path, 40, keep_checkpoints=2))
    assert needed == pytest.approx(3 * (STATE + ADAPTER) + ADAPTER, rel=0.02)


def test_what_is_done_is_not_needed_again(tmp_path: Path) -> None:
    mine = quickstart(tmp_path)
    mine.run_dir.mkdir(parents=True)
    for step in (1, 2, 3, 4):
        row = LedgerRow(
            step=step, state_path="tinker://a:train:0/weights/s", sampler_path="", expires_at=None,
            config_digest="", dataset_digest="", backend="embedded",
            created_at="2026-01-01T00:00:00+00:00", updates=step,
        )  # fmt: skip
        Ledger(mine.run_dir).append(row)
        left = (4 - step) * (STATE + ADAPTER) + (ADAPTER if step < 4 else 0)
        assert needed_bytes(mine) == pytest.approx(left, rel=0.02)


def test_a_model_that_is_not_here_has_no_size(tmp_path: Path) -> None:
    mine = quickstart(tmp_path)
    away = mine.model_copy(update={"model": mine.model.model_copy(update={"name": "no/such"})})
    room = room_for(away, {LIMIT: "1MB"})
    assert room.needed is None
    found = checkpoint_room(away, room)
    assert found is not None
    assert found.severity == "note"
    assert checkpoint_room(away, room_for(away, {})) is None


def test_the_limit_is_held_against_what_is_there_and_what_will_be(tmp_path: Path) -> None:
    mine = quickstart(tmp_path)
    home = mine.state_dir / "engine"
    fill(home, 32_000_000)
    fill(home, 5_000_000, ttl=timedelta(hours=1), age=timedelta(hours=2))  # goes when one starts
    severities = {}
    for limit in ("1MB", "40MB", "47MB", ""):
        found = checkpoint_room(mine, room_for(mine, {LIMIT: limit}))
        assert found is not None
        severities[limit] = found.severity
    assert severities == {"1MB": "error", "40MB": "error", "47MB": "ok", "": "ok"}
    found = checkpoint_room(mine, room_for(mine, {LIMIT: "40MB"}))
    assert found is not None
    assert "32.0 MB in use" in found.says
    assert f"{LIMIT} to more than 46." in found.advice
    assert "--backend.keep_checkpoints 2" in found.advice


def test_a_disk_that_is_too_small_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    room = Room(tmp_path / "not" / "there", used=0, limit=None, needed=2**21)
    found = checkpoint_room(quickstart(tmp_path), room)
    assert found is not None
    assert found.severity == "error"
    assert "1.0 MB are free" in found.says


@pytest.mark.parametrize(("limit", "words"), [("1MB", "checkpoints add"), ("much", "not a size")])
def test_the_examination_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    monkeypatch.setenv(LIMIT, limit)
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    mine = quickstart(tmp_path, server="embedded")
    # The prompt is none, so that no engine is started.
    wrong = mine.model_copy(update={"prompt": mine.prompt.model_copy(update={"template": "no"})})
    found = [one for one in examine(wrong, measure=False).diagnoses if one.subject.endswith("disk")]
    assert [one.severity for one in found if words in one.says] == ["error"]
    hosted = wrong.model_copy(
        update={"backend": wrong.backend.model_copy(update={"server": "remote"})}
    )
    said = [one.says for one in examine(hosted, measure=False).diagnoses]
    assert not [one for one in said if words in one]
