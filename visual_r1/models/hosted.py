"""What is known of the hosted service's models beyond what its API tells: `hosted.toml`, dated."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from visual_r1.models import TINY_GEOMETRY, hub_id

_FILE = Path(__file__).parent / "hosted.toml"


@dataclass(frozen=True, slots=True)
class HostedModel:
    """A model by its id on the hub.

    `sees` says that it takes images, `asked_here` that its prompts are known to this project too.
    One that is `retired` has a `successor`, which is to be asked with `thinking` off where that
    says so.
    """

    name: str
    sees: bool
    asked_here: bool = False
    retired: date | None = None
    successor: str | None = None
    thinking: Literal["off"] | None = None


def hosted_model(name: str) -> HostedModel | None:
    """What is known of a model, whatever suffix its name has; None where it is not listed. The
    shipped model is known too, for a server of one's own may offer it."""
    return _models().get(hub_id(name))


def successor_of(name: str) -> HostedModel | None:
    """The model that took the place of `name`, or of what did: one that is offered still.

    `thinking` is that of the whole way: off, where the first was a model that did not think. None
    where `name` is not listed, or not retired.
    """
    model = first = hosted_model(name)
    while model is not None and model.retired is not None and model.successor is not None:
        model = hosted_model(model.successor)
    if model is None or first is None or model is first:
        return None
    return HostedModel(model.name, model.sees, model.asked_here, thinking=first.thinking)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The file: on which day it was last held against the service's pages, and facts by name."""

    as_of: date
    models: Mapping[str, Mapping[str, Any]]


@cache
def _file() -> _Listed:
    return TypeAdapter(_Listed).validate_python(tomllib.loads(_FILE.read_text("utf-8")))


def as_of() -> date:
    """The day on which the list was last held against the service's pages."""
    return _file().as_of


@cache
def _models() -> Mapping[str, HostedModel]:
    listed = {name: {"name": name, **facts} for name, facts in _file().models.items()}
    shipped = {TINY_GEOMETRY: HostedModel(TINY_GEOMETRY, sees=True, asked_here=True)}
    return shipped | TypeAdapter(dict[str, HostedModel]).validate_python(listed)
