"""What open sample requests hold in memory, together and by client; and its bound.

An image that several requests carry is held once. Whoever sends more than fits is told to send it
later (429), which the SDK does of itself, and keeps the rest in the client meanwhile. A client that
holds less than its part is never told so, whatever the others hold: the whole stays below twice the
bound.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, replace

from rich.filesize import decimal as size_text

from visual_r1.engine.server.waiting import SampleJob
from visual_r1.engine.types import ImagePart, TextPart
from visual_r1.errors import VisualR1Error

HELD_BYTES = 512 * 2**20
"""All open sample requests together."""

A_REQUEST_BYTES = 4096
"""Beside its tokens and images: measured, its future among it."""


class TooMuchHeld(VisualR1Error):
    """More waits than the engine holds: the same request will be served later."""


@dataclass
class _Image:
    data: bytes
    requests: int = 0


class HeldRequests:
    """The open sample requests of all clients. Lives on the event loop."""

    def __init__(self, limit_bytes: int = HELD_BYTES) -> None:
        """`limit_bytes` bounds what all of them hold."""
        self._limit = limit_bytes
        self.total_bytes = 0
        """What they hold, an image that several carry once."""
        self._images: dict[bytes, _Image] = {}
        # As if each image were held for each request.
        self._by_client: Counter[str] = Counter()
        self._by_request: dict[str, int] = {}

    def require_room(self, client: str) -> None:
        """Raise `TooMuchHeld` where a further request of this client is for later."""
        if self.total_bytes < self._limit:
            return
        part = self._limit // len(self._by_client.keys() | {client})
        if self._by_client[client] >= part:
            raise TooMuchHeld(
                f"{len(self._by_request)} sample requests are open, which hold "
                f"{size_text(self.total_bytes)}: send this one again in a second (the tinker SDK "
                "does)."
            )

    def add(self, job: SampleJob) -> SampleJob:
        """Take a request in; returns it with the images that are held already, tokens packed."""
        parts: list[TextPart | ImagePart] = []
        own_bytes, image_bytes = A_REQUEST_BYTES, 0
        for part in job.request.prompt:
            if isinstance(part, TextPart):
                tokens = array("q", part.tokens)
                own_bytes += tokens.itemsize * len(tokens)
                parts.append(TextPart(tokens))
            else:
                image_bytes += len(part.data)
                parts.append(replace(part, data=self._shared(part.data)))
        self.total_bytes += own_bytes
        self._by_client[job.client] += own_bytes + image_bytes
        self._by_request[job.request_id] = own_bytes + image_bytes
        return replace(job, request=replace(job.request, prompt=tuple(parts)))

    def release(self, job: SampleJob) -> None:
        """The request has its answer, or nobody wants one."""
        held_bytes = self._by_request.pop(job.request_id, None)
        if held_bytes is None:
            return
        self._by_client[job.client] -= held_bytes
        if not self._by_client[job.client]:
            del self._by_client[job.client]
        for part in job.request.prompt:
            if isinstance(part, ImagePart):
                held_bytes -= len(part.data)
                self._let_go(self._images[part.data])
        self.total_bytes -= held_bytes

    def _shared(self, data: bytes) -> bytes:
        if data not in self._images:
            self._images[data] = _Image(data)
            self.total_bytes += len(data)
        image = self._images[data]
        image.requests += 1
        return image.data

    def _let_go(self, image: _Image) -> None:
        image.requests -= 1
        if not image.requests:
            del self._images[image.data]
            self.total_bytes -= len(image.data)
