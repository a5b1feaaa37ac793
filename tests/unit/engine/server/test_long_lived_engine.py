"""An engine that serves for weeks: what it lets go of, and what a late client is told."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

from served_engine import Client, Play, held

from visual_r1.engine.compute.compute import Adapter, FrozenWeights

MINUTE = 60.0
HOUR = 3600.0


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
            return sum(1 for _ in held(engine))

        few = await sessions(20)
        assert await sessions(70) == few

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
