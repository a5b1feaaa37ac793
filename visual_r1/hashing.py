"""Stable hashes: the same parts give the same number on every machine, in every process."""

import hashlib
import json
from typing import Any


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) that depends on `parts` alone (blake2b), never on global state."""
    text = json.dumps(parts, ensure_ascii=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) & 0x7FFFFFFF


def digest(value: Any, length: int = 8) -> str:
    """The first `length` hex digits of a hash of JSON-able `value`; key order does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:length]
