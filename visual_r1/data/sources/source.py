"""What every source of problems offers."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

from visual_r1.data.rows import SourceRow

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_SPELLINGS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "testmini": "test",
}

# Up to this size a local source is known by its contents; beyond it, by sizes and times.
HASHED_BYTES = 2**30


class Source(Protocol):
    """Rows by split, always in the same order.

    `slug` names the dataset folder. `fingerprint` changes whenever the rows may have changed.
    """

    @property
    def slug(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def sizes(self) -> Mapping[Split, int]:
        """How many rows each split that is there has."""
        ...

    def rows(self, split: Split, start: int = 0) -> Iterator[SourceRow]:
        """The rows of a split, one at a time, from row number `start` on.

        A preparation that goes on after an interruption begins behind the rows it has seen, so
        skipping should cost little: no image is read, nothing is generated.
        """
        ...


def split_of(name: str) -> Split | None:
    """The split that a folder, file or hub split of this name holds: `val`, `train-00000`, ..."""
    first = name.lower().replace("_", "-").replace(".", "-").split("-")[0]
    return _SPELLINGS.get(first)


def contents_digest(root: Path, files: Iterable[Path]) -> str:
    """A digest of the files' names and contents; of sizes and times where they are very large."""
    named = sorted((path.relative_to(root).as_posix(), path) for path in files)
    hashed = sum(path.stat().st_size for _, path in named) <= HASHED_BYTES
    whole = hashlib.blake2b(digest_size=16)
    for name, path in named:
        status = path.stat()
        whole.update(f"{name}\0{status.st_size}\0".encode())
        if hashed:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "blake2b").digest())
        else:
            whole.update(f"{status.st_mtime_ns}\0".encode())
    return whole.hexdigest()
