"""Flags and TOML files to a `RunConfig`.

Order of precedence, highest first: flags, `--config FILE.toml`, the preset, the defaults.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from visual_r1.config import RunConfig, read_toml
from visual_r1.errors import ConfigError

DEFAULT_PRESET = "quickstart"


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


def load_config(arguments: Sequence[str] | None = None, program: str | None = None) -> RunConfig:
    """The configuration that `arguments` (default: the command line) describe.

    `--help` prints the flags and exits. Raises `ConfigError` with one sentence for an unknown flag
    (naming the nearest), an unknown preset or key, or a value of the wrong type or range.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "-h" in given or "--help" in given:
        _print_help(program)
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    file_parser.add_argument("--config", type=Path)
    try:
        known, flags = file_parser.parse_known_args(given)
    except argparse.ArgumentError as error:
        raise ConfigError("--config needs the name of a TOML file after it.") from error
    values: dict[str, Any] = {"preset": DEFAULT_PRESET}
    if known.config is not None:
        values |= read_toml(known.config)
    try:
        resolved = CliApp.run(_Flags, cli_args=flags, **values)
    except SettingsError as error:
        raise ConfigError(_flag_error(flags, error)) from error
    except ValidationError as error:
        raise ConfigError(_value_error(error)) from error
    return RunConfig.model_validate(resolved.model_dump())


def flag_names() -> list[str]:
    """All flags, without their dashes: `train.steps`, `data.columns.problem`, `output-dir`, …"""
    return ["config", "output-dir", *_field_names(RunConfig, "")]


def _field_names(section: type[BaseModel], prefix: str) -> list[str]:
    names: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _field_names(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def _print_help(program: str | None) -> None:
    parser_help = CliApp.format_help(_Flags, strip_ansi_color=True)
    name = program or Path(sys.argv[0]).name
    body = parser_help[parser_help.find("options:") :]
    print(f"usage: {name} [--preset NAME] [--config FILE.toml] [--SECTION.FIELD VALUE ...]\n")
    print(body)
    raise SystemExit(0)


def _flag_error(flags: Sequence[str], error: SettingsError) -> str:
    names = flag_names()
    known = set(names) | {f"no-{name}" for name in names} | {"output_dir"}
    for flag in flags:
        name = flag.removeprefix("--").split("=", 1)[0]
        if not flag.startswith("-"):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean --{near[0]}?" if near else " --help lists the flags."
            return f"There is no flag {flag.split('=', 1)[0]}.{hint}"
    text = str(error).removeprefix("error parsing CLI: ").rstrip(".")
    return f"{text[0].upper()}{text[1:]}. --help lists the flags."


def _reason(message: str) -> str:
    reason = message.removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:]


def _value_error(error: ValidationError) -> str:
    parts: list[str] = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, flag_names(), n=1)
            hint = f", did you mean {near[0]}?" if near else "."
            parts.append(f"There is no setting {name}{hint}")
        else:
            parts.append(f"{name} = {fault['input']!r}: {_reason(fault['msg'])}.")
    return " ".join(parts)
