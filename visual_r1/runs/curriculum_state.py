"""What a curriculum has measured, on the disk: `curriculum/step-000040-<digest>.parquet`.

A file a checkpoint, with a row for each problem that was tried: `problem` is its number in the
training split, `right` and `wrong` the attempts at it, faded by their age. The ledger row of the
checkpoint names the file in its `carry`, so the row stays small however many problems there are.
The file is written whole before that row and never changed. Its name holds a digest of what is in
it, so a chunk that was broken off and is done again writes the same file, and one that was changed
is found out. It is then made again from the rollouts, where these come to the same digest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visual_r1.config import RunConfig
from visual_r1.data.shards import KeptProblems, StoredProblems
from visual_r1.errors import RunError
from visual_r1.printing import open_logger
from visual_r1.rl.batches import EpochOrder
from visual_r1.rl.curriculum import CurriculumOrder, Measured, nothing_measured
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.ledger import LedgerRow
from visual_r1.storage import put_aside, replaced_whole
from visual_r1.tables import READ_ERRORS, pa, read_table, reason, write_table

logger = open_logger(__name__)

KEY = "curriculum"
FOLDER = "curriculum"


def open_order(
    config: RunConfig,
    problems: StoredProblems | KeptProblems,
    run_dir: Path,
    start: LedgerRow | None,
) -> EpochOrder | CurriculumOrder:
    """The order of problems that the configuration asks for, in the state that `start` carries.

    Raises `RunError` where that state has gone or was changed, and cannot be made again.
    """
    if config.curriculum.rule == "none":
        return EpochOrder(config.train, len(problems))
    _, family_N = np.unique(problems.families(), return_inverse=True)
    measured = (
        nothing_measured(len(problems))
        if start is None
        else _measured_before(config, problems, run_dir, start)
    )
    return CurriculumOrder(config, family_N, measured)


def _measured_before(
    config: RunConfig, problems: StoredProblems | KeptProblems, run_dir: Path, start: LedgerRow
) -> Measured:
    try:
        return load_measured(run_dir, start.step, start.carry, len(problems))
    except RunError as error:
        path = measured_path(run_dir, start.carry)
        again = measured_again(config, problems.ids(), run_dir, start.step)
        if path is None or again is None or not _is_of(path, again):
            raise
        logger.warning("%s It was made again from the rollouts, to the same figures.", error)
        if path.exists():
            put_aside(path)
        save_measured(run_dir, start.step, again)
        return again


def measured_again(
    config: RunConfig, ids: Sequence[str], run_dir: Path, step: int
) -> Measured | None:
    """What the rollouts of the steps before `step` say of the problems with these ids.

    None where they are not all there, or are of other problems. Whether it is what the run had
    measured, a digest says: a step whose groups are not all among its rollouts comes to another.
    """
    place_of = {name: place for place, name in enumerate(ids)}
    verdicts: dict[int, dict[tuple[int, int], list[str]]] = {}
    try:
        for path in Journal(run_dir).chunks():
            table = read_rollouts(path, ["step", "group", "problem_id", "verdict"])
            for row in table.to_pylist():
                key = row["group"], place_of[row["problem_id"]]
                verdicts.setdefault(row["step"], {}).setdefault(key, []).append(row["verdict"])
    except (RunError, KeyError):
        return None
    fade = 2.0 ** (-1.0 / config.curriculum.half_life)
    right_N, wrong_N = np.zeros(len(ids)), np.zeros(len(ids))
    for one in range(step):
        right_N, wrong_N = right_N * fade, wrong_N * fade
        for (_, place), given in sorted(verdicts.get(one, {}).items()):
            right_N[place] += given.count("right")
            wrong_N[place] += given.count("wrong")
    return Measured(right_N, wrong_N)


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
        write_table(temporary, pa.table(columns))
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
        table = read_table(path)
        measured = nothing_measured(count)
        places = table["problem"].to_numpy()
        measured.right_N[places] = table["right"].to_numpy()
        measured.wrong_N[places] = table["wrong"].to_numpy()
    except READ_ERRORS as error:
        raise _damaged(path, step, reason(error)) from error
    if not _is_of(path, measured):
        raise _damaged(path, step, f"its digest is {_digest(measured)}")
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


def _is_of(path: Path, measured: Measured) -> bool:
    """Whether the file's name says that it holds just this."""
    return path.stem.endswith(f"-{_digest(measured)}")


def _damaged(path: Path, step: int, why: str) -> RunError:
    return RunError(
        f"{path}, which the checkpoint of step {step} needs, is missing or damaged ({why}): put it "
        "back, or go back to another checkpoint with --train.resume_from_step (0 starts over)."
    )
