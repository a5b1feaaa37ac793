"""Sample requests in an engine: who is next, what is held of them, and what goes wrong."""

import asyncio
import base64
import contextlib
import sys
import threading
from array import array
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from engine_material import png
from served_engine import Client, Play, held
from tinker import types
from tinker.proto.response_conv import deserialize_proto_response

from visual_r1.engine.compute.compute import Compute, FrozenWeights
from visual_r1.engine.compute.running import Progress, RunningBatch
from visual_r1.engine.server.bursts import EXPECTED_S, SETTLE_AT_MOST_S, SETTLE_S, Bursts, Settling
from visual_r1.engine.server.futures import Pending
from visual_r1.engine.server.held import HeldRequests, TooMuchHeld
from visual_r1.engine.server.places import MOST_AT_WORK, STAY_S, Places
from visual_r1.engine.server.queue import SampleQueue
from visual_r1.engine.server.sessions import BaseModelWeights, EphemeralWeights, SamplerSession
from visual_r1.engine.server.turns import SamplingParts
from visual_r1.engine.server.waiting import OpenJobs, SampleJob, WaitingJobs
from visual_r1.engine.server.weights import KEPT_IN_MEMORY
from visual_r1.engine.server.wire import ReplyForm
from visual_r1.engine.server.worker import Worker
from visual_r1.engine.types import (
    ImagePart,
    LoraSpec,
    Prompt,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
    TextPart,
)

TEXT = (TextPart((1, 2, 3)),)


def job(name: str, client: str, samples: int = 1, *images: bytes) -> SampleJob:
    prompt = (*TEXT, *map(ImagePart, images))
    request = SampleRequest(prompt, SamplingSettings(4), num_samples=samples)
    return SampleJob(request, ReplyForm(), Pending(name), client)


# -- who is next -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["the request", "the client", "all that wait"])
def test_who_comes_when_those_that_waited_were_dropped_has_a_share(way: str) -> None:
    jobs = OpenJobs()
    for name in ("a1", "b1"):
        jobs.add(job(name, name[0]))
    assert jobs.start(room=True, room_for_new=True)
    assert jobs.start(room=False, room_for_new=False) is None
    assert jobs.rows == {"a": 1}  # b waits, and there is no room
    if way == "the request":
        jobs.remove("b1")
    elif way == "the client":
        jobs.remove_client("b")
    else:
        jobs.remove_waiting()
    jobs.add(job("c1", "c"))
    assert jobs.rows == {"a": 1, "c": 1}


def test_the_client_with_the_fewest_samples_at_work_is_next() -> None:
    waiting = WaitingJobs()
    for name in ("a1", "a2", "a3", "b1", "c1"):
        waiting.add(job(name, name[0], samples=2))
    rows = {"b": 3}
    order: list[str] = []
    while (taken := waiting.take(rows)) is not None:
        rows[taken.client] = rows.get(taken.client, 0) + taken.rows
        order.append(taken.request_id)
    assert order == ["a1", "c1", "a2", "b1", "a3"] and not waiting


def test_one_client_only_is_taken_from_where_the_others_have_samples_at_work() -> None:
    waiting = WaitingJobs()
    for name in ("a1", "b1"):
        waiting.add(job(name, name[0]))
    taken = waiting.take({"a": 1}, only_new=True)
    assert taken is not None and taken.request_id == "b1"
    assert waiting.take({"a": 1, "b": 1}, only_new=True) is None
    assert waiting.remove("b1") is None and waiting.remove("a1") is not None and not waiting


def test_a_burst_is_over_when_as_many_have_come_as_the_time_before() -> None:
    bursts = Bursts()

    def came(count: int, at_s: float) -> float:
        """When the queue begins after so many requests, a millisecond apart."""
        settling = Settling(bursts)
        for number in range(count):
            bursts.note("client", at_s + number / 1000)
            settling.add("client", at_s + number / 1000)
        return round(settling.over_at_s - at_s, 6)

    assert came(4, 10) == pytest.approx(0.003 + SETTLE_S)
    assert came(4, 20) == 0.003
    assert came(2, 30) == pytest.approx(0.001 + EXPECTED_S)
    assert came(8, 40) == 0.007
    assert came(7, 50) == pytest.approx(0.006 + EXPECTED_S)
    assert came(1000, 60) == SETTLE_AT_MOST_S
    assert came(900, 70) == SETTLE_AT_MOST_S


def test_a_client_that_was_forgotten_within_a_burst_is_as_one_that_came_first() -> None:
    bursts = Bursts()
    settling = Settling(bursts)
    bursts.note("gone", 10)
    settling.add("gone", 10)
    bursts.forget(["live"])
    assert settling.over_at_s == 10 + SETTLE_S


# -- what is held ------------------------------------------------------------------------------


def test_an_image_of_many_requests_is_held_once_and_all_of_it_goes() -> None:
    held = HeldRequests()
    jobs = [job(f"{n}", "one", 1, bytes(bytearray(1000)), f"{n}".encode()) for n in range(5)]
    added = [held.add(one) for one in jobs]
    assert len({id(one.request.prompt[1].data) for one in added}) == 1  # type: ignore[union-attr]
    assert added[0].request.prompt[0] == TextPart(array("q", (1, 2, 3)))
    whole = held.total_bytes
    assert 1000 < whole - 5 * 4096 < 1500
    for one in added[:4]:
        held.release(one)
        held.release(one)  # cancelled, then complete
    assert held.total_bytes - 1000 == pytest.approx((whole - 1000) / 5)
    held.release(added[4])
    assert held.total_bytes == 0


def test_who_holds_less_than_a_part_is_not_refused_for_what_others_hold() -> None:
    held = HeldRequests(limit_bytes=20_000)
    for number in range(5):
        held.require_room("many")
        held.add(job(f"{number}", "many"))
    with pytest.raises(TooMuchHeld, match="5 sample requests are open"):
        held.require_room("many")
    for number in range(3):
        held.require_room("few")
        held.add(job(f"few {number}", "few"))
    with pytest.raises(TooMuchHeld):
        held.require_room("few")


# -- in an engine ------------------------------------------------------------------------------


def sample_body(sampler: str, seq_id: int, *images: bytes, **params: Any) -> dict[str, Any]:
    chunks: list[dict[str, Any]] = [{"type": "encoded_text", "tokens": [5, 6, 7]}]
    for image in images:
        data = base64.b64encode(image).decode()
        chunks.append({"type": "image", "data": data, "format": "png"})
    return {
        "sampling_session_id": sampler,
        "seq_id": seq_id,
        "num_samples": 2,
        "prompt": {"chunks": chunks},
        "sampling_params": {"max_tokens": 4, "seed": seq_id} | params,
    }


async def base_sampler(client: Client, session: str) -> str:
    body = {"session_id": session, "sampling_session_seq_id": 0}
    body |= {"base_model": client.engine.compute.model_name}
    return (await client.post("create_sampling_session", body))["sampling_session_id"]


def tokens_of(reply: bytes) -> list[list[int]]:
    response = deserialize_proto_response(reply, types.SampleResponse)
    return [list(sequence.tokens) for sequence in response.sequences]


@contextlib.asynccontextmanager
async def busy_worker(client: Client) -> AsyncIterator[None]:
    """The thread for computing has something to do until the end."""
    go = threading.Event()
    client.engine.worker.call(go.wait)
    try:
        yield
    finally:
        go.set()


def test_what_is_held_of_queued_requests_is_their_images_once_and_little_more(play: Play) -> None:
    async def story(client: Client) -> None:
        session = await client.session()
        sampler = await base_sampler(client, session)
        image = png(1) + bytes(200_000)
        async with busy_worker(client):
            await client.post("asample", sample_body(sampler, 0, image))
            # Added up, and not traced: `tracemalloc` crashes a process of several threads where it
            # stops (Python 3.11, CPython's issue 128679).
            began = sum(map(sys.getsizeof, held(client.engine)))
            for number in range(1, 101):
                await client.post("asample", sample_body(sampler, number, image))
            grown = sum(map(sys.getsizeof, held(client.engine))) - began
            assert grown < 100 * 10_000, grown
            await client.finish(session)
        assert client.engine.held.total_bytes == 0

    play(story)


def test_images_of_what_waits_are_prepared_while_others_compute(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ahead, told = Compute.read_ahead, threading.Event()

    def tell(compute: Compute, prompt: Prompt) -> None:
        read_ahead(compute, prompt)
        if len(prompt) == 2:
            told.set()

    monkeypatch.setattr(Compute, "read_ahead", tell)

    async def story(client: Client) -> None:
        sampler = await base_sampler(client, await client.session())
        async with busy_worker(client):
            sent = await client.post("asample", sample_body(sampler, 0, png(777)))
            assert await asyncio.to_thread(told.wait, 60)
        assert len(tokens_of(await client.result(sent))) == 2

    play(story)


def test_an_engine_that_ends_prepares_no_more_images(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go, read = threading.Event(), threading.Event(), list[Prompt]()

    def wait(_: Compute, prompt: Prompt) -> None:
        read.append(prompt)
        began.set()
        assert go.wait(60)

    monkeypatch.setattr(Compute, "read_ahead", wait)

    async def story(client: Client) -> None:
        sampler = await base_sampler(client, await client.session())
        async with busy_worker(client):
            for number in range(3):
                await client.post("asample", sample_body(sampler, number, png(number)))
            assert await asyncio.to_thread(began.wait, 60)
            client.engine.stop_reading_ahead()
            go.set()
            for thread in threading.enumerate():
                if thread.name.startswith("images"):
                    await asyncio.to_thread(thread.join, 60)
            assert len(read) == 1

    play(story)


def test_too_much_at_one_time_is_for_later_and_nothing_is_remembered_of_it(play: Play) -> None:
    async def story(client: Client) -> None:
        sampler = await base_sampler(client, await client.session())
        async with busy_worker(client):
            sent = [await client.post("asample", sample_body(sampler, n)) for n in range(3)]
            refused = await client.call("asample", sample_body(sampler, 3))
            assert refused.status_code == 429 and "send this one again" in refused.text
            assert await client.post("asample", sample_body(sampler, 2)) == sent[2]
        for one in sent:
            assert len(tokens_of(await client.result(one))) == 2
        again = await client.post("asample", sample_body(sampler, 3))
        assert len(tokens_of(await client.result(again))) == 2

    play(story, held_bytes=3 * 4096)


def test_a_request_that_breaks_a_turn_fails_and_those_beside_it_are_answered(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, advance = RunningBatch.admit, RunningBatch.advance
    broken: set[int] = set()

    def admit_any(batch: RunningBatch, request: SampleRequest) -> int:
        if request.settings.seed == 3:
            broken.add(id(batch))
        return admit(batch, request)

    def break_some(batch: RunningBatch, steps: int = 1) -> Progress:
        if id(batch) in broken:
            broken.discard(id(batch))
            raise RuntimeError("it broke")
        return advance(batch, steps)

    async def story(client: Client) -> None:
        sampler = await base_sampler(client, await client.session())
        whole = [await client.post("asample", sample_body(sampler, n)) for n in (0, 1, 2, 4)]
        before = [tokens_of(await client.result(one)) for one in whole]
        monkeypatch.setattr(RunningBatch, "admit", admit_any)
        monkeypatch.setattr(RunningBatch, "advance", break_some)
        other = await base_sampler(client, await client.session())
        sent = [await client.post("asample", sample_body(other, n)) for n in range(5)]
        results = [await client.result(one) for one in sent]
        assert [tokens_of(results[n]) for n in (0, 1, 2, 4)] == before
        assert results[3]["category"] == "server" and "it broke" in results[3]["error"]

    play(story)


def test_a_sweep_within_a_burst_leaves_no_request_without_its_answer(play: Play) -> None:
    """Neither one of no session nor one that waits with those of a session that ended."""

    async def story(client: Client) -> None:
        body = sample_body("", 0) | {"base_model": client.engine.compute.model_name}
        del body["sampling_session_id"], body["seq_id"]
        ends, stays = [await client.session() for _ in range(2)]
        samplers = [await base_sampler(client, session) for session in (ends, stays)]
        async with asyncio.timeout(20):
            sent = await client.post("asample", body)
            await client.engine.sweep()
            assert len(tokens_of(await client.result(sent))) == 2
            _, sent = [await client.post("asample", sample_body(one, 1)) for one in samplers]
            await client.finish(ends)
            await client.engine.sweep()
            after = await client.post("asample", sample_body(samplers[1], 2))
            for one in (sent, after):
                assert len(tokens_of(await client.result(one))) == 2

    play(story)


def test_more_adapters_than_are_at_work_at_one_time_do_not_mix(
    play: Play, compute: Compute
) -> None:
    count = 3 * max(MOST_AT_WORK, KEPT_IN_MEMORY)
    spec = LoraSpec(rank=1, seed=0)
    size = compute.new_adapter(spec).weights.numel()

    def weights(number: int) -> FrozenWeights:
        generator = torch.Generator().manual_seed(number)
        return FrozenWeights(spec, torch.randn(size, generator=generator) * 0.1)

    def expected(number: int) -> list[list[int]]:
        settings = SamplingSettings(4, seed=number, stop_at_eos=False)
        request = SampleRequest((TextPart((5, 6, 7)),), settings, num_samples=2)
        (output,) = compute.sample(weights(number), [request])
        assert isinstance(output, SampleOutput)
        return [list(one.tokens) for one in output.sequences]

    async def story(client: Client) -> None:
        engine, session = client.engine, await client.session()
        samplers: list[str] = []
        for number in range(count):
            key = EphemeralWeights(f"{number}")
            engine.weights.add_unnamed(key, weights(number))
            samplers.append(f"{session}:sample:{number}")
            sampler = SamplerSession(samplers[-1], engine.compute.model_name, key)
            engine.sessions.add_sampler(engine.sessions.live(session), sampler)
        bodies = [sample_body(one, n, stop=[]) for n, one in enumerate(samplers)]
        sent = await asyncio.gather(*(client.post("asample", body) for body in bodies))
        results = await asyncio.gather(*map(client.result, sent))
        drawn = [tokens_of(result) for result in results]
        assert drawn == [expected(number) for number in range(count)]
        assert len({str(tokens) for tokens in drawn}) > count / 2

    play(story)


def test_a_queue_that_left_its_place_is_next_in_the_name_of_who_waits_in_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in nobody's, who is never charged."""
    advance, begun, go = RunningBatch.advance, threading.Event(), threading.Event()

    def wait(batch: RunningBatch, steps: int = 1) -> Progress:
        begun.set()
        assert go.wait(60)
        return advance(batch, steps)

    monkeypatch.setattr(RunningBatch, "advance", wait)

    async def story(client: Client) -> None:
        engine, worker, images = client.engine, Worker(), ThreadPoolExecutor(1)
        own = (engine.compute, engine.weights, worker, engine.provenance, engine.held)
        parts = SamplingParts(*own, Places(worker, most=1), Bursts(), images)
        other, queue = [SampleQueue(BaseModelWeights(), parts) for _ in range(2)]
        other.add(job("b1", "b"))
        queue.add(job("a1", "a"))
        while (work := queue.take()) is None:
            await asyncio.sleep(0)
        assert other.take() is None
        turn = worker.call(work.run)
        assert await asyncio.to_thread(begun.wait, 60)
        queue.add(job("a2", "a"))
        client.forward(2 * STAY_S)
        go.set()
        await asyncio.wrap_future(turn)
        work.done(turn)
        assert queue.shares == {"a": 1.0}
        images.shutdown()

    play(story)


def test_who_waits_for_memory_that_others_hold_lets_them_have_the_thread(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[RunningBatch] = []

    def nothing(batch: RunningBatch, _: int = 1) -> Progress:
        calls.append(batch)
        return Progress()

    monkeypatch.setattr(RunningBatch, "advance", nothing)
    monkeypatch.setattr(RunningBatch, "stalled", property(lambda _: True))

    async def story(client: Client) -> None:
        engine, worker, images = client.engine, Worker(), ThreadPoolExecutor(1)
        own = (engine.compute, engine.weights, worker, engine.provenance, engine.held)
        parts = SamplingParts(*own, Places(worker, most=1), Bursts(), images)
        queue = SampleQueue(BaseModelWeights(), parts)
        queue.add(job("a1", "a"))
        while (work := queue.take()) is None:
            await asyncio.sleep(0)
        await asyncio.wrap_future(worker.call(work.run))
        assert len(calls) == 1
        images.shutdown()

    play(story)


def test_requests_of_a_client_that_was_killed_are_dropped_and_can_be_sent_again(
    play: Play,
) -> None:
    async def story(client: Client) -> None:
        killed, alive, asking = [await client.session() for _ in range(3)]
        samplers = [await base_sampler(client, session) for session in (killed, alive, asking)]
        async with busy_worker(client):
            sent = [await client.post("asample", sample_body(one, 1)) for one in samplers]
            client.forward(119)
            await client.heartbeat(alive)
            silent_since = client.engine.sessions.live(killed).last_seen_s
            waiting = asyncio.create_task(client.result(sent[2]))
            while client.engine.sessions.live(asking).last_seen_s < silent_since + 100:
                await asyncio.sleep(0)
            await client.later(10)
            gone = await client.call("retrieve_future", {"request_id": sent[0]["request_id"]})
            assert gone.status_code == 410
        assert len(tokens_of(await client.result(sent[1]))) == len(tokens_of(await waiting)) == 2
        assert client.engine.held.total_bytes == 0
        again = await client.post("asample", sample_body(samplers[0], 1))
        assert len(tokens_of(await client.result(again))) == 2

    play(story)
