"""A source to the files of a dataset folder.

Test and validation are written before train, so that a training problem that repeats one of theirs
(the same question over the same pixels) is found and left out.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from visual_r1.config import DataSection
from visual_r1.data.manifest import FORMAT_VERSION, Manifest, StoredFile
from visual_r1.data.rejection import most_frequent, reason_kind, require_few_rejected
from visual_r1.data.rows import BadRow, CheckedRow, SourceRow, check_row
from visual_r1.data.shards import SplitWriter
from visual_r1.data.sources import SPLITS, Source, Split
from visual_r1.data.splitting import HashSplit, hash_split
from visual_r1.data.tables import REJECTED_SCHEMA, GroupWriter, group_sizes
from visual_r1.errors import DataError
from visual_r1.progress import Progress

REJECTED_FILE = "rejected.parquet"
# Where only train is there and it is this small, rows are checked before it is split, so that a
# bad row cannot leave test empty.
SMALL = 2000
# Up to here all rows are looked at, so that the reasons are counted in full.
ENOUGH_FAULTS = 1000


class _Duplicate(BadRow):
    """Nothing is wrong with the row, but the problem is there already."""


@dataclass
class _Preparation:
    """What one preparation has seen so far; `faults` are the reasons of rows that were bad."""

    source: str
    total: int
    share: float
    rejected_place: Path
    folder: Path
    progress: Progress
    rejected: GroupWriter
    counts: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])
    ids: set[int] = field(default_factory=set[int])
    contents: set[int] = field(default_factory=set[int])

    def write_split(self, split: Split, rows: Iterator[SourceRow], limit: int | None) -> None:
        """The good rows of a split, up to `limit`, to its shards; the others to the rejected."""
        with SplitWriter(self.folder, split) as writer:
            for row in rows:
                try:
                    writer.write(self._checked(split, row).problem)
                    self.counts[split] += 1
                except BadRow as error:
                    self._reject(split, row, error)
                self.progress.advance(1, rejected=self.counts["rejected"])
                if limit is not None and self.counts[split] >= limit:
                    return

    def _checked(self, split: Split, row: SourceRow) -> CheckedRow:
        checked = check_row(row)
        name = _short_hash(checked.problem.id.encode())
        if name in self.ids:
            raise BadRow(f"the id {checked.problem.id!r} came before")
        question = " ".join(checked.problem.question.split()).casefold().encode()
        content = _short_hash(question, *checked.pixels)
        if split == "train" and content in self.contents:
            raise _Duplicate("the same question with the same image came before")
        self.ids.add(name)
        self.contents.add(content)
        return checked

    def _reject(self, split: Split, row: SourceRow, error: BadRow) -> None:
        reason, kind = str(error), reason_kind(str(error))
        self.counts["rejected"] += 1
        self.rejected.write({"split": split, "row": row.place, "id": row.id, "reason": reason})
        self.reasons[kind] += 1
        if not isinstance(error, _Duplicate):
            self.faults[kind] += 1
            if self.faults.total() >= ENOUGH_FAULTS:
                # However good the rows to come are, they cannot make up for it.
                self.require_few_rejected(self.total)

    def require_few_rejected(self, seen: int) -> None:
        """Raise `DataError` where too many of the `seen` rows were bad."""
        bad = self.faults.total()
        require_few_rejected(self.source, bad, seen, self.share, self.faults, self.rejected_place)


def build(
    source: Source,
    data: DataSection,
    folder: Path,
    digest: str,
    progress: Progress,
    rejected_place: Path,
) -> Manifest:
    """Write shards, `rejected.parquet` and, last, the manifest into the empty `folder`.

    Raises `DataError` where too many rows are bad or no problem is left to train on; its sentence
    sends the user to `rejected_place`, where the caller puts `rejected.parquet` then.
    """
    limits: Mapping[Split, int | None] = {
        "train": data.train,
        "validation": data.validation,
        "test": data.test,
    }
    sizes = source.sizes()
    if not sizes.get("train"):
        raise DataError(
            f"the source {data.source!r} has no train split (it has {', '.join(sizes) or 'no rows'}"
            "); a file or folder whose name begins with train holds it."
        )
    splits = _split_rows(source, data.seed, sizes)
    progress.start("prepare", sum(_expected(sizes, limits).values()), "problems")
    rejected = GroupWriter(folder / REJECTED_FILE, REJECTED_SCHEMA)
    work = _Preparation(
        source=data.source,
        total=sum(sizes.values()),
        share=data.max_rejected_share,
        rejected_place=rejected_place,
        folder=folder,
        progress=progress,
        rejected=rejected,
    )
    try:
        for split in reversed(SPLITS):
            if split in splits:
                work.write_split(split, splits[split](), limits[split])
        work.require_few_rejected(work.counts.total())
    except DataError:
        rejected.close()
        raise
    except BaseException:
        rejected.abandon()
        raise
    rejected.close()
    counts = {name: work.counts[name] for name in (*SPLITS, "rejected")}
    if not counts["train"]:
        reasons = most_frequent(work.reasons)
        raise DataError(
            f"no problem of {data.source!r} can be used for training: {counts['rejected']} rows "
            f"were rejected{f', {reasons}; see {rejected_place}' if reasons else ''}."
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=data.source,
        digest=digest,
        settings=data.model_dump(mode="json"),
        fingerprint=source.fingerprint,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        counts=counts,
        reasons=dict(work.reasons.most_common()),
        files=_stored_files(folder),
    )
    manifest.write(folder)
    progress.finish(", ".join(f"{count} {name}" for name, count in counts.items()))
    return manifest


def _expected(
    sizes: Mapping[Split, int], limits: Mapping[Split, int | None]
) -> Mapping[Split, int]:
    """How many rows will be looked at, as far as the sizes tell; a hash split looks at all."""
    if set(sizes) == {"train"}:
        return sizes
    return {split: min(size, limits[split] or size) for split, size in sizes.items()}


def _split_rows(
    source: Source, seed: int, sizes: Mapping[Split, int]
) -> Mapping[Split, Callable[[], Iterator[SourceRow]]]:
    """Where the rows of each split come from: the source's own splits, or a cut of its train."""
    if set(sizes) != {"train"}:
        return {split: lambda split=split: source.rows(split) for split in sizes}
    cut = hash_split(seed, _ids(source, check=sizes["train"] <= SMALL))
    return {split: lambda split=split: _rows_of(source, cut, split) for split in SPLITS}


def _ids(source: Source, check: bool) -> Iterator[str]:
    for row in source.rows("train"):
        if check:
            try:
                check_row(row)
            except BadRow:
                continue
        yield row.id


def _rows_of(source: Source, cut: HashSplit, split: Split) -> Iterator[SourceRow]:
    return (row for row in source.rows("train") if cut.split_of(row.id) == split)


def _stored_files(folder: Path) -> dict[str, StoredFile]:
    return {
        path.name: StoredFile(bytes=path.stat().st_size, rows=sum(group_sizes(path)))
        for path in sorted(folder.glob("*.parquet"))
    }


def _short_hash(*parts: bytes) -> int:
    """64 bits: among a million problems two are mistaken for one with a chance of 3e-8."""
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return int.from_bytes(whole.digest(), "little")
