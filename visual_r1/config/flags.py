"""The arguments of a command line, one by one: each flag with its value, or what was meant.

argparse says "unrecognized arguments: false" of `--logging.wandb false`; here it is known which
flags take a value, and what people write who come from another program.
"""

import re
from collections.abc import Sequence

from visual_r1.config.names import did_you_mean, holds, nearest, sections, settings
from visual_r1.config.presets import preset_names
from visual_r1.errors import ConfigError

_OTHER_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_YES = {"true", "yes", "on", "1", "y", "t"}
_NO = {"false", "no", "off", "0", "n", "f", "none", "null"}


def flag_names() -> list[str]:
    """All flags, without their dashes: `train.steps`, `data.columns.problem`, `output-dir`, …"""
    return ["config", "output-dir", *(name for name in settings() if name != "output_dir")]


def read_flags(given: Sequence[str]) -> list[str]:
    """The same flags, each with its value behind a `=`, however it was given.

    Raises `ConfigError`, in a sentence with what was probably meant, for an unknown flag, a switch
    with a value, a flag without one, and what belongs to no flag.
    """
    read: list[str] = []
    left = list(given)
    while left:
        argument = left.pop(0)
        if not argument.startswith("-"):
            raise ConfigError(_stray(argument, read))
        written, equals, value = argument.partition("=")
        name = _known(written)
        if _is_switch(name):
            if equals or (left and not left[0].startswith("-")):
                raise ConfigError(_with_value(name, value if equals else left[0]))
            read.append(f"--{name}")
            continue
        if not equals:
            value = _value_after(name, left)
        elif not value and left and not left[0].startswith("-"):
            raise ConfigError(f"Write --{name}={left[0]}, without blanks around the =.")
        read.append(f"--{name}={value}")
    return read


def given_names(given: Sequence[str]) -> set[str]:
    """The names of the settings that these flags set; raises as `read_flags`."""
    names = (flag.removeprefix("--").partition("=")[0] for flag in read_flags(given))
    return {name.removeprefix("no-") for name in names} & settings().keys()


def _is_switch(name: str) -> bool:
    return (setting := name.removeprefix("no-")) in settings() and holds(setting, bool)


def _known(written: str) -> str:
    """The name of a flag, without its dashes; in any case, as it always was."""
    name = written.removeprefix("--").lower()
    if written.startswith("--") and (name in settings() or name in flag_names()):
        return name
    inner = name.removeprefix("no-")
    if written.startswith("--no-") and inner in settings():
        if holds(inner, bool):
            return name
        raise ConfigError(
            f"There is no flag --{name}: only switches have a no-; --{inner} takes a value."
        )
    if name in sections():
        own = [one for one in settings() if one.startswith(f"{name}.")]
        raise ConfigError(
            f"--{name} is a section, and its settings are flags: --{', --'.join(own[:3])}, …"
        )
    switches = [f"no-{one}" for one in settings() if holds(one, bool)]
    asked = did_you_mean(written.strip("-"), [*flag_names(), *switches], dashes="--")
    raise ConfigError(f"There is no flag {written}.{asked or ' --help lists the flags.'}")


def _with_value(name: str, value: str) -> str:
    setting = name.removeprefix("no-")
    switched_on = setting == name
    if value.lower() not in _YES | _NO:
        return (
            f"--{name} is a switch and takes no value, and {value!r} follows it: --{setting} "
            f"switches it on, --no-{setting} off."
        )
    meant = setting if switched_on == (value.lower() in _YES) else f"no-{setting}"
    return f"--{name} is a switch and takes no value: write --{meant} for --{name} {value}."


def _value_after(name: str, left: list[str]) -> str:
    if left[:1] == ["="] and len(left) > 1:
        raise ConfigError(f"Write --{name}={left[1]}, without blanks around the =.")
    if not left:
        raise ConfigError(f"--{name} needs a value after it.")
    if re.match(r"--\D", left[0]):
        raise ConfigError(
            f"--{name} needs a value after it, and {left[0]} is the next flag (a value that begins "
            f"so is written --{name}=VALUE)."
        )
    return left.pop(0)


def _stray(argument: str, read: list[str]) -> str:
    """What is said of an argument that belongs to no flag, behind those that were read."""
    if argument[:1] and argument[0] in _OTHER_DASHES:
        meant = did_you_mean(
            argument.lstrip(_OTHER_DASHES).partition("=")[0], flag_names(), dashes="--"
        )
        return f"{argument!r} begins with another dash than the keyboard's -.{meant}"
    name, equals, value = argument.partition("=")
    if (found := nearest(name, flag_names())) and (equals or found[0] == name):
        return (
            f"{argument!r} belongs to no flag: did you mean --{found[0]}{equals}{value}, with two "
            "dashes?"
        )
    if argument.lower() in preset_names():
        return f"{argument!r} belongs to no flag: did you mean --preset {argument.lower()}?"
    if read and "=" in read[-1]:
        flag, _, value = read[-1].partition("=")
        return (
            f"{argument!r} belongs to no flag: {flag} takes one value, and has {value!r}; a value "
            "with blanks goes into quotes."
        )
    return f"{argument!r} belongs to no flag. --help lists the flags."
