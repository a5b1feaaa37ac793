"""The HTTP calls that every client makes: configuration, sessions, results.

All of them run on the event loop, where the open sessions are.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from tinker import types

from visual_r1.engine.server.bodies import Body
from visual_r1.engine.server.checkpoints import OWNER, page, total_bytes
from visual_r1.engine.server.dependencies import Json, TheEngine
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.sessions import UnknownId
from visual_r1.engine.server.wire import validated
from visual_r1.engine.store.records import SessionEnd, SessionRecord, session_of
from visual_r1.engine.types import InvalidRequest

router = APIRouter()

LONG_POLL_S = 30.0
"""How long a result is waited for; the SDK gives up on a poll after 45 seconds."""

# -- configuration -------------------------------------------------------------------------------


async def retrieve_future(engine: Engine, body: Body) -> Response:
    """The result of a request, once it is there: waits for it, since clients do not."""
    wanted = validated(types.FutureRetrieveRequest, body.content).request_id
    engine.heard_of(wanted)
    try:
        reply = await engine.futures.wait(wanted, LONG_POLL_S)
    except KeyError:
        gone = (
            f"the result of {wanted} is not here: it was fetched long ago, or the engine was "
            "restarted since."
        )
        return JSONResponse({"detail": gone}, status_code=410)
    if reply is None:
        # 408 means the same to the SDK as a body that says so, but is not logged as a warning.
        pending = {"type": "try_again", "request_id": wanted, "queue_state": "active"}
        return JSONResponse(pending, status_code=408)
    return Response(reply.body, media_type=reply.media_type)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The server answers."""
    return {"status": "ok"}


@router.get("/get_server_capabilities")
async def capabilities(engine: TheEngine) -> dict[str, Any]:
    """The models on offer: one."""
    model = {
        "model_name": engine.compute.model_name,
        "max_context_length": engine.compute.context_length,
        "trainable": True,
        "sampleable": True,
    }
    return {"supported_models": [model]}


@router.post("/client/config")
async def config() -> dict[str, Any]:
    """Flags of the SDK, its defaults; and that one thread computes here, which the SDK passes over.

    Chunks of a forward_backward stay parallel: then all of them have arrived when the first runs,
    which is how a failed call is told from the next one (see `GradientGuard`). Copies of a sampling
    client ask for a number of their own, so that their requests are never mixed up.
    """
    return {
        "parallel_fwdbwd_chunks": True,
        "sample_join_sampling_session": True,
        "samples_and_trains_in_turns": True,
    }


@router.post("/client/dynamic_config")
async def dynamic_config() -> dict[str, Any]:
    """Flags that the SDK asks for again and again."""
    return {"sample_cancel_enabled": True}


@router.post("/telemetry")
async def telemetry() -> dict[str, str]:
    """Accepted, and forgotten."""
    return {"status": "accepted"}


# -- a session's life, and its results -----------------------------------------------------------


@router.post("/create_session")
async def create_session(engine: TheEngine, body: Json) -> dict[str, Any]:
    """Open a session."""
    session = engine.create_session(validated(types.CreateSessionRequest, body))
    return {"type": "create_session", "session_id": session.record.session_id}


@router.post("/session_heartbeat")
async def heartbeat(engine: TheEngine, body: Json) -> dict[str, str]:
    """The client lives."""
    engine.heartbeat(validated(types.SessionHeartbeatRequest, body).session_id)
    return {"type": "session_heartbeat"}


@router.post("/sessions/{session_id}/finish")
async def finish(engine: TheEngine, session_id: str, body: Json) -> Response:
    """The client is done; its weights in memory are freed."""
    reason, detail = body.get("reason"), body.get("detail")
    said = reason.get("type") if isinstance(reason, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    end = SessionEnd(
        said if said in ("errored", "interrupted") else "success",
        detail if isinstance(detail, str) else None,
    )
    await engine.finish_session(session_id, end)
    return Response(status_code=204)


# -- listings ------------------------------------------------------------------------------------


@router.get("/sessions")
async def sessions(engine: TheEngine, limit: int = 20, offset: int = 0) -> dict[str, Any]:
    """A page of sessions, newest first; of those that ended long ago the ones with a model."""
    listed = page(_newest_first(engine), limit, offset)
    return {"sessions": [record.session_id for record in listed]}


@router.get("/sessions/{session_id}")
async def session(engine: TheEngine, session_id: str) -> dict[str, Any]:
    """One session."""
    record = _known(engine, session_id)
    live = engine.sessions.find(session_id)
    runs = [run.model_id for run in engine.store.runs() if session_of(run.model_id) == session_id]
    return {
        "training_run_ids": sorted(runs),
        "sampler_ids": live.sampler_ids if live else [],
        "user_metadata": record.user_metadata or None,
        "display_name": record.display_name,
    }


@router.post("/sessions/search")
async def search(engine: TheEngine, body: Json) -> dict[str, Any]:
    """Sessions that match, newest first, from a cursor on."""
    request = validated(types.SessionSearchRequest, body)
    found = [
        record
        for record in _newest_first(engine)
        if _matches(record, _status(engine, record), request)
    ]
    if request.cursor is not None:
        last = (request.cursor.last_created_at, request.cursor.last_session_id)
        found = [record for record in found if _age(record) < last]
    listed = found[: request.limit]
    cursor = None
    if len(found) > len(listed):
        created_at, session_id = _age(listed[-1])
        cursor = {"last_created_at": created_at.isoformat(), "last_session_id": session_id}
    return {"sessions": [_summary(engine, record) for record in listed], "next_cursor": cursor}


@router.put("/sessions/{session_id}/project")
async def assign_project(engine: TheEngine, session_id: str, body: Json) -> Response:
    """Put a session under the label of a project."""
    project = body.get("project_id")
    if not isinstance(project, str) or not project:
        raise InvalidRequest(f"project_id is {project!r}; give the name of a project.")
    record = replace(_known(engine, session_id), project_id=project)
    live = engine.sessions.find(session_id)
    if live is not None:
        live.record = record
    engine.store.update_session(record)
    return Response(status_code=204)


@router.get("/sessions/{session_id}/trace_export")
async def trace_export(engine: TheEngine, session_id: str) -> dict[str, Any]:
    """Not offered; in the form of a failed export, which clients show."""
    _known(engine, session_id)
    reason = "this engine records no traces; its log tells of errors, metrics come with results"
    return {"status": "failed", "url": None, "error": reason}


def _newest_first(engine: Engine) -> list[SessionRecord]:
    known = {record.session_id: record for record in engine.store.sessions()}
    known |= {one.record.session_id: one.record for one in engine.sessions.all()}
    return sorted(known.values(), key=_age, reverse=True)


def _age(record: SessionRecord) -> tuple[datetime, str]:
    return record.created_at, record.session_id


def _known(engine: Engine, session_id: str) -> SessionRecord:
    for record in _newest_first(engine):
        if record.session_id == session_id:
            return record
    raise UnknownId(f"there is no session {session_id!r} here.")


def _summary(engine: Engine, record: SessionRecord) -> dict[str, Any]:
    session_id = record.session_id
    checkpoints = [
        one for one in engine.store.checkpoints() if session_of(one.path.model_id) == session_id
    ]
    return {
        "session_id": session_id,
        "created_at": record.created_at.isoformat(),
        "owner": OWNER,
        "project_id": record.project_id,
        "status": _status(engine, record),
        "checkpoints_count": len(checkpoints),
        "display_name": record.display_name,
        "user_metadata": record.user_metadata or None,
        "checkpoint_storage_bytes": total_bytes(checkpoints),
    }


def _status(engine: Engine, record: SessionRecord) -> dict[str, Any] | None:
    """As the SDK's `SessionStatus`; None where the client went without a word."""
    live = engine.sessions.find(record.session_id)
    if live is not None and not live.over:
        return {"type": "active"}
    end = record.end
    if end is None or end.reason == "silent":
        return None
    return {"type": "client_finished", "reason": {"type": end.reason}, "detail": end.detail}


def _matches(
    record: SessionRecord, status: dict[str, Any] | None, wanted: types.SessionSearchRequest
) -> bool:
    """Whether all filters hold; a session id and a display name are two ways to name a session."""
    names: list[bool] = []
    if wanted.session_id is not None:
        names.append(record.session_id == wanted.session_id)
    if wanted.display_name is not None:
        title = (record.display_name or "").lower()
        names.append(all(word in title for word in wanted.display_name.lower().split()))
    owners = wanted.owner.owner_urns if isinstance(wanted.owner, types.UserSearchOwner) else [OWNER]
    return (
        (not names or any(names))
        and OWNER in owners
        and (wanted.project_ids is None or record.project_id in wanted.project_ids)
        and wanted.user_metadata.items() <= record.user_metadata.items()
        and (wanted.statuses is None or any(_is(status, one) for one in wanted.statuses))
    )


def _is(status: dict[str, Any] | None, wanted: types.SessionStatusQuery) -> bool:
    if status is None or status["type"] != wanted.type:
        return False
    reasons = wanted.reasons if isinstance(wanted, types.ClientFinishedSessionStatusQuery) else None
    return reasons is None or status["reason"]["type"] in reasons
