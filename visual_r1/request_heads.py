"""What comes of a request without its body: bounded, since httptools reads a head, or what may
stand behind a body, for as long as it comes."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LIMIT_BYTES = 64 * 2**10
"""As uvicorn's other parser has it."""

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection on which more than `LIMIT_BYTES` came that completed nothing."""

    _unread = 0
    """Bytes since the last head, piece of a body or end of a request."""

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come, which `BodyLimit` counts."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._unread = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """A piece has come, of what asyncio reads at once."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > LIMIT_BYTES and not self.transport.is_closing():
            why = b'{"detail": "the head of the request has more than %d bytes."}' % LIMIT_BYTES
            self.transport.write(_REFUSAL % (len(why), why))
            self.transport.close()
