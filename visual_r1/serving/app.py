"""The endpoint as an ASGI application: OpenAI's routes behind a key, for this machine alone.

A request under another name of the host is refused, for a page on the web may ask a browser to send
one, and so is one without the key; no other origin is told that it may read an answer. What a
client sends is bounded, and so is how many are answered at a time. A client that goes takes its
request with it.
"""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import tinker
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from visual_r1.errors import (
    BackendError,
    ConfigError,
    CredentialError,
    DataError,
    RequestRefused,
    VisualR1Error,
)
from visual_r1.models.processor import Processor
from visual_r1.prompts.chats import ChatPrompter
from visual_r1.serving.answers import Completion, answer_of, beginning
from visual_r1.serving.refusals import (
    GONE,
    NO_KEY,
    NO_METHOD,
    NOT_FOUND,
    SERVER_FAILED,
    TOO_LARGE,
    TOO_MANY,
    UNAVAILABLE,
    WRONG_HOST,
    Refusal,
    invalid,
)
from visual_r1.serving.requests import ChatRequest, messages_of, read_request, too_long
from visual_r1.serving.samplers import Samplers, Wish, unless_gone

MOST_BYTES = 64 * 2**20
MOST_AT_ONCE = 64
MOST_WAITING = 256
STILL_THERE_S = 15.0
"""So often a stream says that it is waiting, for clients that give up on silence."""

OPEN_PATHS = ("/health",)
HOSTS = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients may name.

    `path` are its weights on the server, None those of the base model; `longest` is how many
    tokens an answer has at most where the client does not say.
    """

    name: str
    path: str | None
    prompter: ChatPrompter
    longest: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is served: models by name, all over one base model.

    `context` is how many tokens that one's context holds; None where the server does not say.
    """

    models: Mapping[str, Model]
    processor: Processor
    samplers: Samplers
    context: int | None
    base_model: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that can be sent."""

    request: ChatRequest
    model: Model
    wish: Wish


_Work = asyncio.Task[tinker.SampleResponse]


class _Turnstile:
    """So many requests are at the server at a time; of those that wait, so many at most."""

    def __init__(self) -> None:
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        self._inside: set[_Work] = set()

    def begin(self, ask: Callable[[], Coroutine[Any, Any, tinker.SampleResponse]]) -> _Work:
        """`ask` as a task, when its turn comes. Raises `Refusal` where too many wait for theirs."""
        if len(self._inside) >= MOST_AT_ONCE + MOST_WAITING:
            raise Refusal(
                TOO_MANY, f"{MOST_WAITING} requests wait already: try again.", "rate_limit_exceeded"
            )

        async def in_turn() -> tinker.SampleResponse:
            async with self._at_once:
                return await ask()

        work = asyncio.create_task(in_turn())
        self._inside.add(work)
        # Not within the task: one that is cancelled before it has begun runs no line of its own.
        work.add_done_callback(self._ended)
        return work

    def _ended(self, work: _Work) -> None:
        self._inside.discard(work)
        if not work.cancelled():
            work.exception()  # where the client has gone nobody asks for it


class _Stream(StreamingResponse):
    """The events of a stream; however it ends, `work` ends with it."""

    def __init__(self, events: AsyncIterator[str], work: _Work) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The generator of a client that has gone before the head was sent is never begun.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.cancel()


def _listed(endpoint: Endpoint, started: int, model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": started,
        "owned_by": "visual-r1",
        "root": model.path or endpoint.base_model,
        "max_model_len": endpoint.context,
    }


def make_app(endpoint: Endpoint, api_key: str) -> Starlette:
    """The application that serves `endpoint` to whoever has the key."""
    turnstile = _Turnstile()
    listed = partial(_listed, endpoint, int(time.time()))

    def models(_: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [listed(one) for one in endpoint.models.values()]}
        )

    def model(request: Request) -> Response:
        return JSONResponse(listed(_model_of(endpoint, request.path_params["name"])))

    async def health(_: Request) -> Response:
        try:
            await asyncio.to_thread(endpoint.samplers.look)
        except BackendError:
            return JSONResponse({"status": "the Tinker server has died"}, UNAVAILABLE)
        return JSONResponse({"status": "ok"})

    async def chat(request: Request) -> Response:
        asked = await _asked(endpoint, await _body(request))
        # A stream has to have its place too before its head is sent, which says 200.
        work = turnstile.begin(lambda: endpoint.samplers.ask(asked.model.name, asked.wish))
        if asked.request.stream:
            return _Stream(_events(endpoint, asked, work), work)
        gone: Callable[[], Any] = request.is_disconnected
        reply = await unless_gone(work, gone)
        if reply is None:
            return Response(status_code=GONE)
        return JSONResponse(_completion(endpoint, asked, reply, *_named()).to_json())

    def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal | VisualR1Error)
        return refusal_of(error).response()

    def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=GONE)

    def unserved(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = f"{request.method} {request.url.path} is not served: see /v1/models and the docs."
        code = "method_not_allowed" if error.status_code == NO_METHOD else "not_found"
        return Refusal(error.status_code, said, code).response()

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={
            Refusal: failed,
            VisualR1Error: failed,
            HTTPException: unserved,
            ClientDisconnect: gone,
        },
    )
    app.add_middleware(_Gate, api_key=api_key)
    return app


def refusal_of(error: Refusal | VisualR1Error) -> Refusal:
    """What a client is told of an error."""
    match error:
        case Refusal():
            return error
        case RequestRefused() | DataError() | ConfigError():
            return invalid(str(error), "messages", "invalid_request")
        case CredentialError():
            # The client's own key is right: it must not look for another.
            return Refusal(UNAVAILABLE, str(error), "no_credentials")
        case BackendError():
            return Refusal(UNAVAILABLE, str(error), "server_unavailable")
        case _:
            return Refusal(SERVER_FAILED, str(error), "server_failed")


def _model_of(endpoint: Endpoint, name: str) -> Model:
    found = endpoint.models.get(name)
    if found is None:
        there = ", ".join(endpoint.models)
        raise Refusal(
            *(NOT_FOUND, f"There is no model {name!r} here; there is {there}."),
            *("model_not_found", "model"),
        )
    return found


async def _body(request: Request) -> bytes:
    """The body, as far as it is small enough; the rest of a larger one is thrown away."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size <= MOST_BYTES:
            pieces.append(piece)
        elif size > 4 * MOST_BYTES:
            break
    if size > MOST_BYTES:
        raise Refusal(
            TOO_LARGE,
            f"The request has more than {MOST_BYTES} bytes: send fewer or smaller images.",
            "request_too_large",
        )
    return b"".join(pieces)


async def _asked(endpoint: Endpoint, body: bytes) -> _Asked:
    request = await asyncio.to_thread(read_request, body)
    model = _model_of(endpoint, request.model)
    prompt = await asyncio.to_thread(lambda: model.prompter.model_input(messages_of(request)))
    longest = request.longest or model.longest
    if endpoint.context is not None:
        room = endpoint.context - prompt.length
        if room < (request.longest or 1):
            raise too_long(prompt.length, request.longest or 1, endpoint.context)
        longest = min(longest, room)
    params = tinker.SamplingParams(
        max_tokens=longest,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or -1,
        seed=request.seed,
        # Beside texts a server ends at the model's own end as well; both kinds it does not take.
        stop=request.stops or endpoint.processor.stop_token_ids,
    )
    return _Asked(request, model, Wish(prompt, request.answers, params, request.top_logprobs or 0))


def _named() -> tuple[str, int]:
    """The id and time of a completion."""
    return f"chatcmpl-{secrets.token_hex(12)}", int(time.time())


def _completion(
    endpoint: Endpoint, asked: _Asked, reply: tinker.SampleResponse, id: str, created: int
) -> Completion:
    request, wish = asked.request, asked.wish
    if len(reply.sequences) != wish.samples:
        raise Refusal(
            SERVER_FAILED,
            f"The server returned {len(reply.sequences)} of {wish.samples} answers.",
            "answers_missing",
        )
    if wish.top_logprobs and any(one.topk_logprobs is None for one in reply.sequences):
        raise Refusal(
            SERVER_FAILED,
            "The server returned no likeliest tokens: leave top_logprobs out.",
            *("no_top_logprobs", "top_logprobs"),
        )
    logprobs = bool(request.logprobs)
    answers = [
        answer_of(endpoint.processor, one, request.stops, logprobs=logprobs)
        for one in reply.sequences
    ]
    return Completion(
        *(id, created, asked.model.name, endpoint.processor, tuple(answers), logprobs),
        prompt_tokens=wish.prompt.length,
        cached_tokens=reply.prompt_cache_hit_tokens,
    )


async def _events(endpoint: Endpoint, asked: _Asked, work: _Work) -> AsyncIterator[str]:
    """The events of a stream. What goes wrong now has a status no more: it is the last event."""
    id, created = _named()
    for chunk in beginning(id, created, asked.model.name, asked.wish.samples):
        yield _event(chunk)
    try:
        while not (await asyncio.wait([work], timeout=STILL_THERE_S))[0]:
            yield ": waiting for the whole answer\n\n"
        completion = _completion(endpoint, asked, work.result(), id, created)
    except (Refusal, VisualR1Error) as error:
        yield _event(refusal_of(error).to_json())
        return
    options = asked.request.stream_options
    for chunk in completion.chunks(usage=options is not None and options.include_usage):
        yield _event(chunk)
    yield "data: [DONE]\n\n"


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, allow_nan=False)}\n\n"


class _Gate:
    """ASGI middleware: the host's own names, then the key."""

    def __init__(self, app: ASGIApp, api_key: str, hosts: Sequence[str] = HOSTS) -> None:
        self._app, self._hosts = app, hosts
        self._authorization = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refused(scope)) is not None:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> Refusal | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name, colon, port = host.rpartition(":")
        if (name if colon and port.isdigit() else host) not in self._hosts:
            said = f"This server is for its own machine: the host is {host!r}, not 127.0.0.1."
            return Refusal(WRONG_HOST, said, "wrong_host")
        given = headers.get(b"authorization", b"")
        if scope["path"] in OPEN_PATHS or hmac.compare_digest(given, self._authorization):
            return None
        return Refusal(
            NO_KEY,
            "The key is missing or wrong: Authorization: Bearer KEY, with the key that the server "
            "printed when it started.",
            "invalid_api_key",
        )
