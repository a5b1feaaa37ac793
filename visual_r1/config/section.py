"""What all sections of the configuration are."""

from types import NoneType
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

# Flags and TOML have no null: both words, in any case, are one.
NONE_WORDS = {"none", "null"}


class Section(BaseModel):
    """A group of settings: immutable, finite, and an unknown key is an error.

    Where a setting may be None, the words `none` and `null` say so. A name that is spelt so cannot
    be given then: a column, say. A folder can (`./none`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: object, field: ValidationInfo) -> object:
        is_none = isinstance(value, str) and value.strip().lower() in NONE_WORDS
        annotation = cls.model_fields[field.field_name or ""].annotation
        return None if is_none and NoneType in get_args(annotation) else value
