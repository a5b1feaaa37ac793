"""Serving until it is asked to end: the server, and what it prints."""

import base64
import json
import secrets
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from visual_r1.backend.backend import Backend, open_backend
from visual_r1.config import RunConfig
from visual_r1.data.images import shown_image
from visual_r1.errors import ConfigError
from visual_r1.models.processor import load_processor
from visual_r1.printing import say
from visual_r1.prompts.chats import ChatPrompter
from visual_r1.request_heads import BoundedHeads
from visual_r1.serving.app import Endpoint, Model, make_app
from visual_r1.serving.samplers import Samplers

KEY_VARIABLE = "VISUAL_R1_SERVE_KEY"
HOST = "127.0.0.1"
KEEP_ALIVE_S = 300
"""Longer than clients keep idle connections, so that none is closed under a request."""


@dataclass(frozen=True, slots=True)
class Named:
    """What is to be served under a name: weights (None is the base model) by a configuration."""

    name: str
    path: str | None
    config: RunConfig


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How: `port` 0 lets the system choose; `wraps` asks as the run was trained."""

    port: int
    api_key: str
    wraps: bool


def fresh_key() -> str:
    """A key that nobody has."""
    return f"vr1-{secrets.token_urlsafe(24)}"


def bind(port: int) -> socket.socket:
    """Take the port. Raises `ConfigError` where it is in use."""
    # That it is TCP is said for asyncio, which then sends answers without Nagle's delay.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"Port {port} cannot be used ({error}): choose another with --port, or leave it out."
        ) from error
    return listener


def endpoint_of(backend: Backend, served: Sequence[Named], *, wraps: bool) -> Endpoint:
    """What serves `served` from a server in use, its samplers opened.

    Raises `ConfigError` where they are of several base models, and as `Backend.sampler`.
    """
    base = served[0].config.model
    for one in served[1:]:
        if one.config.model.name != base.name:
            raise ConfigError(
                f"{one.name} is over {one.config.model.name}, and {served[0].name} over "
                f"{base.name}: serve them by a command each."
            )
    processor = load_processor(base.name)
    models: dict[str, Model] = {}
    for one in served:
        settings = one.config.model
        template = one.config.prompt.template if wraps else None
        prompter = ChatPrompter(processor, settings.max_pixels, settings.thinking, template)
        longest = one.config.sampling.max_new_tokens
        models[one.name] = Model(one.name, one.path, prompter, longest)
    samplers = Samplers(backend, {one.name: one.path for one in served})
    samplers.open()
    return Endpoint(models, processor, samplers, backend.context_length(), base.name)


def serve(served: Sequence[Named], options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM. Raises `VisualR1Error` where it cannot start."""
    listener = bind(options.port)
    try:
        with open_backend(served[0].config) as backend:
            backend.begin(trains=False)
            endpoint = endpoint_of(backend, served, wraps=options.wraps)
            url = f"http://{HOST}:{listener.getsockname()[1]}"
            say(announcement(url, options.api_key, endpoint.models, wraps=options.wraps))
            server_of(endpoint, options.api_key).run(sockets=[listener])
    finally:
        listener.close()


def server_of(endpoint: Endpoint, api_key: str) -> uvicorn.Server:
    """What serves it over HTTP."""
    config = uvicorn.Config(
        make_app(endpoint, api_key),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http=BoundedHeads,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def announcement(url: str, key: str, models: Mapping[str, Model], *, wraps: bool) -> str:
    """What is printed: the address, the key, and a request that works as it stands."""
    first, *others = models
    lines = [f"serving {first} on {url}/v1"]
    lines += [f"serving {name} as well" for name in others]
    asked = "What is the length of AB?"
    if wraps:
        lines.append("The last message is asked in the run's own prompt template.")
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_figure()}"}},
        {"type": "text", "text": asked},
    ]
    body = {"model": first, "messages": [{"role": "user", "content": content}], "temperature": 0}
    lines += [
        "",
        f"    export OPENAI_BASE_URL={url}/v1",
        f"    export OPENAI_API_KEY={key}",
        "",
        f"    curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\",
        "      -H 'Content-Type: application/json' \\",
        f"      -d {shlex.quote(json.dumps(body))}",
        "",
        f"This machine alone is answered (port {urlsplit(url).port}). Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _figure() -> str:
    """A small triangle, as a data: URL has it."""
    rows = [[x > y or y > 60 or x < 3 for x in range(64)] for y in range(64)]
    bits = "".join("0" if black else "1" for row in rows for black in row)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return base64.b64encode(shown_image(b"P4 64 64\n" + packed)).decode()
