"""Results that clients wait for, by request id; and what a failure becomes.

A result that was fetched is kept for ten minutes, since the answer may have been lost on its way
and the client then asks again. When those results take more than `FETCHED_BYTES`, the ones that
were fetched first go earlier, but none within a minute of its last fetch: a client asks again after
30 s at the latest. A result that nobody has fetched stays for an hour; one of a session that is
over for a minute. When the samples among those take more than `UNFETCHED_BYTES`, the oldest go
earlier, but none within a minute: whoever asks for one then hears that it is gone, upon which the
SDK samples again. What training gave is never dropped so: it cannot be run again.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import StorageError, VisualR1Error
from visual_r1.printing import open_logger

log = open_logger("visual_r1.engine")

Category: TypeAlias = Literal["user", "server", "unknown"]

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

KEEP_FETCHED_S = 600.0
KEEP_UNFETCHED_S = 3600.0
KEEP_AT_LEAST_S = 60.0
"""After its last fetch, however many others wait for their end; also in a session that is over."""

FETCHED_BYTES = 64 * 2**20
"""Results that were fetched, together."""

UNFETCHED_BYTES = 256 * 2**20
"""Samples that nobody has fetched, together."""


@dataclass(frozen=True)
class Reply:
    """A finished result as it goes over the wire."""

    body: bytes
    media_type: str = JSON


def json_reply(value: dict[str, Any]) -> Reply:
    """A result in JSON."""
    return Reply(json.dumps(value).encode())


@dataclass
class Pending:
    """One request whose result a client may ask for, once it is there or before."""

    request_id: str
    content: str = ""
    """A digest of the request: what comes with its number and is another is no repetition."""
    reply: Reply | None = None
    repeatable: bool = False
    """Whether the client may send the request again when its result is gone."""
    keep_unfetched_s: float = KEEP_UNFETCHED_S
    done: asyncio.Event = field(default_factory=asyncio.Event)
    drop_at: float | None = None
    settled_at: float | None = None
    fetched_at: float | None = None

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, but for a little."""
        return 0 if self.reply is None else len(self.reply.body)

    @property
    def touched_at(self) -> float:
        """When it was fetched last, or came."""
        return self.fetched_at or self.settled_at or 0.0

    def settle(self, reply: Reply) -> None:
        """Give the result; the first one stays."""
        if self.reply is None:
            self.reply = reply
            self.settled_at = asyncio.get_running_loop().time()
            self.drop_at = self.settled_at + self.keep_unfetched_s
            self.done.set()

    def fail(self, message: str, category: Category = "user") -> None:
        """Fail the request: the SDK raises `RequestFailedError` with this text and category."""
        self.settle(json_reply({"error": message, "category": category}))


@dataclass
class Announced(Pending):
    """How a request ends whose client was answered when it came, for who goes on with it here.

    It is in no table: `told` hears of its end, and `failure` says whether it failed.
    """

    told: Callable[[], object] = lambda: None
    failure: tuple[str, Category] | None = None

    def settle(self, reply: Reply) -> None:
        """It has been done."""
        if self.reply is None:
            super().settle(reply)
            self.told()

    def fail(self, message: str, category: Category = "user") -> None:
        """It has failed."""
        if self.reply is None:
            self.failure = (message, category)
        super().fail(message, category)


class FutureTable:
    """All requests whose results may still be asked for. Lives on the event loop."""

    def __init__(
        self, fetched_bytes: int = FETCHED_BYTES, unfetched_bytes: int = UNFETCHED_BYTES
    ) -> None:
        """The bounds of results that were fetched, kept for a repetition, and of samples that were
        not."""
        self._fetched_bytes = fetched_bytes
        self._unfetched_bytes = unfetched_bytes
        self._pending: dict[str, Pending] = {}
        self._closing = False

    def open(
        self, request_id: str, content: str, *, repeatable: bool = False
    ) -> tuple[Pending, bool]:
        """Return the future of that id, and whether it is new: a repeated request gets the old.

        `content` is a digest of the request, `repeatable` whether it may be computed again. Raises
        `InvalidRequest` where another request came with this id.
        """
        known = self._pending.get(request_id)
        if known is not None and known.content != content:
            raise InvalidRequest(
                f"another request came as {request_id}: a number stands for one request, which may "
                "be repeated as it was; give this one a number of its own."
            )
        if known is not None:
            return known, False
        self._pending[request_id] = Pending(request_id, content, repeatable=repeatable)
        return self._pending[request_id], True

    def get(self, request_id: str) -> Pending | None:
        """The future of that id, if it is still kept."""
        return self._pending.get(request_id)

    def forget(self, request_id: str) -> None:
        """Nothing will settle it: whoever asks for it hears that it is gone."""
        self._pending.pop(request_id, None)

    async def wait(self, request_id: str, seconds: float) -> Reply | None:
        """The result, waiting up to `seconds` for it; None when it is not there yet.

        Raises `KeyError` for an id that is not known, or no longer.
        """
        pending = self._pending[request_id]
        if not self._closing:
            try:
                await asyncio.wait_for(pending.done.wait(), seconds)
            except TimeoutError:
                return None
        if pending.reply is not None:
            pending.fetched_at = asyncio.get_running_loop().time()
            pending.drop_at = pending.fetched_at + KEEP_FETCHED_S
        return pending.reply

    def sweep(self, now: float) -> None:
        """Forget results that were fetched a while ago, or that nobody fetched for long."""
        for pending in list(self._pending.values()):
            if pending.drop_at is not None and pending.drop_at < now:
                del self._pending[pending.request_id]
        kept = [one for one in self._pending.values() if one.settled_at is not None]
        fetched = [one for one in kept if one.fetched_at is not None]
        self._bound(fetched, self._fetched_bytes, now)
        unfetched = [one for one in kept if one.fetched_at is None and one.repeatable]
        self._bound(unfetched, self._unfetched_bytes, now)

    def _bound(self, results: Sequence[Pending], most_bytes: int, now: float) -> None:
        """Forget the results of longest ago until the rest fit; none of the last minute."""
        excess = sum(one.size_bytes for one in results) - most_bytes
        for pending in sorted(results, key=lambda one: one.touched_at):
            if excess <= 0 or now - pending.touched_at < KEEP_AT_LEAST_S:
                return
            excess -= pending.size_bytes
            del self._pending[pending.request_id]

    def forget_session(self, session_id: str, now: float) -> None:
        """Nobody will ask for a finished session's results, but for an answer lost on its way."""
        for pending in self._pending.values():
            if pending.request_id.startswith(f"{session_id}:"):
                pending.keep_unfetched_s = KEEP_AT_LEAST_S
                if pending.drop_at is not None:
                    pending.drop_at = min(pending.drop_at, now + KEEP_AT_LEAST_S)

    def close(self) -> None:
        """Answer everyone who waits, so that the server can stop."""
        self._closing = True
        for pending in self._pending.values():
            pending.done.set()


def failure_of(work: Future[Any], what: str) -> tuple[str, Category] | None:
    """The message and category of a finished piece of work that failed; None when it did not."""
    if work.cancelled():
        return f"{what} was cancelled: the engine is stopping", "server"
    error = work.exception()
    return None if error is None else told(error, what)


def told(error: BaseException, what: str) -> tuple[str, Category]:
    """The message and category of an error in `what`.

    One that nobody foresaw goes to the log in full.
    """
    if isinstance(error, InvalidRequest):
        return str(error), "user"
    if isinstance(error, VisualR1Error):
        log.error("%s: %s", what, error)
        # A full disk is for the user to mend: who tries again by himself would wait in vain.
        return str(error), "user" if isinstance(error, StorageError) else "server"
    log.error("%s failed", what, exc_info=error)
    return f"the engine failed in {what}: {type(error).__name__}: {error}", "server"
