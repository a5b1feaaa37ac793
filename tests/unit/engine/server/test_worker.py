"""The one thread for computing, shared in turn; and what failures become."""

import asyncio
import json
from collections import deque
from concurrent.futures import Future
from functools import partial

import pytest

from visual_r1.engine.server.futures import FutureTable, Reply, failure_of, json_reply
from visual_r1.engine.server.worker import Work, Worker
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import StorageError


class Letters:
    """A source that writes its name for each piece of work."""

    def __init__(self, name: str, count: int, written: list[str]) -> None:
        self.left = deque([name] * count)
        self.written = written

    async def take(self) -> Work | None:
        if not self.left:
            return None
        return Work(partial(self.written.append, self.left.popleft()), lambda _: None)


def test_sources_take_turns() -> None:
    async def play() -> list[str]:
        written: list[str] = []
        worker = Worker()
        serving = asyncio.create_task(worker.serve())
        for name, count in (("a", 4), ("b", 2), ("c", 1)):
            worker.poke(Letters(name, count, written))
        while len(written) < 7:
            await asyncio.sleep(0)
        serving.cancel()
        return written

    assert "".join(asyncio.run(play())) == "abcabaa"


def outcome(error: Exception | None) -> "Future[str]":
    future: Future[str] = Future()
    if error is None:
        future.set_result("fine")
    else:
        future.set_exception(error)
    return future


def test_failures_have_the_category_of_their_cause(caplog: pytest.LogCaptureFixture) -> None:
    assert failure_of(outcome(None), "it") is None
    assert failure_of(outcome(InvalidRequest("wrong")), "it") == ("wrong", "user")
    assert failure_of(outcome(StorageError("full")), "it") == ("full", "user")
    assert "Traceback" not in caplog.text
    told = failure_of(outcome(RuntimeError("out of memory")), "sampling")
    assert told is not None and told[1] == "server"
    assert "sampling" in told[0] and "out of memory" in told[0]
    assert "RuntimeError" in caplog.text


def test_a_future_waits_is_settled_once_and_is_forgotten() -> None:
    async def play() -> None:
        table = FutureTable()
        future, new = table.open("id", "it")
        assert new and table.open("id", "it") == (future, False)
        assert await table.wait("id", 0.001) is None
        waiting = asyncio.create_task(table.wait("id", 30))
        await asyncio.sleep(0)
        future.settle(json_reply({"x": 1}))
        future.fail("too late")
        reply = await waiting
        assert reply is not None and json.loads(reply.body) == {"x": 1}
        assert await table.wait("id", 30) == reply
        table.sweep(asyncio.get_running_loop().time() + 10_000)
        with pytest.raises(KeyError):
            await table.wait("id", 30)

    asyncio.run(play())


def test_fetched_results_are_bounded_by_bytes_but_can_be_fetched_again_for_a_minute() -> None:
    async def play() -> None:
        table = FutureTable(fetched_bytes=250)
        for name in ("a", "b", "c", "unfetched"):
            table.open(name, "it")[0].settle(Reply(bytes(100)))
        for name in ("a", "b", "c", "a"):
            assert await table.wait(name, 1)
        now = asyncio.get_running_loop().time()
        table.sweep(now + 50)
        assert all(table.get(name) for name in ("a", "b", "c", "unfetched"))
        table.sweep(now + 70)
        # The one that was fetched first went; "a" was fetched again after it.
        assert [name for name in ("a", "b", "c", "unfetched") if table.get(name)] == [
            *("a", "c", "unfetched"),
        ]
        table.sweep(now + 700)
        assert table.get("a") is None and table.get("unfetched")
        table.sweep(now + 4000)
        assert table.get("unfetched") is None

    asyncio.run(play())


def test_the_results_of_a_finished_session_go_soon() -> None:
    async def play() -> None:
        table = FutureTable()
        for name in ("one:train:0:1", "two:train:0:1"):
            table.open(name, "it")[0].settle(Reply(b"x"))
        now = asyncio.get_running_loop().time()
        table.forget_session("one", now)
        table.sweep(now + 50)
        assert table.get("one:train:0:1")
        table.sweep(now + 70)
        assert table.get("one:train:0:1") is None and table.get("two:train:0:1")

    asyncio.run(play())


def test_those_who_wait_are_answered_when_the_server_stops() -> None:
    async def play() -> None:
        table = FutureTable()
        table.open("id", "it")
        waiting = asyncio.create_task(table.wait("id", 30))
        await asyncio.sleep(0)
        table.close()
        assert await asyncio.wait_for(waiting, 5) is None
        assert await asyncio.wait_for(table.wait("id", 30), 5) is None

    asyncio.run(play())
