"""The HTTP calls of a sampling client."""

import asyncio
import secrets
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from tinker import types

from visual_r1.engine.compute.sample_plan import MAX_SAMPLES
from visual_r1.engine.server.bodies import Body, off_loop
from visual_r1.engine.server.dependencies import Json, TheBody, TheEngine
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.waiting import SampleJob
from visual_r1.engine.server.wire import ReplyForm, sample_request, validated
from visual_r1.engine.store.records import parse_path
from visual_r1.engine.types import InvalidRequest, SampleRequest

router = APIRouter()


async def asample(engine: Engine, body: Body) -> Response:
    """Answers to a prompt. What is wrong with the request fails its future."""
    content = body.content
    sampler_id, seq_id = content.get("sampling_session_id"), content.get("seq_id")
    numbered = sampler_id is not None and seq_id is not None
    request_id = f"{sampler_id}:{seq_id}" if numbered else secrets.token_hex(16)
    client = str(sampler_id).partition(":")[0] if numbered else ""
    if engine.futures.get(request_id) is None:
        engine.held.require_room(client)
    future, new = engine.futures.open(request_id, f"asample {body.digest}", repeatable=True)
    if new:
        try:
            request, wanted, form = await off_loop(partial(_read_sample, content), body.is_large)
            job = SampleJob(wanted, form, future, client, bool(request.record_stability_info))
            if request.sampling_session_id is None:
                weights = engine.weights_key(request.model_path, request.base_model)
            elif request.seq_id is None:
                raise InvalidRequest("seq_id is missing; it goes with sampling_session_id.")
            else:
                weights = engine.sessions.sampler(request.sampling_session_id).weights
            engine.queue(weights).add(job)
        except InvalidRequest as error:
            future.fail(str(error))
    # The SDK asserts an id for each sample; of a number that is out of range the future tells.
    count = content.get("num_samples", 1)
    places = range(count if isinstance(count, int) and 0 <= count <= MAX_SAMPLES else 0)
    ids = [f"{request_id}:{place}" for place in places]
    return JSONResponse({"request_id": request_id, "sample_sequence_ids": ids})


@router.post("/create_sampling_session")
async def create_sampling_session(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """A sampler of the base model or of a checkpoint, whose files are looked at first."""
    request = validated(types.CreateSamplingSessionRequest, body.content)
    if request.model_path is not None:
        await asyncio.to_thread(engine.store.check, parse_path(request.model_path))
    sampler = engine.open_sampler(request, body.digest)
    return {"type": "create_sampling_session", "sampling_session_id": sampler.sampler_id}


@router.post("/join_sampling_session")
async def join_sampling_session(engine: TheEngine, body: Json) -> dict[str, Any]:
    """A number for a copy of a sampling client, in this process or another."""
    request = validated(types.JoinSamplingSessionRequest, body)
    sampler = engine.sessions.sampler(request.sampling_session_id)
    return {"type": "join_sampling_session", "client_counter": next(sampler.clones)}


@router.get("/samplers/{sampler_id}")
async def sampler(engine: TheEngine, sampler_id: str) -> dict[str, Any]:
    """What a sampler samples from."""
    found = engine.sessions.sampler(sampler_id)
    return {
        "sampler_id": found.sampler_id,
        "base_model": found.base_model,
        "model_path": found.model_path,
    }


def _read_sample(
    content: dict[str, Any],
) -> tuple[types.SampleRequest, SampleRequest, ReplyForm]:
    request = validated(types.SampleRequest, content)
    return request, *sample_request(request)


@router.post("/cancel_future")
async def cancel_future(engine: TheEngine, body: Json) -> Response:
    """A client gave up on a sample."""
    engine.cancel_sample(str(body.get("request_id")))
    return Response(status_code=204)
