"""The HTTP calls of a training client. Each is answered at once with the id of a future.

What each training request does to a model and the disk. All of it runs on the worker thread.
"""

import json
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import torch
from fastapi import APIRouter, Body, Request
from pydantic import BaseModel
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from visual_r1.engine.compute.compute import Adapter
from visual_r1.engine.server.engine import Engine, text_values
from visual_r1.engine.server.futures import PROTOBUF, Pending, Reply, json_reply
from visual_r1.engine.server.models import OperationKind, TrainingModel
from visual_r1.engine.server.sessions import (
    EphemeralWeights,
    InflightWeights,
    UnnamedWeights,
    sampler_id_of,
)
from visual_r1.engine.server.weights import STATE_FILE, read_tensors, size_of, write_tensors
from visual_r1.engine.server.wire import (
    adam_settings,
    data_of,
    encode_forward,
    lora_spec,
    loss_config,
    parse_forward_backward,
    validated,
)
from visual_r1.engine.store.records import (
    CheckpointKind,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    SessionRecord,
    checkpoint_path,
    model_id_of,
    parse_path,
)
from visual_r1.engine.store.store import expiry
from visual_r1.engine.types import InvalidRequest


def create(
    engine: Engine, session: SessionRecord, model: TrainingModel, body: types.CreateModelRequest
) -> Reply:
    """Make a model with a fresh adapter."""
    engine.check_base_model(body.base_model)
    if not isinstance(body.optimizer_config, types.AdamOptimizerConfig):
        raise InvalidRequest(
            f"the optimizer {body.optimizer_config.type!r} is not served; this engine has adamw."
        )
    spec = lora_spec(body.lora_config)
    adapter = engine.compute.new_adapter(spec)
    _enter(engine, session, model, adapter, body.user_metadata)
    return json_reply({"model_id": model.model_id, "type": "create_model"})


def create_from_state(
    engine: Engine, session: SessionRecord, model: TrainingModel, body: types.LoadWeightsRequest
) -> Reply:
    """Make a model with the weights of a checkpoint, with or without its optimizer."""
    if body.base_model is not None:
        engine.check_base_model(body.base_model)
    config = body.optimizer_config
    if config is not None and not isinstance(config, types.AdamOptimizerConfig):
        raise InvalidRequest(f"the optimizer {config.type!r} is not served; this engine has adamw.")
    path, adapter = _restored(engine, body)
    _enter(engine, session, model, adapter, body.user_metadata)
    return json_reply({"path": str(path), "model_id": model.model_id, "type": "load_weights"})


def load(engine: Engine, model: TrainingModel, body: types.LoadWeightsRequest) -> Reply:
    """Replace a model's weights by those of a checkpoint of the same shape."""
    path, adapter = _restored(engine, body)
    here, there = _shape(model.adapter), _shape(adapter)
    if here != there:
        raise InvalidRequest(
            f"{path} has {there}, but the model {model.model_id} has {here}: "
            "make a training client from the checkpoint instead."
        )
    model.replace_adapter(adapter)
    return json_reply({"path": str(path), "model_id": model.model_id, "type": "load_weights"})


def forward(engine: Engine, model: TrainingModel, request: pb.ForwardBackwardRequest) -> Reply:
    """forward, or forward_backward, which accumulates the gradient."""
    output = engine.compute.forward(
        model.adapter,
        data_of(request),
        request.loss_fn,
        loss_config(request),
        backward=not request.forward_only,
    )
    return Reply(encode_forward(output), PROTOBUF)


def optim_step(engine: Engine, model: TrainingModel, body: types.OptimStepRequest) -> Reply:
    """One optimizer step with the accumulated gradient."""
    metrics = engine.compute.optim_step(model.adapter, adam_settings(body.optim_params))
    return json_reply({"metrics": metrics})


def save_state(engine: Engine, model: TrainingModel, body: types.SaveWeightsRequest) -> Reply:
    """Save weights and optimizer under a name."""
    if body.path is None:
        raise InvalidRequest("save_weights needs a name for the checkpoint (path).")
    tensors = engine.compute.state_tensors(model.adapter, optimizer=True)
    record = engine.store.write(
        _new_record(engine, model, "weights", body.path, body.ttl_seconds, body.user_metadata),
        lambda folder: write_tensors(folder / STATE_FILE, tensors),
        size_bytes=size_of(tensors),
        overwrite=body.overwrite,
    )
    return json_reply({"path": str(record.path), "type": "save_weights"})


def save_for_sampler(
    engine: Engine, model: TrainingModel, body: types.SaveWeightsForSamplerRequest
) -> Reply:
    """Save weights for sampling under a name."""
    tensors = engine.compute.state_tensors(model.adapter, optimizer=False)
    record = engine.store.write(
        _new_record(
            engine, model, "sampler_weights", body.path or "", body.ttl_seconds, body.user_metadata
        ),
        lambda folder: write_tensors(folder / STATE_FILE, tensors),
        size_bytes=size_of(tensors),
    )
    return json_reply({"path": str(record.path), "type": "save_weights_for_sampler"})


def save_unnamed(
    engine: Engine, model: TrainingModel, key: UnnamedWeights, sampler_id: str
) -> Reply:
    """Keep a copy of the weights for a sampler without a name."""
    engine.cache.add_unnamed(key, engine.compute.freeze(model.adapter))
    return json_reply({"sampling_session_id": sampler_id, "type": "save_weights_for_sampler"})


def save_external(
    engine: Engine, model: TrainingModel, body: types.SaveWeightsExternalRequest
) -> Reply:
    """Save the adapter as a folder that PEFT loads."""
    if body.age_encryption_recipients:
        raise InvalidRequest(
            "age_encryption_recipients is not served: the files do not leave this machine."
        )
    tensors = engine.compute.state_tensors(model.adapter, optimizer=False)
    config, peft_tensors = engine.compute.peft_adapter(model.adapter.spec, tensors)

    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_tensors(folder / "adapter_model.safetensors", peft_tensors)

    record = engine.store.write(
        _new_record(engine, model, "external_weights", body.path, body.ttl_seconds),
        write,
        size_bytes=size_of(peft_tensors),
    )
    return json_reply(
        {
            "path": str(record.path),
            "size_bytes": record.size_bytes,
            "type": "save_weights_external",
        }
    )


def _enter(
    engine: Engine,
    session: SessionRecord,
    model: TrainingModel,
    adapter: Adapter,
    user_metadata: dict[str, object] | None,
) -> None:
    record = RunRecord(
        model_id=model.model_id,
        base_model=engine.compute.model_name,
        spec=adapter.spec,
        created_at=engine.store.clock(),
        user_metadata=text_values(user_metadata),
    )
    engine.store.put_session(session)
    engine.store.add_run(record)
    model.made(record, adapter)


def _restored(engine: Engine, body: types.LoadWeightsRequest) -> tuple[CheckpointPath, Adapter]:
    path = parse_path(body.path)
    if path.kind != "weights":
        raise InvalidRequest(
            f"{path} is not a training state; training goes on from tinker://…/weights/… "
            "(what save_state returns)."
        )
    record = engine.store.find(path)
    engine.check_base_model(record.base_model)
    tensors: dict[str, torch.Tensor] = read_tensors(engine.store.folder(path) / STATE_FILE)
    return path, engine.compute.restore(record.spec, tensors, optimizer=body.optimizer)


def _shape(adapter: Adapter) -> str:
    spec = adapter.spec
    parts = [
        name
        for name, trained in (
            ("mlp", spec.train_mlp),
            ("attn", spec.train_attn),
            ("unembed", spec.train_unembed),
        )
        if trained
    ]
    return f"LoRA of rank {spec.rank} on {', '.join(parts)}"


def _new_record(
    engine: Engine,
    model: TrainingModel,
    kind: CheckpointKind,
    name: str,
    ttl_seconds: int | None,
    user_metadata: dict[str, str] | None = None,
) -> CheckpointRecord:
    now = engine.store.clock()
    return CheckpointRecord(
        path=checkpoint_path(model.model_id, kind, name),
        base_model=engine.compute.model_name,
        spec=model.adapter.spec,
        optimizer=kind == "weights",
        created_at=now,
        expires_at=expiry(now, ttl_seconds),
        user_metadata=user_metadata,
    )


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
