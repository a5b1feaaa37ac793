"""A flow's parameter `run`: which run is meant, in place of a preset that describes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visual_r1.config import DEFAULT_PRESET, RunConfig
from visual_r1.config.overrides import flat
from visual_r1.errors import ConfigError
from visual_r1.runs.named import configured, find_run


def of_run(
    run: str | None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    config: RunConfig | Mapping[str, Any] | None = None,
) -> RunConfig | None:
    """The configuration of the run that is named, with `overrides` over it; None where none is.

    A name is looked for under runs/ of the working directory, or of an override `output_dir`.
    Raises `ConfigError` where a preset or a configuration is given beside it, and as
    `runs.named.find_run` and `configured`.
    """
    if not run:
        return None
    over = flat(overrides or {}, "overrides")
    found = configured(find_run(run, Path(str(over.pop("output_dir", "")))), over)
    # A form posts the default where nobody chose a preset.
    if config or preset not in (None, "", DEFAULT_PRESET, found.preset):
        raise ConfigError(
            f"The run {run!r} has its own configuration: leave preset and config out; overrides "
            "may change what is asked of it, such as evaluation.samples."
        )
    return found
