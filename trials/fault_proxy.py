"""An HTTP proxy between SDK and server that does what networks and servers do on bad days.

    with FaultProxy("http://127.0.0.1:4321", seed=0) as proxy:
        ...  # talk to proxy.url

The n-th request draws its fault from `seed`, so two runs meet the same sequence of faults; which
request is the n-th depends on the client's threads.
"""

import http.client
import http.server
import os
import random
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Literal

import httpx

Fault = Literal["429", "500", "408", "reset", "stall", "duplicate", "dropped"]

FAULTS: tuple[Fault, ...] = ("429", "500", "408", "reset", "stall", "duplicate", "dropped")
"""A status without any work done; a connection that breaks before the work; a pause before it; the
work asked for twice; and an answer lost after the work was done."""

Change = Callable[[str, httpx.Response], httpx.Response]
Rewrite = Callable[[str, bytes], bytes]


def unchanged(path: str, answer: httpx.Response) -> httpx.Response:
    """The server's own answer."""
    del path
    return answer


def as_sent(path: str, body: bytes) -> bytes:
    """The client's own request."""
    del path
    return body


# What belongs to one connection, and not to the message that goes over it.
_OF_THE_HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length"}


class FaultProxy:
    """Serves on a free loopback port while its block lasts; `faults` counts what it did."""

    def __init__(
        self,
        upstream: str,
        seed: int,
        share: float = 0.2,
        stall_s: float = 30.0,
        change: Change = unchanged,
        rewrite: Rewrite = as_sent,
    ) -> None:
        """`share` of all requests meet a fault; a stalled one waits for `stall_s` seconds.

        `change` makes of the path and the server's answer the one that the client gets, `rewrite`
        of the path and the client's request the one that the server gets.
        """
        self.change, self.rewrite = change, rewrite
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.stall_s = stall_s
        self._rng, self._share = random.Random(seed), share
        self._lock = threading.Lock()
        self.client = httpx.Client(
            base_url=upstream,
            timeout=300,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def draw(self) -> Fault | None:
        """What befalls the next request."""
        with self._lock:
            self.requests += 1
            hit = self._rng.random() < self._share
            fault = self._rng.choice(FAULTS)
            if hit:
                self.faults[fault] += 1
            return fault if hit else None

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.client.close()


def _raw(answer: httpx.Response) -> bytes:
    """The body as it came over the wire, compressed or not."""
    assert isinstance(answer.stream, httpx.ByteStream)
    return b"".join(answer.stream)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may hold a connection open for good
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is nothing to report."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = self.server.proxy.rewrite(self.path, body)
        fault = self.server.proxy.draw()
        match fault:
            case "429" | "500" | "408":
                self._answer(int(fault), b'{"detail": "injected"}', {})
                return
            case "reset":
                self._reset()
                return
            case "stall":
                time.sleep(self.server.proxy.stall_s)
            case "duplicate" if self.command == "POST":
                self._forward(body)
            case _:
                pass
        answer = self.server.proxy.change(self.path, self._forward(body))
        if fault == "dropped":
            self._reset()
            return
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in _OF_THE_HOP}
        self._answer(answer.status_code, _raw(answer), headers)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _forward(self, body: bytes) -> httpx.Response:
        client = self.server.proxy.client
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in _OF_THE_HOP]
        request = client.build_request(self.command, self.path, headers=headers, content=body)
        answer = client.send(request, stream=True)
        raw = b"".join(answer.iter_raw())
        answer.close()
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(raw)
        )

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status, http.client.responses.get(status, ""))
        for name, value in ({"content-type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)  # closing then sends RST in place of FIN
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())
