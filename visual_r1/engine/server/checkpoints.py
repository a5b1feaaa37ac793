"""The HTTP calls that list and manage training runs and checkpoints, and hand out their files.

Calls that touch the disk are not coroutines: FastAPI runs them on a thread.
"""

import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse
from tinker import types

from visual_r1.engine.server.dependencies import Json, NamedCheckpoint, TheEngine
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.sessions import UnknownId
from visual_r1.engine.server.wire import API, validated
from visual_r1.engine.store.records import (
    NO_PROJECT,
    CheckpointKind,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    checkpoint_path,
    parse_path,
    session_of,
)
from visual_r1.engine.store.store import CheckpointNotFound, Store
from visual_r1.engine.types import InvalidRequest

router = APIRouter()

OWNER = "local"
"""Who owns everything: whoever has the key."""

CHECKPOINT = "/training_runs/{model_id}/checkpoints/{kind}/{name}"
URLS_VALID_FOR = timedelta(hours=1)

_TYPES: dict[CheckpointKind, str] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}

Item = TypeVar("Item")

# -- listings ------------------------------------------------------------------------------------


@router.post("/weights_info")
def weights_info(engine: TheEngine, body: Json) -> dict[str, Any]:
    """What a client must know to load a checkpoint; of one that is damaged, that it is gone."""
    record = engine.store.check(parse_path(str(body.get("tinker_path"))))
    return {
        "base_model": record.base_model,
        "optimizer_config": {"type": "adamw"},
        "is_lora": True,
        "lora_rank": record.spec.rank,
        "train_unembed": record.spec.train_unembed,
        "train_mlp": record.spec.train_mlp,
        "train_attn": record.spec.train_attn,
    }


@router.get("/training_runs")
def training_runs(
    engine: TheEngine, limit: int = 20, offset: int = 0, project_id: str | None = None
) -> dict[str, Any]:
    """A page of training runs, newest first; with `project_id` those of its sessions."""
    engine.store.sweep()
    runs = engine.store.runs()
    if project_id is not None:
        projects = _projects(engine.store)
        runs = [run for run in runs if projects.get(session_of(run.model_id)) == project_id]
    listed = [_run(engine.store, run) for run in page(runs, limit, offset)]
    return {"training_runs": listed, "cursor": _cursor(limit, offset, len(runs))}


@router.get("/training_runs/{model_id}")
def training_run(engine: TheEngine, model_id: str) -> dict[str, Any]:
    """One training run."""
    return _run(engine.store, _known_run(engine.store, model_id))


@router.get("/training_runs/{model_id}/checkpoints")
def run_checkpoints(engine: TheEngine, model_id: str) -> dict[str, Any]:
    """All checkpoints of a run."""
    engine.store.sweep()
    run = _known_run(engine.store, model_id)
    found = engine.store.checkpoints(run.model_id)
    return {"checkpoints": [_checkpoint(record) for record in found]}


@router.get("/checkpoints")
def checkpoints(engine: TheEngine, limit: int = 100, offset: int = 0) -> dict[str, Any]:
    """A page of all checkpoints, newest first."""
    engine.store.sweep()
    found = engine.store.checkpoints()
    listed = [_checkpoint(record) for record in page(found, limit, offset)]
    return {"checkpoints": listed, "cursor": _cursor(limit, offset, len(found))}


@router.get("/billing/usage/checkpoints/current")
def storage_usage(engine: TheEngine, project_id: str | None = None) -> dict[str, Any]:
    """Checkpoints and their bytes by project; they cost nothing."""
    projects = _projects(engine.store)
    by_project: dict[str, list[CheckpointRecord]] = {}
    for record in engine.store.checkpoints():
        project = projects.get(session_of(record.path.model_id), NO_PROJECT)
        by_project.setdefault(project, []).append(record)
    return {
        "data": [
            {
                "project_id": project,
                "checkpoint_count": len(records),
                "size_bytes": (size := total_bytes(records)),
                "size_gigabytes": size / 1e9,
                "estimated_monthly_cost_usd": 0.0,
            }
            for project, records in sorted(by_project.items())
            if project_id in (None, project)
        ]
    }


def page(items: list[Item], limit: int, offset: int) -> list[Item]:
    """One page of a listing. Raises `InvalidRequest`."""
    if limit < 0 or offset < 0:
        raise InvalidRequest(f"limit is {limit} and offset {offset}; neither may be below 0.")
    return items[offset : offset + limit]


def total_bytes(records: Iterable[CheckpointRecord]) -> int:
    """What checkpoints hold together."""
    return sum(record.size_bytes for record in records)


def _cursor(limit: int, offset: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}


def _projects(store: Store) -> dict[str, str]:
    return {session.session_id: session.project_id for session in store.sessions()}


def _known_run(store: Store, model_id: str) -> RunRecord:
    run = store.run(model_id)
    if run is None:
        raise UnknownId(f"there is no training run {model_id!r} here.")
    return run


def _run(store: Store, run: RunRecord) -> dict[str, Any]:
    """A training run as the SDK's `TrainingRun`."""
    checkpoints = store.checkpoints(run.model_id)
    newest = {
        kind: next((_checkpoint(one) for one in checkpoints if one.path.kind == kind), None)
        for kind in ("weights", "sampler_weights")
    }
    last = max([run.created_at, *(record.created_at for record in checkpoints)])
    return {
        "training_run_id": run.model_id,
        "base_model": run.base_model,
        "model_owner": OWNER,
        "is_lora": True,
        "corrupted": False,
        "lora_rank": run.spec.rank,
        "last_request_time": last.isoformat(),
        "last_checkpoint": newest["weights"],
        "last_sampler_checkpoint": newest["sampler_weights"],
        "user_metadata": run.user_metadata or None,
    }


def _checkpoint(record: CheckpointRecord) -> dict[str, Any]:
    """A checkpoint as the SDK's `Checkpoint`."""
    return {
        "checkpoint_id": record.path.checkpoint_id,
        "checkpoint_type": _TYPES[record.path.kind],
        "time": record.created_at.isoformat(),
        "tinker_path": str(record.path),
        "size_bytes": record.size_bytes,
        "public": record.public,
        "user_metadata": record.user_metadata,
        "expires_at": None if record.expires_at is None else record.expires_at.isoformat(),
    }


# -- changes -------------------------------------------------------------------------------------


@router.delete(CHECKPOINT)
def delete(engine: TheEngine, path: NamedCheckpoint) -> Response:
    """Remove a checkpoint."""
    engine.store.delete(path)
    return Response(status_code=204)


@router.put(f"{CHECKPOINT}/ttl")
def set_ttl(engine: TheEngine, path: NamedCheckpoint, body: Json) -> Response:
    """Let a checkpoint end some seconds from now, or with null never."""
    seconds = body.get("ttl_seconds")
    if seconds is not None and (not isinstance(seconds, int) or isinstance(seconds, bool)):
        raise InvalidRequest(f"ttl_seconds is {seconds!r}; give whole seconds or null.")
    engine.store.set_ttl(path, seconds)
    return Response(status_code=204)


# Marking it a second time changes nothing: a 409 would be repeated for minutes.
@router.post(f"{CHECKPOINT}/publish")
def publish(engine: TheEngine, path: NamedCheckpoint) -> Response:
    """Mark a checkpoint as published."""
    engine.store.set_public(path, True)
    return Response(status_code=204)


@router.delete(f"{CHECKPOINT}/publish")
def unpublish(engine: TheEngine, path: NamedCheckpoint) -> Response:
    """Take the mark off."""
    engine.store.set_public(path, False)
    return Response(status_code=204)


@router.post("/copy_weights")
def copy_weights(
    engine: TheEngine, body: Json, x_idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, str]:
    """A checkpoint again, under a run of its own that is not trained on."""
    request = validated(types.CopyWeightsRequest, body)
    return {"tinker_path": str(engine.copy(request, x_idempotency_key or None))}


# -- files ---------------------------------------------------------------------------------------


class BadSignature(InvalidRequest):
    """A download URL was changed, has expired, or is of an earlier run of the engine."""


@router.get(f"{CHECKPOINT}/external_weights_urls")
def external_weights_urls(
    engine: TheEngine, request: Request, path: NamedCheckpoint
) -> dict[str, Any]:
    """A URL for each file of a PEFT adapter folder, signed: it is fetched without the key."""
    if path.kind != "external_weights":
        raise InvalidRequest(
            f"{path} cannot be downloaded: save_weights_external makes what can be."
        )
    stamp = int((engine.store.clock() + URLS_VALID_FOR).timestamp())
    base = str(request.base_url).rstrip("/") + f"{API}/download"
    urls = {
        file: f"{base}/{quote(path.model_id)}/{quote(path.name)}/{quote(file)}"
        f"?expires={stamp}&signature={_signature(engine, path, file, str(stamp))}"
        for file in engine.store.find(path).files
    }
    return {"urls": urls, "expires": datetime.fromtimestamp(stamp, UTC).isoformat()}


@router.get("/download/{model_id}/{name}/{file}")
def download(
    engine: TheEngine,
    model_id: str,
    name: str,
    file: str,
    expires: str = "",
    signature: str = "",
) -> FileResponse:
    """A file behind a signed URL. Raises `BadSignature` or `CheckpointNotFound`."""
    path = checkpoint_path(model_id, "external_weights", name)
    if not expires or not signature:
        raise BadSignature(
            "this download URL is not whole: what follows its ?, expires and signature, is "
            "missing; quote it in a shell, or ask for the URLs again."
        )
    expected = _signature(engine, path, file, expires)
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise BadSignature("this download URL is not valid; ask for the URLs again.")
    if engine.store.clock().timestamp() > int(expires):  # signed, so it is a number of ours
        raise BadSignature("this download URL has expired; ask for the URLs again.")
    if file not in engine.store.check(path).files:
        raise CheckpointNotFound(f"{path} has no file {file!r}.")
    return FileResponse(engine.store.folder(path) / file)


def _signature(engine: Engine, path: CheckpointPath, file: str, expires: str) -> str:
    text = f"{path}\n{file}\n{expires}".encode()
    return hmac.new(engine.download_secret, text, hashlib.sha256).hexdigest()
