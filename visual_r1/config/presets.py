"""Presets and TOML files, and how settings are laid over each other."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from visual_r1.errors import ConfigError
from visual_r1.opening import read_file

DEFAULT_PRESET = "quickstart"
"""What a command or a flow takes that names none."""

PRESETS_DIR = Path(__file__).parents[1] / "presets"


def preset_names() -> list[str]:
    """The presets that ship with the package, in alphabetical order."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def read_preset(name: str) -> dict[str, Any]:
    """The values that a preset lays over the defaults; raises `ConfigError` where it is unknown."""
    if name not in preset_names():
        near = difflib.get_close_matches(name.lower(), preset_names(), n=1)
        asked = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"There is no preset {name!r}; there are: {', '.join(preset_names())}.{asked}"
        )
    return read_toml(PRESETS_DIR / f"{name}.toml")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries; raises `ConfigError` naming the file and the fault."""
    try:
        return tomllib.loads(read_file(path).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            result[key] = merged(cast("Mapping[str, Any]", under), cast("Mapping[str, Any]", value))
        else:
            result[key] = value
    return result


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the keys whose values differ, in alphabetical order."""
    names: list[str] = []
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            left, right = cast("Mapping[str, Any]", a), cast("Mapping[str, Any]", b)
            names += differing_keys(left, right, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


def apart(here: Mapping[str, Any], there: Mapping[str, Any], prefix: str = "") -> str:
    """What differs, in words: `train.seed (there 0, here 1)`; empty where nothing does."""
    told = [
        f"{prefix}{key} (there {_value(there, key)}, here {_value(here, key)})"
        for key in differing_keys(here, there)
    ]
    return ", ".join(told)


def _value(values: Mapping[str, Any], dotted: str) -> str:
    value: Any = values
    for part in dotted.split("."):
        value = cast("Mapping[str, Any]", value).get(part) if isinstance(value, Mapping) else None
    return json.dumps(value)
