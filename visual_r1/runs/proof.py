"""The proof that a resumed run is the run: the last chunk again, compared bit for bit.

The last chunk is trained once more from the checkpoint before it, in a folder of its own, and what
comes out is compared with what the run has: weights, optimizer state and the sampler's weights
tensor by tensor, the count of updates, metrics row by row (but for the seconds), rollouts sample by
sample. What was exported is exported again and compared byte by byte.

What is not made again (earlier chunks, validations, evaluations) is held against its digests, as
`visual-r1 verify` does: that it is as it was written, not that it would be written so again.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.exports.record import export_names, read_export
from visual_r1.runs.chunk import plan_chunk, train_chunk
from visual_r1.runs.curriculum_state import load_measured, measured_path
from visual_r1.runs.export import export
from visual_r1.runs.folder import require_same_files
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.retention import delete_checkpoint
from visual_r1.runs.run import Run
from visual_r1.runs.soundness import examine_run
from visual_r1.runs.training_rows import training_problems


@dataclass(frozen=True, slots=True)
class Proof:
    """What the replay of steps `first` to `end` - 1 gave.

    `tensors` counts what was compared (weights, Adam's moments, step count, the sampler's weights);
    `differing` names the tensors, `metrics` the "step 12 loss" values, `rollouts` the steps that
    are not the same; `updates` is what the ledger says of them and what was counted now. `exported`
    counts the files that were exported again, `exports` names those that differ.

    Of all files of the run, `sound` are as they were written, `unverified` cannot be told, and
    `damaged` names the others.
    """

    first: int
    end: int
    tensors: int
    differing: tuple[str, ...]
    metrics: tuple[str, ...]
    rollouts: tuple[int, ...]
    updates: tuple[int, int]
    exported: int
    exports: tuple[str, ...]
    sound: int
    unverified: int
    damaged: tuple[str, ...]

    @property
    def same_bits(self) -> bool:
        """Whether all that was made again is the same, to the last bit."""
        same_count = self.updates[0] == self.updates[1]
        return same_count and not (self.differing or self.metrics or self.rollouts or self.exports)

    @property
    def holds(self) -> bool:
        """Whether that is so, and no file of the run is damaged."""
        return self.same_bits and not self.damaged


def prove(run: Run) -> Proof:
    """Replay from the last checkpoint but one to the last; the run itself is not touched.

    Raises `RunError` where the run has no checkpoint, where the one to start from has gone, and on
    a server that does not promise the same bits (all but the embedded engine).
    """
    backend, folder = run.backend, run.folder
    if backend.kind != "embedded":
        raise RunError(
            "--prove compares bits, which the embedded engine alone promises; this run is on a "
            f"{backend.kind} server."
        )
    require_same_files(run.config)
    run.ledger.require_same_origin(dataset_digest=run.dataset.digest, backend=backend.kind)
    start, end = _last_chunk(run)
    for row in (start, end):
        if row is not None and not run.backend.has_checkpoint(row.state_path):
            raise RunError(
                f"The checkpoint of step {row.step} ({row.state_path}) has gone or is "
                f"damaged, so the steps to {end.step} cannot be replayed; go on with the run and "
                "prove its next chunk."
            )
    for left in folder.glob(".proof-*"):  # by a proof that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=".proof-", dir=folder, ignore_cleanup_errors=True
    ) as scratch:
        replay = replace(run, config=_up_to(run.config, end), folder=Path(scratch))
        if start is not None:
            _copy_curriculum(run, start, replay.folder)
        again = train_chunk(replay, start)
        try:
            before, after = _tensors(backend, end), _tensors(backend, again)
        finally:
            delete_checkpoint(backend, again)
        first = start.step if start else 0
        exported, exports = _exported_again(run, replay)
        files = list(examine_run(folder, len(run.dataset.problems("train"))))
        verdicts = Counter(one.verdict for one in files)
        return Proof(
            first=first,
            end=end.step,
            tensors=len(before),
            differing=_differing(before, after),
            metrics=_differing_metrics(folder, replay.folder, first, end.step),
            rollouts=_differing_rollouts(folder, replay.folder, first, end.step),
            updates=(end.updates, again.updates),
            exported=exported,
            exports=exports,
            sound=verdicts["sound"],
            unverified=verdicts["unverified"],
            damaged=tuple(
                f"{one.file.relative_to(folder)}: {one.found}"
                for one in files
                if one.verdict == "damaged"
            ),
        )


def _last_chunk(run: Run) -> tuple[LedgerRow | None, LedgerRow]:
    """The checkpoints around the last chunk; it starts from None where it was the first."""
    rows = run.ledger.rows()
    if not rows:
        raise RunError(f"{run.folder} has no checkpoint yet: there is nothing to prove.")
    start, end = (rows[-2] if len(rows) > 1 else None), rows[-1]
    first = start.step if start else 0
    if plan_chunk(_up_to(run.config, end), first).end != end.step:
        raise RunError(
            f"The checkpoint before that of step {end.step} was deleted "
            "(backend.keep_checkpoints), so the steps to it cannot be replayed; go on with the run "
            "and prove its next chunk."
        )
    return start, end


def _up_to(config: RunConfig, end: LedgerRow) -> RunConfig:
    train = config.train.model_copy(update={"steps": end.step, "resume_from_step": None})
    return config.model_copy(update={"train": train})


def _copy_curriculum(run: Run, start: LedgerRow, folder: Path) -> None:
    """Give the replay what the curriculum had measured, where there is one."""
    kept = measured_path(run.folder, start.carry)
    if kept is None:
        return
    # Here it is said which file is damaged; of the copy nobody has heard.
    problems = training_problems(run.config, run.dataset, start)
    load_measured(run.folder, start.step, start.carry, len(problems))
    copy = folder / kept.relative_to(run.folder)
    copy.parent.mkdir(parents=True)
    shutil.copy2(kept, copy)


def _tensors(backend: Backend, row: LedgerRow) -> dict[str, str]:
    """The digests of all tensors of a checkpoint, for training and for sampling."""
    sampler = backend.tensor_fingerprints(row.sampler_path)
    return backend.tensor_fingerprints(row.state_path) | {
        f"sampler: {name}": found for name, found in sampler.items()
    }


def _exported_again(run: Run, replay: Run) -> tuple[int, tuple[str, ...]]:
    """How many files of exports were made again, and which of them are others now.

    Only those of checkpoints that are still there.
    """
    rows = {row.state_path: row for row in run.ledger.rows()}
    count, differing = 0, list[str]()
    for into in export_names(run.folder):
        then = read_export(run.folder, into)
        row = rows.get(then.state_path) if then is not None else None
        if then is None or row is None or not run.backend.has_checkpoint(row.state_path):
            continue
        now = {one.name: one for one in export(replay, row, into).files}
        count += len(then.files)
        differing += [f"{into}/{one.name}" for one in then.files if now.get(one.name) != one]
    return count, tuple(differing)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    names = sorted({*before, *after})
    return tuple(name for name in names if before.get(name) != after.get(name))


def _differing_metrics(run_dir: Path, scratch: Path, first: int, end: int) -> tuple[str, ...]:
    """What differs but for the seconds; what an earlier version did not write is not compared.

    Such a version wrote it nowhere: what one row has and another lacks was taken out.
    """

    def by_step(folder: Path) -> dict[int, dict[str, str]]:
        # As text, so that NaN agrees with itself.
        return {
            row["step"]: {
                name: json.dumps(value)
                for name, value in row.items()
                if not name.startswith("seconds_")
            }
            for row in Journal(folder).rows()
        }

    before, after = by_step(run_dir), by_step(scratch)
    written = {name for row in before.values() for name in row}
    return tuple(
        f"step {step} {name}"
        for step in range(first, end)
        for name in _differing(before.get(step, {}), after.get(step, {}))
        if step not in before or name in written
    )


def _differing_rollouts(run_dir: Path, scratch: Path, first: int, end: int) -> tuple[int, ...]:
    """The steps whose samples differ in a column that the run has: an earlier version had fewer."""

    def by_step(folder: Path) -> dict[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = {}
        for path in Journal(folder).chunks():
            # One that is damaged is named among the run's files; its steps are not the same.
            with suppress(RunError):
                rows: list[dict[str, Any]] = read_rollouts(path).to_pylist()
                for row in rows:
                    found.setdefault(row["step"], []).append(row)
        return found

    before, after = by_step(run_dir), by_step(scratch)

    def same(step: int) -> bool:
        old, new = before.get(step, []), after.get(step, [])
        names = sorted(old[0]) if old else []
        texts = [[json.dumps([row.get(n) for n in names]) for row in rows] for rows in (old, new)]
        return texts[0] == texts[1]

    return tuple(step for step in range(first, end) if not same(step))
