"""Results that clients wait for, by request id."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Category: TypeAlias = Literal["user", "server", "unknown"]

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

KEEP_AFTER_RETRIEVAL_S = 600.0
KEEP_UNRETRIEVED_S = 3600.0


@dataclass(frozen=True)
class Reply:
    """A finished result as it goes over the wire."""

    body: bytes
    media_type: str = JSON


def json_reply(value: dict[str, Any]) -> Reply:
    """A result in JSON."""
    return Reply(json.dumps(value).encode())


def failure(message: str, category: Category) -> Reply:
    """A failed request; the SDK raises `RequestFailedError` with this text and category."""
    return json_reply({"error": message, "category": category})


@dataclass
class Pending:
    """One request whose result a client may ask for, once it is there or before."""

    request_id: str
    reply: Reply | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    drop_at: float | None = None

    def settle(self, reply: Reply) -> None:
        """Give the result; the first one stays."""
        if self.reply is None:
            self.reply = reply
            self.drop_at = asyncio.get_running_loop().time() + KEEP_UNRETRIEVED_S
            self.done.set()

    def fail(self, message: str, category: Category = "user") -> None:
        """Fail the request."""
        self.settle(failure(message, category))


class FutureTable:
    """All requests whose results may still be asked for. Lives on the event loop."""

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        self._closing = False

    def open(self, request_id: str) -> tuple[Pending, bool]:
        """Return the future of that id, and whether it is new: a repeated request gets the old."""
        known = self._pending.get(request_id)
        if known is not None:
            return known, False
        self._pending[request_id] = Pending(request_id)
        return self._pending[request_id], True

    def get(self, request_id: str) -> Pending | None:
        """The future of that id, if it is still kept."""
        return self._pending.get(request_id)

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
            pending.drop_at = asyncio.get_running_loop().time() + KEEP_AFTER_RETRIEVAL_S
        return pending.reply

    def sweep(self, now: float) -> None:
        """Forget results that were fetched a while ago, or that nobody fetched for long."""
        over = [
            key for key, p in self._pending.items() if p.drop_at is not None and p.drop_at < now
        ]
        for key in over:
            del self._pending[key]

    def close(self) -> None:
        """Answer everyone who waits, so that the server can stop."""
        self._closing = True
        for pending in self._pending.values():
            pending.done.set()
