"""A source to the files of a dataset folder.

Test is looked at first, then validation, then train, so that a problem that repeats one of an
earlier split is left out of the later one. Inside test and validation repeats stay, since figures
are compared over all of a published split; train holds each problem once, and none at all of two
that ask the same of the same picture and give different answers.

Where too many rows are bad, the preparation is given up and says what is wrong with them. A
duplicate is left out as well, but it is no fault of its row: it does not count here.

What is done is noted in a file beside the dataset's: a preparation that was interrupted goes on
behind the rows it has seen, and ends with the same bytes. What it goes on with is held against
digests first; where it is damaged, the preparation begins anew.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from visual_r1.config import DataSection
from visual_r1.data.card import answer_kind, write_card, write_sheet
from visual_r1.data.checking import Checking
from visual_r1.data.duplicates import Repeats, same_gold
from visual_r1.data.manifest import FORMAT_VERSION, Manifest, StoredFile, write_manifest
from visual_r1.data.parquet import (
    PROBLEM_SCHEMA,
    REJECTED_SCHEMA,
    GroupWriter,
    read_groups,
    read_rows,
)
from visual_r1.data.preparation_state import Kept, PreparationState, Rejection, Standing
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.rows import Outcome
from visual_r1.data.shards import (
    SHARD_BYTES,
    finished_shard,
    leave_out,
    unfinished_shard,
)
from visual_r1.data.sizes import grouped, size_row, write_sizes
from visual_r1.data.sources.source import Source, require_splits
from visual_r1.data.splits import cut_told, expected_rows, split_outcomes
from visual_r1.errors import DataError
from visual_r1.hashing import file_digest
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.storage import sync_folder

logger = open_logger("visual_r1.data")

REJECTED_FILE = "rejected.parquet"
# Up to here all rows are looked at, so that the reasons are counted in full.
ENOUGH_FAULTS = 1000
# What an interruption costs at most.
COMMIT_ROWS = 64
COMMIT_BYTES = 8 * 2**20

REPEAT = "the same question with the same image came before"
CONFLICT = "the same question with the same image has another answer"
# How many different reasons the manifest lists, and how many a message names.
_LISTED = 100
_NAMED = 3
# What differs from one row to the next: quoted values, and numbers.
_VALUE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+(?:\.\d+)?")


class GivenUp(DataError):
    """Too little is left of the source; the rejected rows are where the message says."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """One preparation: its source and settings, and where it writes.

    `folder` holds the files of the dataset and becomes it; the state is kept in `state_folder`.
    Where the preparation is given up, the rejected rows are written to `rejected_file`. `needs`
    are the splits without which it is not begun. A set that is cut here is cut by its figures, or
    by its ids alone without `whole_figures`.
    """

    source: Source
    data: DataSection
    digest: str
    folder: Path
    state_folder: Path
    rejected_file: Path
    needs: Sequence[Split] = ("train",)
    whole_figures: bool = True

    def run(self, progress: Progress) -> None:
        """Write shards, `rejected.parquet`, the card and, last, the manifest.

        Raises `GivenUp` where no problem is left to train on, or none at all, or where more than
        `data.max_rejected_share` of the rows were bad.
        """
        sizes: dict[Split, int] = {
            split: size for split, size in self.source.sizes().items() if size
        }
        require_splits(f"the source {self.data.source!r}", sizes, self.needs)
        with PreparationState(self.state_folder) as state:
            try:
                counts = self._write_splits(state, sizes, progress)
                self._require_few_bad(state, sum(counts.values()))
                trains = "train" in sizes
                if not (counts["train"] if trains else counts["validation"] + counts["test"]):
                    reasons = _most_frequent(state.reasons(_LISTED))
                    raise GivenUp(
                        f"no problem of {self.data.source!r} can be used"
                        f"{' for training' if trains else ''}: "
                        f"{counts['rejected']} rows were rejected"
                        f"{f', {reasons}; see {self.rejected_file}' if reasons else ''}."
                    )
            except GivenUp:
                _write_rejected(state, self.rejected_file)
                raise
            self._finish(state, counts)
            repeats = state.rejected_count("repeat", "conflict")
            shared = cut_told(state).get("shared", 0)
        shown = {**counts, "repeats among them": repeats}
        if shared:
            shown["of validation and test with a figure of train"] = shared
            logger.warning(
                "%s was cut into training and test by its ids: all of its problems hang "
                "together by figures that they share, and %d of validation and test show one that "
                "is trained on, so accuracies over them tell little about new figures. Put a test "
                "set of your own beside it (test.jsonl, say), or name one (--data.splits.test).",
                self.data.source,
                shared,
            )
        progress.finish(", ".join(f"{count} {name}" for name, count in shown.items()))

    def _write_splits(
        self, state: PreparationState, sizes: Mapping[Split, int], progress: Progress
    ) -> Mapping[str, int]:
        """Sort all rows; the number of problems of each split, and of rejected rows."""
        limits: Mapping[Split, int | None] = {
            "train": self.data.train,
            "validation": self.data.validation,
            "test": self.data.test,
        }
        expected = sum(expected_rows(sizes, limits).values())
        done = sum(state.standing(split).looked_at for split in SPLITS)
        all_rows = sum(sizes.values())
        with Checking(expected - done) as checking:
            splits = split_outcomes(
                self.source,
                self.data.seed,
                sizes,
                state,
                checking,
                progress,
                whole_figures=self.whole_figures,
            )
            progress.start("prepare", expected, "problems", done)
            sorting = _Sorting(
                state, self.folder, progress, lambda: self._require_few_bad(state, all_rows)
            )
            with closing(sorting):
                for split in reversed(SPLITS):
                    if split in splits and not state.standing(split).complete:
                        start = state.standing(split).used
                        sorting.write_split(split, splits[split](start), limits[split])
        counts = {split: state.count(split) for split in SPLITS}
        return {**counts, "rejected": state.rejected_count("broken", "repeat", "conflict")}

    def _require_few_bad(self, state: PreparationState, seen: int) -> None:
        """Raise `GivenUp` where too many of the `seen` rows were bad."""
        bad, share = state.rejected_count("broken"), self.data.max_rejected_share
        if bad > share * seen:
            raise GivenUp(
                f"{bad} of {seen} rows of {self.data.source!r} are bad, more than the share of "
                f"{share:g} that --data.max_rejected_share allows: "
                f"{_most_frequent(state.reasons(_LISTED, 'broken'))}; {self.rejected_file} holds "
                "each with its reason: mend them, or allow more."
            )

    def _finish(self, state: PreparationState, counts: Mapping[str, int]) -> None:
        """From shards to a dataset; it may be killed in between and is then done again."""
        for split in SPLITS:
            shards = state.shard_count(split)
            digests = state.digests(split)
            for shard, withdrawn in state.shards(split):
                path = unfinished_shard(self.folder, split, shard)
                finished = finished_shard(self.folder, split, shard, shards)
                if finished.exists() and file_digest(finished) == digests[shard]:
                    path.unlink(missing_ok=True)
                elif path.exists() and withdrawn:
                    leave_out(path, withdrawn, finished)
                    state.note_shard(split, shard, file_digest(finished))
                    path.unlink()
                elif path.exists():
                    path.rename(finished)
        with ThreadPoolExecutor(1) as thread:
            sheet = thread.submit(write_sheet, self.folder)
            manifest = self._described(state, counts)
            sheet.result()
        write_card(self.folder, manifest, state.numbers)
        sync_folder(self.folder)
        write_manifest(self.folder, manifest)

    def _described(self, state: PreparationState, counts: Mapping[str, int]) -> Manifest:
        """The manifest, of all files of rows: those beside the shards are written first."""
        _write_rejected(state, self.folder / REJECTED_FILE)
        write_sizes(self.folder, self._sizes(state))
        return Manifest(
            format_version=FORMAT_VERSION,
            source=self.data.source,
            digest=self.digest,
            settings=self.data.model_dump(mode="json"),
            fingerprint=self.source.fingerprint,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            counts=counts,
            duplicates={
                "repeats": state.rejected_count("repeat"),
                "conflicts": state.rejected_count("conflict"),
                **{f"kept in {split}": n for split, n in state.repeats_kept().items()},
            },
            cut=cut_told(state),
            reasons=state.reasons(_LISTED),
            files={path.name: _stored(path) for path in sorted(self.folder.glob("*.parquet"))},
        )

    def _sizes(self, state: PreparationState) -> Iterator[Mapping[str, Any]]:
        """The rows of `sizes.parquet`; all shards have their last names."""
        for split in SPLITS:
            shards = sorted(self.folder.glob(f"{split}-*.parquet"))
            rows = (row for path in shards for row in read_rows(path, columns=("id", "problem")))
            for row, sides in zip(rows, grouped(state.numbers.sides(split)), strict=True):
                yield size_row(split, row["id"], row["problem"], sides)


class _Sorting:
    """Good rows to the shards of their split, the others to the rejected ones.

    A shard is written while its rows come, by another thread; they are kept in the state until it
    is there, and one that was begun before an interruption is begun again with them.

    `require_few_bad` is asked where so many rows were bad that those to come, however good they
    are, cannot make up for it.
    """

    def __init__(
        self,
        state: PreparationState,
        folder: Path,
        progress: Progress,
        require_few_bad: Callable[[], None],
    ) -> None:
        self._state = state
        self._folder = folder
        self._progress = progress
        self._require_few_bad = require_few_bad
        self._repeats = Repeats(state, folder)
        self._broken = state.rejected_count("broken")
        self._repeated = state.rejected_count("repeat", "conflict")
        self._shard: GroupWriter | None = None

    def close(self) -> None:
        """Let go of the shard that is not complete."""
        if self._shard is not None:
            self._shard.close()

    def write_split(
        self, split: Split, outcomes: Iterator[tuple[int, Outcome]], limit: int | None
    ) -> None:
        """Keep the good ones of the rows that are left of a split, up to `limit`.

        They come with how many rows of the source are used up by then.
        """
        state = self._state
        for row, size in state.waiting():  # it was interrupted
            self._add(split, row, size)
        if state.waiting_bytes >= SHARD_BYTES:
            self._finish_shard(split)
        standing, kept = state.standing(split), state.count(split)
        used, looked_at = standing.used, standing.looked_at
        committed = looked_at
        complete = (
            limit is not None and kept >= limit
        )  # interrupted before its last shard was there
        for used, outcome in () if complete else outcomes:
            looked_at += 1
            kept += self._take(split, outcome)
            rejected = self._broken + self._repeated
            self._progress.advance(1, rejected=rejected, repeats=self._repeated)
            complete = limit is not None and kept >= limit
            full = state.waiting_bytes >= SHARD_BYTES
            due = looked_at - committed >= COMMIT_ROWS or state.unsaved >= COMMIT_BYTES
            if due or full or complete:
                self._note(split, used, looked_at)
                committed = looked_at
                if self._broken >= ENOUGH_FAULTS:
                    self._require_few_bad()
            if full:
                self._finish_shard(split)
            if complete:
                break
        self._note(split, used, looked_at)
        if state.waiting_bytes:
            self._finish_shard(split)
        state.set_standing(split, Standing(0, looked_at, complete=True))
        state.commit()

    def _note(self, split: Split, used: int, looked_at: int) -> None:
        """Make what was done last, together with how far that is: else it would be done again."""
        self._state.set_standing(split, Standing(used, looked_at, complete=False))
        self._state.commit()

    def _add(self, split: Split, row: Mapping[str, Any], size: int) -> None:
        if self._shard is None:
            shard = self._state.shard_count(split)
            path = unfinished_shard(self._folder, split, shard)
            self._shard = GroupWriter(path, PROBLEM_SCHEMA)
        self._shard.write(row, size)

    def _finish_shard(self, split: Split) -> None:
        assert self._shard is not None
        with closing(self._shard) as writer:
            writer.finish()
        self._shard = None
        shard = self._state.shard_count(split)
        path = unfinished_shard(self._folder, split, shard)
        self._state.add_shard(split, shard, file_digest(path))

    def _take(self, split: Split, row: Outcome) -> int:
        """Keep or reject a row; by how much the number of kept problems grows."""
        checked = row.checked
        if checked is None:
            self._reject(split, row.place, row.id, row.fault, "broken")
            return 0
        same = self._state.with_id(checked.problem.id)
        if same is not None:
            reason = f"the id {checked.problem.id!r} came before, in {_place_of(same)}"
            self._reject(split, row.place, row.id, reason, "broken")
            return 0
        marks = self._repeats.marks(checked)
        first = self._repeats.find(checked, marks)
        if first is not None and not (first.split == split != "train"):
            return self._reject_repeat(split, row, checked.problem.answer, first)
        kept = self._state.keep(
            checked.problem,
            split,
            row.place,
            answer_kind(checked.problem.answer),
            marks,
            sizes=[(look.width, look.height) for look in checked.looks],
            repeats=None if first is None else first.number,
        )
        self._add(split, *kept)
        return 1

    def _reject_repeat(self, split: Split, row: Outcome, answer: str, first: Kept) -> int:
        """Reject a row that repeats `first`; by how much the number of kept problems grows."""
        if same_gold(answer, first.answer):
            self._reject(split, row.place, row.id, f"{REPEAT}: {_place_of(first)}", "repeat")
            return 0
        told = "{}: {!r} here, {!r} in {}"
        reason = told.format(CONFLICT, answer[:80], first.answer[:80], _place_of(first))
        self._reject(split, row.place, row.id, reason, "conflict")
        if first.split != "train" or first.withdrawn:
            return 0
        # Nobody knows which of the two is right, so neither is trained on.
        reason = told.format(CONFLICT, first.answer[:80], answer[:80], f"{row.place} (train)")
        self._reject("train", first.place, first.id, reason, "conflict")
        self._state.withdraw(first.number)
        return -1

    def _reject(self, split: Split, place: str, id: str, reason: str, rejection: Rejection) -> None:
        summaries = {"broken": without_values(reason), "repeat": REPEAT, "conflict": CONFLICT}
        self._state.reject(split, place, id, reason, summaries[rejection], rejection)
        if rejection == "broken":
            self._broken += 1
        else:
            self._repeated += 1


def damaged_shard(state: PreparationState, folder: Path) -> Path | None:
    """A shard in `folder` that is not as the state says it was written, under neither name."""
    for split in SPLITS:
        digests = state.digests(split)
        for shard, digest in digests.items():
            path = unfinished_shard(folder, split, shard)
            places = (path, finished_shard(folder, split, shard, len(digests)))
            there = (file_digest(place) for place in places if place.is_file())
            if digest is not None and digest not in there:
                return path
    return None


def without_values(reason: str) -> str:
    """The reason without the values of its one row, so that equal faults are counted together."""
    return _VALUE.sub("…", reason)


def _most_frequent(reasons: Mapping[str, int]) -> str:
    """The three most frequent reasons with their counts, for a message; they come ranked."""
    ranked = list(reasons.items())
    named = ", ".join(f"{count} because {reason}" for reason, count in ranked[:_NAMED])
    rest = sum(count for _, count in ranked[_NAMED:])
    return f"{named}, {rest} for other reasons" if rest else named


def _place_of(kept: Kept) -> str:
    return f"{kept.place} ({kept.split})"


def _stored(path: Path) -> StoredFile:
    """A finished file, each of its pages held against its checksum: it may be of days ago.

    Raises `GivenUp` where it is damaged, so that it is not what the next attempt begins with.
    """
    try:
        rows = sum(map(len, read_groups(path)))
    except DataError as error:
        raise GivenUp(
            f"{path} was damaged before the dataset was complete, and what was prepared is "
            f"discarded: start the same command again. {error}"
        ) from error
    return StoredFile(bytes=path.stat().st_size, rows=rows, digest=file_digest(path))


def _write_rejected(state: PreparationState, path: Path) -> None:
    with closing(GroupWriter(path, REJECTED_SCHEMA)) as writer:
        for row in state.rejected():
            writer.write(row)
        writer.finish()
