"""Who comes while all rows are taken by the long answers of others."""

import asyncio
import threading

import pytest
from served_engine import Client, Play

from visual_r1.engine.compute.decode import Decoding
from visual_r1.engine.compute.device_rules import CPU_RULES
from visual_r1.engine.compute.running import Progress, RunningBatch
from visual_r1.engine.server.turns import SECOND_ROWS


def test_a_second_batch_is_small_for_as_long_as_there_is_a_first(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, run = RunningBatch.advance, Decoding.run
    begun, go = threading.Event(), threading.Event()
    seen: list[tuple[Decoding, int]] = []

    def wait(batch: RunningBatch, steps: int = 1) -> Progress:
        begun.set()
        assert go.wait(60)
        return advance(batch, steps)

    def watched(decoding: Decoding):
        seen.append((decoding, decoding.alive))
        return run(decoding)

    monkeypatch.setattr(RunningBatch, "advance", wait)
    monkeypatch.setattr(Decoding, "run", watched)

    async def send(client: Client, samples: int, max_tokens: int) -> dict[str, str]:
        body = {"session_id": await client.session(), "sampling_session_seq_id": 0}
        body |= {"base_model": client.engine.compute.model_name}
        sampler = (await client.post("create_sampling_session", body))["sampling_session_id"]
        body = {"sampling_session_id": sampler, "seq_id": 1, "num_samples": samples}
        body |= {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]}}
        params = {"max_tokens": max_tokens, "seed": 1, "stop": []}
        return await client.post("asample", body | {"sampling_params": params})

    async def story(client: Client) -> None:
        sent = [await send(client, CPU_RULES.rows_at_once, 40)]
        assert await asyncio.to_thread(begun.wait, 60)
        sent.append(await send(client, 2 * SECOND_ROWS, 60))
        go.set()
        for one in sent:
            await client.result(one)

    play(story)
    first = seen[0][0]
    ended = max(at for at, (decoding, _) in enumerate(seen) if decoding is first)
    beside = [alive for decoding, alive in seen[:ended] if decoding is not first]
    after = [alive for _, alive in seen[ended + 1 :]]
    assert (max(beside), max(after)) == (SECOND_ROWS, 2 * SECOND_ROWS)
