"""What a row gives for an image: bytes, base64, a data URI, or the path of a file."""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from visual_r1.data.images import MAX_BYTES

# Shorter text, or text with a dot in it, is a path.
_BASE64_FROM = 64
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


class BadColumn(Exception):
    """A column does not hold what it should; the message says which and why."""


class ImageFiles:
    """The image files that rows may name.

    Args:
        base: the folder that paths are relative to.
        roots: the folders under one of which a file must lie, links followed; none allows no file.
    """

    def __init__(self, base: Path, roots: Sequence[Path]) -> None:
        self._base = base
        self._roots = [root.resolve() for root in roots]

    def locate(self, name: str) -> Path:
        """Where the named file is, be it there or not. Raises `BadColumn` where it leads out."""
        try:
            path = (self._base / name.replace("\\", "/")).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise BadColumn(f"the image path {name[:200]!r} is none: {error}") from error
        if not any(path.is_relative_to(root) for root in self._roots):
            raise BadColumn(f"the image path {name[:200]!r} leads out of the source's folder")
        return path

    def read(self, name: str) -> bytes:
        """The contents of the named file."""
        path = self.locate(name)
        try:
            if path.exists() and not path.is_file():
                raise BadColumn(f"the image {name!r} is a folder or a device, not a file")
            if path.stat().st_size > MAX_BYTES:
                raise BadColumn(f"the image file {name!r} has more than {MAX_BYTES} bytes")
            return path.read_bytes()
        except OSError as error:
            raise BadColumn(f"the image {name[:200]!r} cannot be read: {error.strerror}") from error


def image_bytes(value: object, files: ImageFiles) -> bytes | None:
    """The bytes that `value` stands for; None where there is no image.

    Raises `BadColumn` where it stands for none.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        name = path_in_text(value)
        return _decoded(value) if name is None else files.read(name) if name else None
    if not isinstance(value, dict):
        raise BadColumn(f"an image is a {type(value).__name__}, not bytes, a path or base64")
    parts = cast("dict[str, object]", value)
    data, path = parts.get("bytes"), parts.get("path")
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return _decoded(data)
    if data is not None or not (path is None or isinstance(path, str)):
        raise BadColumn("an image has neither bytes nor a path that can be read")
    return files.read(path) if path else None


def path_in_text(text: str) -> str | None:
    """The path that stands in the place of an image; None where it is the image itself, as text."""
    stripped = text.strip()
    if stripped[:5].lower() == "data:":
        return None
    if "://" in stripped[:16]:
        raise BadColumn(f"the image {stripped[:200]!r} is an address: download it first")
    if (
        len(stripped) >= _BASE64_FROM
        and "." not in stripped[: 4 * _BASE64_FROM]
        and _BASE64.fullmatch(stripped)
    ):
        return None
    return stripped


def _decoded(text: str) -> bytes:
    """Base64, with or without the head of a data URI."""
    payload = text.strip()
    if payload[:5].lower() == "data:":
        head, comma, payload = payload.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise BadColumn("the image is a data URI without base64 in it")
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadColumn(f"the image is no sound base64: {error}") from error
