"""A row of named columns (Parquet, or a hub dataset) to a source row."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from visual_r1.data.rows import SourceRow


class _BadColumn(Exception):
    """A column does not hold what it should."""


def row_from_columns(
    columns: Mapping[str, Any], *, place: str, own_id: str, source: str, root: Path | None
) -> SourceRow:
    """The row that `columns` hold; what cannot be read becomes its `defect`.

    Args:
        columns: `images` or `image`, `problem`, `answer`, and perhaps `id`, `choices`, `source`
            and `meta`. Text may come as UTF-8 bytes.
        place: where the row stands, for messages.
        own_id: its id where it brings none.
        source: its source where it brings none.
        root: the folder under which images named by a path must lie; None allows no paths.
    """
    given_id: str | None = own_id
    try:
        given_id = _text(columns.get("id"), "id")
        return SourceRow(
            place=place,
            id=own_id if given_id is None else given_id,
            images=_images(columns.get("images", columns.get("image")), root),
            problem=_text(columns["problem"], "problem"),
            answer=_text(columns["answer"], "answer"),
            choices=tuple(
                _text(choice, "choices") or "" for choice in columns.get("choices") or ()
            ),
            source=_text(columns.get("source"), "source") or source,
            meta=_meta(columns.get("meta")),
        )
    except _BadColumn as error:
        return SourceRow(place, given_id or own_id, defect=str(error))


def _text(value: object, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _BadColumn(f"the {name} is not UTF-8") from error
    if isinstance(value, int | float):
        return str(value)
    raise _BadColumn(f"the {name} is a {type(value).__name__}, not text")


def _images(value: object, root: Path | None) -> tuple[bytes | None, ...]:
    if value is None:
        return ()
    images = cast("list[object]", value) if isinstance(value, list) else [value]
    return tuple(_image(image, root) for image in images)


def _image(value: object, root: Path | None) -> bytes | None:
    """The bytes of `{bytes, path}` or of plain bytes; None where there is neither."""
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, dict):
        raise _BadColumn(f"an image is a {type(value).__name__}, not bytes")
    parts = cast("dict[str, object]", value)
    data, path = parts.get("bytes"), parts.get("path")
    if isinstance(data, bytes):
        return data
    name = _text(path, "image path")
    return None if name is None or root is None else _file(root, name)


def _file(root: Path, name: str) -> bytes:
    """An image file by its path under `root`; a path that leads out of it is refused."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise _BadColumn(f"the image path {name!r} leads out of the source's folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _BadColumn(f"the image {name!r} cannot be read: {error.strerror}") from error


def _meta(value: object) -> Mapping[str, Any]:
    text = _text(value, "meta") if not isinstance(value, dict) else None
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    if not text:
        return {}
    try:
        read: object = json.loads(text)
    except ValueError as error:
        raise _BadColumn(f"meta is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise _BadColumn("meta holds no JSON object")
    return cast("dict[str, Any]", read)
