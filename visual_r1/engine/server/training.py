"""The HTTP calls of a training client, and what each does to its model and to the disk.

Each is answered at once with the id of a future; what it asks for runs on the worker thread, in the
order of its model's numbers. What is wrong with a numbered request fails its future, never the
POST: a client does not send that number again.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from visual_r1.engine.compute.compute import Adapter
from visual_r1.engine.server.bodies import READ_AT_ONCE, Body, off_loop
from visual_r1.engine.server.dependencies import Json, TheBody, TheEngine
from visual_r1.engine.server.engine import Engine, text_values
from visual_r1.engine.server.futures import PROTOBUF, Announced, Reply, json_reply
from visual_r1.engine.server.models import OperationKind, TrainingModel
from visual_r1.engine.server.protobuf import parse_forward_backward
from visual_r1.engine.server.sessions import (
    ClientSession,
    EphemeralWeights,
    InflightWeights,
    SamplerSession,
    UnnamedWeights,
    sampler_id_of,
)
from visual_r1.engine.server.wire import (
    adam_settings,
    data_of,
    encode_forward,
    lora_spec,
    loss_config,
    validated,
)
from visual_r1.engine.store.lifetimes import expiry
from visual_r1.engine.store.records import (
    CheckpointKind,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    checkpoint_path,
    model_id_of,
    parse_path,
    session_of,
)
from visual_r1.engine.store.tensors import load_state, size_of, write_adapter, write_state
from visual_r1.engine.types import InvalidRequest
from visual_r1.hashing import digest

router = APIRouter()

SEQ_ID_MAX = 2**63 - 1

ModelRequest: TypeAlias = types.CreateModelRequest | types.LoadWeightsRequest
SaveRequest: TypeAlias = (
    types.SaveWeightsRequest | types.SaveWeightsForSamplerRequest | types.SaveWeightsExternalRequest
)
Parsed = TypeVar("Parsed", bound=BaseModel)

# -- making and loading a model ------------------------------------------------------------------


@router.post("/create_model")
async def create_model(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """Make a model with a fresh adapter; its id is `{session_id}:train:{model_seq_id}`."""
    return _begin(engine, body, types.CreateModelRequest)


@router.post("/load_weights")
async def load_weights(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """Load a checkpoint: into a model that is there, or as a new one."""
    # The SDK's create_training_client_from_state calls this, and no create_model before it.
    if body.content.get("session_id") is not None:
        return _begin(engine, body, types.LoadWeightsRequest)
    return _enqueue_json(engine, body, "load", types.LoadWeightsRequest, _load)


@router.post("/get_info")
async def get_info(engine: TheEngine, body: Json) -> dict[str, Any]:
    """What a training client needs to know of its model."""
    record = engine.model(validated(types.GetInfoRequest, body).model_id).record
    return {
        "type": "get_info",
        "model_id": record.model_id,
        "model_name": record.base_model,
        "is_lora": True,
        "lora_rank": record.spec.rank,
        "optimizer_config": {"type": "adamw"},
        "model_data": {
            "arch": engine.compute.architecture,
            "model_name": record.base_model,
            "tokenizer_id": engine.compute.tokenizer_id,
        },
    }


def _begin(engine: Engine, body: Body, parsed_as: type[ModelRequest]) -> dict[str, Any]:
    """Open a model, once for each number of its session, and queue what makes its adapter."""
    content = body.content
    session_id = str(content.get("session_id"))
    model_id = model_id_of(session_id, _number(content, "model_seq_id"))
    future, new = engine.futures.open(f"{model_id}:create", f"{parsed_as.__name__} {body.digest}")
    if new:
        try:
            request = validated(parsed_as, content)
            session = engine.sessions.live(session_id)
            model = engine.add_model(session, model_id)
            model.create(future, partial(_create, engine, session, model, request))
        except InvalidRequest as error:
            future.fail(str(error))
    return {"request_id": future.request_id, "model_id": model_id}


def _create(
    engine: Engine, session: ClientSession, model: TrainingModel, request: ModelRequest
) -> Reply:
    """Make the adapter, fresh or from a checkpoint, and write the run down."""
    if request.base_model is not None:
        engine.check_base_model(request.base_model)
    config = request.optimizer_config
    if config is not None and not isinstance(config, types.AdamOptimizerConfig):
        raise InvalidRequest(f"the optimizer {config.type!r} is not served; this engine has adamw.")
    if isinstance(request, types.CreateModelRequest):
        adapter = engine.compute.new_adapter(lora_spec(request.lora_config))
        answer = {"model_id": model.model_id, "type": "create_model"}
    else:
        path, adapter = _restored(engine, request)
        answer = {"path": str(path), "model_id": model.model_id, "type": "load_weights"}
    record = RunRecord(
        model_id=model.model_id,
        base_model=engine.compute.model_name,
        spec=adapter.spec,
        created_at=engine.store.clock(),
        user_metadata=text_values(request.user_metadata),
    )
    # As it is now: since the request came it may have ended, or gone to another project.
    engine.store.put_session(session.record)
    engine.store.add_run(record)
    model.made(record, adapter)
    return json_reply(answer)


def _load(engine: Engine, model: TrainingModel, request: types.LoadWeightsRequest) -> Reply:
    """Replace a model's weights by those of a checkpoint of the same shape."""
    path, adapter = _restored(engine, request)
    here, there = _shape(model.adapter), _shape(adapter)
    if here != there:
        raise InvalidRequest(
            f"{path} has {there}, but the model {model.model_id} has {here}: "
            "make a training client from the checkpoint instead."
        )
    model.replace_adapter(adapter)
    return json_reply({"path": str(path), "model_id": model.model_id, "type": "load_weights"})


def _restored(engine: Engine, request: types.LoadWeightsRequest) -> tuple[CheckpointPath, Adapter]:
    path = parse_path(request.path)
    if path.kind != "weights":
        raise InvalidRequest(
            f"{path} is not a training state; training goes on from tinker://…/weights/… "
            "(what save_state returns)."
        )
    record = engine.store.find(path)
    engine.check_base_model(record.base_model)
    tensors = load_state(engine.store, path)
    return path, engine.compute.restore(record.spec, tensors, optimizer=request.optimizer)


def _shape(adapter: Adapter) -> str:
    spec = adapter.spec
    parts = {"mlp": spec.train_mlp, "attn": spec.train_attn, "unembed": spec.train_unembed}
    trained = ", ".join(name for name, trained in parts.items() if trained)
    return f"LoRA of rank {spec.rank} on {trained}"


# -- steps ---------------------------------------------------------------------------------------


@router.post("/forward_backward")
async def forward_backward(engine: TheEngine, request: Request) -> dict[str, Any]:
    """forward and forward_backward, in protobuf."""
    data = await request.body()
    encoding, context = request.headers.get("content-encoding"), engine.compute.context_length
    message, digest = await off_loop(
        lambda: parse_forward_backward(data, encoding, context), len(data) > READ_AT_ONCE
    )
    return _enqueue(
        engine,
        message.model_id,
        message.seq_id,
        "forward" if message.forward_only else "forward_backward",
        digest,
        lambda model: partial(_forward, engine, model, message),
    )


@router.post("/optim_step")
async def optim_step(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """One optimizer step with the accumulated gradient."""
    return _enqueue_json(engine, body, "optim_step", types.OptimStepRequest, _optim_step)


def _forward(engine: Engine, model: TrainingModel, message: pb.ForwardBackwardRequest) -> Reply:
    data = data_of(message, engine.compute.context_length)
    engine.provenance.check(session_of(model.model_id), message.loss_fn, data)
    output = engine.compute.forward(
        model.adapter,
        data,
        message.loss_fn,
        loss_config(message),
        backward=not message.forward_only,
    )
    return Reply(encode_forward(output), PROTOBUF)


def _optim_step(engine: Engine, model: TrainingModel, request: types.OptimStepRequest) -> Reply:
    settings = adam_settings(request.optim_params)
    return json_reply({"metrics": engine.compute.optim_step(model.adapter, settings)})


# -- saves ---------------------------------------------------------------------------------------


@router.post("/save_weights")
async def save_weights(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """Save a training state: weights and optimizer, under a name."""
    return _enqueue_json(engine, body, "save", types.SaveWeightsRequest, _save_state)


@router.post("/save_weights_for_sampler")
async def save_weights_for_sampler(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """Save weights for sampling: with a name to a path, without one to a sampler."""
    content = body.content
    if content.get("path") is not None:
        return _enqueue_json(
            engine, body, "save", types.SaveWeightsForSamplerRequest, _save_for_sampler
        )
    # The SDK numbers the sampler anew in each repetition of the request.
    kept = {name: value for name, value in content.items() if name != "sampling_session_seq_id"}
    return _enqueue(
        engine,
        str(content.get("model_id")),
        _number(content, "seq_id"),
        "save",
        f"unnamed sampler {digest(kept, 32)}",
        lambda model: _save_unnamed(engine, model, content),
    )


@router.post("/save_weights_external")
async def save_weights_external(engine: TheEngine, body: TheBody) -> dict[str, Any]:
    """Save the adapter as a folder that PEFT loads."""
    return _enqueue_json(engine, body, "save", types.SaveWeightsExternalRequest, _save_external)


def _save_state(engine: Engine, model: TrainingModel, request: types.SaveWeightsRequest) -> Reply:
    if request.path is None:
        raise InvalidRequest("save_weights needs a name for the checkpoint (path).")
    tensors = engine.compute.state_tensors(model.adapter, optimizer=True)
    record = engine.store.write(
        _new_checkpoint(engine, model, "weights", request, request.user_metadata),
        lambda folder: write_state(folder, tensors),
        size_bytes=size_of(tensors),
        overwrite=request.overwrite,
    )
    return json_reply({"path": str(record.path), "type": "save_weights"})


def _save_for_sampler(
    engine: Engine, model: TrainingModel, request: types.SaveWeightsForSamplerRequest
) -> Reply:
    tensors = engine.compute.state_tensors(model.adapter, optimizer=False)
    record = engine.store.write(
        _new_checkpoint(engine, model, "sampler_weights", request, request.user_metadata),
        lambda folder: write_state(folder, tensors),
        size_bytes=size_of(tensors),
    )
    return json_reply({"path": str(record.path), "type": "save_weights_for_sampler"})


def _save_external(
    engine: Engine, model: TrainingModel, request: types.SaveWeightsExternalRequest
) -> Reply:
    if request.age_encryption_recipients:
        raise InvalidRequest(
            "age_encryption_recipients is not served: the files do not leave this machine."
        )
    tensors = engine.compute.state_tensors(model.adapter, optimizer=False)
    config, peft_tensors = engine.compute.peft_adapter(model.adapter.spec, tensors)
    record = engine.store.write(
        _new_checkpoint(engine, model, "external_weights", request),
        lambda folder: write_adapter(folder, config, peft_tensors),
        size_bytes=size_of(peft_tensors),
    )
    size = record.size_bytes
    return json_reply(
        {"path": str(record.path), "size_bytes": size, "type": "save_weights_external"}
    )


def _new_checkpoint(
    engine: Engine,
    model: TrainingModel,
    kind: CheckpointKind,
    request: SaveRequest,
    user_metadata: dict[str, str] | None = None,
) -> CheckpointRecord:
    now = engine.store.clock()
    return CheckpointRecord(
        path=checkpoint_path(model.model_id, kind, request.path or ""),
        base_model=engine.compute.model_name,
        spec=model.adapter.spec,
        optimizer=kind == "weights",
        created_at=now,
        expires_at=expiry(now, request.ttl_seconds),
        user_metadata=user_metadata,
    )


@dataclass(frozen=True)
class _AnsweredAtOnce:
    """What is yet to run, of a request that is answered when it comes."""

    run: Callable[[], Reply]
    answer: Reply
    ends: Announced


def _save_unnamed(
    engine: Engine, model: TrainingModel, body: dict[str, Any]
) -> "Callable[[], Reply] | _AnsweredAtOnce":
    """Open a sampler without a name; what is returned keeps a copy of the weights for it.

    A snapshot is answered at once: whoever samples with it meanwhile waits for its weights, and so
    a loop's requests are here when the learner is done. What is in flight has weights already,
    which would answer in place of the new ones.
    """
    request = validated(types.SaveWeightsForSamplerRequest, body)
    if request.sampling_session_seq_id is None:
        raise InvalidRequest("give a path, or a sampling_session_seq_id for a sampler.")
    session = engine.sessions.live(session_of(model.model_id))
    inflight = request.kind == "inflight"
    weights: UnnamedWeights = (
        InflightWeights(model.model_id) if inflight else EphemeralWeights(uuid.uuid4().hex)
    )
    sampler_id = sampler_id_of(session.record.session_id, request.sampling_session_seq_id)
    engine.sessions.add_sampler(
        session, SamplerSession(sampler_id, engine.compute.model_name, weights)
    )

    answer = json_reply({"sampling_session_id": sampler_id, "type": "save_weights_for_sampler"})

    def save() -> Reply:
        engine.weights.add_unnamed(weights, engine.compute.freeze(model.adapter))
        return answer

    if inflight:
        return save
    ends = engine.announce(weights, f"{model.model_id}:{request.seq_id}")
    return _AnsweredAtOnce(save, answer, ends)


# -- the order of a model's requests -------------------------------------------------------------


def _enqueue_json(
    engine: Engine,
    body: Body,
    kind: OperationKind,
    parsed_as: type[Parsed],
    operation: Callable[[Engine, TrainingModel, Parsed], Reply],
) -> dict[str, Any]:
    content = body.content
    return _enqueue(
        engine,
        str(content.get("model_id")),
        _number(content, "seq_id"),
        kind,
        f"{parsed_as.__name__} {body.digest}",
        lambda model: partial(operation, engine, model, validated(parsed_as, content)),
    )


def _enqueue(
    engine: Engine,
    model_id: str,
    seq_id: int,
    kind: OperationKind,
    content: str,
    bind: Callable[[TrainingModel], Callable[[], Reply] | _AnsweredAtOnce],
) -> dict[str, Any]:
    """Put a request into its model's order, once; answer with its future in any case.

    `content` is what it is and a digest of it, `bind` checks it and binds it to its model; what
    that returns runs on the worker thread. Raises `InvalidRequest` where the number was another's.
    """
    future, new = engine.futures.open(f"{model_id}:{seq_id}", content)
    answer = {"request_id": future.request_id, "model_id": model_id}
    if not new:
        return answer
    try:
        if not 1 <= seq_id <= SEQ_ID_MAX:
            raise InvalidRequest(f"seq_id is {seq_id}; a model's requests count from 1.")
        model = engine.model(model_id)
        if model.seen(seq_id):
            # Its result was fetched long ago and is no longer kept.
            raise InvalidRequest(
                f"request {seq_id} of {model_id} was run before; its result is gone."
            )
    except InvalidRequest as error:
        future.fail(str(error))
        return answer
    try:
        run = bind(model)
    except InvalidRequest as error:
        # It has its place in the order even if it makes no sense: it fails in its turn.
        run = partial(_fail, error)
    if isinstance(run, _AnsweredAtOnce):
        model.add(seq_id, kind, run.ends, run.run)
        if run.ends.failure is None:
            future.settle(run.answer)
        else:
            future.fail(*run.ends.failure)
    else:
        model.add(seq_id, kind, future, run)
    return answer


def _fail(error: InvalidRequest) -> Reply:
    raise error


def _number(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number.")
    return value
