"""What a curriculum has measured, on the disk: `curriculum/step-000040-<digest>.parquet`.

A file a checkpoint, with a row for each problem that was tried: `problem` is its number in the
training split, `right` and `wrong` the attempts at it, faded by their age. The ledger row of the
checkpoint names the file in its `carry`, so the row stays small however many problems there are.
The file is written whole before that row and never changed. Its name holds a digest of what is in
it, so a chunk that was broken off and is done again writes the same file, and one that was changed
is found out.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.config import RunConfig
from visual_r1.data.shards import StoredProblems
from visual_r1.errors import RunError
from visual_r1.rl.batches import EpochOrder
from visual_r1.rl.curriculum import CurriculumOrder, Measured, nothing_measured
from visual_r1.runs.ledger import LedgerRow
from visual_r1.storage import replaced_whole

pa: Any = pyarrow  # it has no type stubs
pq: Any = pyarrow.parquet

KEY = "curriculum"
FOLDER = "curriculum"


def open_order(
    config: RunConfig, problems: StoredProblems, run_dir: Path, start: LedgerRow | None
) -> EpochOrder | CurriculumOrder:
    """The order of problems that the configuration asks for, in the state that `start` carries.

    Raises `RunError` where that state has gone or was changed.
    """
    if config.curriculum.rule == "none":
        return EpochOrder(config.train, len(problems))
    _, family_N = np.unique(problems.families(), return_inverse=True)
    measured = (
        nothing_measured(len(problems))
        if start is None
        else load_measured(run_dir, start.step, start.carry, len(problems))
    )
    return CurriculumOrder(config, family_N, measured)


def save_order(run_dir: Path, step: int, order: EpochOrder | CurriculumOrder) -> dict[str, str]:
    """Save what the order knows at the start of `step`; what the ledger row has to carry."""
    if isinstance(order, EpochOrder):
        return {}
    return save_measured(run_dir, step, order.measured)


def save_measured(run_dir: Path, step: int, measured: Measured) -> dict[str, str]:
    """Write the state at the start of `step`; what the ledger row has to carry."""
    places = np.flatnonzero(measured.tried_N)
    columns = {
        "problem": pa.array(places, pa.int32()),
        "right": pa.array(measured.right_N[places]),
        "wrong": pa.array(measured.wrong_N[places]),
    }
    path = run_dir / FOLDER / f"step-{step:06d}-{_digest(measured)}.parquet"
    with replaced_whole(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    return {KEY: path.relative_to(run_dir).as_posix()}


def load_measured(run_dir: Path, step: int, carry: Mapping[str, Any], count: int) -> Measured:
    """The state that the row of `step` carries, for a split of `count` problems.

    Raises `RunError` where its file has gone or is not what was written.
    """
    path = measured_path(run_dir, carry)
    if path is None:
        raise RunError(
            f"the ledger row of step {step} in {run_dir} carries no state of the curriculum: go "
            "back to an earlier checkpoint with --train.resume_from_step (0 starts over)."
        )
    try:
        table = pq.read_table(path)
        measured = nothing_measured(count)
        places = table["problem"].to_numpy()
        measured.right_N[places] = table["right"].to_numpy()
        measured.wrong_N[places] = table["wrong"].to_numpy()
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:
        raise _damaged(path, step) from error
    if not path.stem.endswith(f"-{_digest(measured)}"):
        raise _damaged(path, step)
    return measured


def measured_path(run_dir: Path, carry: Mapping[str, Any]) -> Path | None:
    """The file that a ledger row names; None where it names none."""
    name = carry.get(KEY)
    return run_dir / FOLDER / Path(name).name if isinstance(name, str) else None


def _digest(measured: Measured) -> str:
    found = hashlib.blake2b(digest_size=8)
    for values in (measured.right_N, measured.wrong_N):
        found.update(values.astype("<f8").tobytes())
    return found.hexdigest()


def _damaged(path: Path, step: int) -> RunError:
    return RunError(
        f"{path}, which the checkpoint of step {step} needs, is missing or damaged: put it back, "
        "or go back to another checkpoint with --train.resume_from_step (0 starts over)."
    )
