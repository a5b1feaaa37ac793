"""What a row gives for an image: bytes, base64, a data URI, the path or file URI of a file; or an
object that holds one of these under a name that is in use for it.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import unquote

from visual_r1.data.images import MAX_BYTES
from visual_r1.opening import read_file

# Shorter text, or text with a dot in it, is a path.
_BASE64_FROM = 64
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_URL_SAFE = str.maketrans("-_", "+/")
# Under which names an object holds its image, the first that is not empty; `datasets` has the first
# two, chats with images the next ones. Of another name is taken what is the only one.
_FIELDS = (
    *("bytes", "path"),
    *("image", "image_url", "url", "uri", "image_path", "img", "img_path", "file_name", "filename"),
    *("file", "file_path", "src", "source", "data", "base64", "b64", "b64_json", "image_base64"),
    *("image_bytes", "content", "value"),
)
_DEEPEST = 4


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
            return read_file(path, MAX_BYTES)
        except FileNotFoundError as error:
            raise BadColumn(f"the image {name[:200]!r} is missing: {error.strerror}") from error
        except OSError as error:
            raise BadColumn(f"the image {name[:200]!r} cannot be read: {error.strerror}") from error


def image_bytes(value: object, files: ImageFiles) -> bytes | None:
    """The bytes that `value` stands for; None where there is no image.

    Raises `BadColumn` where it stands for none.
    """
    found = _held(value)
    if found is None or isinstance(found, bytes):
        return found
    name = path_in_text(found)
    return _decoded(found) if name is None else files.read(name) if name else None


def image_path(value: object) -> str | None:
    """The path of the file that `value` names, as `image_bytes` would read it; None for others."""
    found = _held(value)
    return path_in_text(found) if isinstance(found, str) else None


def _held(value: object, depth: int = 0) -> bytes | str | None:
    """The bytes or the text in a value, objects opened; None where there is none."""
    if value is None or isinstance(value, bytes | str):
        return value
    kind = type(value).__name__
    if isinstance(value, list) and depth:  # bytes as JSON has them
        numbers = cast("list[object]", value)
        if numbers and all(type(one) is int and 0 <= one < 256 for one in numbers):
            return bytes(cast("list[int]", numbers))
    if not isinstance(value, dict) or depth > _DEEPEST:
        raise BadColumn(f"an image is a {kind}, not bytes, a path, base64 or an object of them")
    fields = {
        str(name): inside
        for name, inside in cast("dict[object, object]", value).items()
        if inside is not None and inside != ""
    }
    named = [name for name in _FIELDS if name in fields]
    named += list(fields) if len(fields) == 1 and not named else []
    if fields and not named:
        raise BadColumn(
            f"an image is an object with {', '.join(map(repr, list(fields)[:6]))}, none of which "
            f"is known to hold an image: name it {_FIELDS[0]} or {_FIELDS[1]}"
        )
    return _held(fields[named[0]], depth + 1) if named else None


def path_in_text(text: str) -> str | None:
    """The path that stands in the place of an image; None where it is the image itself, as text.

    A file URI names the path that it escapes (RFC 8089), on this machine.
    """
    stripped = text.strip()
    if stripped[:5].lower() == "data:":
        return None
    if stripped[:5].lower() == "file:":
        return _path_of_uri(stripped)
    if "://" in stripped[:16]:
        raise BadColumn(f"the image {stripped[:200]!r} is an address: download it first")
    if (
        len(stripped) >= _BASE64_FROM
        and "." not in stripped[: 4 * _BASE64_FROM]
        and _BASE64.fullmatch(stripped)
    ):
        return None
    return stripped


def _path_of_uri(uri: str) -> str:
    path = uri[5:]
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise BadColumn(
                f"the image {uri[:200]!r} is on a machine {host[:80]!r}: a path of this one has "
                "three slashes, as file:///folder/figure.png"
            )
        path = slash + rest
    return unquote(path, errors="surrogateescape")


def _decoded(text: str) -> bytes:
    """Base64 in either alphabet, with or without its padding and the head of a data URI."""
    payload = text.strip()
    if payload[:5].lower() == "data:":
        head, comma, payload = payload.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise BadColumn("the image is a data URI without base64 in it")
        payload = unquote(payload)
    payload = "".join(payload.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadColumn(f"the image is no sound base64: {error}") from error
