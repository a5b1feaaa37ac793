"""A flow's form in Prefect's UI, and its parameters on the command line: what is changed often first.

Prefect makes a form of a function's parameters. A configuration in it would be a page of fifteen
thousand pixels, and every field of it would be posted, so that defaults beat a preset chosen beside
them. So a flow takes a preset, overrides and a few settings by short names, and this is where they
are described. Nothing is checked by Prefect when a run starts: what is wrong is said by
`tasks.parameters` in a sentence, and before that by the server, which holds what is posted against
the bounds and choices here.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import WithJsonSchema
from pydantic_core import MISSING

from tasks.parameters import with_short_names
from visual_r1.config import DEFAULT_PRESET, RunConfig, preset_names
from visual_r1.config.names import settings

SHORT = {
    "run_name": "run.name",
    "steps": "train.steps",
    "more_steps": "train.more_steps",
    "model": "model.name",
    "data": "data.source",
    "problems": "evaluation.problems",
}
"""Settings that have a field of their own in a form; they are overrides by a shorter name."""

_PRESET = {
    "type": "string",
    "enum": preset_names(),
    "default": DEFAULT_PRESET,
    "description": "What is trained, and how: the values beneath everything below. quickstart and "
    "vision_sr1 run on this machine; geometry3k and seed ask for a server in overrides, such as "
    '{"backend.server": "remote"}, which costs money.',
}
_OVERRIDES = {
    "type": "object",
    "default": {},
    "description": "Any other setting by its name, over the preset: "
    '{"train.learning_rate": 0.0001, "evaluation.problems": 128}. docs/settings.md has them all.',
}
_CONFIG = {
    "type": "object",
    "default": {},
    "description": "Seldom needed: a whole configuration in place of preset and overrides, such as "
    "the config.json of another run; it names its preset.",
}


def form(*short: str, **own: Mapping[str, Any]) -> Callable[[Flow[..., Any]], Flow[..., Any]]:
    """Give a flow of `preset`, `overrides` and `config` its form.

    `short` are the settings of `SHORT` that have a field of their own; they become parameters of
    the flow, and reach its function as overrides. `own` describes other parameters of the function
    in JSON schema, in the order of the form.
    """

    def decorate(flow: Flow[..., Any]) -> Flow[..., Any]:
        work: Callable[..., Any] = flow.fn
        plain = inspect.signature(work)
        fields = {
            "preset": _PRESET,
            **{name: _of_setting(SHORT[name]) for name in short},
            **own,
            "overrides": _OVERRIDES,
            "config": _CONFIG,
        }
        assert set(plain.parameters) <= set(fields), "a parameter that the form does not describe"

        @functools.wraps(work)
        def taking_short_names(*args: Any, **kwargs: Any) -> Any:
            given = called.bind(*args, **kwargs).arguments
            named = {SHORT[name]: given.pop(name) for name in short if name in given}
            if any(value is not None for value in named.values()):
                given["overrides"] = with_short_names(given.get("overrides"), named, SHORT)
            return work(**given)

        def parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
            return inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
            )

        called = plain.replace(
            parameters=[
                *(one.replace(annotation=Any) for one in plain.parameters.values()),
                *(parameter(name, Any, None) for name in short),
            ]
        )
        taking_short_names.__signature__ = called
        flow.fn = taking_short_names
        # What a form shows is another thing than what a call may leave out: a field with the
        # default null is refused when it is left empty, one without any may be.
        flow.__signature__ = plain.replace(
            parameters=[
                parameter(name, Annotated[Any, WithJsonSchema(dict(schema))], MISSING)
                for name, schema in fields.items()
            ]
        )
        flow.parameters = parameter_schema(flow)
        return flow

    return decorate


def _of_setting(name: str) -> dict[str, Any]:
    """A setting's own type, bounds and description; empty is as the preset has it."""
    schema: dict[str, Any] = RunConfig.model_json_schema()
    node, definitions = schema, schema["$defs"]
    for part in name.split("."):
        node = node["properties"][part]
        node = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    kinds = [kind for kind in node.get("anyOf", [node]) if kind.get("type") != "null"]
    told = {key: value for key, value in kinds[0].items() if key not in ("default", "title")}
    return {**told, "description": f"{settings()[name].description} ({name})"}
