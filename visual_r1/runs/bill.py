"""What the server has billed for a run, beside what was estimated.

The hosted service tells it by the hour and the session (`AdminClient.get_billing_usage`), to keys
that may see the bill, some hours late, in US dollars before credits. The sessions of a run carry
its name; those of another run of that name, in the same organisation and at the same time, count
with it. Storage belongs to no session and is not in it. `bill.json` holds what was told last.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.engine.store.budget import RUN_KEY
from visual_r1.errors import BackendError
from visual_r1.prices import Tokens
from visual_r1.printing import open_logger
from visual_r1.runs.ledger import Ledger
from visual_r1.storage import read_if_sound, write_json

if TYPE_CHECKING:  # who only reads a bill does without the SDK
    from tinker.types import BillingUsageResponse

    from visual_r1.backend.backend import Backend

logger = open_logger(__name__)

BILL_NAME = "bill.json"
WINDOW = timedelta(days=14)
"""The longest that is told at once."""
BEFORE = timedelta(days=1)
"""A run has begun at most so long before the first that is known of it."""
FIRST_CHECKPOINT = timedelta(days=60)
"""A file that is older than the first checkpoint by more than this was given another date: a run
may lie still for weeks between its baseline and its first step."""
OFFERED_SINCE = datetime(2025, 10, 1, tzinfo=UTC)
"""The service has billed nobody before: an older date is one that a clock or a copy got wrong."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What was billed for a run when the server was asked, at `asked_at` (ISO 8601, UTC).

    `unpriced` counts the entries that had no price yet, so that `usd` is less than it will be.
    """

    asked_at: str
    usd: float
    unpriced: int
    tokens_prefill: int
    tokens_cached: int
    tokens_sampled: int
    tokens_trained: int

    @property
    def tokens(self) -> Tokens:
        """What was billed, in tokens."""
        return Tokens(
            self.tokens_prefill, self.tokens_sampled, self.tokens_trained, self.tokens_cached
        )


_STORED = TypeAdapter(Bill)


def read_bill(run_dir: Path) -> Bill | None:
    """What the server told last; None where it never did, or what is there is damaged."""
    return read_if_sound(run_dir / BILL_NAME, _STORED, "it is left out")


def settle_bill(config: RunConfig, backend: "Backend") -> None:
    """Keep what the server has billed for the run so far, where it says so.

    Nothing of a run depends on it: that the hosted service does not tell it to this key, or has
    nothing of the run yet, is a warning. Other servers bill nothing, or need not say so.
    """
    if backend.kind == "embedded":
        return
    try:
        bill = ask_bill(config, backend)
    except BackendError as error:
        if backend.kind == "hosted":
            logger.warning("The actual bill is not shown beside the estimate: %s", error)
        return
    if bill is None and backend.kind == "hosted":
        logger.warning(
            "The bill has nothing of %s yet, for it is some hours late: visual-r1 bill %s asks "
            "again.",
            config.run_name,
            config.run_dir,
        )


def ask_bill(config: RunConfig, backend: "Backend", now: datetime | None = None) -> Bill | None:
    """What the server has billed for the run, kept in `bill.json` too; None where nothing yet.

    Raises `BackendError` as `Backend.billing_usage` does.
    """
    now = now or datetime.now(UTC)
    told = [backend.billing_usage(*window) for window in _windows(_began(config.run_dir, now), now)]
    bill = bill_of(config.run_name, told, now)
    if bill is not None:
        write_json(config.run_dir / BILL_NAME, asdict(bill))
    return bill


def bill_of(run: str, told: Iterable["BillingUsageResponse"], now: datetime) -> Bill | None:
    """What was billed for the sessions of `run`; None where there is nothing of them."""
    usd, unpriced = 0.0, 0
    tokens = {"prefill": 0, "cached": 0, "sampled": 0, "trained": 0}
    entries = 0
    for answer in told:
        named = {
            session for session, one in answer.sessions.items()
            if (one.user_metadata or {}).get(RUN_KEY) == run
        }  # fmt: skip
        for event in answer.data:
            info = event.event_info
            if event.session_id not in named or info.type in ("storage", "checkpoint"):
                continue
            entries += 1
            usd += event.estimated_cost_usd or 0.0
            unpriced += event.estimated_cost_usd is None
            match info.type:
                case "training":
                    tokens["trained"] += info.token_count
                case "sampling_prefill":
                    tokens["cached" if info.cached else "prefill"] += info.token_count
                case "sampling_sample":
                    tokens["sampled"] += info.token_count
    if not entries:
        return None
    return Bill(
        asked_at=now.isoformat(timespec="seconds"),
        usd=usd,
        unpriced=unpriced,
        **{f"tokens_{name}": count for name, count in tokens.items()},
    )


def _began(folder: Path, now: datetime) -> datetime:
    """When the run began, or some time before; weeks ago where no date can be believed.

    Its ledger says when checkpoints were made. The times of files are those of a copy where the
    run was copied, and may be anything where an archive was unpacked: they count where they fit.
    """

    def possible(times: Iterable[datetime]) -> list[datetime]:
        return [time for time in times if OFFERED_SINCE <= time <= now]

    made = possible(Ledger(folder).times())
    written = possible(
        datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for path in folder.rglob("*")
        if path.is_file()
    )
    if made:
        written = [time for time in written if time >= min(made) - FIRST_CHECKPOINT]
    return min((*made, *written), default=now - FIRST_CHECKPOINT) - BEFORE


def _windows(start: datetime, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Hour by hour, as the service wants it, from `start` until now."""
    start = start.replace(minute=0, second=0, microsecond=0)
    end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    while start < end:
        yield start, min(start + WINDOW, end)
        start += WINDOW
