"""A row of named columns, whatever they are called, to a source row.

Which columns hold what is found once for a file; then text, choices, images and meta are read out
of whatever type a column has.
"""

import ast
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from string import ascii_uppercase
from typing import Any, cast

from visual_r1.config import DataSection, listed
from visual_r1.data.parquet import BadValue
from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.images_of_rows import BadColumn, ImageFiles, image_bytes, image_path
from visual_r1.data.sources.source import printable
from visual_r1.errors import DataError

MAX_LIST_CHARACTERS = 50_000
# How the Hugging Face image folders call the columns that name files.
FILE_NAMES = ("file_names", "file_name")
_FILE_SUFFIXES = tuple(f"_{name}" for name in FILE_NAMES)
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
# What a float keeps of a number that was written with 32 bits.
_SINGLE_DIGITS = 9


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Which columns hold what; `read` are those to read, of `metadata.task` that is `metadata`.

    `answer_index` stands in for `answer` where it is set.
    """

    problem: str
    answer: str | None
    answer_index: str | None
    images: tuple[str, ...]
    choices: tuple[str, ...]
    id: str | None
    source: str | None
    meta: str | None
    family: str | None
    keep: tuple[str, ...]
    show_choices: bool
    read: tuple[str, ...]


def map_columns(data: DataSection, there: Sequence[str], where: str) -> ColumnMap:
    """The columns of `where` that `data.columns`, or the usual names, mean.

    Raises `DataError`, naming those that are `there`, where one is missing or there twice.
    """
    asked = data.columns
    missing: list[str] = []
    twice: list[str] = []
    read: dict[str, None] = {}

    def need(name: str) -> str:
        whole = name if name in there else name.partition(".")[0]
        if whole in there:
            read[whole] = None
            if there.count(whole) > 1:
                twice.append(whole)
        else:
            missing.append(name)
        return name

    def usual(name: str | None, default: str) -> str | None:
        return need(name or default) if name or default in there else None

    problem, answer = need(asked.problem or "problem"), None
    if asked.answer or not asked.answer_index:
        answer = need(asked.answer or "answer")
    choices = listed(asked.choices) or (("choices",) if "choices" in there else ())
    columns = ColumnMap(
        problem=problem,
        answer=answer,
        answer_index=need(asked.answer_index) if asked.answer_index else None,
        images=tuple(map(need, _image_columns(listed(asked.images), there))),
        choices=tuple(map(need, choices)),
        id=usual(asked.id, "id"),
        source=usual(None, "source"),
        meta=usual(None, "meta"),
        family=usual(asked.family, ""),
        keep=tuple(map(need, listed(asked.keep))),
        show_choices=data.show_choices,
        read=tuple(read),
    )
    if missing:
        raise DataError(
            f"{where} has no column {' and no '.join(map(repr, missing))} (it has "
            f"{', '.join(there) or 'none'}); say which columns hold the problem, the answer and "
            "the images, as in --data.columns.problem question."
        )
    if twice:
        raise DataError(
            f"{where} has more than one column {' and '.join(map(repr, dict.fromkeys(twice)))}: "
            "which of them is meant? Give each a name of its own."
        )
    return columns


def _image_columns(asked: Sequence[str], there: Sequence[str]) -> Iterator[str]:
    """The columns of images; `diagram` may be spelled `diagram_file_name` in an image folder."""
    for name in asked:
        spelled = (name, *(f"{name}{suffix}" for suffix in _FILE_SUFFIXES))
        yield next((spelling for spelling in spelled if spelling in there), name)
    if not asked:
        usual = (*FILE_NAMES, "images", "image")
        found = [name for name in usual if name in there]
        found += [name for name in there if name.endswith(_FILE_SUFFIXES)]
        yield found[0] if found else "images"


def row_from_columns(
    columns: Mapping[str, Any],
    names: ColumnMap,
    *,
    place: str,
    own_id: str,
    source: str,
    files: ImageFiles,
) -> SourceRow:
    """The row that `columns` hold; what cannot be read becomes its `defect`.

    Args:
        columns: a value for each column that the row has.
        names: which of them holds what.
        place: where the row stands, for messages.
        own_id: its id where it brings none.
        source: its source where it brings none.
        files: where images named by a path are.
    """
    given_id: str | None = None
    try:
        given_id = text_of(_value(columns, names.id), "id")
        choices = _choices(columns, names.choices)
        answer, named = _answer(columns, names, choices)
        return SourceRow(
            place=place,
            id=own_id if given_id is None else given_id,
            images=tuple(
                image_bytes(image, files) for image in _image_values(columns, names.images)
            ),
            problem=text_of(_value(columns, names.problem), "problem"),
            answer=answer if named is None else ascii_uppercase[named],
            answer_place=named,
            choices=choices,
            source=text_of(_value(columns, names.source), "source") or source,
            meta=_meta(columns, names),
            show_choices=names.show_choices,
        )
    except BadColumn as error:
        return SourceRow(place, given_id or own_id, defect=str(error))
    except RecursionError:
        return SourceRow(place, given_id or own_id, defect="a column is nested too deeply")


def id_of_columns(columns: Mapping[str, Any], names: ColumnMap, own_id: str) -> str:
    """The id that `row_from_columns` gives the row, where it is not bad."""
    try:
        given = text_of(_value(columns, names.id), "id")
    except (BadColumn, RecursionError):
        return own_id
    return own_id if given is None else given


def _value(columns: Mapping[str, Any], name: str | None) -> object:
    """The column, or the field of a column (`metadata.task`); None where there is none."""
    if name is None:
        return None
    if name in columns:
        return columns[name]
    head, dot, rest = name.partition(".")
    inside = columns.get(head)
    return (
        _value(cast("dict[str, Any]", inside), rest) if dot and isinstance(inside, dict) else None
    )


def _image_values(columns: Mapping[str, Any], names: Sequence[str]) -> Sequence[object]:
    """What the image columns hold, lists opened; of several columns the empty ones are skipped."""
    found: list[object] = []
    for name in names:
        value = _value(columns, name)
        if isinstance(value, str) and _LIST.fullmatch(value):  # `[1].png` is a file
            value = _list_in_text(value, "images")
        if isinstance(value, BadValue):
            raise BadColumn(f"the image is {value.why}")
        if isinstance(value, list):
            found += cast("list[object]", value)
        elif value is not None:
            found.append(value)
    return found


def image_paths(columns: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The paths among the images of a row; what is wrong with it is for the preparation to say."""
    try:
        for value in _image_values(columns, names):
            name = image_path(value)
            if name:
                yield name
    except BadColumn:
        return


def _choices(columns: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """One column of lists, or one column a choice, of which the last may be empty."""
    if len(names) < 2:
        return choices_of(_value(columns, names[0])) if names else ()
    texts = [text_of(_value(columns, name), f"choice {name}") for name in names]
    while texts and not (texts[-1] or "").strip():
        texts.pop()
    return choices_of(texts)


def _answer(
    columns: Mapping[str, Any], names: ColumnMap, choices: Sequence[str]
) -> tuple[str | None, int | None]:
    """The answer's text, or which of the choices it is."""
    if names.answer_index is None:
        return text_of(_value(columns, names.answer), "answer"), None
    number = text_of(_value(columns, names.answer_index), "answer")
    if number is None:
        return None, None
    known = min(len(choices), len(ascii_uppercase))
    if not (number.isascii() and number.isdecimal() and len(number) < 4 and int(number) < known):
        raise BadColumn(f"the number {number[:20]!r} names none of the {len(choices)} choices")
    return None, int(number)


def _meta(columns: Mapping[str, Any], names: ColumnMap) -> Mapping[str, Any]:
    """A column that holds a JSON object, as an object or as text, and the columns to keep."""
    given = _value(columns, names.meta)
    if isinstance(given, dict):
        read = plain(cast("object", given))
    else:
        try:
            read = plain(cast("object", json.loads(text_of(given, "meta") or "{}")))
        except (ValueError, RecursionError) as error:
            raise BadColumn(f"meta is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise BadColumn("meta holds no JSON object")
    meta = cast("dict[str, Any]", read)
    kept = {name: plain(_value(columns, name)) for name in names.keep}
    family = text_of(_value(columns, names.family), "family")
    return {**meta, **kept, **({"family": family} if family else {})}


def text_of(value: object, name: str) -> str | None:
    """`value` as text; None where it is null or NaN. Raises `BadColumn` for other types."""
    if isinstance(value, str):
        if printable(value) != value:
            raise BadColumn(f"the {name} holds characters that are not text")
        return value
    if value is None:
        return None
    if isinstance(value, BadValue):
        raise BadColumn(f"the {name} is {value.why}")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadColumn(f"the {name} is not UTF-8") from error
    if isinstance(value, float):
        return _number(value, name)
    if isinstance(value, Decimal):
        return _decimal(value, name)
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


def _decimal(value: Decimal, name: str) -> str:
    """A decimal without the zeros that its column adds, and without an exponent."""
    if not value.is_finite():
        raise BadColumn(f"the {name} is {value}, no finite number")
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


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
    if isinstance(value, str | bytes | BadValue):
        value = _list_in_text(text_of(value, "choices") or "", "choices")
    if isinstance(value, dict):
        named = cast("dict[str, object]", value)
        letters = ascii_uppercase[: len(named)]
        if "text" not in named and sorted(named) != list(letters):
            raise BadColumn(f"choices are named {list(named)!r:.80}, not A, B, ...")
        value = named["text"] if "text" in named else [named[letter] for letter in letters]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if not isinstance(value, list | tuple):
        raise BadColumn(f"choices are a {type(value).__name__}, not a list")
    given = cast("Sequence[object]", value)
    texts = tuple(text_of(choice, f"choice {n}") for n, choice in enumerate(given, start=1))
    if None in texts:
        raise BadColumn(f"choice {texts.index(None) + 1} is missing")
    return tuple(text or "" for text in texts)


def _list_in_text(text: str, name: str) -> object:
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
