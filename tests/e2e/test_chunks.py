"""Chunks, resume points and export on the real engine, within this process."""

import json
import logging
import shutil
from copy import copy
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_up import predictions, problems, write_evaluation, write_validation

from trials.train_chunks import config
from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.records import parse_path
from visual_r1.errors import RunError, StorageError
from visual_r1.exports.record import adapter_folder, file_sha256, read_export
from visual_r1.models import model_path
from visual_r1.progress import Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.export import export
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.proof import Proof, prove
from visual_r1.runs.resume import resume_point
from visual_r1.runs.retention import renew_and_prune
from visual_r1.runs.run import Run
from visual_r1.storage import write_json

WEIGHTS = "adapter_model.safetensors"


def settings(folder: Path, name: str, **train: object) -> RunConfig:
    """Chunks of one step, in a run folder of its own."""
    base = config(folder).model_dump()
    base["run"] = {"name": name}
    base["train"] |= {"steps": 3, "chunk_steps": 1, **train}
    return RunConfig.model_validate(base)


class Trained:
    """A run of three chunks."""

    def __init__(self, mine: RunConfig, backend: Backend, dataset: Dataset) -> None:
        self.config, self.backend, self.dataset = mine, backend, dataset
        with open_run_folder(mine) as self.run_dir:
            row = None
            while row is None or row.step < mine.train.steps:
                row = self.train_from(row)
        self.ledger = Ledger(self.run_dir)

    def copy(self, name: str) -> "Trained":
        """The run in another folder, with the same checkpoints on the server."""
        other = copy(self)
        run = self.config.run.model_copy(update={"name": name})
        other.config = self.config.model_copy(update={"run": run})
        other.run_dir = other.config.run_dir
        shutil.copytree(self.run_dir, other.run_dir)
        other.ledger = Ledger(other.run_dir)
        return other

    def train_from(self, row: LedgerRow | None) -> LedgerRow:
        return train_chunk(self.run(), row)

    def run(self, config: RunConfig | None = None) -> Run:
        """The run, or with another configuration in the same folder."""
        return Run(config or self.config, self.run_dir, self.dataset, self.backend, Silent())

    def resume(self, resume_from_step: int | None = None) -> LedgerRow | None:
        train = self.config.train.model_copy(update={"resume_from_step": resume_from_step})
        wanted = self.config.model_copy(update={"train": train})
        return resume_point(self.run(wanted))

    def prove(self) -> Proof:
        return prove(self.run())

    def rewrite_ledger(self, rows: list[LedgerRow]) -> None:
        self.ledger.path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))

    def delete_state(self, row: LedgerRow) -> None:
        deletion = self.backend.rest.delete_checkpoint_from_tinker_path(row.state_path)
        deletion.result(timeout=30)

    def stored_checkpoints(self) -> set[str]:
        listed = self.backend.rest.list_user_checkpoints(limit=1000).result(timeout=30)
        return {checkpoint.tinker_path for checkpoint in listed.checkpoints}

    @property
    def metric_steps(self) -> list[int]:
        return [row["step"] for row in Journal(self.run_dir).rows()]


def older(path: Path) -> list[dict[str, Any]]:
    """The rows of a file without their chain, as an older version wrote them."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["chain"]
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def untouched(folder: Path, backend: Backend, dataset: Dataset) -> Trained:
    """For tests that only look, or ask for what must change nothing."""
    return Trained(settings(folder, "untouched"), backend, dataset)


@pytest.fixture
def copied(untouched: Trained, request: pytest.FixtureRequest) -> Trained:
    """For tests that change files, and leave alone the checkpoints that are there."""
    return untouched.copy(request.node.name)


@pytest.fixture
def trained(
    folder: Path, backend: Backend, dataset: Dataset, request: pytest.FixtureRequest
) -> Trained:
    """For tests that delete checkpoints."""
    return Trained(settings(folder, request.node.name), backend, dataset)


def test_each_chunk_leaves_a_checkpoint_and_the_last_one_stays(untouched: Trained) -> None:
    rows = untouched.ledger.rows()
    assert [row.step for row in rows] == [1, 2, 3]
    assert [row.updates for row in rows] == [1, 2, 3]
    assert [row.expires_at for row in rows] == [None] * 3  # this disk is the user's own
    assert [row.may_be_pruned for row in rows] == [True, True, False]
    assert {row.backend for row in rows} == {"embedded"}
    assert untouched.metric_steps == [0, 1, 2]
    took = [row["seconds_checkpoint"] for row in Journal(untouched.run_dir).rows()]
    assert all(seconds > 0 for seconds in took)


def test_a_chunk_that_is_there_is_not_trained_again(untouched: Trained) -> None:
    first, second, _ = untouched.ledger.rows()
    assert untouched.train_from(first) == second
    assert [row.step for row in untouched.ledger.rows()] == [1, 2, 3]
    assert untouched.metric_steps == [0, 1, 2]


def test_going_back_to_a_step_and_on_from_there(copied: Trained) -> None:
    first, second, third = copied.ledger.rows()
    assert copied.resume(1) == first
    assert copied.ledger.rows() == [first]
    assert copied.metric_steps == [0]
    aside = copied.ledger.set_aside_path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in aside] == [2, 3]
    [copy] = (copied.run_dir / "set-aside").iterdir()
    assert len((copy / "metrics.jsonl").read_text().splitlines()) == 3

    again = copied.train_from(copied.train_from(first))
    assert again.step == 3
    assert again.state_path not in {second.state_path, third.state_path}
    assert copied.metric_steps == [0, 1, 2]


def test_a_step_without_a_checkpoint_lists_those_there_are(untouched: Trained) -> None:
    with pytest.raises(RunError, match="one of: 1, 2, 3"):
        untouched.resume(7)
    assert len(untouched.ledger.rows()) == 3


def test_starting_over_keeps_what_was_there_aside(copied: Trained) -> None:
    assert copied.resume(0) is None
    assert copied.ledger.rows() == []
    assert copied.metric_steps == []
    assert list((copied.run_dir / "rollouts").iterdir()) == []


def test_a_checkpoint_that_has_gone_is_reported_and_the_one_before_used(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = trained.ledger.rows()
    trained.delete_state(third)
    with caplog.at_level(logging.WARNING):
        assert trained.resume() == second
    assert "step 3" in caplog.text
    assert "has gone from the server" in caplog.text
    assert trained.ledger.rows() == [first, second]
    assert trained.metric_steps == [0, 1]

    trained.delete_state(second)
    with pytest.raises(RunError, match=r"checkpoint of step 2 .* has gone"):
        trained.resume(2)
    trained.delete_state(first)
    with pytest.raises(RunError, match="None of the checkpoints"):
        trained.resume()
    assert trained.ledger.rows() == [first, second]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    _, second, third = trained.ledger.rows()
    home = HomeFolder(trained.backend.home)
    file = home.state_file(parse_path(third.state_path))
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 4
    file.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert trained.resume() == second
    assert f"{third.state_path} is damaged: {file} has the digest" in caplog.text
    assert "trying the one before" in caplog.text
    assert trained.train_from(second).step == 3


def test_the_end_that_an_older_version_gave_checkpoints_is_taken_off(trained: Trained) -> None:
    first, second, third = trained.ledger.rows()
    rest = trained.backend.rest
    for row in (first, second):
        for path in (row.state_path, row.sampler_path):
            rest.set_checkpoint_ttl_from_tinker_path(path, 604800).result(timeout=30)
    ends = (datetime.now(UTC) + timedelta(days=7)).isoformat(timespec="seconds")
    trained.rewrite_ledger(
        [*(replace(row, expires_at=ends, periodic=False) for row in (first, second)), third]
    )
    renew_and_prune(trained.run())
    assert trained.ledger.rows() == [first, second, third]
    run = first.state_path.removeprefix("tinker://").split("/")[0]
    listed = rest.list_checkpoints(run).result(timeout=30).checkpoints
    assert {one.expires_at for one in listed} == {None}


def test_a_damaged_last_row_costs_one_chunk(copied: Trained) -> None:
    first, second, _ = copied.ledger.rows()
    text = copied.ledger.path.read_text()
    copied.ledger.path.write_text(text[:-30])
    assert copied.resume() == second
    last = copied.train_from(second)
    assert copied.ledger.rows() == [first, second, last]
    assert copied.metric_steps == [0, 1, 2]


def test_old_checkpoints_are_deleted_and_the_kept_ones_live_on(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = trained.ledger.rows()
    assert {first.state_path, first.sampler_path} <= trained.stored_checkpoints()
    # As on a server where checkpoints have an end.
    lifetime = timedelta(days=7)
    ends = (datetime.now(UTC) + lifetime).isoformat(timespec="seconds")
    dated = [replace(row, expires_at=ends, periodic=False) for row in (first, second)]
    trained.rewrite_ledger([*dated, third])
    first, second = dated
    wanted = trained.config.backend.model_copy(
        update={"keep_checkpoints": 2, "checkpoint_ttl_seconds": 7 * 86400}
    )
    pruning = trained.config.model_copy(update={"backend": wanted})
    renew_and_prune(trained.run(pruning))
    assert trained.ledger.rows() == [second, third]
    assert not {first.state_path, first.sampler_path} & trained.stored_checkpoints()
    assert {second.state_path, third.sampler_path} <= trained.stored_checkpoints()
    assert first.state_path in trained.ledger.set_aside_path.read_text()
    measured = [(trained.run_dir / row.carry["curriculum"]).exists() for row in (first, second)]
    assert measured == [False, True]

    later = datetime.now(UTC) + 0.6 * lifetime
    renew_and_prune(trained.run(pruning), later)
    renewed, last = trained.ledger.rows()
    assert second.expires_at is not None
    assert renewed.expires_at is not None
    assert renewed.expires_at > second.expires_at
    assert last == third  # the final one has no limit
    run = second.state_path.removeprefix("tinker://").split("/")[0]
    listed = trained.backend.rest.list_checkpoints(run).result(timeout=30).checkpoints
    expiry = {checkpoint.tinker_path: checkpoint.expires_at for checkpoint in listed}
    for path in (second.state_path, second.sampler_path):
        set_to = expiry[path]
        assert set_to is not None
        assert set_to > datetime.fromisoformat(second.expires_at)

    trained.rewrite_ledger([first, second, third])  # as a kill before the ledger leaves it
    renew_and_prune(trained.run(pruning))
    assert [row.step for row in trained.ledger.rows()] == [2, 3]

    trained.rewrite_ledger([first, second, third])  # as a save leaves it that found no room
    off = pruning.validation.model_copy(update={"every": 0})
    unwatched = pruning.model_copy(update={"validation": off})
    resume_point(trained.run(unwatched))
    assert [row.step for row in trained.ledger.rows()] == [2, 3]
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_an_export_loads_in_peft_and_is_made_once(untouched: Trained) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    *_, last = untouched.ledger.rows()
    made = export(untouched.run(), last)
    assert made.trained
    assert made.sampler_path == last.sampler_path
    assert untouched.backend.sampler(made.sampler_path) is not None
    base = AutoModelForImageTextToText.from_pretrained(model_path(untouched.config.model.name))
    adapter = adapter_folder(untouched.run_dir)
    model = PeftModel.from_pretrained(base, str(adapter))
    parts = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    assert parts
    assert all(part.abs().max() > 0 for part in parts.values())

    stamp = (adapter / WEIGHTS).stat().st_mtime_ns
    again = export(untouched.run(), last)
    assert again == made == read_export(untouched.run_dir)
    assert (adapter / WEIGHTS).stat().st_mtime_ns == stamp


def test_where_the_checkpoints_fall_makes_no_difference_to_the_weights(
    untouched: Trained, folder: Path, backend: Backend, dataset: Dataset
) -> None:
    """Three chunks of a step and one of three: so weights and optimizer come back bit for bit."""
    whole = Trained(settings(folder, "whole", chunk_steps=3), backend, dataset)
    weights: list[bytes] = []
    for run in (untouched, whole):
        export(run.run(), run.ledger.rows()[-1])
        weights.append((adapter_folder(run.run_dir) / WEIGHTS).read_bytes())
    assert weights[0] == weights[1]


def test_nor_with_every_choice_of_the_algorithm(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    """Minibatches, a loss that is computed here, schedule, KL and the draws of problems depend on
    the steps' samples alone."""
    weights: list[bytes] = []
    states: list[Path] = []
    for chunk_steps in (1, 3):
        wanted = settings(folder, f"chosen-{chunk_steps}", chunk_steps=chunk_steps).model_dump()
        wanted["train"] |= {"loss": "sapo", "skip_without_contrast": True}
        wanted["optimizer"] |= {"schedule": "cosine", "schedule_steps": 5, "warmup_steps": 2}
        wanted["algorithm"] |= {
            "advantage": "gdpo",
            "normalization": "token",
            "minibatches": 2,
            "epochs": 2,
            "kl_coefficient": 0.05,
            "dynamic_rounds": 2,
        }
        wanted["curriculum"]["rule"] = "contrast"
        run = Trained(RunConfig.model_validate(wanted), backend, dataset)
        export(run.run(), run.ledger.rows()[-1])
        weights.append((adapter_folder(run.run_dir) / WEIGHTS).read_bytes())
        assert run.ledger.rows()[-1].updates >= 4
        assert run.prove().holds  # from its last chunk but one, or from the beginning
        carried = run.ledger.rows()[-1].carry["curriculum"]
        states.append(run.run_dir / carried)
        untried = [row["curriculum_untried"] for row in Journal(run.run_dir).rows()]
        assert untried[0] == 1 > untried[-1]
    assert weights[0] == weights[1]
    assert states[0].name == states[1].name
    assert states[0].read_bytes() == states[1].read_bytes()


def test_an_earlier_checkpoint_is_kept_for_ever_once_it_is_exported(untouched: Trained) -> None:
    first, *_, last = untouched.ledger.rows()
    export(untouched.run(), last)
    into = "exports/step-1"
    made = export(untouched.run(), first, into)
    assert (untouched.run_dir / into / made.adapter / WEIGHTS).is_file()
    assert read_export(untouched.run_dir, into) == made
    final = read_export(untouched.run_dir)
    assert final is not None
    assert final.step == 3
    assert untouched.ledger.rows()[0] == replace(first, expires_at=None, periodic=False)
    run = first.state_path.removeprefix("tinker://").split("/")[0]
    listed = untouched.backend.rest.list_checkpoints(run).result(timeout=30).checkpoints
    expiry = {checkpoint.tinker_path: checkpoint.expires_at for checkpoint in listed}
    assert expiry[first.state_path] is None
    assert expiry[first.sampler_path] is None


def test_a_run_that_learnt_nothing_says_so(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    """Answers of a token at most are never right, so no group has contrast."""
    base = settings(folder, "untrained", skip_without_contrast=True).model_dump()
    base["sampling"]["max_new_tokens"] = 1
    run = Trained(RunConfig.model_validate(base), backend, dataset)
    *_, last = run.ledger.rows()
    assert last.updates == 0
    assert [row["updated"] for row in Journal(run.run_dir).rows()] == [False] * 3
    made = export(run.run(), last)
    assert not made.trained
    assert json.loads((run.run_dir / "export" / "export.json").read_text())["trained"] is False


def test_weights_that_an_update_has_broken_stop_the_run(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    broken = settings(folder, "broken", chunk_steps=2, learning_rate=1e30)
    with pytest.raises(RunError, match="samples of step 1 are not finite"):
        Trained(broken, backend, dataset)
    assert Ledger(broken.run_dir).rows() == []


def test_a_proof_says_which_file_of_the_curriculum_has_gone(copied: Trained) -> None:
    _, start, _ = copied.ledger.rows()
    measured = copied.run_dir / start.carry["curriculum"]
    measured.write_bytes(measured.read_bytes()[:-9])
    with pytest.raises(RunError, match=f"^{measured}, .* is missing or damaged"):
        copied.prove()
    measured.unlink()
    with pytest.raises(RunError, match=f"^{measured}, .* is missing or damaged"):
        copied.prove()
    assert not list(copied.run_dir.glob(".proof-*"))


def test_the_last_chunk_again_gives_the_same_bits_and_leaves_no_trace(untouched: Trained) -> None:
    files = sorted(path for path in untouched.run_dir.rglob("*") if path.is_file())
    stored = untouched.stored_checkpoints()
    proof = untouched.prove()
    assert proof.holds
    assert (proof.first, proof.end) == (2, 3)
    assert proof.tensors > 100  # LoRA weights, both of Adam's moments, and its step count
    assert sorted(path for path in untouched.run_dir.rglob("*") if path.is_file()) == files
    assert untouched.stored_checkpoints() == stored


def test_a_replay_from_other_weights_is_found_out(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    # So fast that the weights of the step before say something else.
    trained = Trained(settings(folder, "fast", learning_rate=0.02), backend, dataset)
    first, second, third = trained.ledger.rows()
    trained.rewrite_ledger([first, replace(second, state_path=first.state_path), third])
    proof = trained.prove()
    assert not proof.holds
    assert any(name.startswith("adam.second_moment.") for name in proof.differing)
    assert "step 2 loss" in proof.metrics
    assert proof.rollouts == (2,)


def test_metrics_that_were_changed_are_found_out(copied: Trained) -> None:
    path = copied.run_dir / "metrics.jsonl"
    *before, last = older(path)
    changed = last | {"reward_mean": 0.5}
    write_rows(path, [*before, changed])
    assert copied.prove().metrics == ("step 2 reward_mean",)
    del last["reward_mean"]  # which no older version did
    write_rows(path, [*before, last])
    assert copied.prove().metrics == ("step 2 reward_mean",)


def test_what_is_not_made_again_is_held_against_its_digests(copied: Trained, folder: Path) -> None:
    for place in ("metrics.jsonl", "rollouts/chunk-00000.parquet", "ledger.jsonl"):
        path = copied.run_dir / place
        whole = path.read_bytes()
        path.write_bytes(whole[:200] + bytes(byte ^ 1 for byte in whole[200:230]) + whole[230:])
        if place == "ledger.jsonl":
            with pytest.raises(RunError, match="Row 1 of"):
                copied.prove()
        else:
            proof = copied.prove()
            assert proof.same_bits and not proof.holds
            assert place in proof.damaged[0]
        path.write_bytes(whole)


def test_what_was_validated_evaluated_and_exported_is_held_against_it_as_well(
    copied: Trained,
) -> None:
    """A bit of each, and then an adapter that somebody changed together with its record."""
    first, *_, last = copied.ledger.rows()
    export(copied.run(), last)
    export(copied.run(), first, "exports/step-1")
    write_validation(copied.run_dir, first.step, 0.5, sampler_path=first.sampler_path)
    asked = problems(4)
    for name in ("baseline", "final"):
        answered = copied.run_dir / "evaluations" / name
        write_evaluation(answered, asked, predictions(asked, 0.5, seed=0))
    before = {path: path.read_bytes() for path in copied.run_dir.rglob("*") if path.is_file()}
    places = [
        "validation.jsonl",
        "evaluations/baseline/report.json",
        "evaluations/final/predictions.parquet",
        "exports/step-1/export.json",
        f"export/adapter/{WEIGHTS}",
    ]
    for path in (copied.run_dir / place for place in places):
        middle = len(before[path]) // 2
        path.write_bytes(
            before[path][:middle] + bytes([before[path][middle] ^ 1]) + before[path][middle + 1 :]
        )
    proof = copied.prove()
    assert not proof.holds
    named = " ".join(proof.damaged)
    assert all(place in named or f"{place.split('/adapter')[0]}/" in named for place in places)

    for path, whole in before.items():
        path.write_bytes(whole)
    made = read_export(copied.run_dir)
    assert made is not None
    weights = adapter_folder(copied.run_dir) / WEIGHTS
    weights.write_bytes(before[weights][:-1] + bytes([before[weights][-1] ^ 1]))
    record = {**asdict(made), "files": [asdict(one) for one in made.files]}
    for one in record["files"]:
        if one["name"] == WEIGHTS:
            one["sha256"] = file_sha256(weights)
    write_json(copied.run_dir / "export" / "export.json", record)
    proof = copied.prove()
    assert (proof.damaged, proof.exports) == ((), (f"export/{WEIGHTS}",))
    assert not proof.holds


def test_the_weights_to_sample_from_are_compared_as_well(trained: Trained) -> None:
    first, second, third = trained.ledger.rows()
    trained.rewrite_ledger([first, second, replace(third, sampler_path=second.sampler_path)])
    proof = trained.prove()
    assert not proof.holds
    assert proof.differing and all(name.startswith("sampler: ") for name in proof.differing)

    trained.rewrite_ledger([first, second, third])
    file = HomeFolder(trained.backend.home).state_file(parse_path(third.sampler_path))
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(StorageError, match=f"{file.name}.* is damaged|is damaged.*{file.name}"):
        trained.prove()


def test_the_count_of_updates_is_counted_again(copied: Trained) -> None:
    *before, last = copied.ledger.rows()
    copied.rewrite_ledger([*before, replace(last, updates=last.updates + 1)])
    proof = copied.prove()
    assert proof.updates == (last.updates + 1, last.updates)
    assert not proof.same_bits


def test_what_an_earlier_version_did_not_write_is_not_compared(copied: Trained) -> None:
    copied.rewrite_ledger([replace(row, digests={}) for row in copied.ledger.rows()])
    *_, path = sorted((copied.run_dir / "rollouts").glob("chunk-*.parquet"))
    table = read_rollouts(path)
    pq.write_table(table.drop_columns(["reward_visual_grounding"]), path)
    metrics = copied.run_dir / "metrics.jsonl"
    rows = older(metrics)
    for row in rows:
        del row["draw_ratio"]
    write_rows(metrics, rows)
    assert copied.prove().holds
    pq.write_table(table.slice(1), path)
    assert copied.prove().rollouts == (2,)


def test_what_cannot_be_proved_is_said(trained: Trained) -> None:
    first, second, third = trained.ledger.rows()
    trained.delete_state(second)
    with pytest.raises(RunError, match=r"step 2 .* has gone"):
        trained.prove()
    trained.rewrite_ledger([])
    with pytest.raises(RunError, match="no checkpoint yet"):
        trained.prove()
    trained.rewrite_ledger([first, third])  # as pruning leaves it that keeps the best
    with pytest.raises(RunError, match="checkpoint before that of step 3 was deleted"):
        trained.prove()
    trained.rewrite_ledger([first])
    assert trained.prove().first == 0


def test_other_data_under_the_same_ledger_is_refused(untouched: Trained) -> None:
    other = prepare(
        untouched.config.data.model_copy(update={"seed": 9}), untouched.config.output_dir
    )
    with pytest.raises(RunError, match="made with the dataset"):
        resume_point(replace(untouched.run(), dataset=other))
