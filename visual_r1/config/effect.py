"""Whether a setting that somebody gave has an effect, by the marks of the fields (`needs`)."""

import json
from collections.abc import Iterator
from typing import Any

from visual_r1.config.names import settings
from visual_r1.config.needs import needs_of
from visual_r1.config.run_config import RunConfig, holds_run
from visual_r1.errors import ConfigError


def require_effect(config: RunConfig, beneath: RunConfig | None = None) -> RunConfig:
    """`config`, where all has an effect that was given over `beneath` (default: its preset).

    Given is what is neither the default, nor what stands beneath: the values of presets and of runs
    that are there are nobody's mistake. A run that is there already goes on as it is.

    Raises `ConfigError`, with what would give the first such setting its effect.
    """
    told = next(without_effect(config, beneath), None)
    if told is not None and not holds_run(config.run_dir):
        raise ConfigError(told)
    return config


def without_effect(config: RunConfig, beneath: RunConfig | None = None) -> Iterator[str]:
    """A sentence for each setting that was given and has no effect, see `require_effect`."""
    below = beneath or RunConfig.model_validate({"preset": config.preset})
    for name, field in settings().items():
        needs = needs_of(field.metadata)
        if not needs or any(one.met(_value(config, one.setting)) for one in needs):
            continue
        value = _value(config, name)
        if value in (field.get_default(call_default_factory=True), _value(below, name)):
            continue
        there = " and ".join(
            f"{one.setting} is {_shown(_value(config, one.setting))}" for one in needs
        )
        wanted = " or ".join(map(str, needs))
        yield (
            f"{name} is {_shown(value)} and has no effect, since {there}: give {wanted} as well, "
            f"or leave {name} out."
        )


def _value(config: RunConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)
