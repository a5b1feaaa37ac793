"""The procedural generator as a source."""

import hashlib
from collections.abc import Iterator, Mapping

from visual_r1.config import DataSection
from visual_r1.data import procedural
from visual_r1.data.drawn_row import DrawnRow
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.sources.source import Wanted, every, require_unused

DEFAULT_COUNTS: Mapping[Split, int] = {"train": 4096, "validation": 256, "test": 512}
_PROBED = 2 * len(procedural.FAMILIES)


class GeneratedSource:
    """Procedural geometry: `DataSection.seed` and the counts say all there is to say."""

    slug = "procedural"
    former = None
    resorted = ()

    def __init__(self, data: DataSection) -> None:
        require_unused(data, "generated problems", "subset", "splits", "columns", "show_choices")
        asked: Mapping[Split, int | None] = {
            "train": data.train,
            "validation": data.validation,
            "test": data.test,
        }
        self._seed = data.seed
        self._counts: Mapping[Split, int] = {
            split: asked[split] or DEFAULT_COUNTS[split] for split in SPLITS
        }

    @property
    def fingerprint(self) -> str:
        """A digest of the first problems, so that a changed generator makes another dataset."""
        whole = hashlib.blake2b(digest_size=16)
        for problem in procedural.generate(self._seed, "train", _PROBED):
            whole.update(f"{problem.problem}\0{problem.answer}\0{problem.meta}".encode())
            whole.update(problem.images[0])
        return whole.hexdigest()

    def sizes(self) -> Mapping[Split, int]:
        return self._counts

    def rows(self, split: Split, start: int = 0, wanted: Wanted = every) -> Iterator[DrawnRow]:
        procedural.require_capacity(split, self._counts[split])
        numbers = filter(wanted, range(start, self._counts[split]))
        return (DrawnRow(self._seed, split, number) for number in numbers)

    def ids(self, split: Split) -> Iterator[str]:
        return (procedural.id_of(self._seed, split, n) for n in range(self._counts[split]))
