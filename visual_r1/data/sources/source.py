"""What every source of problems offers."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from visual_r1.config import DataSection, SplitsSection, listed
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.rows import Row
from visual_r1.errors import DataError
from visual_r1.opening import open_file

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
# They name a split, and people differ in which.
_UNDECIDED = frozenset(("eval", "evaluation"))
_BETWEEN_WORDS = re.compile(r"[-_.\s]+")
# Within what stands between those: `test1`, `geoTest`, `testA`, `VQATest`.
_WORD = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[^\dA-Z]+")
_SET_OF = re.compile(rf"^({'|'.join((*_SPELLINGS, *_UNDECIDED))})(?:s|sets?|data|splits?)$")
# `train-00000-of-00002-0123abcd` is a shard of `train`.
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")

# Up to this size a local source is known by its contents; beyond it, by sizes and times.
HASHED_BYTES = 2**30


Wanted = Callable[[int], bool]


def every(number: int) -> bool:  # noqa: ARG001
    """For all rows."""
    return True


class Source(Protocol):
    """Rows by split, always in the same order.

    `slug` names the dataset folder. `fingerprint` changes whenever the rows may have changed;
    `former` is what it was in `manifest.FORMER_VERSION`, None where that had the same rows.
    `resorted` are names of parts of test or validation, told by a word that counted for nothing
    once: up to `manifest.FORMAT_VERSION`, or for some time after it. Their rows were of train then.
    """

    @property
    def slug(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def former(self) -> str | None: ...

    @property
    def resorted(self) -> Sequence[str]: ...

    def sizes(self) -> Mapping[Split, int]:
        """How many rows each split that is there has."""
        ...

    def rows(self, split: Split, start: int = 0, wanted: Wanted = every) -> Iterator[Row]:
        """The rows of a split, one at a time, from row number `start` on, whose number is `wanted`.

        A preparation that goes on after an interruption begins behind the rows it has seen, and one
        that cuts a split takes some of its rows at a time, so skipping should cost little: no image
        is read, nothing is generated.
        """
        ...

    def ids(self, split: Split) -> Iterator[str]:
        """What each row of a split is cut by: its id, of a bad one perhaps another; no image is
        read."""
        ...


class SplitNames:
    """Which of a source's own splits serve as ours.

    By default a name's beginning says it: `val`, `train-00000-of-00002`, `testmini`; of files and
    folders, where it says nothing, another whole word of it: `geo_train`; words end at digits and
    capitals too. Where `data.splits` names any, those names alone count, whole.

    `within` are the parts of test or validation that are so by such words alone.

    Raises `DataError` where one is named for two of ours.
    """

    def __init__(self, section: SplitsSection) -> None:
        self._chosen: dict[str, Split] = {}
        self.within: list[str] = []
        for split in SPLITS:
            names: str | None = getattr(section, split)
            for name in listed(names):
                if self._chosen.setdefault(name, split) != split:
                    raise DataError(
                        f"the split {name!r} of the source is named for {self._chosen[name]} and "
                        f"for {split} (--data.splits): a problem may serve in one of them alone."
                    )

    def split_of(self, *names: str) -> Split | None:
        """Which of our splits the first of `names` that tells it, by its beginning, belongs to;
        None where none is."""
        for name in names:
            if self._chosen:
                found = self._chosen.get(_SHARD.sub("", name))
            else:
                found = _SPELLINGS.get(_BETWEEN_WORDS.split(_SHARD.sub("", name).lower())[0])
            if found is not None:
                return found
        return None

    def _split_of_part(self, part: str, names: Sequence[str], source: str) -> Split | None:
        """The split that the names of a file or folder tell, the nearest first.

        Raises `DataError` where words within names tell one, and others another.
        """
        if self._chosen:
            return self.split_of(*names)
        said: dict[str, Split | None] = {}
        for name in names:
            words = _words(name)
            if beginning := _SPELLINGS.get(words[0]):
                said[words[0]] = beginning
                break
            said |= {w: _SPELLINGS.get(w) for w in words if w in _SPELLINGS or w in _UNDECIDED}
        splits: set[Split] = {split for split in said.values() if split is not None}
        if len(splits) > 1 or (said and not splits):
            told = " and ".join(map(repr, said))
            why = "which name different splits" if splits else "which may mean validation or test"
            raise DataError(f"{part} in {source} says {told} in its name, {why}: {_WAY_OUT}")
        split = splits.pop() if splits else None
        if split not in (None, "train") and self.split_of(*names) != split:
            self.within.append(part)
        return split

    def splits_of(
        self, parts: Sequence[tuple[str, Sequence[str]]], source: str
    ) -> Sequence[Split | None]:
        """Which of our splits each of a source's parts belongs to: its files, say, each with the
        names that may tell. Train where none of them does; None is used by none of ours.

        Raises `DataError` where some tell and others do not: `exam` beside `train` would be
        trained on. So it does where the words of one tell different splits.
        """
        found: list[Split | None] = [
            self._split_of_part(part, names, source) for part, names in parts
        ]
        if not self._chosen and not any(found):
            train: list[Split | None] = ["train" for _ in found]
            return train
        if self._chosen or all(found):
            return found
        silent = [part for (part, _), split in zip(parts, found, strict=True) if split is None]
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        raise DataError(
            f"{silent[0]}{more} in {source} may belong to any split, while others say theirs in "
            f"their names: {_WAY_OUT}"
        )

    def require_all(self, names: Iterable[str], source: str) -> None:
        """Raise `DataError` where `data.splits` names what is not among the source's `names`."""
        there = sorted({_SHARD.sub("", name) for name in names})
        for name, split in self._chosen.items():
            if name not in there:
                raise DataError(
                    f"--data.splits.{split} names {name!r}, and {source} has no split of that "
                    f"name; it has {', '.join(there) or 'none'}."
                )


_WAY_OUT = (
    f"let its name begin with {', '.join(SPLITS[:-1])} or {SPLITS[-1]} and a dash, move it "
    "elsewhere, or name what is to be used (--data.splits.train, --data.splits.test)."
)


def _words(name: str) -> Sequence[str]:
    """The words of a name, a shard's number apart; one at least. `testset` is `test` here."""
    found: list[str] = []
    for whole in _BETWEEN_WORDS.split(_SHARD.sub("", name)):
        known = whole.lower() in _SPELLINGS or _SET_OF.fullmatch(whole.lower())
        found += [whole] if known else _WORD.findall(whole)
    return [_SET_OF.sub(r"\1", word.lower()) for word in found] or [""]


def require_unused(data: DataSection, kind: str, *fields: str) -> None:
    """Raise `DataError` where a setting is given that sources of this `kind` have no use for."""
    defaults = DataSection()
    for name in fields:
        if getattr(data, name) != getattr(defaults, name):
            raise DataError(
                f"--data.{name} means nothing to {kind} ({data.source!r}): leave it out."
            )


def require_splits(what: str, sizes: Mapping[Split, int], needs: Sequence[Split]) -> None:
    """Raise `DataError` where a split of `needs` is empty in `what`, or all are."""
    there = [split for split in SPLITS if sizes.get(split)]
    for split in needs or (() if there else ("train",)):
        if split not in there:
            hint = " Evaluating it needs no train split: flows/evaluate_flow.py." if there else ""
            raise DataError(
                f"{what} has no {split} split (it has {', '.join(there) or 'no rows'}); a file or "
                f"folder whose name begins with {split} holds it, or --data.splits.{split} names "
                f"it.{hint if split == 'train' else ''}"
            )


def printable(text: str) -> str:
    """The text as UTF-8 can hold it: half a surrogate pair (of a file's name, say) is escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def contents_digest(root: Path, files: Sequence[Path], referenced: Iterable[Path] = ()) -> str:
    """A digest of names and contents; of sizes and times where the files are very large.

    Args:
        root: what the names are relative to.
        files: the files that hold the rows.
        referenced: the files that rows name, in the rows' order; they are streamed, and beyond
            `HASHED_BYTES` in all they are known by size and time.
    """
    named = sorted((path.relative_to(root).as_posix(), path) for path in files)
    left = HASHED_BYTES - sum(path.stat().st_size for _, path in named)
    whole = hashlib.blake2b(digest_size=16)
    for name, path in named:
        _add(whole, name, path, contents=left >= 0)
    for path in referenced:
        try:
            left -= path.stat().st_size
            _add(whole, path.name, path, contents=left >= 0)
        except OSError as error:
            whole.update(f"{path.name}\0{error.errno}\0".encode())
    return whole.hexdigest()


def _add(whole: "hashlib.blake2b", name: str, path: Path, *, contents: bool) -> None:
    status = path.stat()
    whole.update(f"{name}\0{status.st_size}\0".encode(errors="surrogateescape"))
    if contents:
        with open_file(path) as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    else:
        whole.update(f"{status.st_mtime_ns}\0".encode())
