"""The HTTP calls that list and manage training runs and checkpoints.

Signed URLs under which the files of an external checkpoint can be fetched without the key.
"""

import hashlib
import hmac
import secrets
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse
from tinker import types

from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.sessions import UnknownId, new_session_id
from visual_r1.engine.server.training import Json
from visual_r1.engine.server.wire import validated
from visual_r1.engine.store.records import (
    NO_PROJECT,
    CheckpointKind,
    CheckpointPath,
    CheckpointRecord,
    RunRecord,
    SessionRecord,
    checkpoint_path,
    model_id_of,
    parse_path,
    session_of,
)
from visual_r1.engine.store.store import CheckpointNotFound, Store, expiry
from visual_r1.engine.types import InvalidRequest

VALID_FOR = timedelta(hours=1)
PREFIX = "/api/v1/download"


class BadSignature(InvalidRequest):
    """A download URL was changed, has expired, or is of an earlier run of the engine."""


class Downloads:
    """Makes and checks the URLs. The secret lives as long as the process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._secret = secrets.token_bytes(32)

    def urls(self, path: CheckpointPath, base_url: str) -> tuple[dict[str, str], datetime]:
        """A URL for each file of an external checkpoint, and when they end."""
        if path.kind != "external_weights":
            raise InvalidRequest(
                f"{path} cannot be downloaded: save_weights_external makes what can be."
            )
        record = self._store.find(path)
        expires = self._store.clock() + VALID_FOR
        stamp = int(expires.timestamp())
        urls = {
            name: f"{base_url.rstrip('/')}{PREFIX}/{quote(path.model_id)}/{quote(path.name)}/"
            f"{quote(name)}?expires={stamp}&signature={self._signature(path, name, str(stamp))}"
            for name in record.files
        }
        return urls, datetime.fromtimestamp(stamp, UTC)

    def file(self, model_id: str, name: str, file: str, expires: str, signature: str) -> Path:
        """The file behind a URL. Raises `BadSignature` or `CheckpointNotFound`."""
        path = checkpoint_path(model_id, "external_weights", name)
        if not expires or not signature:
            raise BadSignature(
                "this download URL is not whole: what follows its ?, expires and signature, is "
                "missing; quote it in a shell, or ask for the URLs again."
            )
        expected = self._signature(path, file, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise BadSignature("this download URL is not valid; ask for the URLs again.")
        if self._store.clock().timestamp() > int(expires):  # signed, so it is a number of ours
            raise BadSignature("this download URL has expired; ask for the URLs again.")
        if file not in self._store.find(path).files:
            raise CheckpointNotFound(f"{path} has no file {file!r}.")
        return self._store.folder(path) / file

    def _signature(self, path: CheckpointPath, file: str, expires: str) -> str:
        text = f"{path}\n{file}\n{expires}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


_TYPES: dict[CheckpointKind, str] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
_CHECKPOINT = "/training_runs/{model_id}/checkpoints/{kind}/{name}"


def rest_routes(engine: Engine) -> APIRouter:
    """The routes of listings and of what is done to checkpoints."""
    router = APIRouter()
    calls = RestCalls(engine)

    def route(method: str, path: str, endpoint: Any) -> None:
        router.add_api_route(path, endpoint, methods=[method], response_model=None)

    route("POST", "/weights_info", calls.weights_info)
    route("GET", "/training_runs", calls.training_runs)
    route("GET", "/training_runs/{model_id}", calls.training_run)
    route("GET", "/training_runs/{model_id}/checkpoints", calls.run_checkpoints)
    route("GET", "/checkpoints", calls.checkpoints)
    route("GET", "/billing/usage/checkpoints/current", calls.storage_usage)
    route("POST", "/copy_weights", calls.copy_weights)
    route("DELETE", _CHECKPOINT, calls.delete)
    route("PUT", f"{_CHECKPOINT}/ttl", calls.set_ttl)
    route("POST", f"{_CHECKPOINT}/publish", partial(calls.publish, public=True))
    route("DELETE", f"{_CHECKPOINT}/publish", partial(calls.publish, public=False))
    route("GET", f"{_CHECKPOINT}/external_weights_urls", calls.external_urls)
    route("GET", "/download/{model_id}/{name}/{file}", calls.download)
    return router


class RestCalls:
    """One method a call. Those that touch the disk are not coroutines: they run on a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = engine.store
        self._downloads = Downloads(engine.store)
        self._copying = threading.Lock()
        self._copies: dict[str, str] = {}

    def weights_info(self, body: Json) -> dict[str, Any]:
        """What a client must know to load a checkpoint."""
        record = self._store.find(parse_path(str(body.get("tinker_path"))))
        return {
            "base_model": record.base_model,
            "optimizer_config": {"type": "adamw"},
            "is_lora": True,
            "lora_rank": record.spec.rank,
            "train_unembed": record.spec.train_unembed,
            "train_mlp": record.spec.train_mlp,
            "train_attn": record.spec.train_attn,
        }

    def training_runs(
        self, limit: int = 20, offset: int = 0, project_id: str | None = None
    ) -> dict[str, Any]:
        """A page of training runs, newest first; with `project_id` those of its sessions."""
        self._store.sweep()
        runs = self._store.runs()
        if project_id is not None:
            projects = self._projects()
            runs = [run for run in runs if projects.get(session_of(run.model_id)) == project_id]
        listed = [self._run(run) for run in page(runs, limit, offset)]
        return {"training_runs": listed, "cursor": _cursor(limit, offset, len(runs))}

    def training_run(self, model_id: str) -> dict[str, Any]:
        """One training run."""
        run = self._store.run(model_id)
        if run is None:
            raise UnknownId(f"there is no training run {model_id!r} here.")
        return self._run(run)

    def run_checkpoints(self, model_id: str) -> dict[str, Any]:
        """All checkpoints of a run."""
        self._store.sweep()
        self.training_run(model_id)
        found = self._store.checkpoints(model_id)
        return {"checkpoints": [_checkpoint(record) for record in found]}

    def checkpoints(self, limit: int = 100, offset: int = 0) -> dict[str, Any]:
        """A page of all checkpoints, newest first."""
        self._store.sweep()
        found = self._store.checkpoints()
        listed = [_checkpoint(record) for record in page(found, limit, offset)]
        return {"checkpoints": listed, "cursor": _cursor(limit, offset, len(found))}

    def delete(self, model_id: str, kind: str, name: str) -> Response:
        """Remove a checkpoint."""
        self._store.delete(checkpoint_path(model_id, kind, name))
        return Response(status_code=204)

    def set_ttl(self, model_id: str, kind: str, name: str, body: Json) -> Response:
        """Let a checkpoint end some seconds from now, or with null never."""
        seconds = body.get("ttl_seconds")
        if seconds is not None and (not isinstance(seconds, int) or isinstance(seconds, bool)):
            raise InvalidRequest(f"ttl_seconds is {seconds!r}; give whole seconds or null.")
        self._store.set_ttl(checkpoint_path(model_id, kind, name), seconds)
        return Response(status_code=204)

    def publish(self, model_id: str, kind: str, name: str, *, public: bool) -> Response:
        """Mark a checkpoint; a second time changes nothing (clients retry a 409 for minutes)."""
        self._store.set_public(checkpoint_path(model_id, kind, name), public)
        return Response(status_code=204)

    def external_urls(
        self, request: Request, model_id: str, kind: str, name: str
    ) -> dict[str, Any]:
        """A signed URL for each file of a PEFT adapter folder."""
        path = checkpoint_path(model_id, kind, name)
        urls, expires = self._downloads.urls(path, str(request.base_url))
        return {"urls": urls, "expires": expires.isoformat()}

    def download(
        self, model_id: str, name: str, file: str, expires: str = "", signature: str = ""
    ) -> FileResponse:
        """A file behind a signed URL."""
        return FileResponse(self._downloads.file(model_id, name, file, expires, signature))

    def storage_usage(self, project_id: str | None = None) -> dict[str, Any]:
        """Checkpoints and their bytes by project; they cost nothing."""
        projects = self._projects()
        by_project: dict[str, list[CheckpointRecord]] = {}
        for record in self._store.checkpoints():
            project = projects.get(session_of(record.path.model_id), NO_PROJECT)
            by_project.setdefault(project, []).append(record)
        return {
            "data": [
                {
                    "project_id": project,
                    "checkpoint_count": len(records),
                    "size_bytes": (size := sum(record.size_bytes for record in records)),
                    "size_gigabytes": size / 1e9,
                    "estimated_monthly_cost_usd": 0.0,
                }
                for project, records in sorted(by_project.items())
                if project_id in (None, project)
            ]
        }

    def copy_weights(
        self, body: Json, x_idempotency_key: Annotated[str | None, Header()] = None
    ) -> dict[str, str]:
        """A checkpoint again, under a run of its own that is not trained on."""
        request = validated(types.CopyWeightsRequest, body)
        with self._copying:
            known = self._copies.get(x_idempotency_key or "")
            if known is None:
                known = str(self._copy(request))
                if x_idempotency_key:
                    self._copies[x_idempotency_key] = known
        return {"tinker_path": known}

    def _copy(self, request: types.CopyWeightsRequest) -> CheckpointPath:
        source = self._store.find(parse_path(request.source_path))
        now = self._store.clock()
        if request.session_id is not None:
            session = self._engine.sessions.live(request.session_id).record
            number = request.model_seq_id or 0
        else:
            project = request.destination_project_id or NO_PROJECT
            session = SessionRecord(new_session_id(), now, project_id=project)
            number = 0
        model_id = model_id_of(session.session_id, number)
        copied = replace(
            source,
            path=checkpoint_path(model_id, source.path.kind, source.path.name),
            created_at=now,
            expires_at=expiry(now, request.ttl_seconds),
            public=False,
        )
        self._store.put_session(session)
        origin = {"copied_from": str(source.path)}
        self._store.add_run(RunRecord(model_id, source.base_model, source.spec, now, origin))
        return self._store.copy(source.path, copied).path

    def _projects(self) -> dict[str, str]:
        return {session.session_id: session.project_id for session in self._store.sessions()}

    def _run(self, run: RunRecord) -> dict[str, Any]:
        checkpoints = self._store.checkpoints(run.model_id)
        newest = {
            kind: next((_checkpoint(c) for c in checkpoints if c.path.kind == kind), None)
            for kind in ("weights", "sampler_weights")
        }
        last = max([run.created_at, *(record.created_at for record in checkpoints)])
        return {
            "training_run_id": run.model_id,
            "base_model": run.base_model,
            "model_owner": "local",
            "is_lora": True,
            "corrupted": False,
            "lora_rank": run.spec.rank,
            "last_request_time": last.isoformat(),
            "last_checkpoint": newest["weights"],
            "last_sampler_checkpoint": newest["sampler_weights"],
            "user_metadata": run.user_metadata or None,
        }


def _checkpoint(record: CheckpointRecord) -> dict[str, Any]:
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


def page(items: list[Any], limit: int, offset: int) -> list[Any]:
    """One page of a listing. Raises `InvalidRequest`."""
    if limit < 0 or offset < 0:
        raise InvalidRequest(f"limit is {limit} and offset {offset}; neither may be below 0.")
    return items[offset : offset + limit]


def _cursor(limit: int, offset: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}
