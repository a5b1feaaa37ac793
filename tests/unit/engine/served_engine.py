"""An engine in this process, a client that speaks the wire to it, and a clock to put forward."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Protocol

import httpx
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.server.app import make_app
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.held import HELD_BYTES
from visual_r1.engine.store.store import Store

KEY = "tml-here"


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Client:
    """Raw calls to an engine of this process, and its clock."""

    def __init__(self, engine: Engine, loop: Loop, http: httpx.AsyncClient) -> None:
        self.engine = engine
        self._loop = loop
        self._http = http

    async def call(self, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        return await self._http.post(path, json=body, **options)

    async def get(self, path: str) -> httpx.Response:
        return await self._http.get(path)

    async def post(self, path: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        response = await self.call(path, body, **options)
        assert response.status_code == 200, response.text
        return response.json()

    async def result(self, answer: dict[str, Any]) -> Any:
        """JSON as a dictionary, protobuf as bytes."""
        response = await self.call("retrieve_future", {"request_id": answer["request_id"]})
        assert response.status_code == 200, response.text
        json = response.headers["content-type"] == "application/json"
        return response.json() if json else response.content

    async def failure(self, answer: dict[str, Any]) -> str:
        """The sentence of a future that failed."""
        failed = await self.result(answer)
        assert failed["category"] == "user"
        return failed["error"]

    async def later(self, seconds: float) -> None:
        """Put the clock forward, and let the engine sweep."""
        self.forward(seconds)
        await self.engine.sweep()

    def forward(self, seconds: float) -> None:
        """Put the clock forward."""
        self._loop.ahead_s += seconds

    def heartbeat(self, session: str) -> Awaitable[httpx.Response]:
        return self.call("session_heartbeat", {"session_id": session})

    async def session(self) -> str:
        body = {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"}
        return (await self.post("create_session", body))["session_id"]

    async def finish(self, session: str) -> None:
        assert (await self.call(f"sessions/{session}/finish", {})).status_code == 204

    def create_model(self, session: str) -> Awaitable[dict[str, Any]]:
        body = {"session_id": session, "model_seq_id": 0, "lora_config": {"rank": 1, "seed": 3}}
        return self.post("create_model", body | {"base_model": self.engine.compute.model_name})

    async def model(self, session: str) -> str:
        return (await self.result(await self.create_model(session)))["model_id"]

    async def forward_backward(self, model: str, seq_id: int) -> dict[str, Any]:
        inputs = {"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]}
        prompt = types.ModelInput.from_ints([1, 2, 3])
        datum = types.Datum(model_input=prompt, loss_fn_inputs=inputs)  # type: ignore[arg-type]
        request = types.ForwardBackwardRequest(
            types.ForwardBackwardInput([datum], "cross_entropy"), model_id=model, seq_id=seq_id
        )
        body = forward_backward_request_to_proto(request).SerializeToString()
        return (await self._http.post("forward_backward", content=body)).json()

    def optim_step(self, model: str, seq_id: int) -> Awaitable[dict[str, Any]]:
        return self.post("optim_step", {"model_id": model, "seq_id": seq_id, "adam_params": {}})

    def save_unnamed(self, model: str, seq_id: int) -> Awaitable[dict[str, Any]]:
        body = {"model_id": model, "seq_id": seq_id, "sampling_session_seq_id": 0}
        return self.post("save_weights_for_sampler", body)

    async def save_named(self, model: str, seq_id: int) -> str:
        body = {"model_id": model, "seq_id": seq_id, "path": "kept"}
        return (await self.result(await self.post("save_weights_for_sampler", body)))["path"]

    def sample(self, sampler: str, seq_id: int = 1) -> Awaitable[dict[str, Any]]:
        prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]}
        body = {"sampling_session_id": sampler, "seq_id": seq_id, "prompt": prompt}
        return self.post("asample", body | {"sampling_params": {"max_tokens": 1, "seed": 1}})

    def sampler(self, session: str, path: str) -> Awaitable[httpx.Response]:
        body = {"session_id": session, "sampling_session_seq_id": 1, "model_path": path}
        return self.call("create_sampling_session", body)

    async def step(self, session: str) -> tuple[str, str]:
        """All that a step of training asks for; the model and its sampler."""
        model = await self.model(session)
        sent = [await self.forward_backward(model, 1), await self.optim_step(model, 2)]
        saved = await self.result(await self.save_unnamed(model, 3))
        sent.append(await self.sample(saved["sampling_session_id"]))
        for one in sent:
            await self.result(one)
        return model, saved["sampling_session_id"]


def held(engine: Engine) -> Iterator[Any]:
    """Each object that the engine holds once, but for the model and what stands on the disk."""
    shared = (type, ModuleType, FunctionType, BuiltinFunctionType, ThreadPoolExecutor)
    shared += (asyncio.AbstractEventLoop, type(threading.Lock()))
    seen = {id(engine.compute), id(engine.store)}
    left: list[Any] = [engine]
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, shared):
            seen.add(id(one))
            yield one
            left += gc.get_referents(one)


Story = Callable[[Client], Coroutine[Any, Any, None]]


class Play(Protocol):
    """See `play_with`."""

    def __call__(self, story: Story, held_bytes: int = HELD_BYTES) -> None: ...


@contextlib.asynccontextmanager
async def _served(
    compute: Compute, home: Path, loop: Loop, held_bytes: int
) -> AsyncIterator[Client]:
    clock = lambda: datetime.now(UTC) + timedelta(seconds=loop.ahead_s)  # noqa: E731
    store = Store(home, clock)
    engine = Engine(compute, store, held_bytes=held_bytes)
    transport = httpx.ASGITransport(app=make_app(engine, KEY))
    working = asyncio.create_task(engine.worker.serve())
    url, headers = "http://engine/api/v1/", {"X-API-Key": KEY}
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as http:
        yield Client(engine, loop, http)
    working.cancel()
    engine.stop_reading_ahead()
    store.close()


def play_with(compute: Compute, home: Path, story: Story, held_bytes: int = HELD_BYTES) -> None:
    """Run a story with a client of an engine that has its home for itself."""

    async def told() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        async with _served(compute, home, loop, held_bytes) as client:
            await story(client)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(told())
