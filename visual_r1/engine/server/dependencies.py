"""What the routes are given: the engine, a request's JSON, the checkpoint that its URL names."""

from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Request

from visual_r1.engine.server.bodies import Body, read_body
from visual_r1.engine.server.engine import Engine
from visual_r1.engine.store.records import CheckpointPath, checkpoint_path

TheBody: TypeAlias = Annotated[Body, Depends(read_body)]
"""A body in JSON, and what tells it from others."""


async def content_of(body: TheBody) -> dict[str, Any]:
    """What a body holds."""
    return body.content


Json: TypeAlias = Annotated[dict[str, Any], Depends(content_of)]
"""A body as it came: what is wrong in a numbered request must fail its future, not the POST."""


async def engine_of(request: Request) -> Engine:
    """The engine that the application serves."""
    engine: Engine = request.app.state.engine
    return engine


TheEngine: TypeAlias = Annotated[Engine, Depends(engine_of)]

NamedCheckpoint: TypeAlias = Annotated[CheckpointPath, Depends(checkpoint_path)]
"""From the parts `{model_id}`, `{kind}` and `{name}` of the URL, checked."""
