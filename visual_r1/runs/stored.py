"""What a run's checkpoints take of a remote server's disk, and what that costs.

    cost = price · gigabytes · hours / 720        a gigabyte is 10⁹ bytes, a month 720 hours

from when a checkpoint was made until it expires; of one that stays, by the month. The server is
asked at the end of a run, and `stored.json` keeps what it said; what was deleted before is not in
it, and no budget counts it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.prices import HOURS_A_MONTH, Prices, prices_of
from visual_r1.runs.ledger import Ledger
from visual_r1.storage import read_if_sound, write_json

if TYPE_CHECKING:  # who only reads what was told does without the SDK
    from tinker.types import Checkpoint

    from visual_r1.backend.backend import Backend

STORED_NAME = "stored.json"
LIST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Stored:
    """The checkpoints of a run on the server, at `asked_at` (ISO 8601, UTC).

    `usd` is what those that expire cost from their beginning to their end, `usd_a_month` what those
    cost that stay; None without a price.
    """

    asked_at: str
    checkpoints: int
    bytes: int
    usd: float | None
    usd_a_month: float | None

    def __str__(self) -> str:
        found = f"{self.bytes / 1e9:.2f} GB in {self.checkpoints} checkpoints"
        if self.usd is None or self.usd_a_month is None:
            return found
        return (
            f"{found}: ${self.usd:,.2f} until they expire, ${self.usd_a_month:,.2f} a month for "
            "what stays"
        )


_STORED = TypeAdapter(Stored)


def read_stored(run_dir: Path) -> Stored | None:
    """What the server told last; None where it never did, or what is there is damaged."""
    return read_if_sound(run_dir / STORED_NAME, _STORED, "it is left out")


def ask_stored(config: RunConfig, backend: "Backend") -> Stored:
    """Ask a remote server for the checkpoints of the run's ledger; kept in `stored.json` too.

    Raises `BackendError` where it does not say.
    """
    from visual_r1.backend.waiting import wait

    rows = Ledger(config.run_dir).rows()
    paths = {path for row in rows for path in (row.state_path, row.sampler_path)}
    what, there = "the question what is stored", list["Checkpoint"]()
    for model_id in sorted({urlsplit(path).netloc for path in paths}):
        listing = wait(backend.rest.list_checkpoints(model_id), what, LIST_SECONDS, backend.check)
        there += [one for one in listing.checkpoints if one.tinker_path in paths]
    found = stored_of(there, prices_of(config, backend.kind), datetime.now(UTC))
    write_json(config.run_dir / STORED_NAME, asdict(found))
    return found


def stored_of(there: "Iterable[Checkpoint]", prices: Prices, now: datetime) -> Stored:
    """Checkpoints and their cost; one whose size the server does not tell counts as empty."""
    there, usd, usd_a_month = list(there), 0.0, 0.0
    for one in there:
        size = one.size_bytes or 0
        if one.expires_at is None:
            usd_a_month += prices.cost_of_storage(size, HOURS_A_MONTH) or 0.0
        else:
            hours = (one.expires_at - one.time).total_seconds() / 3600
            usd += prices.cost_of_storage(size, hours) or 0.0
    priced = prices.storage is not None
    return Stored(
        asked_at=now.isoformat(timespec="seconds"),
        checkpoints=len(there),
        bytes=sum(one.size_bytes or 0 for one in there),
        usd=usd if priced else None,
        usd_a_month=usd_a_month if priced else None,
    )
