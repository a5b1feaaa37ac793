"""A train split alone, cut into train, validation and test by a hash of the ids.

The `TEST_SHARE` with the smallest hashes become test, the next `VALIDATION_SHARE` validation. Which
side a problem falls on depends on its id and the seed, never on its place in the source.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visual_r1.data.sources.source import Split
from visual_r1.hashing import stable_seed

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class HashSplit:
    """Hashes below `test_below` are test, those from there to `validation_below` validation."""

    seed: int
    test_below: int
    validation_below: int

    def split_of(self, id: str) -> Split:
        """The split of the problem with this id."""
        key = split_key(self.seed, id)
        if key < self.test_below:
            return "test"
        return "validation" if key < self.validation_below else "train"


def split_key(seed: int, id: str) -> int:
    """What ids are ordered by."""
    return stable_seed("split", seed, id)


def hash_split(seed: int, ids: Iterable[str]) -> HashSplit:
    """The cut for these ids: shares rounded, of two problems or more at least one in test.

    Ten problems become seven, one and two; fewer than five have no validation.
    """
    # Four bytes an id, for sets of millions.
    keys = np.unique(np.fromiter((split_key(seed, id) for id in ids), np.uint32))
    test, validation = cut_sizes(len(keys))
    return HashSplit(seed, _bound(keys, test), _bound(keys, test + validation))


def cut_sizes(count: int) -> tuple[int, int]:
    """How many of `count` problems become test, and how many validation."""
    test = min(max(1, round(count * TEST_SHARE)), max(0, count - 1))
    return test, min(math.floor(count * VALIDATION_SHARE + 0.5), max(0, count - test - 1))


def _bound(keys: NDArray[np.uint32], count: int) -> int:
    """A number that exactly `count` of the sorted `keys` lie below."""
    if count == 0:
        return 0
    return int(keys[count]) if count < len(keys) else int(keys[-1]) + 1
