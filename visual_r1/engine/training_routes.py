"""The HTTP calls of a training client. Each is answered at once with the id of a future."""

import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel
from tinker import types

from visual_r1.engine.futures import Pending, Reply
from visual_r1.engine.model_calls import (
    create,
    create_from_state,
    forward,
    load,
    optim_step,
    save_external,
    save_for_sampler,
    save_state,
    save_unnamed,
)
from visual_r1.engine.naming import model_id_of
from visual_r1.engine.ordering import OperationKind
from visual_r1.engine.requests import InvalidRequest
from visual_r1.engine.service import Engine
from visual_r1.engine.sessions import (
    EphemeralWeights,
    InflightWeights,
    UnnamedWeights,
    sampler_id_of,
)
from visual_r1.engine.training import TrainingModel
from visual_r1.engine.wire import parse_forward_backward, validated

Json = Annotated[dict[str, Any], Body()]
Parsed = TypeVar("Parsed", bound=BaseModel)

RunOf: TypeAlias = Callable[[TrainingModel], Callable[[], Reply]]
"""Checks a request and binds it to its model; what it returns runs on the worker thread."""

SEQ_ID_MAX = 2**63 - 1


def training_routes(engine: Engine, body_limit: int) -> APIRouter:
    """The routes of models in training."""
    router = APIRouter()
    calls = TrainingCalls(engine)
    post = partial(router.add_api_route, methods=["POST"], response_model=None)

    async def forward_backward(request: Request) -> dict[str, Any]:
        body = await request.body()
        return calls.forward_backward(body, request.headers.get("content-encoding"), body_limit)

    post("/create_model", calls.create_model)
    post("/load_weights", calls.load_weights)
    post("/get_info", calls.get_info)
    post("/forward_backward", forward_backward)
    post("/optim_step", calls.optim_step)
    post("/save_weights", calls.save_weights)
    post("/save_weights_for_sampler", calls.save_weights_for_sampler)
    post("/save_weights_external", calls.save_weights_external)
    return router


class TrainingCalls:
    """One method a call.

    What is wrong with a numbered request fails its future, never the POST: a client does not send
    that number again.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_model(self, body: Json) -> dict[str, Any]:
        """Make a model; its id is `{session_id}:train:{model_seq_id}`."""
        return self._create(body, types.CreateModelRequest, create)

    async def load_weights(self, body: Json) -> dict[str, Any]:
        """Load a checkpoint: into a model that is there, or as a new one."""
        if body.get("session_id") is not None:
            return self._create(body, types.LoadWeightsRequest, create_from_state)
        return self._numbered(body, "load", types.LoadWeightsRequest, load)

    def _create(
        self, body: dict[str, Any], parsed_as: type[Parsed], call: Callable[..., Reply]
    ) -> dict[str, Any]:
        model_id = model_id_of(str(body.get("session_id")), _number(body, "model_seq_id"))
        future, new = self._engine.futures.open(f"{model_id}:create")
        if new:
            try:
                parsed = validated(parsed_as, body)
                session = self._engine.sessions.live(str(body.get("session_id")))
                model = self._engine.add_model(session, model_id)
                model.create(future, partial(call, self._engine, session.record, model, parsed))
            except InvalidRequest as error:
                future.fail(str(error))
        return {"request_id": future.request_id, "model_id": model_id}

    async def get_info(self, body: Json) -> dict[str, Any]:
        """What a training client needs to know of its model."""
        request = validated(types.GetInfoRequest, body)
        record = self._engine.model(request.model_id).record
        return {
            "type": "get_info",
            "model_id": record.model_id,
            "model_name": record.base_model,
            "is_lora": True,
            "lora_rank": record.spec.rank,
            "optimizer_config": {"type": "adamw"},
            "model_data": {
                "arch": "qwen3_vl",
                "model_name": record.base_model,
                "tokenizer_id": self._engine.compute.tokenizer_id,
            },
        }

    def forward_backward(self, body: bytes, encoding: str | None, limit: int) -> dict[str, Any]:
        """forward and forward_backward, in protobuf."""
        request = parse_forward_backward(body, encoding, limit)
        kind: OperationKind = "forward" if request.forward_only else "forward_backward"
        return self._queue(
            request.model_id,
            request.seq_id,
            kind,
            lambda model: partial(forward, self._engine, model, request),
        )

    async def optim_step(self, body: Json) -> dict[str, Any]:
        """An optimizer step."""
        return self._numbered(body, "optim_step", types.OptimStepRequest, optim_step)

    async def save_weights(self, body: Json) -> dict[str, Any]:
        """Save a training state."""
        return self._numbered(body, "save", types.SaveWeightsRequest, save_state)

    async def save_weights_for_sampler(self, body: Json) -> dict[str, Any]:
        """Save weights for sampling: with a name to a path, without one to a sampler."""
        if body.get("path") is not None:
            return self._numbered(
                body, "save", types.SaveWeightsForSamplerRequest, save_for_sampler
            )
        return self._queue(
            str(body.get("model_id")),
            _number(body, "seq_id"),
            "save",
            partial(self._ephemeral, body),
        )

    async def save_weights_external(self, body: Json) -> dict[str, Any]:
        """Save a PEFT adapter folder."""
        return self._numbered(body, "save", types.SaveWeightsExternalRequest, save_external)

    def _ephemeral(self, body: dict[str, Any], model: TrainingModel) -> Callable[[], Reply]:
        request = validated(types.SaveWeightsForSamplerRequest, body)
        if request.sampling_session_seq_id is None:
            raise InvalidRequest("give a path, or a sampling_session_seq_id for a sampler.")
        session_id = model.model_id.split(":")[0]
        session = self._engine.sessions.live(session_id)
        key: UnnamedWeights = EphemeralWeights(uuid.uuid4().hex)
        if request.kind == "inflight":
            key = InflightWeights(model.model_id)
        sampler_id = sampler_id_of(session_id, request.sampling_session_seq_id)
        if self._engine.sessions.find_sampler(sampler_id) is not None:
            raise InvalidRequest(f"the sampler {sampler_id} exists already.")
        sampler = self._engine.sessions.add_sampler(
            session, request.sampling_session_seq_id, self._engine.compute.model_name, key
        )
        return partial(save_unnamed, self._engine, model, key, sampler.sampler_id)

    def _numbered(
        self,
        body: dict[str, Any],
        kind: OperationKind,
        parsed_as: type[Parsed],
        call: Callable[..., Reply],
    ) -> dict[str, Any]:
        return self._queue(
            str(body.get("model_id")),
            _number(body, "seq_id"),
            kind,
            lambda model: partial(call, self._engine, model, validated(parsed_as, body)),
        )

    def _queue(
        self, model_id: str, seq_id: int, kind: OperationKind, run_of: RunOf
    ) -> dict[str, Any]:
        """Put a request into its model's order, once; answer with its future in any case."""
        future, new = self._engine.futures.open(f"{model_id}:{seq_id}")
        if new:
            self._admit(future, model_id, seq_id, kind, run_of)
        return {"request_id": future.request_id, "model_id": model_id}

    def _admit(
        self, future: Pending, model_id: str, seq_id: int, kind: OperationKind, run_of: RunOf
    ) -> None:
        try:
            if not 1 <= seq_id <= SEQ_ID_MAX:
                raise InvalidRequest(f"seq_id is {seq_id}; a model's requests count from 1.")
            model = self._engine.model(model_id)
        except InvalidRequest as error:
            future.fail(str(error))
            return
        if model.seen(seq_id):
            # Its result was fetched long ago and is no longer kept.
            future.fail(f"request {seq_id} of {model_id} was run before; its result is gone.")
            return
        try:
            run = run_of(model)
        except InvalidRequest as error:
            run = partial(_complain, error)
        model.add(seq_id, kind, future, run)


def _complain(error: InvalidRequest) -> Reply:
    """In its turn, fail: the request has its place in the order even if it makes no sense."""
    raise error


def _number(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number.")
    return value
