"""The HTTP calls that every client makes: configuration, sessions, results."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from tinker import types

from visual_r1.engine.futures import Reply
from visual_r1.engine.service import Engine
from visual_r1.engine.training_routes import Json
from visual_r1.engine.wire import validated

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
