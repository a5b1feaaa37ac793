"""The bodies of requests: measured while they arrive, and read away from the event loop.

This is the border. What comes past it holds text that can be written down and numbers that can be
computed with, however it was spelt; what does not is refused here in a sentence.

How large a body may be follows from the model. A request in JSON is a prompt, of as many tokens as
the context holds at most, and numbers beside it; in lists and objects it has a few for each piece
of the prompt. What has more makes no sense, and would take thirty times its size in memory: it is
refused while it arrives, before any of it is read.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visual_r1.engine.types import InvalidRequest
from visual_r1.hashing import content_digest

Result = TypeVar("Result")

VALUES_A_TOKEN = 32
"""A prompt's token, and of a sample request up to 15 targets in its place, each an id and where it
stands."""
LISTS_A_TOKEN = 2
"""A piece of a prompt is an object that holds a list, and has a token at least."""
OF_OTHER_THINGS = 4096
"""Values and lists that are no part of a prompt: settings, stop strings, metadata."""

READ_AT_ONCE = 2**16
"""Bytes that are read on the event loop, in milliseconds; what is larger goes to a thread."""

INTEGERS = range(-(2**63), 2**63)

_DRAINED_AT_MOST = 1 << 30
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b",[{")


@dataclass(frozen=True)
class Body:
    """A request's body in JSON."""

    content: dict[str, Any]
    digest: str
    """Of the bytes as they came: those of a repetition are the same."""
    is_large: bool


async def read_body(request: Request) -> Body:
    """Read a JSON object. Raises `InvalidRequest` where it is none, or holds what cannot be."""
    data = await request.body()
    is_large = len(data) > READ_AT_ONCE
    return await off_loop(lambda: Body(parse_json(data), content_digest(data), is_large), is_large)


async def off_loop(work: Callable[[], Result], is_large: bool) -> Result:
    """The result of `work`: of what is large from a thread, which costs more than what is small."""
    return await asyncio.to_thread(work) if is_large else work()


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Strict: UTF-8, no lone surrogates, no NaN, a depth of 200 at most, finite numbers, whole numbers
    of 64 bits. Raises `InvalidRequest`.
    """
    try:
        content: object = from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"the body is JSON, but a {type(content).__name__} and no object.")
    whole = cast("dict[str, Any]", content)
    _require_numbers(whole)
    return whole


def _require_numbers(content: object) -> None:
    """Raise `InvalidRequest` on a number that is beyond what 64 bits hold."""
    values: Iterable[object] = [content]
    while values:
        # Whole lists at a time: a prompt is one list of whole numbers.
        of_type: dict[type, list[Any]] = {}
        for value in values:
            of_type.setdefault(type(value), []).append(value)
        integers, floats = of_type.get(int, []), of_type.get(float, [])
        for extreme in (min(integers, default=0), max(integers, default=0)):
            if extreme not in INTEGERS:
                digits = len(str(abs(extreme)))
                raise InvalidRequest(
                    f"the body holds a whole number of {digits} digits; they have 64 bits here."
                )
        if not all(map(math.isfinite, floats)):
            raise InvalidRequest(
                "the body holds a number that is too large to be one (beyond 1.8e308)."
            )
        inner: list[object] = []
        for one in of_type.get(list, []):
            inner += one
        for one in of_type.get(dict, []):
            inner += one.values()
        values = inner


class BodyLimit:
    """ASGI middleware: 413 for a body that is too large, announced or not, in bytes or in what it
    holds; the body is never held."""

    def __init__(self, app: ASGIApp, limit: int, context_length: int, binary: str) -> None:
        """`limit` bytes; `binary` is the path whose body is no JSON."""
        self._app = app
        self._limit = limit
        self._binary = binary
        self._most_values = VALUES_A_TOKEN * context_length + OF_OTHER_THINGS
        self._most_lists = LISTS_A_TOKEN * context_length + OF_OTHER_THINGS
        self._too_large = (
            f"the request has more than {limit} bytes: "
            "send fewer or smaller images or data in one request."
        )
        self._too_much = (
            f"the request holds more than {self._most_values} values, or {self._most_lists} lists "
            f"and objects, and the model's context has {context_length} tokens: no prompt needs so "
            "many; send a shorter one, or fewer targets at a time."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._limit:
            await _drain(receive)
            await JSONResponse({"detail": self._too_large}, 413)(scope, receive, send)
            return
        is_json = scope["path"] != self._binary
        received = values = lists = 0

        async def counted() -> Message:
            nonlocal received, values, lists
            message = await receive()
            piece = message.get("body", b"")
            received += len(piece)
            too_much = self._too_large if received > self._limit else ""
            if is_json and not too_much:
                # Commas in texts count too: there are few. Base64 has none.
                structure = piece.translate(None, _NOT_STRUCTURE)
                commas = structure.count(b",")
                values += commas
                lists += len(structure) - commas
                if values > self._most_values or lists > self._most_lists:
                    too_much = self._too_much
            if too_much:
                if message.get("more_body", False):
                    await _drain(receive)
                raise HTTPException(413, too_much)
            return message

        await self._app(scope, counted, send)


async def _drain(receive: Receive) -> None:
    """Read the rest and throw it away.

    A client whose connection is cut while it sends takes that for a lost connection and sends
    everything again.
    """
    drained = 0
    while drained < _DRAINED_AT_MOST:
        message = await receive()
        drained += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
