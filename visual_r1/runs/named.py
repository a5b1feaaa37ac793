"""A run by its folder or its name, and its own configuration with what may be another in it."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visual_r1.config import RunConfig, differing_keys
from visual_r1.config.overrides import flat, laid_over
from visual_r1.errors import RunError
from visual_r1.opening import user_path
from visual_r1.runs.config_file import CONFIG_FILE
from visual_r1.runs.folder import config_of_run


def find_run(named: str, output_dir: Path = Path()) -> Path:
    """The folder that `named` means: a run's folder, or the name of one in `output_dir`/runs.

    Raises `RunError` where there is none, with the nearest name.
    """
    try:
        runs, place = user_path(output_dir) / "runs", user_path(named)
    except ValueError as error:
        raise RunError(f"There is no run {named!r} to be found: {error}.") from error
    for folder in (place, runs / named):
        if named and (folder / CONFIG_FILE).is_file():
            return folder
    there = sorted(path.parent.name for path in runs.glob(f"*/{CONFIG_FILE}"))
    near = difflib.get_close_matches(Path(named).name, there, n=1) or there[-1:]
    hint = f"did you mean {near[0]}?" if near else f"there is none in {runs}."
    raise RunError(f"There is no run {named!r}: name a run's folder, or one under {runs}; {hint}")


def configured(run_dir: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of the run in `run_dir`, with `overrides` in it: dotted names to values.

    Raises `RunError` as `config_of_run`, and as `require_that_run` where it would be another run's;
    `ConfigError` for a setting that is not there, or a wrong value.
    """
    config = config_of_run(run_dir)
    changes = flat(overrides or {}, "overrides")
    return require_that_run(run_dir, config, laid_over(config, changes)) if changes else config


def require_that_run(run_dir: Path, stored: RunConfig, changed: RunConfig) -> RunConfig:
    """`changed`, where it is of the run in `run_dir`, wherever it was said to lie.

    Raises `RunError`, naming the settings, where they make another run.
    """
    if keys := differing_keys(stored.identity(), changed.identity()):
        raise RunError(
            f"{', '.join(keys)} cannot be another for {run_dir}: its weights were made with what "
            "stands there. Leave it out, or train another run."
        )
    place = {"output_dir": stored.output_dir, "run": stored.run}
    return changed.model_copy(update=place)
