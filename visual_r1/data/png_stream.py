"""The stream of a PNG: whether every pixel is in it, and a form of it that decodes faster.

Pillow takes a compressed stream that ends early for a whole picture. Here the stream is inflated to
its end and must hold exactly the bytes that the header asks for; its own checksum (Adler-32) must
be right. What was inflated for that is given to Pillow, which unfilters it, so that nothing is
inflated twice: zlib-ng is slow where it is asked for a row at a time, as Pillow does.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from zlib_ng import zlib_ng

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: where each pass begins, and how far apart its pixels are (x, y, dx, dy).
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_PIECE = 2**20
# Of more bytes than these there are no three copies in memory at a time.
_MOST_PLAIN = 2**24

fast: Any = zlib_ng  # what it takes has no types in its stubs


class Chunk(NamedTuple):
    """A chunk of a PNG; `sound` where its checksum is right, None where the file ends in it."""

    name: bytes
    start: int
    end: int
    sound: bool | None


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG, whose contents are `data[start:end]`; the last one may be cut."""
    view, place = memoryview(data), len(PNG_MAGIC)
    # A chunk: the length of its contents, its name, the contents, their checksum with the name.
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        start, end = place + 8, place + 8 + length
        if end + 4 > len(data):
            yield Chunk(name, start, min(end, len(data)), None)
            return
        (checksum,) = struct.unpack_from(">I", data, end)
        yield Chunk(name, start, end, zlib.crc32(view[start - 4 : end]) == checksum)
        place = end + 4


def is_clean_png(data: bytes) -> bool:
    """Whether every checksum is right and IEND is the end: Pillow reads on where others refuse."""
    end = len(PNG_MAGIC)
    for chunk in chunks(data):
        if not chunk.sound:
            return False
        end = chunk.end + 4
        if chunk.name == b"IEND":
            return end == len(data)
    return False


def uncompressed_png(data: bytes) -> bytes | None:
    """The same picture with a stream that is stored, where the stream of `data` is whole.

    None where it is not, where a checksum of it is wrong, or where it is long: `require_whole_png`
    then says what is wrong, if anything is.
    """
    first, end, stream = 0, 0, list[bytes]()
    for chunk in chunks(data) if data.startswith(PNG_MAGIC) else ():
        if chunk.name == b"IDAT" and chunk.sound:
            first = first or chunk.start - 8
            stream.append(data[chunk.start : chunk.end])
            end = chunk.end + 4
        elif stream or not chunk.sound:
            break
    try:
        expected = _pixel_bytes(data)[2]
        if not stream or expected > _MOST_PLAIN:
            return None
        inflated = fast.decompressobj()
        # One more, so that what is too long is seen, and the checksum behind the last one read.
        pixels: bytes = inflated.decompress(b"".join(stream), expected + 1)
    except (struct.error, KeyError, fast.error):
        return None
    if len(pixels) != expected or not inflated.eof:
        return None
    stored: bytes = fast.compress(pixels, 0)
    checksum = fast.crc32(stored, fast.crc32(b"IDAT"))
    head, tail = struct.pack(">I4s", len(stored), b"IDAT"), struct.pack(">I", checksum)
    return b"".join((data[:first], head, stored, tail, data[end:]))


def _pixel_bytes(data: bytes) -> tuple[int, int, int]:
    """Width and height of a PNG by its header, and how many bytes its pixels take uncompressed."""
    header = data[len(PNG_MAGIC) + 8 :][:13]
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS[kind]

    def size_of(wide: int, high: int) -> int:
        # A row has a byte in front that names its filter; a pass without pixels has no rows.
        return high * (1 + -(-wide * bits // 8)) if wide and high else 0

    if not interlaced:
        return width, height, size_of(width, height)
    passes = (
        size_of(-(-max(0, width - x) // dx), -(-max(0, height - y) // dy))
        for x, y, dx, dy in _PASSES
    )
    return width, height, sum(passes)


def require_whole_png(data: bytes) -> None:
    """Raise `ValueError` or `zlib.error` where the stream is not exactly the picture's pixels."""
    width, height, expected = _pixel_bytes(data)
    inflated, begun = zlib.decompressobj(), False
    count = 0

    def inflate(waiting: bytes) -> bytes:
        """Count what comes of it, at most a byte too many; what is left of it."""
        nonlocal count
        count += len(inflated.decompress(waiting, min(_PIECE, expected - count + 1)))
        return inflated.unconsumed_tail

    for chunk in chunks(data):
        if chunk.name != b"IDAT":
            if begun:
                break
            continue
        begun, waiting = True, data[chunk.start : chunk.end]
        while waiting and not inflated.eof and count <= expected:
            waiting = inflate(waiting)
    while not inflated.eof and count <= expected:
        before = count
        inflate(inflated.unconsumed_tail)
        if count == before:
            break
    if count < expected:
        there = count * height // expected
        raise ValueError(f"only {there} of its {height} rows are there")
    if count > expected:
        raise ValueError(f"it holds more than the {width} x {height} pixels of its header")
    if not inflated.eof:
        raise ValueError("it is cut off before the checksum of its pixels")
