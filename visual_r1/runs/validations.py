"""What validation found: `validation.jsonl` has a row for each checkpoint that was validated.

Greedy answers to the same problems of the `validation` split each time, with the image and with the
image blanked; the row of step 0 is of the base model, before any training. For example:

{"step": 20, "n": 64, "correct": 47, "accuracy": 0.734, "accuracy_ci95": [0.61, 0.83],
 "blind_n": 64, "blind_accuracy": 0.016, "blind_accuracy_ci95": [0.003, 0.083],
 "format_rate": 1.0, "mean_response_tokens": 38.2, "truncated": 0, "gave_up": 0, "failed": 0,
 "right": "1101…", "sampler_path": "tinker://…/sampler_weights/step-000020",
 "seconds": 2.9, "created_at": "2026-05-01T10:00:00+00:00",
 "tokens_prefill": 5120, "tokens_sampled": 4890, "cost_usd": null}

Rows stand in the order of their steps, each step once. One that no longer counts (later than the
step a run went back to, of a checkpoint that was trained anew, damaged) moves to
`validation.set-aside.jsonl`, see `jsonl`; its checkpoint is validated anew.

What is found here makes one of the ledger's checkpoints the best, and gives them all names: best,
final, or the step.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.jsonl import LATER, JsonLines, Reading
from visual_r1.printing import open_logger
from visual_r1.runs.ledger import Ledger, LedgerRow

if TYPE_CHECKING:  # it imports pyarrow, and who names a checkpoint does without
    from visual_r1.data.dataset import Dataset

logger = open_logger(__name__)


@dataclass(frozen=True, slots=True)
class ValidationRow:
    """One checkpoint on the validation problems; shares from 0 to 1, intervals [low, high].

    `step` is the checkpoint's: how many steps it was trained. `right` has a character a problem,
    in an order that never changes within a run: 1 right, 0 not, - where the request failed. So two
    rows can be compared as pairs. `blind_accuracy` is None where that control is off; `truncated`
    and `gave_up` count greedy answers, `failed` requests of both passes. `tokens_…` and `cost_usd`
    are as in metrics.jsonl; a row without `tokens_cached` has none.
    """

    step: int
    n: int
    correct: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    blind_n: int
    blind_accuracy: float | None
    blind_accuracy_ci95: tuple[float, float] | None
    format_rate: float
    mean_response_tokens: float
    truncated: int
    gave_up: int
    failed: int
    right: str
    sampler_path: str
    seconds: float
    created_at: str
    # As written, mostly whole: read as floats they would be written again with a point.
    tokens_prefill: int | float = 0
    tokens_sampled: int | float = 0
    cost_usd: float | None = None
    tokens_cached: int | float = field(default=0, metadata=LATER)


_ROWS = TypeAdapter(ValidationRow)


class Validations:
    """The validation rows of the run in `run_dir`; only one process may write them."""

    def __init__(self, run_dir: Path) -> None:
        self._file = JsonLines(run_dir / "validation.jsonl", _ROWS, kept=True)
        self.path = self._file.path
        self.set_aside_path = self._file.set_aside_path

    def rows(self) -> list[ValidationRow]:
        """All rows in the order of their steps."""
        by_step = {row.step: row for row in self._file.rows()}
        return [by_step[step] for step in sorted(by_step)]

    def read(self) -> Reading[ValidationRow]:
        """All that stands in the file, damaged or not; changes nothing."""
        return self._file.read()

    def of(self, step: int, sampler_path: str) -> ValidationRow | None:
        """The row of the checkpoint with these weights, or None."""
        matching = (row for row in self.rows() if row.step == step)
        return next((row for row in matching if row.sampler_path == sampler_path), None)

    def record(self, row: ValidationRow) -> None:
        """Put a row in its place, flushed to the disk; an older one of its step is set aside.

        Raises `StorageError` when it cannot be written; the rows there were stay.
        """
        there = self._file.read()
        by_step = {line.row.step: line for line in there.sound}
        if there.is_whole and row.step > max(by_step, default=-1):
            self._file.append(row, flushed=True)
            return
        by_step[row.step] = self._file.line(row)
        self._file.write(by_step[step] for step in sorted(by_step))

    def go_back_to(self, step: int) -> None:
        """Set aside what was found after `step`: the run goes on from that checkpoint."""
        self._file.keep(lambda row: row.step <= step)


def best_checkpoint(
    validated: Iterable[ValidationRow], checkpoints: Iterable[LedgerRow]
) -> LedgerRow | None:
    """Of the checkpoints, the one with the highest accuracy on validation; of equals the latest.

    None where none of them was validated. Only a row of the same weights counts.
    """
    there = {row.sampler_path: row for row in checkpoints}
    found = [row for row in validated if row.n and row.sampler_path in there]
    best = max(found, key=lambda row: (row.accuracy, row.step), default=None)
    return there[best.sampler_path] if best is not None else None


def named_checkpoint(run_dir: Path, name: str) -> LedgerRow:
    """The ledger row that `name` means: `best` by validation, `final` for the newest, or a step.

    Raises `RunError` where there is none, with what there is.
    """
    rows = Ledger(run_dir).rows()
    if not rows:
        raise RunError(f"{run_dir} has no checkpoint yet: train first, or look at another run.")
    if name == "final":
        return rows[-1]
    if name == "best":
        best = best_checkpoint(Validations(run_dir).rows(), rows)
        if best is None:
            raise RunError(
                f"None of the checkpoints in {run_dir} was validated, so none is the best: train "
                "with --validation.every 1, or name a step."
            )
        return best
    row = next((row for row in rows if str(row.step) == name), None)
    if row is None:
        steps = ", ".join(str(known.step) for known in rows)
        raise RunError(
            f"There is no checkpoint {name!r} in {run_dir}: choose best, final, or one of the "
            f"steps {steps}."
        )
    return row


def validated_steps(config: RunConfig) -> list[int]:
    """The steps whose checkpoints a run validates from its beginning: 0 is the base model."""
    every = config.validation.every * config.train.chunk_steps
    steps = config.train.steps
    return sorted({*range(0, steps, every), steps}) if every else []


def is_due(config: RunConfig, dataset: "Dataset", step: int) -> bool:
    """Whether the checkpoint of `step` is to be validated.

    Each `validation.every`-th is, the base model (step 0), and the last. Where the dataset has no
    validation problems, a warning says so once and nothing is due.
    """
    if step not in validated_steps(config):
        return False
    if not dataset.counts.get("validation"):
        _say_that_none(dataset.folder)
        return False
    return True


@cache
def _say_that_none(folder: Path) -> None:
    logger.warning(
        "The dataset %s has no validation problems, so the run is not validated while it trains "
        "(the test problems are for the final evaluation): name a split with "
        "--data.splits.validation, or switch it off with --validation.every 0.",
        folder,
    )
