"""Checkpoints on the server: those that a run needs live on, those that it does not are deleted.

Periodic checkpoints have a lifetime, so that a run nobody goes on with leaves nothing behind. What
a resume would need is renewed when half of it is over: the newest checkpoint and the one before, or
with `backend.keep_checkpoints` all that are kept. The final one has no limit and is never touched.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import tinker

from visual_r1.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.errors import BackendError
from visual_r1.ledger import Ledger, LedgerRow
from visual_r1.remote import CONTROL_LIMIT_S, wait

logger = logging.getLogger(__name__)

NEEDED = 2


def keep_up(
    config: RunConfig, backend: Backend, ledger: Ledger, now: datetime | None = None
) -> None:
    """Renew and prune the checkpoints of the ledger.

    That is housekeeping: where the server fails at it, a warning says so, the run goes on, and the
    next checkpoint tries again.
    """
    rows = ledger.rows()
    kept = config.backend.keep_checkpoints
    surplus = rows[:-kept] if kept else []
    try:
        _delete(backend, surplus)
        ledger.drop(len(surplus))
        lifetime = timedelta(seconds=config.backend.checkpoint_ttl_seconds)
        for row in rows[-(kept or NEEDED) :]:
            _renew(backend, ledger, row, lifetime, now or datetime.now(UTC))
    except BackendError as error:
        logger.warning("Old checkpoints were not looked after: %s", error)


def _delete(backend: Backend, rows: Sequence[LedgerRow]) -> None:
    for row in rows:
        for path in (row.state_path, row.sampler_path):
            deletion = backend.rest.delete_checkpoint_from_tinker_path(path)
            try:
                wait(deletion, f"deleting {path}", CONTROL_LIMIT_S, backend.check)
            except BackendError as error:
                # Gone already: it expired, or a kill came between deletion and ledger.
                if not isinstance(error.__cause__, tinker.NotFoundError):
                    raise


def _renew(
    backend: Backend, ledger: Ledger, row: LedgerRow, lifetime: timedelta, now: datetime
) -> None:
    if row.expires_at is None:
        return
    if datetime.fromisoformat(row.expires_at) - now > lifetime / 2:
        return
    for path in (row.state_path, row.sampler_path):
        change = backend.rest.set_checkpoint_ttl_from_tinker_path(
            path, round(lifetime.total_seconds())
        )
        wait(change, f"renewing {path}", CONTROL_LIMIT_S, backend.check)
    ledger.renew(row.step, (now + lifetime).isoformat(timespec="seconds"))
