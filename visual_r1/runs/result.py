"""Of which checkpoint a run's result is: its summary, and its evaluation `final`.

Both stay in the folder while the run goes on to more steps, or back to an earlier checkpoint, until
it is evaluated again. So who says what a run came to asks here first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.storage import read_json

FINAL = "final"


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """Of a report all that is asked: the weights that were."""

    sampler_path: str = ""


_EVALUATIONS = TypeAdapter(_Evaluated)


def step_of_weights(rows: Sequence[LedgerRow], sampler_path: str) -> int | None:
    """The step of the checkpoint with these weights; None where the ledger has none such."""
    return next((row.step for row in rows if row.sampler_path == sampler_path), None)


def is_of_newest(run_dir: Path, rows: Sequence[LedgerRow], steps: int) -> bool:
    """Whether a summary of so many `steps` is of the newest of the checkpoints in `rows`.

    By its steps and, as far as the report of the evaluation `final` says, by its weights: a run
    that went back and came to the same step again has others.
    """
    if not rows:
        return True
    final = _final(run_dir)
    return steps >= rows[-1].step and final in ("", rows[-1].sampler_path)


def step_of_final(run_dir: Path) -> int | None:
    """The step of the checkpoint that `final` is of; None where it says none of the ledger's."""
    rows = [line.row for line in Ledger(run_dir).read().sound]
    return step_of_weights(rows, _final(run_dir))


def _final(run_dir: Path) -> str:
    """The weights that were evaluated; empty where there is no report, or it does not say."""
    try:
        path = run_dir / "evaluations" / FINAL / "report.json"
        return read_json(path, _EVALUATIONS).sampler_path
    except (OSError, ValueError):  # damaged: who reads it for its figures says so
        return ""
