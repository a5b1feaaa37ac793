"""What each training request does to a model and the disk. All of it runs on the worker thread."""

import json
from pathlib import Path

import torch
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from visual_r1.engine.compute import Adapter
from visual_r1.engine.futures import PROTOBUF, Reply, json_reply
from visual_r1.engine.naming import CheckpointKind, CheckpointPath, checkpoint_path, parse_path
from visual_r1.engine.records import CheckpointRecord, RunRecord, SessionRecord
from visual_r1.engine.requests import InvalidRequest
from visual_r1.engine.service import Engine, text_values
from visual_r1.engine.sessions import UnnamedWeights
from visual_r1.engine.store import expiry
from visual_r1.engine.tensor_files import read_tensors, size_of, write_tensors
from visual_r1.engine.training import TrainingModel
from visual_r1.engine.weights_cache import STATE_FILE
from visual_r1.engine.wire import adam_settings, data_of, encode_forward, lora_spec, loss_config


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
