"""Validation between checkpoints on the real engine: exact under kills, and the best is kept."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trials.train_chunks import config
from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.progress import Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.resume import resume_point
from visual_r1.runs.retention import renew_and_prune
from visual_r1.runs.run import Run
from visual_r1.runs.validate import validate
from visual_r1.runs.validations import ValidationRow, Validations


class Validated:
    """A run of chunks of one step, each validated, and what a flow does at its start and end."""

    def __init__(self, name: str, folder: Path, backend: Backend, dataset: Dataset) -> None:
        base = config(folder).model_dump()
        base["run"] = {"name": name}
        base["second_pass"]["enabled"] = False
        base["train"] |= {"steps": 4, "chunk_steps": 1, "batch_size": 2, "group_size": 2}
        base["sampling"]["max_new_tokens"] = 24
        base["validation"] = {"every": 1, "problems": 3}
        self.config = RunConfig.model_validate(base)
        self.backend, self.dataset = backend, dataset
        self.run_dir = self.config.run_dir
        self.ledger, self.validations = Ledger(self.run_dir), Validations(self.run_dir)

    def change(self, section: str, **values: Any) -> None:
        changed = getattr(self.config, section).model_copy(update=values)
        self.config = self.config.model_copy(update={section: changed})

    def go(self) -> list[ValidationRow]:
        """To the end, from wherever the folder is, as the flow does; the rows there are then."""
        row = None
        with open_run_folder(self.config):
            resume_point(self.run())
            self.change("train", resume_from_step=None)
            self.validate(None)
            while row is None or row.step < self.config.train.steps:
                known = [one for one in self.ledger.rows() if row is None or one.step > row.step]
                row = known[0] if known else self.train_from(row)
                self.validate(row)
        return self.validations.rows()

    def train_from(self, row: LedgerRow | None) -> LedgerRow:
        return train_chunk(self.run(), row)

    def run(self) -> Run:
        return Run(self.config, self.run_dir, self.dataset, self.backend, Silent())

    def validate(self, row: LedgerRow | None) -> ValidationRow | None:
        return validate(self.run(), row)

    def pretend(self, **accuracies: float) -> None:
        """Record other accuracies: `pretend(step_1=0.5)`."""
        for row in self.validations.rows():
            wanted = accuracies.get(f"step_{row.step}")
            if wanted is not None:
                self.validations.record(replace(row, accuracy=wanted))
        self.validations.set_aside_path.unlink(missing_ok=True)

    def stored(self) -> set[int]:
        """The steps of this run whose state and sampler weights are both on the server."""
        listed = self.backend.rest.list_user_checkpoints(limit=1000).result(timeout=30)
        paths = {checkpoint.tinker_path for checkpoint in listed.checkpoints}
        rows = [*self.ledger.rows(), *self.all_rows]
        return {row.step for row in rows if {row.state_path, row.sampler_path} <= paths}

    all_rows: tuple[LedgerRow, ...] = ()

    def remember(self) -> None:
        """Look for the checkpoints that are in the ledger now, also after they left it."""
        self.all_rows = tuple(self.ledger.rows())

    def delete(self, row: LedgerRow) -> None:
        for path in (row.state_path, row.sampler_path):
            self.backend.rest.delete_checkpoint_from_tinker_path(path).result(timeout=30)


@pytest.fixture
def run(
    folder: Path, backend: Backend, dataset: Dataset, request: pytest.FixtureRequest
) -> Validated:
    return Validated(request.node.name, folder, backend, dataset)


def findings(rows: list[ValidationRow]) -> list[tuple[object, ...]]:
    """What must be the same whoever was killed."""
    return [(row.step, row.n, row.right, row.blind_accuracy, row.format_rate) for row in rows]


@pytest.fixture(scope="module")
def undisturbed(folder: Path, backend: Backend, dataset: Dataset) -> Validated:
    made = Validated("undisturbed", folder, backend, dataset)
    made.go()
    return made


def test_each_checkpoint_has_its_row_and_the_base_model_too(undisturbed: Validated) -> None:
    rows = undisturbed.validations.rows()
    assert [row.step for row in rows] == [0, 1, 2, 3, 4]
    assert {(row.n, row.blind_n, len(row.right)) for row in rows} == {(3, 3, 3)}
    paths = [row.sampler_path for row in undisturbed.ledger.rows()]
    assert [row.sampler_path for row in rows] == [undisturbed.config.model.name, *paths]
    assert all(row.correct == row.right.count("1") for row in rows)
    # The same problems each time, so the same prompts; nothing is paid on the embedded engine.
    [read] = {row.tokens_prefill for row in rows}
    assert read > 0
    assert {row.cost_usd for row in rows} == {None}


def test_validation_leaves_no_trace_in_the_weights_and_can_be_switched_on_late(
    undisturbed: Validated, run: Validated
) -> None:
    run.change("validation", every=0)
    assert run.go() == []
    assert not run.validations.path.exists()
    with_it, without = (
        made.backend.tensor_fingerprints(made.ledger.rows()[-1].state_path)
        for made in (undisturbed, run)
    )
    assert with_it == without

    run.remember()
    run.change("validation", every=1)
    run.change("backend", keep_checkpoints=2)
    assert findings(run.go()) == findings(undisturbed.validations.rows())
    best = max(run.validations.rows()[1:], key=lambda row: (row.accuracy, row.step))
    assert run.stored() == {3, 4, best.step}


def test_killed_before_a_row_it_is_validated_then_and_once(
    undisturbed: Validated, run: Validated
) -> None:
    run.change("train", steps=2)
    with open_run_folder(run.config):
        run.validate(None)
        first = run.train_from(None)
        run.validate(first)
        run.train_from(first)  # and killed: the checkpoint is there, its row is not
    assert [row.step for row in run.validations.rows()] == [0, 1]
    again = run.go()
    assert findings(again) == findings(undisturbed.validations.rows()[:3])
    before = run.validations.path.read_bytes()
    assert run.go() == again
    assert run.validations.path.read_bytes() == before
    assert not run.validations.set_aside_path.exists()


def test_killed_between_a_row_and_the_pruning_it_is_pruned_then(run: Validated) -> None:
    run.change("backend", keep_checkpoints=None)
    run.go()
    run.remember()
    run.pretend(step_1=0.9, step_2=0.1, step_3=0.2, step_4=0.3)
    run.change("backend", keep_checkpoints=2)
    assert run.stored() == {1, 2, 3, 4}
    run.go()
    assert run.stored() == {1, 3, 4}
    assert [row.step for row in run.ledger.rows()] == [1, 3, 4]
    # And one that is the best no more goes with the rest.
    run.pretend(step_4=0.9)
    run.go()
    assert run.stored() == {3, 4}
    assert [row.step for row in run.validations.rows()] == [0, 1, 2, 3, 4]


def test_the_best_is_kept_and_renewed_while_a_run_lasts(run: Validated) -> None:
    run.change("backend", keep_checkpoints=2, checkpoint_ttl_seconds=7 * 86400)
    with open_run_folder(run.config):
        run.validate(None)
        row = run.train_from(None)
        run.validate(row)
        run.pretend(step_1=1.0)
        for step in (2, 3):
            row = run.train_from(row)
            run.validate(row)
            run.pretend(**{f"step_{step}": 0.5})
    best, *_ = run.ledger.rows()
    assert best.step == 1
    lifetime = timedelta(days=7)
    renew_and_prune(run.run(), datetime.now(UTC) + 0.6 * lifetime)
    renewed, *_ = run.ledger.rows()
    assert best.expires_at is not None
    assert renewed.expires_at is not None
    assert renewed.expires_at > best.expires_at
    run.change("backend", keep_best=False)
    renew_and_prune(run.run())
    assert [one.step for one in run.ledger.rows()] == [2, 3]


def test_a_best_that_has_gone_is_reported_and_of_equals_the_later_kept(
    run: Validated, caplog: pytest.LogCaptureFixture
) -> None:
    run.change("train", steps=5)
    run.go()
    run.remember()
    run.pretend(step_1=0.8, step_2=0.8, step_3=0.9, step_4=0.1, step_5=0.1)
    run.change("backend", keep_checkpoints=2)
    run.delete(run.ledger.rows()[2])
    with caplog.at_level(logging.WARNING):
        renew_and_prune(run.run())
    why, said = caplog.messages
    assert why.startswith("The server says: there is no checkpoint")
    assert "best checkpoint by validation (step 3" in said
    assert "has gone from the server" in said
    assert run.stored() == {2, 4, 5}
    assert '"step": 3' in run.ledger.set_aside_path.read_text()


def test_a_longer_run_adds_its_rows_and_what_was_final_once_is_never_deleted(
    undisturbed: Validated, run: Validated
) -> None:
    run.change("train", steps=1)
    run.change("backend", keep_checkpoints=2, keep_best=False)
    shorter = run.go()
    run.remember()
    assert [row.step for row in shorter] == [0, 1]
    run.change("train", steps=4)
    longer = run.go()
    assert longer[:2] == shorter
    assert findings(longer) == findings(undisturbed.validations.rows())
    assert run.stored() == {1, 3, 4}


def test_going_back_sets_later_rows_aside_and_validates_anew(run: Validated) -> None:
    run.change("train", steps=2)
    before = run.go()
    run.change("train", resume_from_step=1)
    resume_point(run.run())
    assert [row.step for row in run.validations.rows()] == [0, 1]
    after = run.go()
    assert after[:2] == before[:2]
    assert findings(after) == findings(before)
    assert after[2].sampler_path != before[2].sampler_path
    assert len(run.validations.set_aside_path.read_text().splitlines()) == 1

    # Killed while it goes back: the ledger has forgotten the step, and validation.jsonl not yet.
    run.ledger.go_back_to(1)
    once_more = run.go()
    assert findings(once_more) == findings(before)
    assert once_more[2].sampler_path not in {before[2].sampler_path, after[2].sampler_path}


def test_weights_that_have_gone_are_not_validated_and_training_goes_on(
    run: Validated, caplog: pytest.LogCaptureFixture
) -> None:
    run.change("train", steps=2)
    with open_run_folder(run.config):
        first = run.train_from(None)
        second = run.train_from(first)
    deletion = run.backend.rest.delete_checkpoint_from_tinker_path(first.sampler_path)
    deletion.result(timeout=30)
    with caplog.at_level(logging.WARNING):
        rows = run.go()
    assert [row.step for row in rows] == [0, 2]
    assert f"Step 1 is not validated: {first.sampler_path} has gone" in caplog.text
    assert rows[1].sampler_path == second.sampler_path


def test_a_dataset_without_validation_problems_says_so_once_and_trains(
    run: Validated, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    run.change("train", steps=1)
    run.dataset = replace(dataset, counts={**dataset.counts, "validation": 0})
    with caplog.at_level(logging.WARNING):
        assert run.go() == []
    assert not run.validations.path.exists()
    assert run.ledger.rows()[-1].step == 1
    [said] = caplog.messages
    assert "has no validation problems" in said
    assert "--data.splits.validation" in said
