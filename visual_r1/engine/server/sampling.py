"""The HTTP calls of a sampling client."""

import secrets
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from tinker import types

from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.futures import Pending
from visual_r1.engine.server.queue import SampleJob
from visual_r1.engine.server.sessions import WeightsKey
from visual_r1.engine.server.training import Json
from visual_r1.engine.server.wire import sample_request, validated
from visual_r1.engine.types import InvalidRequest

SAMPLES_AT_MOST = 4096
"""Answers to one prompt in one request."""


def sampling_routes(engine: Engine) -> APIRouter:
    """The routes of samplers."""
    router = APIRouter()
    calls = SamplingCalls(engine)
    post = partial(router.add_api_route, methods=["POST"], response_model=None)
    post("/create_sampling_session", calls.create_sampling_session)
    post("/join_sampling_session", calls.join_sampling_session)
    post("/asample", calls.asample)
    post("/cancel_future", calls.cancel_future)
    router.add_api_route(
        "/samplers/{sampler_id}", calls.sampler, methods=["GET"], response_model=None
    )
    return router


class SamplingCalls:
    """One method a call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_sampling_session(self, body: Json) -> dict[str, Any]:
        """A sampler of the base model or of a checkpoint."""
        sampler = self._engine.open_sampler(validated(types.CreateSamplingSessionRequest, body))
        return {"type": "create_sampling_session", "sampling_session_id": sampler.sampler_id}

    async def join_sampling_session(self, body: Json) -> dict[str, Any]:
        """A number for a copy of a sampling client, in this process or another."""
        request = validated(types.JoinSamplingSessionRequest, body)
        sampler = self._engine.sessions.sampler(request.sampling_session_id)
        return {"type": "join_sampling_session", "client_counter": next(sampler.clones)}

    async def sampler(self, sampler_id: str) -> dict[str, Any]:
        """What a sampler samples from."""
        sampler = self._engine.sessions.sampler(sampler_id)
        return {
            "sampler_id": sampler.sampler_id,
            "base_model": sampler.base_model,
            "model_path": sampler.model_path,
        }

    async def asample(self, body: Json) -> dict[str, Any]:
        """Answers to a prompt. What is wrong with the request fails its future."""
        sampler_id, seq_id = body.get("sampling_session_id"), body.get("seq_id")
        known_by = (
            secrets.token_hex(16)
            if sampler_id is None or seq_id is None
            else f"{sampler_id}:{seq_id}"
        )
        future, new = self._engine.futures.open(known_by)
        if new:
            try:
                self._submit(body, future)
            except InvalidRequest as error:
                future.fail(str(error))
        count = body.get("num_samples", 1)
        ids = [f"{known_by}:{place}" for place in range(_counted(count))]
        return {"request_id": known_by, "sample_sequence_ids": ids}

    async def cancel_future(self, body: Json) -> Response:
        """A client gave up on a sample."""
        self._engine.cancel_sample(str(body.get("request_id")))
        return Response(status_code=204)

    def _submit(self, body: dict[str, Any], future: Pending) -> None:
        request = validated(types.SampleRequest, body)
        if not 0 <= request.num_samples <= SAMPLES_AT_MOST:
            raise InvalidRequest(
                f"num_samples is {request.num_samples}; it lies between 0 and {SAMPLES_AT_MOST}."
            )
        job = SampleJob(*sample_request(request), future)
        self._engine.queue(self._weights(request)).add(job)

    def _weights(self, request: types.SampleRequest) -> WeightsKey:
        if request.sampling_session_id is None:
            return self._engine.weights_key(request.model_path, request.base_model)
        if request.seq_id is None:
            raise InvalidRequest("seq_id is missing; it goes with sampling_session_id.")
        return self._engine.sessions.sampler(request.sampling_session_id).weights


def _counted(count: object) -> int:
    return count if isinstance(count, int) and 0 <= count <= SAMPLES_AT_MOST else 0
