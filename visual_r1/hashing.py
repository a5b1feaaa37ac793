"""Stable hashes: the same parts give the same number on every machine, in every process."""

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from visual_r1.opening import open_file

_PIECE = 2**20
_TICK_NS = 2 * 10**9

_known: dict[tuple[int, int, int, int], str] = {}
"""By device, inode, size and time of change: what `known_digest` has read."""


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) that depends on `parts` alone (blake2b), never on global state."""
    text = json.dumps(parts, ensure_ascii=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) & 0x7FFFFFFF


def in_hash_order(what: str, ids: Iterable[str]) -> list[str]:
    """Ids in the order of a hash, which knows nothing of what they stand for."""
    return sorted(ids, key=lambda id: (stable_seed(what, id), id))


def digest(value: Any, length: int = 8) -> str:
    """The first `length` hex digits of a hash of JSON-able `value`; key order does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:length]


def content_digest(*pieces: bytes | memoryview) -> str:
    """32 hex digits of XXH3-128 over the bytes of `pieces`, one after the other.

    It finds damage (a flipped bit, a cut), at the speed of memory; it does not keep out a forger.
    """
    return _digest_of(pieces)


def file_digest(path: Path) -> str:
    """`content_digest` of a whole file, of which a megabyte is in memory. Raises `OSError`."""
    with open_file(path) as file:
        return _digest_of(iter(lambda: file.read(_PIECE), b""))


def known_digest(path: Path) -> str:
    """`file_digest`, for which a file is read once in a process, as long as nobody writes to it."""
    status = path.stat()
    key = status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
    found = _known.get(key)
    if found is None:
        found = file_digest(path)
        # What was written just now may be written again within the same tick of the clock.
        if time.time_ns() - status.st_ctime_ns > _TICK_NS:
            _known[key] = found
    return found


def _digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    hashed = xxhash.xxh3_128()
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()
