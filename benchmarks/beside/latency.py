"""A server's latencies where there are none: a proxy that holds each sample back for its time.

A sampling request of a cluster takes seconds that are about log-normal: most are quick and a few
take many times as long. The engine behind the proxy computes as ever; an answer leaves when both it
is computed and its modelled time is over. The n-th request of a step's burst has the same time
whoever asks, so two programs meet the same latencies.
"""

import asyncio
import json
import math
import random
import time
from dataclasses import dataclass

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PREFIX = "/api/v1"
POLL_S = 20.0
"""A poll is held no longer than this: clients give a connection up after some 45 s."""

METHODS = ["GET", "POST", "PUT", "DELETE"]
_OF_THE_HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class LogNormal:
    """Seconds with this median; `spread` is the standard deviation of their logarithm."""

    median_s: float
    spread: float
    seed: int = 0

    def seconds(self, number: int) -> float:
        """Of the `number`-th request."""
        return self.median_s * math.exp(
            random.Random(f"{self.seed} {number}").gauss(0.0, self.spread)
        )


class Held:
    """The proxy's routes, and when each sample may leave."""

    def __init__(self, upstream: str, times: LogNormal) -> None:
        self._times = times
        self._due: dict[str, float] = {}
        self._number = 0
        self._client = httpx.AsyncClient(
            base_url=upstream, timeout=300, trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )  # fmt: skip
        route = Route("/{path:path}", self._forward, methods=METHODS)
        self.app = Starlette(routes=[route])

    async def _forward(self, request: Request) -> Response:
        body = await request.body()
        path = request.url.path
        if path == f"{PREFIX}/retrieve_future":
            due = self._due.get(json.loads(body).get("request_id", ""), 0.0)
            left = due - time.monotonic()
            await asyncio.sleep(max(0.0, min(left, POLL_S)))
            if left > POLL_S:
                waiting = {"type": "try_again", "request_id": "", "queue_state": "active"}
                return Response(json.dumps(waiting), 408, media_type="application/json")
        began = time.monotonic()
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _OF_THE_HOP]
        target = httpx.URL(path=path, query=request.url.query.encode())
        sent = self._client.build_request(request.method, target, headers=headers, content=body)
        answer = await self._client.send(sent, stream=True)
        # As it came over the wire: a compressed body stays one.
        raw = b"".join([piece async for piece in answer.aiter_raw()])
        await answer.aclose()
        if path == f"{PREFIX}/asample" and answer.is_success:
            self._due.setdefault(json.loads(raw)["request_id"], began + self._next_s())
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _OF_THE_HOP}
        return Response(raw, answer.status_code, kept)

    def _next_s(self) -> float:
        self._number += 1
        return self._times.seconds(self._number)

    def start_anew(self) -> None:
        """The next request is the first one again: the next program meets the same times."""
        self._number = 0
