"""The HTTP calls about sessions: listed, searched, moved to a project, finished."""

from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from tinker import types

from visual_r1.engine.naming import session_of
from visual_r1.engine.records import SessionEnd, SessionRecord
from visual_r1.engine.requests import InvalidRequest
from visual_r1.engine.rest import page
from visual_r1.engine.service import Engine
from visual_r1.engine.sessions import UnknownId
from visual_r1.engine.training_routes import Json
from visual_r1.engine.wire import validated

OWNER = "local"
"""Who owns everything: whoever has the key."""


def session_routes(engine: Engine) -> APIRouter:
    """The routes about sessions."""
    router = APIRouter()
    calls = SessionCalls(engine)
    route = partial(router.add_api_route, response_model=None)
    route("/sessions", calls.sessions, methods=["GET"])
    route("/sessions/search", calls.search, methods=["POST"])
    route("/sessions/{session_id}", calls.session, methods=["GET"])
    route("/sessions/{session_id}/project", calls.assign_project, methods=["PUT"])
    route("/sessions/{session_id}/trace_export", calls.trace_export, methods=["GET"])
    route("/sessions/{session_id}/finish", calls.finish, methods=["POST"])
    return router


class SessionCalls:
    """One method a call. All run on the event loop, where the live sessions are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = engine.store

    async def sessions(self, limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """A page of sessions, newest first; of earlier runs of the engine those with a model."""
        listed = page(self._newest_first(), limit, offset)
        return {"sessions": [record.session_id for record in listed]}

    async def session(self, session_id: str) -> dict[str, Any]:
        """One session."""
        record = self._record(session_id)
        live = self._engine.sessions.find(session_id)
        runs = [
            run.model_id for run in self._store.runs() if session_of(run.model_id) == session_id
        ]
        return {
            "training_run_ids": sorted(runs),
            "sampler_ids": live.sampler_ids if live else [],
            "user_metadata": record.user_metadata or None,
            "display_name": record.display_name,
        }

    async def search(self, body: Json) -> dict[str, Any]:
        """Sessions that match, newest first, from a cursor on."""
        request = validated(types.SessionSearchRequest, body)
        found = [
            record
            for record in self._newest_first()
            if _matches(record, self._status(record), request)
        ]
        if request.cursor is not None:
            last = (request.cursor.last_created_at, request.cursor.last_session_id)
            found = [record for record in found if _age(record) < last]
        listed = found[: request.limit]
        return {
            "sessions": [self._summary(record) for record in listed],
            "next_cursor": _cursor(listed[-1]) if len(found) > len(listed) else None,
        }

    async def assign_project(self, session_id: str, body: Json) -> Response:
        """Put a session under the label of a project."""
        project = body.get("project_id")
        if not isinstance(project, str) or not project:
            raise InvalidRequest(f"project_id is {project!r}; give the name of a project.")
        record = replace(self._record(session_id), project_id=project)
        live = self._engine.sessions.find(session_id)
        if live is not None:
            live.record = record
        self._store.update_session(record)
        return Response(status_code=204)

    async def trace_export(self, session_id: str) -> dict[str, Any]:
        """Not offered; in the form of a failed export, which clients show."""
        self._record(session_id)
        reason = "this engine records no traces; its log tells of errors, metrics come with results"
        return {"status": "failed", "url": None, "error": reason}

    async def finish(self, session_id: str, body: Json) -> Response:
        """The client is done; its weights in memory are freed."""
        reason, detail = body.get("reason"), body.get("detail")
        said = reason.get("type") if isinstance(reason, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        end = SessionEnd(
            said if said in ("errored", "interrupted") else "success",
            detail if isinstance(detail, str) else None,
        )
        await self._engine.finish_session(session_id, end)
        return Response(status_code=204)

    def _newest_first(self) -> list[SessionRecord]:
        known = {record.session_id: record for record in self._store.sessions()}
        known |= {s.record.session_id: s.record for s in self._engine.sessions.all()}
        return sorted(known.values(), key=_age, reverse=True)

    def _record(self, session_id: str) -> SessionRecord:
        for record in self._newest_first():
            if record.session_id == session_id:
                return record
        raise UnknownId(f"there is no session {session_id!r} here.")

    def _summary(self, record: SessionRecord) -> dict[str, Any]:
        session_id = record.session_id
        checkpoints = [
            one for one in self._store.checkpoints() if session_of(one.path.model_id) == session_id
        ]
        return {
            "session_id": session_id,
            "created_at": record.created_at.isoformat(),
            "owner": OWNER,
            "project_id": record.project_id,
            "status": self._status(record),
            "checkpoints_count": len(checkpoints),
            "display_name": record.display_name,
            "user_metadata": record.user_metadata or None,
            "checkpoint_storage_bytes": sum(one.size_bytes for one in checkpoints),
        }

    def _status(self, record: SessionRecord) -> dict[str, Any] | None:
        """As the SDK's `SessionStatus`; None where the client went without a word."""
        live = self._engine.sessions.find(record.session_id)
        if live is not None and not live.finished:
            return {"type": "active"}
        end = record.end
        if end is None or end.reason == "silent":
            return None
        return {"type": "client_finished", "reason": {"type": end.reason}, "detail": end.detail}


def _age(record: SessionRecord) -> tuple[Any, str]:
    return record.created_at, record.session_id


def _cursor(record: SessionRecord) -> dict[str, str]:
    created_at, session_id = _age(record)
    return {"last_created_at": created_at.isoformat(), "last_session_id": session_id}


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
