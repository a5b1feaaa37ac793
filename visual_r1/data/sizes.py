"""How large each problem of a dataset is: the sides of its figures, the bytes of its text.

They are kept in `sizes.parquet` beside the shards, so that a run can ask of every row whether it
fits, in seconds and without opening a figure. A dataset from before has no such file: it is made
once, from the headers of the figures.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from visual_r1.data.parquet import SIZES_SCHEMA, column_arrays, read_rows, write_columns
from visual_r1.data.problem import SPLITS, Split
from visual_r1.errors import DataError, StorageError
from visual_r1.printing import open_logger
from visual_r1.progress import Progress, Silent
from visual_r1.storage import replaced_whole

logger = open_logger(__name__)

SIZES_FILE = "sizes.parquet"

Sides = tuple[int, int]
"""Width and height of a figure, in pixels."""


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """The sizes of the n problems of a split, in their order.

    `sides` [figures, 2] are width and height of all figures, those of problem i from `starts[i]` to
    `starts[i + 1]`; `starts` is [n + 1], and `text_bytes` [n] the problem's text in UTF-8.
    """

    ids: Sequence[str]
    starts: NDArray[np.int64]
    sides: NDArray[np.int32]
    text_bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def sides_of(self, place: int) -> tuple[Sides, ...]:
        """Those of one problem's figures."""
        one = self.sides[self.starts[place] : self.starts[place + 1]]
        return tuple((int(wide), int(high)) for wide, high in one)


def size_row(split: Split, id: str, text: str, sides: Sequence[Sides]) -> dict[str, Any]:
    """A row of `sizes.parquet`."""
    return {
        "split": split,
        "id": id,
        "widths": [wide for wide, _ in sides],
        "heights": [high for _, high in sides],
        "text_bytes": len(text.encode()),
    }


def write_sizes(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `sizes.parquet` into a dataset folder, whole or not at all.

    Raises `StorageError` where it cannot be written.
    """
    with replaced_whole(folder / SIZES_FILE) as temporary:
        write_columns(temporary, SIZES_SCHEMA, rows)


def read_sizes(
    folder: Path, files: Sequence[str], counts: Mapping[str, int], progress: Progress | None = None
) -> Mapping[Split, SplitSizes]:
    """The sizes of all problems of a dataset folder, by split.

    Where they are not there, as in a dataset from before, or are damaged, the figures' headers are
    read, and the sizes are kept for the next time if the folder can be written.

    Args:
        folder: of the dataset.
        files: the names of its shards.
        counts: how many problems each split has.
        progress: shows the reading of headers.

    Raises:
        DataError: a shard is damaged.
    """
    path = folder / SIZES_FILE
    if path.is_file():
        try:
            found = _by_split(path)
            if all(len(found[split]) == counts.get(split, 0) for split in SPLITS):
                return found
        except DataError as error:
            logger.warning("%s The figures are measured again.", error)
    with suppress(StorageError):
        write_sizes(folder, _measured(folder, files, counts, progress or Silent()))
        return _by_split(path)
    return _split(list(_measured(folder, files, counts, Silent())))


def _by_split(path: Path) -> Mapping[Split, SplitSizes]:
    columns = column_arrays(path, ("split", "id", "text_bytes", "widths", "heights"))
    splits = cast("NDArray[np.str_]", np.asarray(columns["split"]))
    ids, starts = columns["id"], columns["widths starts"]
    sides = np.stack((columns["widths"], columns["heights"]), axis=1)
    found: dict[Split, SplitSizes] = {}
    for split in SPLITS:
        (places,) = np.nonzero(splits == split)
        first, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
        figures = slice(int(starts[first]), int(starts[end]))
        found[split] = SplitSizes(
            ids[first:end],
            starts[first : end + 1] - starts[first],
            sides[figures],
            columns["text_bytes"][first:end],
        )
    return found


def _split(rows: Sequence[Mapping[str, Any]]) -> Mapping[Split, SplitSizes]:
    found: dict[Split, SplitSizes] = {}
    for split in SPLITS:
        mine = [row for row in rows if row["split"] == split]
        wide = [side for row in mine for side in row["widths"]]
        high = [side for row in mine for side in row["heights"]]
        found[split] = SplitSizes(
            [row["id"] for row in mine],
            np.cumsum([0, *(len(row["widths"]) for row in mine)]),
            np.array(list(zip(wide, high, strict=True)), np.int32).reshape(-1, 2),
            np.array([row["text_bytes"] for row in mine], np.int64),
        )
    return found


def _measured(
    folder: Path, files: Sequence[str], counts: Mapping[str, int], progress: Progress
) -> Iterator[Mapping[str, Any]]:
    """The rows of `sizes.parquet`, read from the shards."""
    progress.start("measure the figures", sum(counts.get(split, 0) for split in SPLITS), "problems")
    for split in SPLITS:
        for name in sorted(name for name in files if name.startswith(f"{split}-")):
            for row in read_rows(folder / name, columns=("id", "images", "problem")):
                sides = [_sides(image["bytes"], folder / name) for image in row["images"]]
                yield size_row(split, row["id"], row["problem"], sides)
                progress.advance(1)
    progress.finish("")


def _sides(data: bytes, shard: Path) -> Sides:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.size
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{shard} holds a figure that cannot be read ({error}): the file is damaged; remove "
            "its folder, and the same command prepares it anew."
        ) from error


def grouped(pairs: Iterable[tuple[int, int, int]]) -> Iterator[list[Sides]]:
    """The sides of each number's figures, of (number, width, height) in the order of numbers."""
    for _, figures in groupby(pairs, key=lambda one: one[0]):
        yield [(wide, high) for _, wide, high in figures]
