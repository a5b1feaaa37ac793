"""A flow's form in Prefect's UI, and its parameters for a command or schedule.

Prefect makes a form of a function's parameters. A configuration in it would be a page of fifteen
thousand pixels, and every field of it would be posted, so that defaults beat a preset chosen beside
them. So a flow takes a preset, overrides and a few settings by short names, and this is where they
are described. Nothing is checked by Prefect when a run starts: what is wrong is said by
`tasks.parameters` in a sentence, and before that by the server, which holds what is posted against
the bounds and choices here.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import WithJsonSchema
from pydantic_core import MISSING

from tasks.parameters import with_short_names
from visual_r1.config import DEFAULT_PRESET, preset_names
from visual_r1.config.names import schema_of, settings

SHORT = {
    "run_name": "run.name",
    "steps": "train.steps",
    "more_steps": "train.more_steps",
    "model": "model.name",
    "start_from": "model.start_from",
    "data": "data.source",
    "responses": "sft.responses",
    "problems": "evaluation.problems",
}
"""Settings that have a field of their own in a form; they are overrides by a shorter name."""

RUN = {
    "type": "string",
    "description": "A run's folder, or its name under runs/, in place of a preset that describes "
    "it.",
}
CHECKPOINT = {
    "type": "string",
    "default": "final",
    "description": "Which checkpoint: best (by validation), final, or a step such as 40.",
}

_PRESET = {
    "type": "string",
    "enum": preset_names(),
    "default": DEFAULT_PRESET,
    "description": "What is trained, and how: the values beneath everything below. quickstart and "
    "vision_sr1 run on this machine; the others ask for a server in overrides, such as "
    '{"backend.server": "remote"}, which costs money.',
}
_OVERRIDES: dict[str, Any] = {
    "type": "object",
    "default": {},
    "description": "Any other setting by its name, over the preset: "
    '{"train.learning_rate": 0.0001, "evaluation.problems": 128}. docs/settings.md has them all.',
}
_ALL_HAVE = ("preset", "overrides", "config")
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
    in JSON schema; one that is not described is shown by its type.
    """

    def decorate(flow: Flow[..., Any]) -> Flow[..., Any]:
        work: Callable[..., Any] = flow.fn
        plain = inspect.signature(work)
        fields = {
            "preset": _PRESET,
            **{name: _of_setting(SHORT[name]) for name in short if name == "run_name"},
            **own,
            **{name: None for name in plain.parameters if name not in {*_ALL_HAVE, *own}},
            **{name: _of_setting(SHORT[name]) for name in short if name != "run_name"},
            "overrides": _OVERRIDES | {"patternProperties": _bounds()},
            "config": _CONFIG,
        }

        @functools.wraps(work)
        def taking_short_names(*args: Any, **kwargs: Any) -> Any:
            given = called.bind(*args, **kwargs).arguments
            for name, value in list(given.items()):
                if value in (None, "") and name in plain.parameters:  # left empty in a form
                    given[name] = plain.parameters[name].default
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
        taking_short_names.__signature__ = called  # pyright: ignore[reportAttributeAccessIssue]
        flow.fn = taking_short_names
        # What a form shows is another thing than what a call may leave out: a field with the
        # default null is refused when it is left empty, one without any may be.
        flow.__signature__ = plain.replace(  # pyright: ignore[reportAttributeAccessIssue]
            parameters=[
                parameter(name, Annotated[Any, WithJsonSchema(dict(schema))], MISSING)
                if schema is not None
                else plain.parameters[name].replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for name, schema in fields.items()
            ]
        )
        flow.parameters = parameter_schema(flow)
        return flow

    return decorate


def _of_setting(name: str) -> dict[str, Any]:
    """A setting's own type, bounds and description; empty is as the preset has it."""
    [schema] = [one for one in schema_of(name) if one.get("type") != "null"]
    return {**schema, "description": f"{settings()[name].description} ({name})"}


def _bounds() -> dict[str, Any]:
    """The type, bounds and choices of each setting that takes one kind of value.

    Of one that may be empty the server could only say that a value is none of several kinds; of
    that, and of names that there are not, the flow says more.
    """
    return {
        f"^{re.escape(name)}$": kinds[0]
        for name in settings()
        if len(kinds := schema_of(name)) == 1
    }
