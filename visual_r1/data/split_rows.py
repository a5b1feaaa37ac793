"""Where the rows of each split come from: the source's own splits, or a cut of its train."""

from collections.abc import Callable, Iterator, Mapping

from visual_r1.data.journal import Journal
from visual_r1.data.rows import BadRow, SourceRow, check_row
from visual_r1.data.sources.source import SPLITS, Source, Split
from visual_r1.data.splitting import HashSplit, hash_split
from visual_r1.progress import Progress

# Where only train is there and it is this small, rows are checked before it is split, so that a
# bad row cannot leave test empty.
SMALL = 2000

# From row number `start` of the split's source on: how many rows are used up, and the row.
Rows = Callable[[int], Iterator[tuple[int, SourceRow]]]


def expected_rows(
    sizes: Mapping[Split, int], limits: Mapping[Split, int | None]
) -> Mapping[Split, int]:
    """How many rows will be looked at, as far as the sizes tell; a hash split looks at all."""
    if set(sizes) == {"train"}:
        return sizes
    return {split: min(size, limits[split] or size) for split, size in sizes.items()}


def split_rows(
    source: Source, seed: int, sizes: Mapping[Split, int], journal: Journal, progress: Progress
) -> Mapping[Split, Rows]:
    """Where the rows of each split come from: the source's own splits, or a cut of its train."""
    if set(sizes) != {"train"}:
        return {
            split: lambda start, split=split: _own_rows(source, split, start) for split in sizes
        }
    bounds = journal.setting("cut")
    if bounds is None:
        cut = hash_split(seed, _ids(source, sizes["train"], progress))
        bounds = [cut.test_below, cut.validation_below]
        journal.set_setting("cut", bounds)
        journal.commit()
    cut = HashSplit(seed, *bounds)
    return {
        split: lambda start, split=split: _cut_rows(source, cut, split, start) for split in SPLITS
    }


def _ids(source: Source, size: int, progress: Progress) -> Iterator[str]:
    if size > SMALL:
        progress.start("read the ids", size, "rows")
    for row in source.rows("train"):
        if size <= SMALL:
            try:
                check_row(row)
            except BadRow:
                continue
        else:
            progress.advance(1)
        yield row.id


def _own_rows(source: Source, split: Split, start: int) -> Iterator[tuple[int, SourceRow]]:
    return enumerate(source.rows(split, start), start + 1)


def _cut_rows(
    source: Source, cut: HashSplit, split: Split, start: int
) -> Iterator[tuple[int, SourceRow]]:
    rows = enumerate(source.rows("train", start), start + 1)
    return ((used, row) for used, row in rows if cut.split_of(row.id) == split)
