"""A flow run goes on where Prefect's server has lost count of it.

A deployment with a concurrency limit gives each of its flow runs a lease, which the run renews.
Where three tries of that fail, Prefect (3.9.1) throws an exception into the flow that nothing
catches: a server that was away at such a moment, or that was started anew and keeps its leases in
memory, would end a run that has done nothing wrong. Here it is said, and tried again.
"""

import contextvars
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import flow_engine
from prefect.client.orchestration import get_client

from visual_r1.printing import open_logger

logger = open_logger("visual_r1.tasks")

RENEWED_AT = 0.5
"""The share of a lease's time after which it is renewed."""

AGAIN_AFTER_S = 15.0


def go_on_without_a_lease() -> None:
    """From here on no flow of this process ends because its lease could not be renewed."""
    engine: Any = flow_engine
    engine.maintain_concurrency_lease = renewed


@contextmanager
def renewed(
    lease_id: UUID, lease_duration: float, again_after_s: float = AGAIN_AFTER_S, **_: object
) -> Generator[None]:
    """For the block the lease of so many seconds is renewed, by a thread of its own.

    Takes what Prefect's `maintain_concurrency_lease` does.
    """
    over = threading.Event()
    context = contextvars.copy_context()  # Prefect keeps its settings there
    thread = threading.Thread(
        target=context.run,
        args=(_renew, lease_id, lease_duration, again_after_s, over),
        name="prefect-lease",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2.0)  # a server that does not answer is not waited for


def _renew(lease_id: UUID, duration_s: float, again_after_s: float, over: threading.Event) -> None:
    wait_s, said = 0.0, False
    while not over.wait(wait_s):
        try:
            with get_client(sync_client=True) as client:
                client.renew_concurrency_lease(lease_id=lease_id, lease_duration=duration_s)
            wait_s = duration_s * RENEWED_AT
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is tried again
            wait_s = again_after_s
            if not said:
                logger.warning(
                    "Prefect does not count this run for its deployment's limit (%s): another may "
                    "begin beside it.",
                    type(failure).__name__,
                )
            said = True
