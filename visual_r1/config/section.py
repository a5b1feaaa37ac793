"""What all sections have in common: how values are read, and which count for a run's name."""

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from visual_r1.opening import user_path

# Flags and TOML have no null: both words, in any case, are one.
NONE_WORDS = {"none", "null"}

# Context of `model_validate` for what an earlier commit may have stored.
STORED = {"stored": True}

LATER = "later"
"""Marks a setting that runs have been named without (`Annotated[float, LATER]`).

At its default it does not count for what a run is: the runs before it keep their digests and names.
"""


def without_later_defaults(settings: BaseModel, dumped: dict[str, Any]) -> dict[str, Any]:
    """`dumped` without what is marked `LATER` and has its default value, at any depth."""
    kept = dict(dumped)
    for name in dumped:
        field, value = type(settings).model_fields[name], getattr(settings, name)
        if LATER in field.metadata and value == field.get_default(call_default_factory=True):
            del kept[name]
        elif isinstance(value, BaseModel):
            kept[name] = without_later_defaults(value, dumped[name])
    return kept


class Section(BaseModel):
    """A group of settings: immutable, finite, and an unknown key is an error.

    Where a setting may be None, the words `none` and `null` say so. A column or another name that
    is spelt so cannot be given then; a folder can (`./none`). A switch takes no number, and a
    number no `true`: pydantic would make 1 of it, and of that a budget of one dollar.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: object, field: ValidationInfo) -> object:
        is_none = isinstance(value, str) and value.strip().lower() in NONE_WORDS
        annotation = cls.model_fields[field.field_name or ""].annotation
        return None if is_none and NoneType in get_args(annotation) else value

    @field_validator("*", mode="before")
    @classmethod
    def _switches_and_numbers_apart(cls, value: object, field: ValidationInfo) -> object:
        annotation = cls.model_fields[field.field_name or ""].annotation
        is_switch = bool in (annotation, *get_args(annotation))
        if isinstance(value, bool) and not is_switch:
            raise ValueError(f"{str(value).lower()} is for switches, and this is none")
        held: object = value  # apart, so that what it is found to be says nothing of `value`
        table = cast("dict[str, object]", held) if isinstance(held, dict) else {}
        for key, one in table.items():
            if isinstance(one, bool):
                name = f"{field.field_name}.{key}"
                raise ValueError(f"{name} is {str(one).lower()}, and takes a number")
        if is_switch and isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("this is a switch: it takes true or false")
        return value


def _place(value: object, given: ValidationInfo) -> object:
    """A path as `user_path` has it; what an earlier version stored with a `~` lies in a folder that
    is called so."""
    if not isinstance(value, str | Path):
        return value
    literal = given.context == STORED and str(value).startswith("~")
    return str(user_path(f"./{value}" if literal else value))


Place = Annotated[Path, BeforeValidator(_place)]
"""A folder or file that a setting names: `~` is the home of the user where it is read."""
