"""What a flow is given: a preset with overrides, or a whole configuration."""

from collections.abc import Mapping
from typing import Any

from tasks.keys import borrow_keys
from tasks.project_defaults import with_project_defaults
from visual_r1.config import RunConfig
from visual_r1.config.command_line import DEFAULT_PRESET
from visual_r1.config.overrides import with_overrides
from visual_r1.errors import ConfigError


def chosen_config(
    preset: str | None, overrides: Mapping[str, Any] | None, config: RunConfig | None
) -> RunConfig:
    """The configuration that a flow's parameters mean; raises `ConfigError` where they disagree."""
    if config is None:
        config = with_overrides(preset or DEFAULT_PRESET, with_project_defaults(overrides or {}))
    elif overrides:
        raise ConfigError(
            "A flow takes a whole config, or overrides over a preset, and both are given: leave "
            "one of them out."
        )
    borrow_keys(config)
    return config
