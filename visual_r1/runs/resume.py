"""From which checkpoint a run goes on."""

from visual_r1.errors import RunError
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.retention import renew_and_prune
from visual_r1.runs.run import Run


def resume_point(run: Run) -> LedgerRow | None:
    """The ledger row to go on from; None for the very beginning.

    That is the newest whose state the server still has, or with `train.resume_from_step` the row
    of that step (0: the beginning). Ledger rows, metrics, rollouts and validations that come after
    it are set aside. Raises `RunError` when the ledger belongs to another server or dataset, when
    the wanted step has no row, and when no checkpoint is left on the server.

    Old checkpoints are then looked after, before the next needs room on a server that is full.
    """
    ledger = run.ledger
    ledger.require_same_origin(dataset_digest=run.dataset.digest, backend=run.backend.kind)
    row = _chosen(run)
    step = row.step if row else 0
    alarms, validations = run.alarms, run.validations
    if not ledger.ends_at(step):
        # In this order a kill in between loses nothing: the copy first, the ledger then.
        run.journal.copy_aside(step, alarms.path)
        ledger.go_back_to(step)
        run.journal.rewind(step)
    # Whether or not rows were left: a kill may have come before this the last time.
    alarms.go_back_to(step)
    validations.go_back_to(step)
    # Where validation was switched on late, what it has yet to look at stays.
    if not run.config.validation.every or validations.rows():
        renew_and_prune(run)
    return row


def _chosen(run: Run) -> LedgerRow | None:
    backend, ledger = run.backend, run.ledger
    wanted = run.config.train.resume_from_step
    if wanted is None:
        if not ledger.rows():
            return None
        return ledger.newest_loadable(backend.has_checkpoint)
    row = ledger.row_to_go_back_to(wanted)
    if row is not None and not backend.has_checkpoint(row.state_path):
        raise RunError(
            f"The checkpoint of step {wanted} ({row.state_path}) has gone from the server: choose "
            "another step, or 0 to start over."
        )
    return row
