"""A preset with single values laid over it: `{"train.steps": 6}` over `quickstart`.

What comes in here was typed by somebody, into a form, a schedule or a command line.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from visual_r1.config.effect import require_effect
from visual_r1.config.faults import value_error
from visual_r1.config.names import did_you_mean, holds, sections, settings
from visual_r1.config.presets import DEFAULT_PRESET, merged, preset_names, read_preset
from visual_r1.config.run_config import RunConfig
from visual_r1.errors import ConfigError

_MOST_NAMED = 6
"""Differences that a sentence names."""

# Where a run is and what it is called say nothing of which preset it is of.
_OF_NO_PRESET = {"preset", "output_dir", "run.name"}

_WHOLE = 0.8
"""The share of all settings from which on a configuration is one that a program wrote out."""


def with_overrides(preset: object, overrides: object) -> RunConfig:
    """The preset with `overrides` over it, dotted names to values; sections may be nested too.

    Both are whatever a form, a file or a command held. Raises `ConfigError` in one sentence for an
    unknown name (naming the nearest), a name that is given twice, a section in place of a setting,
    a wrong value, or a setting without effect.
    """
    if not isinstance(preset, str):
        raise ConfigError(f"preset is {preset!r}; it is one of {', '.join(preset_names())}.")
    values = flat(overrides, "overrides")
    if (named := values.pop("preset", preset)) != preset:
        raise ConfigError(
            f"overrides name the preset {named!r}, and preset is {preset!r}: choose it by preset, "
            "and leave it out of overrides."
        )
    return require_effect(resolved({"preset": preset, **_nested(values)}))


def whole(config: Mapping[str, Any], preset: str | None) -> RunConfig:
    """A configuration that was given whole, for a flow whose own preset is `preset`, if any.

    Raises `ConfigError` where it names no preset, so that the defaults would lie beneath it;
    another than the flow's; or one whose values it does not have, as a form's whose preset alone
    was changed. It says what differs, and which overrides say what was probably meant.
    """
    given = flat(config, "config")
    named = given.get("preset")
    if named is None:
        meant, here = preset or DEFAULT_PRESET, _all_of(resolved(_nested(given)))
        raise ConfigError(
            f"config names no preset, so what it leaves out would be the defaults' and not "
            f"{meant}'s: {_differences(_values(meant), here, meant, 'here')}. "
            f"{_instead(meant, given)}"
        )
    read_preset(str(named))
    made = require_effect(resolved(_nested(given)))
    if preset is not None and named != preset:
        raise ConfigError(
            f"preset is {preset}, and config is of preset {named}: "
            f"{_differences(_values(preset), _all_of(made), preset, 'config')}. "
            f"{_instead(named, given)}"
        )
    if len(given) >= _WHOLE * len(settings()):
        _require_its_preset(_all_of(made), str(named))
    return made


def _require_its_preset(values: Mapping[str, Any], named: str) -> None:
    """Raise `ConfigError` where a configuration that was written out is nearer another preset."""
    apart = {one: len(_differing(_values(one), values)) for one in preset_names()}
    nearest = min(apart, key=lambda one: (apart[one], one))
    if apart[nearest] == apart[named]:
        return
    raise ConfigError(
        f"config says preset {named}, and its values are those of preset {nearest}: "
        f"{_differences(_values(named), values, named, 'here')}. {_instead(named, {})} For these "
        f"values, name preset {nearest} in config."
    )


def resolved(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of these values; raises `ConfigError` where one of them cannot be."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(value_error(error)) from error


def laid_over(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """`config` with dotted names set to values; raises `ConfigError` where one cannot be, or has
    no effect."""
    values: dict[str, Any] = config.model_dump()
    for name, value in changes.items():
        values = merged(values, _nested({name: value}))
    return require_effect(resolved(values), config)


def flat(values: object, what: str) -> dict[str, Any]:
    """Dotted names to values, of settings that are there; `what` is what a sentence calls them.

    Raises `ConfigError` for what is no mapping, no setting, or given twice.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{what} is {json.dumps(values, default=str)}, and should be names with values, such "
            'as {"train.steps": 6}.'
        )
    found: dict[str, Any] = {}
    for name, value in _leaves(cast("Mapping[str, Any]", values), "", what):
        if holds_a_table := name in found and holds(name, dict):
            value = {**found[name], **value}
        if not holds_a_table and name in found and found[name] != value:
            raise ConfigError(
                f"{what} give {name} twice, {json.dumps(found[name], default=str)} and "
                f"{json.dumps(value, default=str)}: leave one of them out."
            )
        found[name] = value
    return found


def _leaves(values: Mapping[str, Any], prefix: str, what: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in settings():
            if isinstance(value, bool) and not holds(name, bool):
                raise ConfigError(
                    f"{name} = {json.dumps(value)} is no value for it: "
                    f"{settings()[name].description}"
                )
            yield name, value
        elif name in sections():
            inner = value.model_dump() if isinstance(value, BaseModel) else value
            if not isinstance(inner, Mapping):
                first = next(one for one in settings() if one.startswith(f"{name}."))
                raise ConfigError(
                    f"{name} is a section, and {what} give it the value "
                    f"{json.dumps(inner, default=str)}: name one of its settings, such as {first}."
                )
            yield from _leaves(cast("Mapping[str, Any]", inner), f"{name}.", what)
        else:
            yield from _beneath_a_setting(name, value, what)


def _beneath_a_setting(name: str, value: object, what: str) -> Iterator[tuple[str, Any]]:
    """`algorithm.loss_config.beta` is a part of a setting; all else is none."""
    parent, _, key = name.rpartition(".")
    if parent in settings():
        if not holds(parent, dict):
            raise ConfigError(
                f"{what} name {name}, and {parent} is a setting and no section: give it its value."
            )
        yield parent, {key: value}
        return
    asked = did_you_mean(name, settings())
    raise ConfigError(
        f"There is no setting {name}, which {what} name."
        + (asked or " `python flows/train_flow.py --help` lists them.")
    )


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as sections within sections."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *names, key = name.split(".")
        place = nested
        for section in names:
            place = cast("dict[str, Any]", place.setdefault(section, {}))
        place[key] = value
    return nested


def _values(preset: str) -> dict[str, Any]:
    return _all_of(resolved({"preset": preset}))


def _all_of(config: RunConfig) -> dict[str, Any]:
    return flat(config.model_dump(mode="json"), "config")


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [name for name in there if name not in _OF_NO_PRESET and there[name] != here.get(name)]


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], whose: str, other: str) -> str:
    names = _differing(there, here)
    told = [
        f"{name} ({whose} {json.dumps(there[name])}, {other} {json.dumps(here.get(name))})"
        for name in names[:_MOST_NAMED]
    ]
    more = len(names) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")


def _instead(preset: str, given: Mapping[str, Any]) -> str:
    """Which parameters say what was probably meant: the values that are not the preset's own."""
    own = _values(preset)
    meant = {
        name: value for name, value in given.items() if name != "preset" and own[name] != value
    }
    said = f" and overrides {json.dumps(meant, default=str)}" if meant else " and no overrides"
    return f"Leave config out, and give preset {json.dumps(preset)}{said}."
