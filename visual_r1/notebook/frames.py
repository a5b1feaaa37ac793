"""The rows of a run's files as pandas frames, with the types that docs/notebook.md promises.

A column has the type that its name and its file give it, whatever a run's rows hold: a run in which
no request failed has the same frames as one in which some did. So what may be missing is of pandas'
own types (`Int64`, `boolean`), which have a missing value, and no integer turns into a float.

    a key, a count       step, group, sample, n, k: int64
    other integers       Int64                        true or false   boolean
    a time (…_at)        datetime64[us, UTC]          numbers         float64
    few values           category                     text            str
    an interval          two columns, …_low and …_high

pandas is imported when a frame is asked for, and not before.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from PIL import Image

from visual_r1.errors import RunError
from visual_r1.jsonl import Reading
from visual_r1.opening import read_file
from visual_r1.runs.journal import MetricsRow, read_rollouts
from visual_r1.tables import pa

if TYPE_CHECKING:
    from pandas import DataFrame  # pyright: ignore[reportMissingTypeStubs]

KEYS = frozenset({"step", "group", "sample", "n", "k"})
"""Integers that are never missing."""

CATEGORIES = frozenset(
    {
        "verdict", "second_verdict", "outcome", "stop_reason", "grader_version", "family", "source",
        "backend", "alarm", "action", "rounding", "template", "model", "kind",
    }
)  # fmt: skip
"""Text of which there are few values; so is what ends in `_verdict`."""


def frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """A frame of dictionaries whose keys differ from run to run; their values say what they are."""
    names = dict.fromkeys(name for row in rows for name in row) or {"step": None}
    values = {name: [row.get(name) for row in rows] for name in names}
    return _typed({name: (column, _kind(column)) for name, column in values.items()})


def frame_of_records(rows: Sequence[Mapping[str, Any]], *types: type) -> "DataFrame":
    """A frame of dictionaries with the fields of the dataclasses `types`, which say what they are.

    A field that holds further ones becomes JSON where it is text by text, and is left out where it
    is a dataclass; an interval becomes two columns.
    """
    columns: dict[str, tuple[list[Any], str]] = {}
    for kind in types:
        hints = get_type_hints(kind)
        for name in (field.name for field in fields(kind)):
            values = [row.get(name) for row in rows]
            of, origin = hints[name], get_origin(hints[name])
            if name.endswith("_ci95"):
                for place, end in enumerate(("low", "high")):
                    bounds = [value[place] if value is not None else None for value in values]
                    columns[f"{name.removesuffix('_ci95')}_{end}"] = bounds, "float64"
            elif isinstance(origin, type) and issubclass(origin, Mapping | Sequence):
                if not any(is_dataclass(inner) for inner in get_args(of)):
                    columns[name] = [json.dumps(value) for value in values], "json"
            elif not any(is_dataclass(inner) for inner in (of, *get_args(of))):
                columns[name] = values, _kind_of(of)
    return _typed(columns)


def frame_of_table(table: Any) -> "DataFrame":
    """A frame of a `pyarrow.Table`; its pictures as they are stored."""
    kinds = {name: _arrow_kind(table.schema.field(name).type) for name in table.schema.names}
    return _typed({name: (table[name].to_pylist(), kind) for name, kind in kinds.items()})


def frame_of_rollouts(chunks: Sequence[Path], columns: Sequence[str] | None) -> "DataFrame":
    """The rollouts of all chunks; a column that a chunk of an older version lacks is missing there.

    Raises `RunError` where a chunk is damaged, or none has one of `columns`, and where those are
    the name of one.
    """
    if isinstance(columns, str):
        raise RunError(f"columns is a list of names: give [{columns!r}] in place of {columns!r}.")
    tables: list[Any] = []
    for path in chunks:
        table = read_rollouts(path)
        if columns is not None:
            table = table.select([name for name in table.schema.names if name in columns])
        tables.append(table)
    whole = pa.concat_tables(tables, promote_options="default")
    if columns is not None:
        if unknown := [name for name in columns if name not in whole.schema.names]:
            there = read_rollouts(chunks[-1]).schema.names
            raise RunError(
                f"The rollouts in {chunks[-1].parent} have no column {', '.join(unknown)}: there "
                f"are {', '.join(there)}."
            )
        whole = whole.select(list(columns))
    return frame_of_table(whole)


def sound_rows(path: Path, reading: Reading[Any], *, is_at_work: bool) -> list[Any]:
    """The rows of a file of JSON lines; raises `RunError` where one of them is damaged.

    The last line of a run that is at work may be one that is just being written: it has no end.
    """
    count = len(reading.sound) + len(reading.damaged) + len(reading.doubled)
    is_being_written = is_at_work and not read_file(path).endswith(b"\n") if count else False
    wrong = [one for one in reading.damaged if not (is_being_written and one == count)]
    if wrong or reading.gaps:
        what = f"row {wrong[0]} is damaged" if wrong else reading.gaps_in_words()
        raise RunError(
            f"In {path} {what}, so a frame of it would lack rows: `visual-r1 verify` says what "
            "else is wrong, and going on with the run sets aside what is damaged."
        )
    return [line.row for line in reading.sound]


def as_dictionaries(rows: Iterable[Any]) -> list[MetricsRow]:
    """Rows that are dataclasses as dictionaries."""
    return [asdict(row) for row in rows]


def pictures_of(stored: Sequence[Mapping[str, Any]], where: Path) -> list[Image.Image]:
    """Stored pictures, decoded; raises `RunError` where one of them is damaged."""
    found: list[Image.Image] = []
    for one in stored:
        try:
            with Image.open(io.BytesIO(one["bytes"])) as picture:
                picture.load()
                found.append(picture.copy())
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise RunError(
                f"A picture in {where} cannot be decoded ({error}): `visual-r1 verify` says "
                "whether the file is as it was written."
            ) from error
    return found


def _kind_of(hint: Any) -> str:
    """Of a field: `int | float` holds numbers, and what may be None is the rest of it."""
    parts = {part for part in (hint, *get_args(hint)) if isinstance(part, type)}
    for part, kind in ((float, "float64"), (bool, "boolean"), (int, "Int64")):
        if part in parts:
            return kind
    return "str"


def _kind(values: Sequence[Any]) -> str:
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return "boolean"
    if there and all(isinstance(value, str) for value in there):
        return "str"
    if there and all(isinstance(value, int) for value in there):
        return "Int64"
    return "float64" if all(isinstance(value, int | float) for value in there) else "object"


def _arrow_kind(kind: Any) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "Int64"
    if pa.types.is_floating(kind):
        return "float64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "str"
    return "object"


def _typed(columns: Mapping[str, tuple[list[Any], str]]) -> "DataFrame":
    import pandas  # pyright: ignore[reportMissingTypeStubs]

    pd: Any = pandas  # its own types are partly unknown
    series: dict[str, Any] = {}
    for name, (values, kind) in columns.items():
        if name in KEYS:
            series[name] = pd.Series(values, dtype="int64")
        elif name.endswith("_at") and kind == "str":
            times = pd.to_datetime(pd.Series(values, dtype="str"), utc=True, format="ISO8601")
            series[name] = times.astype("datetime64[us, UTC]")
        elif name in CATEGORIES or name.endswith("_verdict"):
            series[name] = pd.Series(values, dtype="str").astype("category")
        else:
            series[name] = pd.Series(values, dtype="str" if kind == "json" else kind)
    return pd.DataFrame(series)
