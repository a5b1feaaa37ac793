"""Problems that were there before: the same question over the same pictures.

The same question is the same text but for spaces and capitals. The same pictures are the same
pixels, or pictures encoded again or resized (`fingerprint`).
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from visual_r1.data.fingerprint import packed, same_picture, tiles_differ
from visual_r1.data.preparation_state import Kept, Marks, PreparationState
from visual_r1.data.rows import CheckedRow
from visual_r1.data.shards import StoredProblems, unfinished_shard
from visual_r1.grading import grade_answer

# Pictures laid over a new one, the likest first. Only sets of many drawings that all look alike
# from afar have more candidates, and a copy is then among the likest.
MAX_COMPARED = 24


class Repeats:
    """Finds what a new problem repeats among those that a preparation kept.

    `folder` is where its shards are.
    """

    def __init__(self, state: PreparationState, folder: Path) -> None:
        self._state = state
        self._folder = folder

    def marks(self, checked: CheckedRow) -> Marks:
        """What the problem will be found by."""
        question = " ".join(checked.problem.question.split()).casefold().encode()
        return Marks(
            content=_hash((question, *checked.pixels)),
            question=_hash((question, bytes((len(checked.looks),)))),
            looks=b"".join(look.to_bytes() for look in checked.looks),
            tiles=packed(checked.tiles),
        )

    def find(self, checked: CheckedRow, marks: Marks) -> Kept | None:
        """The problem that this one repeats: an exact copy, or else the likest."""
        exact = self._state.with_content(marks.content)
        if exact is not None:
            return exact
        for number in self._state.alike(marks.question, checked.looks)[:MAX_COMPARED]:
            if tiles_differ(checked.tiles, self._state.tiles(number)):
                continue
            pairs = zip(checked.problem.images, self._images(number), strict=True)
            if all(same_picture(one, other) for one, other in pairs):
                return self._state.numbered(number)
        return None

    def _images(self, number: int) -> tuple[bytes, ...]:
        waiting = self._state.images_waiting(number)
        if waiting:
            return waiting
        split, shard, place = self._state.shard_of(number)
        return _opened(unfinished_shard(self._folder, split, shard))[place].images


def same_gold(one: str, other: str) -> bool:
    """Whether two gold answers say the same."""
    return one == other or grade_answer(one, other).right or grade_answer(other, one).right


@lru_cache(maxsize=4)
def _opened(shard: Path) -> StoredProblems:
    return StoredProblems([shard])


def _hash(parts: Iterable[bytes]) -> bytes:
    """96 bits: among a million problems two are mistaken for one with a chance of 1e-17."""
    whole = hashlib.blake2b(digest_size=12)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()
