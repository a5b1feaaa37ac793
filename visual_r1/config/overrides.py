"""A preset with single values laid over it: `{"train.steps": 6}` over `quickstart`."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from visual_r1.config.command_line import value_error
from visual_r1.config.run_config import RunConfig
from visual_r1.errors import ConfigError


def with_overrides(preset: str, overrides: Mapping[str, Any]) -> RunConfig:
    """The preset with `overrides` over it, dotted names to values; sections may be nested too.

    Raises `ConfigError` in one sentence for an unknown name (naming the nearest) or a wrong value.
    """
    values: dict[str, Any] = {"preset": preset}
    for name, value in overrides.items():
        *sections, key = name.split(".")
        place = values
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{name} and {section} are both given: leave one of them out.")
            place = cast("dict[str, Any]", inner)
        place[key] = value
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(value_error(error)) from error
