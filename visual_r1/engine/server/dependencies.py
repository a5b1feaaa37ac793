"""What the routes are given: the engine, a request's JSON, the checkpoint that its URL names."""

from typing import Annotated, Any, TypeAlias

from fastapi import Body, Depends, Request

from visual_r1.engine.server.engine import Engine
from visual_r1.engine.store.records import CheckpointPath, checkpoint_path

Json: TypeAlias = Annotated[dict[str, Any], Body()]
"""A body as it came: what is wrong in a numbered request must fail its future, not the POST."""


async def engine_of(request: Request) -> Engine:
    """The engine that the application serves."""
    engine: Engine = request.app.state.engine
    return engine


TheEngine: TypeAlias = Annotated[Engine, Depends(engine_of)]

NamedCheckpoint: TypeAlias = Annotated[CheckpointPath, Depends(checkpoint_path)]
"""From the parts `{model_id}`, `{kind}` and `{name}` of the URL, checked."""
