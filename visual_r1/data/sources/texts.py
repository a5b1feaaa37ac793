"""Text, lists of choices and meta, out of whatever type a column has."""

import ast
import json
import math
import struct
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, cast

from visual_r1.data.sources.images_of_rows import BadColumn
from visual_r1.data.sources.source import printable
from visual_r1.data.tables import Unreadable

MAX_LIST_CHARACTERS = 50_000
# What a float keeps of a number that was written with 32 bits.
_SINGLE_DIGITS = 9


def text_of(value: object, name: str) -> str | None:
    """`value` as text; None where it is null or NaN. Raises `BadColumn` for other types."""
    if isinstance(value, str):
        if printable(value) != value:
            raise BadColumn(f"the {name} holds characters that are not text")
        return value
    if value is None:
        return None
    if isinstance(value, Unreadable):
        raise BadColumn(f"the {name} is {value.why}")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadColumn(f"the {name} is not UTF-8") from error
    if isinstance(value, float):
        return _number(value, name)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        inside = cast("list[object]", value)
        if len(inside) == 1:
            return text_of(inside[0], name)
        raise BadColumn(f"the {name} is a list of {len(inside)}, not text")
    raise BadColumn(f"the {name} is a {type(value).__name__}, not text")


def _number(value: float, name: str) -> str | None:
    """A float as it was meant: 12.0 of a column of floats is 12, and 32 bits of 0.1 are 0.1."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise BadColumn(f"the {name} is {value}, no finite number")
    if value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    for digits in range(1, _SINGLE_DIGITS + 1):
        candidate = float(f"{value:.{digits}g}")
        if value in (candidate, _single(candidate)):
            return repr(candidate)
    return repr(value)


def _single(value: float) -> float | None:
    """The nearest 32-bit float."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return None


def choices_of(value: object) -> tuple[str, ...]:
    """The texts of choices A, B, ...

    A list; a list written as JSON or Python text; {"A": ..., "B": ...}; {"text": [...]}.
    """
    if isinstance(value, str | bytes | Unreadable):
        value = list_in_text(text_of(value, "choices") or "", "choices")
    if isinstance(value, dict):
        value = _values_in_order(cast("dict[str, object]", value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if not isinstance(value, list | tuple):
        raise BadColumn(f"choices are a {type(value).__name__}, not a list")
    given = cast("Sequence[object]", value)
    texts = tuple(text_of(choice, f"choice {n}") for n, choice in enumerate(given, start=1))
    if None in texts:
        raise BadColumn(f"choice {texts.index(None) + 1} is missing")
    return tuple(text or "" for text in texts)


def list_in_text(text: str, name: str) -> object:
    """A list or dictionary written as JSON, or as Python writes it; None where there is no text.

    Nothing is evaluated. Raises `BadColumn` where it is neither.
    """
    text = text.strip()
    if not text:
        return None
    if len(text) <= MAX_LIST_CHARACTERS and text[0] in "[({":
        for read in (json.loads, ast.literal_eval):
            try:
                return cast(object, read(text))
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    raise BadColumn(f"{name} are the text {text[:80]!r}, which is no list")


def _values_in_order(given: Mapping[str, object]) -> object:
    if "text" in given:
        return given["text"]
    letters = ascii_uppercase[: len(given)]
    if sorted(given) != list(letters):
        raise BadColumn(f"choices are named {list(given)!r:.80}, not A, B, ...")
    return [given[letter] for letter in letters]


def meta_of(value: object) -> Mapping[str, Any]:
    """A column that holds a JSON object, as an object or as text."""
    text = text_of(value, "meta") if not isinstance(value, dict) else None
    if isinstance(value, dict):
        return cast("dict[str, Any]", plain(cast("object", value)))
    if not text:
        return {}
    try:
        read: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadColumn(f"meta is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise BadColumn("meta holds no JSON object")
    return cast("dict[str, Any]", read)


def plain(value: object) -> object:
    """`value` as JSON can hold it: bytes by their number, NaN as null, other types as text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in cast("Sequence[object]", value)]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
