"""The one thread for computing, shared in turn; and what failures become."""

import asyncio
import json
from concurrent.futures import Future

import pytest

from visual_r1.engine.server.futures import FutureTable, Reply, failure_of, json_reply
from visual_r1.engine.server.worker import Work, Worker
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import StorageError


class Letters:
    """A source that writes its name for each piece of work, which takes a while by `clock`."""

    def __init__(
        self, name: str, pieces: int, clock: "Clock", client: str = "", takes_s: float = 1
    ):
        self.name = name
        self.left = pieces
        self.clock = clock
        self.takes_s = takes_s
        self.shares = {client or name: 1.0}

    def take(self) -> Work | None:
        if not self.left:
            return None
        self.left -= 1
        return Work(self.write, lambda _: None)

    def write(self) -> None:
        self.clock.written.append(self.name)
        self.clock.now_s += self.takes_s


class Clock:
    """What was written by now, and how late it is."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def played(*sources: Letters, late: Letters | None = None, after: int = 0) -> str:
    """In which order the worker serves them; `late` comes when so many pieces are done."""

    async def play() -> str:
        clock = sources[0].clock
        worker = Worker(clock)
        pieces = sum(one.left for one in sources) + (late.left if late else 0)
        for source in sources:
            worker.poke(source)
        serving = asyncio.create_task(worker.serve())
        came = late is None
        while len(clock.written) < pieces:
            await asyncio.sleep(0)
            if late and not came and len(clock.written) >= after:
                worker.poke(late)
                came = True
        serving.cancel()
        return "".join(clock.written)

    return asyncio.run(play())


def test_clients_take_turns() -> None:
    clock = Clock()
    a, b, c = (Letters(name, n, clock) for name, n in (("a", 4), ("b", 2), ("c", 1)))
    assert played(a, b, c) == "abcabaa"


def test_a_client_gets_no_more_for_having_many_sources() -> None:
    clock = Clock()
    many = [Letters(name, 2, clock, client="many") for name in "abcd"]
    order = played(*many, Letters("x", 8, clock))
    assert order == "axbxcxdxaxbxcxdx"


def test_time_counts_and_not_pieces() -> None:
    clock = Clock()
    train, sample = Letters("T", 3, clock, "one", 1.0), Letters("s", 12, clock, "one", 0.25)
    assert played(train, sample) == "TssssTssssTssss"


def test_who_was_idle_has_saved_nothing() -> None:
    clock = Clock()
    order = played(Letters("a", 20, clock), late=Letters("b", 5, clock), after=10)
    # Two at most: one that was at work when b came, one for which the worker was poked already.
    first = order.index("b")
    assert first <= 12 and order[first : first + 9] == "babababab"


def test_a_piece_for_several_clients_is_charged_to_each_by_its_share() -> None:
    clock = Clock()
    shared = Letters("s", 4, clock)
    shared.shares = {"one": 0.25, "two": 0.75}
    order = played(shared, Letters("1", 4, clock, "one"), Letters("2", 4, clock, "two"))
    # Of four seconds each, what was charged for the shared pieces is taken off.
    assert order.count("s") == 4 and order.index("2") > order.index("1")


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


def test_samples_that_nobody_fetches_are_bounded_by_bytes_and_training_is_not() -> None:
    async def play() -> None:
        table = FutureTable(unfetched_bytes=250)
        table.open("trained", "it")[0].settle(Reply(bytes(1000)))
        for name in ("a", "b", "c"):
            table.open(name, "it", repeatable=True)[0].settle(Reply(bytes(100)))
        open_one, _ = table.open("open", "it", repeatable=True)
        now = asyncio.get_running_loop().time()
        table.sweep(now + 50)
        assert table.get("a")
        table.sweep(now + 70)
        names = ("trained", "a", "b", "c", "open")
        assert [name for name in names if table.get(name)] == ["trained", "b", "c", "open"]
        assert table.get("open") is open_one

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
