"""Checkpoints on the server: those that a run needs live on, those that it does not are deleted.

On a remote server periodic checkpoints have a lifetime, so that a run nobody goes on with leaves
nothing behind. Renewed when half of it is over is what a resume would need, the newest checkpoint
and the one before, or with `backend.keep_checkpoints` all that are kept; and with
`backend.keep_best` the best by validation. On the embedded engine they have none unless the user
set one, and what older versions gave them is taken off. The last of a run and one that was exported
are never touched.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import tinker

from visual_r1.backend.backend import Backend
from visual_r1.backend.endpoint import checkpoint_lifetime
from visual_r1.backend.waiting import CONTROL_LIMIT_S, checkpoint_exists, keep_for_ever, wait
from visual_r1.config import RunConfig
from visual_r1.errors import BackendError
from visual_r1.printing import open_logger
from visual_r1.runs.curriculum_state import measured_path
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.run import Run
from visual_r1.runs.validations import best_checkpoint

logger = open_logger(__name__)

# The newest, and the one before it should that have gone.
NEEDED = 2


def renew_and_prune(run: Run, now: datetime | None = None) -> None:
    """Renew and prune the checkpoints of the run's ledger.

    That is housekeeping: where the server fails at it, a warning says so, the run goes on, and the
    next checkpoint tries again.
    """
    config = run.config
    try:
        best = _best_that_is_there(run)
        rows = run.ledger.rows()
        needed = {row.step for row in (*_newest(config, rows), *filter(None, [best]))}
        wanted = [row for row in rows if row.step in needed]
        if config.backend.keep_checkpoints:
            surplus = (row for row in rows if row.step not in needed and row.may_be_pruned)
            _forget(run, list(surplus))
        seconds = checkpoint_lifetime(config, run.backend.kind)
        if seconds is None:
            for row in run.ledger.rows():
                _let_stay(run, row)
            return
        lifetime = timedelta(seconds=seconds)
        for row in wanted:
            _renew(run, row, lifetime, now or datetime.now(UTC))
    except BackendError as error:
        logger.warning("Old checkpoints were not looked after: %s", error)


def _newest(config: RunConfig, rows: Sequence[LedgerRow]) -> Sequence[LedgerRow]:
    return rows[-(config.backend.keep_checkpoints or NEEDED) :]


def _best_that_is_there(run: Run) -> LedgerRow | None:
    """The best checkpoint by validation; one that has gone from the server is set aside."""
    config, backend = run.config, run.backend
    if not config.backend.keep_best:
        return None
    validated = run.validations.rows()
    while (best := best_checkpoint(validated, run.ledger.rows())) is not None:
        paths = (best.state_path, best.sampler_path)
        if best in _newest(config, run.ledger.rows()) or all(
            checkpoint_exists(backend.rest, path, backend.check) for path in paths
        ):
            break
        logger.warning(
            "The best checkpoint by validation (step %d, %s) has gone from the server%s; the next "
            "best is kept in its place.",
            best.step,
            best.sampler_path,
            f", due to expire at {best.expires_at}" if best.expires_at else "",
        )
        _forget(run, [best])
    return best


def _forget(run: Run, rows: Sequence[LedgerRow]) -> None:
    """Delete checkpoints, then their rows, then what only these rows named."""
    if not rows:
        return
    for row in rows:
        delete_checkpoint(run.backend, row)
    run.ledger.drop({row.step for row in rows})
    for row in rows:
        if (measured := measured_path(run.folder, row.carry)) is not None:
            measured.unlink(missing_ok=True)


def delete_checkpoint(backend: Backend, row: LedgerRow) -> None:
    """Delete the row's state and sampler weights on the server, where they are still there."""
    for path in (row.state_path, row.sampler_path):
        deletion = backend.rest.delete_checkpoint_from_tinker_path(path)
        try:
            wait(deletion, f"deleting {path}", CONTROL_LIMIT_S, backend.check)
        except BackendError as error:
            # Gone already: it expired, or a kill came between deletion and ledger.
            if not isinstance(error.__cause__, tinker.NotFoundError):
                raise


def _let_stay(run: Run, row: LedgerRow) -> None:
    """Take the end off that an older version gave a checkpoint; it may still be pruned."""
    if row.expires_at is None:
        return
    backend = run.backend
    try:
        keep_for_ever(backend.rest, (row.state_path, row.sampler_path), backend.check)
    except BackendError as error:
        # Gone already: what is left of the others stays.
        if not isinstance(error.__cause__, tinker.NotFoundError):
            raise
    else:
        run.ledger.renew(row.step, None, periodic=True)


def _renew(run: Run, row: LedgerRow, lifetime: timedelta, now: datetime) -> None:
    if row.expires_at is None:
        return
    # More than all of it is left where the clock was set back since.
    if lifetime / 2 < datetime.fromisoformat(row.expires_at) - now <= lifetime:
        return
    for path in (row.state_path, row.sampler_path):
        change = run.backend.rest.set_checkpoint_ttl_from_tinker_path(
            path, round(lifetime.total_seconds())
        )
        wait(change, f"renewing {path}", CONTROL_LIMIT_S, run.backend.check)
    run.ledger.renew(row.step, (now + lifetime).isoformat(timespec="seconds"))
