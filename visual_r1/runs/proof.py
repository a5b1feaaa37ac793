"""The proof that a resumed run is the run: the last chunk again, compared bit for bit.

The last chunk is trained once more from the checkpoint before it, in a folder of its own, and what
comes out is compared with what the run has: weights and optimizer state tensor by tensor, metrics
row by row (but for the seconds), rollouts sample by sample.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visual_r1.backend.waiting import checkpoint_exists
from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.runs.chunk import plan_chunk, train_chunk
from visual_r1.runs.curriculum_state import load_measured, measured_path
from visual_r1.runs.folder import require_same_files
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.retention import delete_checkpoint
from visual_r1.runs.run import Run


@dataclass(frozen=True, slots=True)
class Proof:
    """What the replay of steps `first` to `end` - 1 gave.

    `tensors` counts what was compared (weights, Adam's moments, step count); `differing` names the
    tensors, `metrics` the "step 12 loss" values, `rollouts` the steps that are not the same.
    """

    first: int
    end: int
    tensors: int
    differing: tuple[str, ...]
    metrics: tuple[str, ...]
    rollouts: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether everything agrees, to the last bit."""
        return not (self.differing or self.metrics or self.rollouts)


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
        if row is not None and not checkpoint_exists(backend.rest, row.state_path, backend.check):
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
            before = backend.tensor_fingerprints(end.state_path)
            after = backend.tensor_fingerprints(again.state_path)
        finally:
            delete_checkpoint(backend, again)
        first = start.step if start else 0
        return Proof(
            first=first,
            end=end.step,
            tensors=len(before),
            differing=_differing(before, after),
            metrics=_differing_metrics(folder, replay.folder, first, end.step),
            rollouts=_differing_rollouts(folder, replay.folder, first, end.step),
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
    load_measured(run.folder, start.step, start.carry, len(run.dataset.problems("train")))
    copy = folder / kept.relative_to(run.folder)
    copy.parent.mkdir(parents=True)
    shutil.copy2(kept, copy)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    names = sorted({*before, *after})
    return tuple(name for name in names if before.get(name) != after.get(name))


def _differing_metrics(run_dir: Path, scratch: Path, first: int, end: int) -> tuple[str, ...]:
    """What differs but for the seconds; what an earlier version did not write is not compared."""

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
    return tuple(
        f"step {step} {name}"
        for step in range(first, end)
        for name in _differing(before.get(step, {}), after.get(step, {}))
        if step not in before or name in before[step]
    )


def _differing_rollouts(run_dir: Path, scratch: Path, first: int, end: int) -> tuple[int, ...]:
    """The steps whose samples differ in a column that the run has: an earlier version had fewer."""

    def by_step(folder: Path) -> dict[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = {}
        for path in sorted(Journal(folder).rollouts_dir.glob("chunk-*.parquet")):
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
