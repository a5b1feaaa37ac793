"""Flags and TOML files to a `RunConfig`.

Order of precedence, highest first: flags, `--config FILE.toml`, the preset, the defaults. Of
several files each lies over those before it, setting by setting.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from visual_r1.config import DEFAULT_PRESET, RunConfig, merged, read_toml
from visual_r1.config.effect import require_effect
from visual_r1.config.faults import value_error
from visual_r1.config.flags import read_flags
from visual_r1.errors import ConfigError
from visual_r1.printing import CommandParser, say


class _Flags(RunConfig, BaseSettings):
    """Every field of `RunConfig` as a flag: `--train.steps 40`, `--no-logging.wandb`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        cli_shortcuts={"output_dir": "output-dir"},
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and files alone: an environment variable named `train` must not change a run."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def load_config(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    beneath: RunConfig | None = None,
) -> RunConfig:
    """The configuration that `arguments` (default: the command line) describe.

    They lie over `beneath` where it is given, in place of a preset, setting by setting.

    `--help` prints the flags, with the defaults of the preset or file that is named beside it, and
    exits. Raises `ConfigError` with one sentence for an unknown flag (naming the nearest), an
    unknown preset or key, a value of the wrong type or range, or a setting without effect.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "-h" in given or "--help" in given:
        _print_help(given, program)
        raise SystemExit(0)
    files, flags = _taken_out("--config", given, "the name of a TOML file")
    values: dict[str, Any] = {"preset": DEFAULT_PRESET}
    if beneath is not None:
        values = beneath.model_dump()
    for file in files:
        values = merged(values, read_toml(Path(file)))
    flags = read_flags(flags)
    try:
        resolved = CliApp.run(_Flags, cli_args=flags, **values)
    except SettingsError as error:
        raise ConfigError(_flag_error(error)) from error
    except ValidationError as error:
        raise ConfigError(value_error(error)) from error
    return require_effect(RunConfig.model_validate(resolved.model_dump()), beneath)


def print_help_text(text: str) -> None:
    """Print, and be quiet where `| head` has read enough."""
    try:
        say(text)
    except BrokenPipeError:
        # What is left in the buffer, or still to come, must not fail later.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _taken_out(flag: str, given: list[str], what: str) -> tuple[list[str], list[str]]:
    """The values of one flag, in the order in which they stand, and the arguments without it."""
    parser = CommandParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag, dest="values", action="append", default=[])
    try:
        known, rest = parser.parse_known_args(given)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{flag} needs {what} after it.") from error
    return known.values, rest


def _print_help(given: list[str], program: str | None) -> None:
    """The flags, with the values that they would have without being given as their defaults."""
    asked = [one for one in given if one not in {"-h", "--help"}]
    files, asked = _taken_out("--config", asked, "the name of a TOML file")
    presets, _ = _taken_out("--preset", asked, "a name")
    beneath = [f"--config={file}" for file in files]
    beneath += [f"--preset={preset}" for preset in presets[-1:]]
    config = load_config(beneath)
    fields: dict[str, Any] = {
        name: (
            field.annotation,
            Field(default=getattr(config, name), description=field.description),
        )
        for name, field in RunConfig.model_fields.items()
    }
    flags = create_model("Flags", __base__=_Flags, **fields)
    shown = CliApp.format_help(flags, strip_ansi_color=True)
    name = program or Path(sys.argv[0]).name
    print_help_text(
        f"usage: {name} [--preset NAME] [--config FILE.toml] [--SECTION.FIELD VALUE ...]\n\n"
        "Where a setting may be without a value, the VALUE none (or null) takes it away.\n\n"
        + shown[shown.find("options:") :]
    )


def _flag_error(error: SettingsError) -> str:
    found = re.match(r"Parsing error encountered for ([\w.]+): not enough", str(error))
    if found is not None:
        return f"--{found[1]} takes NAME=VALUE, such as --{found[1]} beta=0.1."
    text = str(error).removeprefix("error parsing CLI: ").rstrip(".")
    return f"{text[0].upper()}{text[1:]}. --help lists the flags."
