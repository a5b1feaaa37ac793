"""A snapshot's sampler is there when it is asked for; who samples with it waits for its weights."""

import asyncio

from served_engine import Client, Play
from test_sample_queue import busy_worker, sample_body, tokens_of
from tinker import types
from tinker.proto.response_conv import deserialize_proto_response

from visual_r1.engine.server.engine import HANG_UP_S


async def trained(client: Client) -> str:
    """A model with a step behind it."""
    model = await client.model(await client.session())
    await client.forward_backward(model, 1)
    await client.result(await client.optim_step(model, 2))
    return model


async def snapshot(client: Client, model: str, seq_id: int) -> str:
    """The sampler of a save that may not have run."""
    return (await client.result(await client.save_unnamed(model, seq_id)))["sampling_session_id"]


def logprobs_of(reply: bytes) -> list[list[float] | None]:
    response = deserialize_proto_response(reply, types.SampleResponse)
    return [sequence.logprobs for sequence in response.sequences]


def test_samples_that_come_before_their_weights_are_of_these_weights(play: Play) -> None:
    async def story(client: Client) -> None:
        model = await trained(client)
        async with busy_worker(client):
            learning = [await client.forward_backward(model, 3), await client.optim_step(model, 4)]
            sampler = await snapshot(client, model, 5)
            body = sample_body(sampler, 1, stop=[])
            early = [await client.post("asample", body)]
            early.append(await client.post("asample", body | {"seq_id": 2}))
        for one in (*learning, early[0]):
            await client.result(one)
        late = await client.post("asample", body | {"seq_id": 3})
        replies = [await client.result(one) for one in (*early, late)]
        assert len({str((tokens_of(one), logprobs_of(one))) for one in replies}) == 1
        assert client.engine.held.total_bytes == 0

    play(story)


def test_samples_of_a_save_that_could_not_run_fail_with_its_reason(play: Play) -> None:
    async def story(client: Client) -> None:
        model = await trained(client)
        async with busy_worker(client):
            sampler = await snapshot(client, model, 7)
            early = await client.post("asample", sample_body(sampler, 1))
        late = await client.post("asample", sample_body(sampler, 2))
        for one in (early, late):
            assert "request 3 to 6 of this model never arrived" in await client.failure(one)
        assert client.engine.held.total_bytes == 0

    play(story)


def test_a_session_may_end_before_the_weights_are_made(play: Play) -> None:
    async def story(client: Client) -> None:
        model = await trained(client)
        session = model.partition(":")[0]
        async with busy_worker(client):
            sampler = await snapshot(client, model, 3)
            waiting = await client.post("asample", sample_body(sampler, 1))
            told = asyncio.create_task(client.failure(waiting))
            await client.finish(session)
            client.forward(HANG_UP_S)
            assert (await told).endswith("its client finished it.")
        await client.later(0.0)
        assert client.engine.held.total_bytes == 0
        late = await client.failure(await client.post("asample", sample_body(sampler, 2)))
        assert "its session is over" in late

    play(story)
