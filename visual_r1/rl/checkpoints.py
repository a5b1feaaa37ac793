"""A run's checkpoints by name: best, final, or the step."""

from pathlib import Path

from visual_r1.errors import RunError
from visual_r1.ledger import Ledger, LedgerRow
from visual_r1.rl.validations import Validations, best_checkpoint


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
