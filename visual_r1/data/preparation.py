"""A source to the files of a dataset folder.

Test is looked at first, then validation, then train, so that a problem that repeats one of an
earlier split is left out of the later one. Inside test and validation repeats stay, since figures
are compared over all of a published split; train holds each problem once, and none at all of two
that ask the same of the same picture and give different answers.

What is done is in a journal beside the files: a preparation that was interrupted goes on behind the
rows it has seen, and ends with the same bytes.

When too many rows of a source are bad: the preparation stops, and says what is wrong with them.

A duplicate is left out as well, but it is no fault of its row: it does not count here.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visual_r1.config import DataSection
from visual_r1.data.card import answer_kind, write_card
from visual_r1.data.duplicates import Repeats, same_gold
from visual_r1.data.journal import Journal, Kept, RejectedAs, Standing
from visual_r1.data.manifest import FORMAT_VERSION, Manifest, StoredFile
from visual_r1.data.parquet import REJECTED_SCHEMA, GroupWriter, group_sizes
from visual_r1.data.rows import BadRow, SourceRow, check_row
from visual_r1.data.shards import (
    SHARD_BYTES,
    finished_shard,
    leave_out,
    unfinished_shard,
    write_shard,
)
from visual_r1.data.sources import SPLITS, Source, Split
from visual_r1.data.sources.source import require_splits
from visual_r1.data.splits import Rows, expected_rows, split_rows
from visual_r1.errors import DataError
from visual_r1.progress import Progress
from visual_r1.storage import sync_folder

# What differs from one row to the next: quoted values, and numbers.
_VALUE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+(?:\.\d+)?")
_NAMED = 3


def reason_kind(reason: str) -> str:
    """The reason without the values of its one row, so that equal faults are counted together."""
    return _VALUE.sub("…", reason)


def require_few_rejected(
    source: str, rejected: int, seen: int, share: float, kinds: Mapping[str, int], listed_in: Path
) -> None:
    """Raise `DataError` where more than `share` of the rows were bad.

    Args:
        source: as the user named it.
        rejected: bad rows.
        seen: rows in all.
        share: `data.max_rejected_share`.
        kinds: bad rows by `reason_kind`.
        listed_in: the file that holds each of them with its reason.
    """
    if rejected <= share * seen:
        return
    raise DataError(
        f"{rejected} of {seen} rows of {source!r} are bad, more than the share of {share:g} that "
        f"--data.max_rejected_share allows: {most_frequent(kinds)}; {listed_in} holds each with "
        "its reason: mend them, or allow more."
    )


def most_frequent(kinds: Mapping[str, int]) -> str:
    """The three most frequent reasons with their counts, for a message."""
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    named = ", ".join(f"{count} because {kind}" for kind, count in ranked[:_NAMED])
    rest = sum(count for _, count in ranked[_NAMED:])
    return f"{named}, {rest} for other reasons" if rest else named


REJECTED_FILE = "rejected.parquet"
# Up to here all rows are looked at, so that the reasons are counted in full.
ENOUGH_FAULTS = 1000
# What an interruption costs at most.
COMMIT_ROWS = 64
COMMIT_BYTES = 8 * 2**20
_REPORTED = 100

REPEAT = "the same question with the same image came before"
CONFLICT = "the same question with the same image has another answer"
_SUMMARIES: Mapping[RejectedAs, str] = {"repeat": REPEAT, "conflict": CONFLICT}


class GivenUp(DataError):
    """Too little is left of the source; the rejected rows are where the message says."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """One preparation: its source and settings, and where it writes.

    `folder` holds the files of the dataset and becomes it; the journal is in `journal_folder`.
    Where the preparation is given up, the rejected rows are written to `rejected_file`. `needs`
    are the splits without which it is not begun.
    """

    source: Source
    data: DataSection
    digest: str
    folder: Path
    journal_folder: Path
    rejected_file: Path
    needs: Sequence[Split] = ("train",)

    def run(self, progress: Progress) -> None:
        """Write shards, `rejected.parquet`, the card and, last, the manifest.

        Raises `GivenUp` where no problem is left to train on, or none at all.
        """
        sizes: dict[Split, int] = {
            split: size for split, size in self.source.sizes().items() if size
        }
        require_splits(f"the source {self.data.source!r}", sizes, self.needs)
        with Journal(self.journal_folder) as journal:
            try:
                self._run(journal, sizes, progress)
            except GivenUp:
                _write_rejected(journal, self.rejected_file)
                raise

    def _run(self, journal: Journal, sizes: Mapping[Split, int], progress: Progress) -> None:
        limits: Mapping[Split, int | None] = {
            "train": self.data.train,
            "validation": self.data.validation,
            "test": self.data.test,
        }
        splits = split_rows(self.source, self.data.seed, sizes, journal, progress)
        done = sum(journal.standing(split).looked_at for split in SPLITS)
        progress.start("prepare", sum(expected_rows(sizes, limits).values()), "problems", done)
        work = _Work(journal, self.folder, progress, self._require_few_rejected)
        for split in reversed(SPLITS):
            if split in splits and not journal.standing(split).complete:
                work.write_split(split, splits[split], limits[split])
        counts = {split: journal.count(split) for split in SPLITS}
        counts["rejected"] = work.broken + work.repeats
        self._require_few_rejected(journal, sum(counts.values()))
        if not (counts["train"] if "train" in sizes else counts["validation"] + counts["test"]):
            reasons = most_frequent(Counter(journal.reasons(_REPORTED)))
            raise GivenUp(
                f"no problem of {self.data.source!r} can be used"
                f"{' for training' if 'train' in sizes else ''}: "
                f"{counts['rejected']} rows were rejected"
                f"{f', {reasons}; see {self.rejected_file}' if reasons else ''}."
            )
        self._finish(journal, counts)
        shown = {**counts, "repeats among them": work.repeats}
        progress.finish(", ".join(f"{count} {name}" for name, count in shown.items()))

    def _require_few_rejected(self, journal: Journal, seen: int | None = None) -> None:
        """Raise `GivenUp` where too many of the `seen` rows (all of them) were bad."""
        faults = Counter(journal.reasons(_REPORTED, "broken"))
        seen = sum(self.source.sizes().values()) if seen is None else seen
        bad = journal.rejected_count("broken")
        share = self.data.max_rejected_share
        try:
            require_few_rejected(self.data.source, bad, seen, share, faults, self.rejected_file)
        except DataError as error:
            raise GivenUp(str(error)) from error

    def _finish(self, journal: Journal, counts: Mapping[str, int]) -> None:
        """From shards to a dataset; it may be killed in between and is then done again."""
        for split in SPLITS:
            shards = journal.shard_count(split)
            for shard, withdrawn in journal.shards(split):
                path = unfinished_shard(self.folder, split, shard)
                if path.exists():
                    if withdrawn:
                        leave_out(path, withdrawn)
                    path.rename(finished_shard(self.folder, split, shard, shards))
        _write_rejected(journal, self.folder / REJECTED_FILE)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            source=self.data.source,
            digest=self.digest,
            settings=self.data.model_dump(mode="json"),
            fingerprint=self.source.fingerprint,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            counts=counts,
            duplicates={
                "repeats": journal.rejected_count("repeat"),
                "conflicts": journal.rejected_count("conflict"),
                **{f"kept in {split}": n for split, n in journal.repeats_kept().items()},
            },
            reasons=journal.reasons(_REPORTED),
            files=_stored_files(self.folder),
        )
        write_card(self.folder, manifest, journal)
        sync_folder(self.folder)
        manifest.write(self.folder)


class _Work:
    """Rows to shards."""

    def __init__(
        self,
        journal: Journal,
        folder: Path,
        progress: Progress,
        look_at_faults: Callable[[Journal], None],
    ) -> None:
        self._look_at_faults = look_at_faults
        self._journal = journal
        self._folder = folder
        self._progress = progress
        self._repeats = Repeats(journal, folder)
        self.broken = journal.rejected_count("broken")
        self.repeats = journal.rejected_count("repeat", "conflict")

    def write_split(self, split: Split, rows: Rows, limit: int | None) -> None:
        """The good rows of a split, up to `limit`, to its shards; the others to the rejected."""
        if self._journal.waiting_bytes >= SHARD_BYTES:  # interrupted before this was noted
            self._write_shard(split)
        before = self._journal.standing(split)
        looked_at, committed, kept = before.looked_at, before.looked_at, self._journal.count(split)
        for used, row in rows(before.used):
            looked_at += 1
            kept += self._take(split, row)
            self._progress.advance(1, rejected=self.broken + self.repeats, repeats=self.repeats)
            complete = limit is not None and kept >= limit
            full = self._journal.waiting_bytes >= SHARD_BYTES
            due = looked_at - committed >= COMMIT_ROWS or self._journal.unsaved >= COMMIT_BYTES
            if due or full or complete:
                self._journal.set_standing(split, Standing(used, looked_at, complete=False))
                self._journal.commit()
                committed = looked_at
                if self.broken >= ENOUGH_FAULTS:
                    # However good the rows to come are, they cannot make up for it.
                    self._look_at_faults(self._journal)
            if full:
                self._write_shard(split)
            if complete:
                break
        self._journal.commit()
        if self._journal.waiting_bytes:
            self._write_shard(split)
        self._journal.set_standing(split, Standing(0, looked_at, complete=True))
        self._journal.commit()

    def _write_shard(self, split: Split) -> None:
        shard = self._journal.shard_count(split)
        write_shard(unfinished_shard(self._folder, split, shard), self._journal.waiting())
        self._journal.add_shard(split, shard)

    def _take(self, split: Split, row: SourceRow) -> int:
        """Keep or reject a row; by how much the number of kept problems grows."""
        try:
            checked = check_row(row)
            same = self._journal.with_id(checked.problem.id)
            if same is not None:
                raise BadRow(f"the id {checked.problem.id!r} came before, in {_where(same)}")
        except BadRow as error:
            self._reject(split, row.place, row.id, str(error), "broken")
            return 0
        marks = self._repeats.marks(checked)
        first = self._repeats.find(checked, marks)
        if first is not None and not (first.split == split != "train"):
            return self._reject_repeat(split, row, checked.problem.answer, first)
        self._journal.keep(
            checked.problem,
            split,
            row.place,
            answer_kind(checked.problem.answer),
            marks,
            sizes=[(look.width, look.height) for look in checked.looks],
            repeats=None if first is None else first.number,
        )
        return 1

    def _reject_repeat(self, split: Split, row: SourceRow, answer: str, first: Kept) -> int:
        if same_gold(answer, first.answer):
            self._reject(split, row.place, row.id, f"{REPEAT}: {_where(first)}", "repeat")
            return 0
        told = "{}: {!r} here, {!r} in {}"
        reason = told.format(CONFLICT, answer[:80], first.answer[:80], _where(first))
        self._reject(split, row.place, row.id, reason, "conflict")
        if first.split != "train" or first.withdrawn:
            return 0
        # Nobody knows which of the two is right, so neither is trained on.
        here = f"{row.place} (train)"
        reason = told.format(CONFLICT, first.answer[:80], answer[:80], here)
        self._reject("train", first.place, first.id, reason, "conflict")
        self._journal.withdraw(first.number)
        return -1

    def _reject(self, split: Split, place: str, id: str, reason: str, kind: RejectedAs) -> None:
        summary = _SUMMARIES.get(kind) or reason_kind(reason)
        self._journal.reject(split, place, id, reason, summary, kind)
        if kind == "broken":
            self.broken += 1
        else:
            self.repeats += 1


def _where(kept: Kept) -> str:
    return f"{kept.place} ({kept.split})"


def _write_rejected(journal: Journal, path: Path) -> None:
    with GroupWriter(path, REJECTED_SCHEMA) as writer:
        for row in journal.rejected():
            writer.write(row)


def _stored_files(folder: Path) -> dict[str, StoredFile]:
    return {
        path.name: StoredFile(bytes=path.stat().st_size, rows=sum(group_sizes(path)))
        for path in sorted(folder.glob("*.parquet"))
    }
