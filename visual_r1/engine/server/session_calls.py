"""The HTTP calls about sessions: listed, searched, moved to a project, finished.

The HTTP calls that every client makes: configuration, sessions, results.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from tinker import types

from visual_r1.engine.server.checkpoints import page
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.server.futures import Reply
from visual_r1.engine.server.sessions import UnknownId
from visual_r1.engine.server.training import Json
from visual_r1.engine.server.wire import validated
from visual_r1.engine.store.records import SessionEnd, SessionRecord, session_of
from visual_r1.engine.types import InvalidRequest

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


LONG_POLL_S = 30.0
"""How long a result is waited for; the SDK gives up on a poll after 45 seconds."""


def client_routes(engine: Engine, long_poll_s: float = LONG_POLL_S) -> APIRouter:
    """The routes for clients of every kind."""
    router = APIRouter()
    calls = ClientCalls(engine, long_poll_s)
    get = partial(router.add_api_route, methods=["GET"], response_model=None)
    post = partial(router.add_api_route, methods=["POST"], response_model=None)
    get("/healthz", calls.healthz)
    get("/get_server_capabilities", calls.capabilities)
    post("/client/config", calls.config)
    post("/client/dynamic_config", calls.dynamic_config)
    post("/telemetry", calls.telemetry)
    post("/create_session", calls.create_session)
    post("/session_heartbeat", calls.heartbeat)
    post("/retrieve_future", calls.retrieve_future)
    return router


class ClientCalls:
    """One method a call."""

    def __init__(self, engine: Engine, long_poll_s: float) -> None:
        self._engine = engine
        self._long_poll_s = long_poll_s

    async def healthz(self) -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    async def capabilities(self) -> dict[str, Any]:
        """The models on offer: one."""
        compute = self._engine.compute
        model = {
            "model_name": compute.model_name,
            "max_context_length": compute.context_length,
            "trainable": True,
            "sampleable": True,
        }
        return {"supported_models": [model]}

    async def config(self) -> dict[str, Any]:
        """Flags of the SDK: its defaults.

        Chunks of a forward_backward stay parallel: then all of them have arrived when the first
        runs, which is how a failed call is told from the next one (see `ordering`). Copies of a
        sampling client ask for a number of their own, so that their requests are never mixed up.
        """
        return {"parallel_fwdbwd_chunks": True, "sample_join_sampling_session": True}

    async def dynamic_config(self) -> dict[str, Any]:
        """Flags that the SDK asks for again and again."""
        return {"sample_cancel_enabled": True}

    async def telemetry(self) -> dict[str, str]:
        """Accepted, and forgotten."""
        return {"status": "accepted"}

    async def create_session(self, body: Json) -> dict[str, Any]:
        """Open a session."""
        session = self._engine.create_session(validated(types.CreateSessionRequest, body))
        return {"type": "create_session", "session_id": session.record.session_id}

    async def heartbeat(self, body: Json) -> dict[str, str]:
        """The client lives."""
        request = validated(types.SessionHeartbeatRequest, body)
        self._engine.heartbeat(request.session_id)
        return {"type": "session_heartbeat"}

    async def retrieve_future(self, body: Json) -> Response:
        """The result of a request, once it is there: waits for it, since clients do not."""
        wanted = validated(types.FutureRetrieveRequest, body).request_id
        try:
            reply: Reply | None = await self._engine.futures.wait(wanted, self._long_poll_s)
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
