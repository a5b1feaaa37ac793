"""An engine that serves for weeks: what it lets go of, and what a late client is told."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import httpx
import pytest
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto

from visual_r1.engine.compute.compute import Adapter, Compute, FrozenWeights
from visual_r1.engine.server.app import make_app
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.store.store import Store

KEY = "tml-here"
MINUTE = 60.0
HOUR = 3600.0


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


Play = Callable[[Callable[[Client], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def play(compute: Compute, tmp_path: Path) -> Play:
    """Runs a story with a client of an engine that has its home for itself."""

    @contextlib.asynccontextmanager
    async def served(loop: Loop) -> AsyncIterator[Client]:
        clock = lambda: datetime.now(UTC) + timedelta(seconds=loop.ahead_s)  # noqa: E731
        store = Store(tmp_path / "home", clock)
        engine = Engine(compute, store)
        transport = httpx.ASGITransport(app=make_app(engine, KEY))
        working = asyncio.create_task(engine.worker.serve())
        url, headers = "http://engine/api/v1/", {"X-API-Key": KEY}
        async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as http:
            yield Client(engine, loop, http)
        working.cancel()
        store.close()

    def run(story: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        async def told() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            async with served(loop) as client:
                await story(client)

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(told())

    return run


def held(engine: Engine) -> int:
    """How many objects the engine holds, but for the model and what stands on the disk."""
    shared = (type, ModuleType, FunctionType, BuiltinFunctionType, ThreadPoolExecutor)
    shared += (asyncio.AbstractEventLoop, type(threading.Lock()))
    seen = {id(engine.compute), id(engine.store)}
    left: list[Any] = [engine]
    count = 0
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, shared):
            seen.add(id(one))
            count += 1
            left += gc.get_referents(one)
    return count


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(one) is kind for one in gc.get_objects())


def test_what_an_engine_holds_does_not_grow_with_the_sessions_that_ended(play: Play) -> None:
    async def story(client: Client) -> None:
        engine = client.engine
        first = await client.session()
        path = await client.save_named(await client.model(first), 1)
        await client.finish(first)

        async def sessions(count: int) -> int:
            for number in range(count):
                session = await client.session()
                await client.sampler(session, path)
                if number % 7 == 0:
                    await client.step(session)
                    named = (await client.sampler(session, path)).json()["sampling_session_id"]
                    await client.result(await client.sample(named))
                if number % 10 == 0:
                    key = {"X-Idempotency-Key": session}
                    copy = {"source_path": path, "session_id": session, "model_seq_id": 1}
                    await client.post("copy_weights", copy, headers=key)
                if number % 3:
                    await client.finish(session)  # the others go without a word
            await client.later(HOUR + MINUTE)
            await client.later(HOUR + MINUTE)
            # What waits for the worker thread is done when this is.
            await asyncio.wrap_future(engine.worker.call(lambda: None))
            assert not list(engine.store.home.ephemeral.iterdir())
            assert (alive(FrozenWeights), alive(Adapter)) == (0, 0)
            return held(engine)

        few = await sessions(20)
        assert await sessions(280) == few

    play(story)


def test_what_a_client_is_told_that_comes_late(play: Play) -> None:
    async def story(client: Client) -> None:
        session = await client.session()
        model, sampler = await client.step(session)
        path = await client.save_named(model, 4)
        await client.finish(session)
        over = f"the session {session} is over: its client finished it."
        step = {"request_id": f"{model}:2"}

        await client.later(30)  # the answer was lost on its way, and is asked for again
        metrics = await client.result(step)
        assert metrics["metrics"]

        await client.later(5 * MINUTE)  # as long as the SDK repeats a POST
        assert await client.result(await client.optim_step(model, 2)) == metrics
        gone = await client.call("retrieve_future", {"request_id": f"{model}:1"})
        assert gone.status_code == 410 and "fetched long ago" in gone.json()["detail"]
        for repeated in (
            client.forward_backward(model, 1),
            client.optim_step(model, 4),
            client.save_unnamed(model, 3),
            client.sample(sampler),
        ):
            assert "its session is over" in await client.failure(await repeated)
        assert await client.failure(await client.create_model(session)) == over
        for refused in (
            await client.sampler(session, path),
            await client.call("session_heartbeat", {"session_id": session}),
        ):
            assert (refused.status_code, refused.json()["detail"]) == (410, over)
        await client.finish(session)

        await client.later(HOUR)
        late = await client.call("session_heartbeat", {"session_id": session})
        assert late.status_code == 404 and "not known to this engine" in late.json()["detail"]
        # What was written down stays.
        assert [one.session_id for one in client.engine.store.sessions()] == [session]
        assert [one.model_id for one in client.engine.store.runs()] == [model]

    play(story)


def test_what_a_client_is_told_that_slept(play: Play) -> None:
    async def story(client: Client) -> None:
        session = await client.session()
        await client.later(HOUR - MINUTE)
        await client.post("session_heartbeat", {"session_id": session})
        await client.later(HOUR + 1)
        told = await client.call("session_heartbeat", {"session_id": session})
        assert told.status_code == 410
        assert told.json()["detail"].endswith("is over: no heartbeat came for an hour.")

    play(story)


def test_a_session_that_ends_before_its_model_is_made_says_so(play: Play) -> None:
    async def story(client: Client) -> None:
        session = await client.session()
        busy = threading.Event()
        client.engine.worker.call(busy.wait)
        first = await client.create_model(session)  # taken by the worker, behind what it does
        other = await client.session()
        waiting = await client.create_model(other)
        await client.finish(other)
        busy.set()
        assert (await client.result(first))["model_id"] == f"{session}:train:0"
        assert "is over: its client finished it" in await client.failure(waiting)

    play(story)


def test_a_repeated_post_of_an_open_session_gets_its_answer(play: Play) -> None:
    async def story(client: Client) -> None:
        session = await client.session()
        model, _ = await client.step(session)
        metrics = await client.result({"request_id": f"{model}:2"})
        await client.later(5 * MINUTE)
        assert await client.result(await client.optim_step(model, 2)) == metrics
        path = await client.save_named(model, 4)
        copy = {"source_path": path, "destination_project_id": "p"}
        key = {"X-Idempotency-Key": "one"}
        copied = await client.post("copy_weights", copy, headers=key)
        await client.later(5 * MINUTE)
        assert await client.post("copy_weights", copy, headers=key) == copied
        await client.later(6 * MINUTE)
        assert await client.post("copy_weights", copy, headers=key) != copied

    play(story)


def test_weights_of_a_checkpoint_stay_in_memory_while_a_session_samples_from_it(
    play: Play,
) -> None:
    async def story(client: Client) -> None:
        first, second = [await client.session() for _ in range(2)]
        path = await client.save_named(await client.model(first), 1)
        for session in (first, second):
            sampler = (await client.sampler(session, path)).json()["sampling_session_id"]
            await client.result(await client.sample(sampler))
        kept: list[int] = []
        for session in (first, second):
            await client.finish(session)
            await asyncio.wrap_future(client.engine.worker.call(lambda: None))
            kept.append(alive(FrozenWeights))
        assert kept == [1, 0]

    play(story)


@contextlib.contextmanager
def waiting(owner: Any, name: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The method's calls set the first event, and wait for the second."""
    called, go, method = threading.Event(), threading.Event(), getattr(owner, name)

    def slow(*given: Any) -> Any:
        called.set()
        assert go.wait(30)
        return method(*given)

    setattr(owner, name, slow)
    try:
        yield called, go
    finally:
        go.set()
        delattr(owner, name)


def test_a_sweep_ends_no_session_that_is_finished_or_heard_of_meanwhile(play: Play) -> None:
    async def story(client: Client) -> None:
        first, second, third = [await client.session() for _ in range(3)]
        await client.model(second)
        client.forward(HOUR + 1)
        with waiting(client.engine.store, "update_session") as (called, go):
            sweeping = asyncio.create_task(client.engine.sweep())
            await asyncio.to_thread(called.wait)
            assert (await client.heartbeat(first)).status_code == 410
            finishing = asyncio.create_task(client.finish(second))
            assert (await client.heartbeat(third)).status_code == 200
            go.set()
            await asyncio.gather(sweeping, finishing)
        assert "its client finished it" in (await client.heartbeat(second)).text
        assert (await client.heartbeat(third)).status_code == 200

    play(story)


def test_a_session_that_ends_while_its_model_is_made_is_written_down_as_ended(play: Play) -> None:
    async def story(client: Client) -> None:
        session = await client.session()
        with waiting(client.engine.compute, "new_adapter") as (called, go):
            creating = await client.create_model(session)
            await asyncio.to_thread(called.wait)
            await client.finish(session)
            go.set()
            await client.result(creating)
        [record] = client.engine.store.sessions()
        assert record.end is not None

    play(story)
