"""Which files of a run may be asked: a damaged one is named on the page, and left out.

A file is looked at once, as long as nobody writes to it: held against the digest that the ledger
has of it, and where nothing vouches for it, read through with the checksums of its pages. So each
page shows what was written, and a file that appears while a run trains is seen by the next
question. What a run at work has written since its ledger's newest row is held against the next one.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from visual_r1.errors import DataError, RunError, VisualR1Error
from visual_r1.hashing import known_digest
from visual_r1.liveness import is_locked
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.process import LOCK
from visual_r1.tables import (
    compute,
    open_table,
    pa,
    read_table,
    require_digest,
    said_of,
    table_digest,
)

_ROLLOUTS = "rollouts"
_LEDGER = "ledger.jsonl"
_WAY_OUT = "it is left out here; `visual-r1 verify` says more, and moved away the run does without"
COMPONENT = "reward_"
_DIGITS = 32

_TEXT, _WHOLE, _NUMBER = "text", "whole numbers", "numbers"
COLUMNS: Mapping[str, str] = {
    "step": _WHOLE, "problem_id": _TEXT, "group": _WHOLE, "sample": _WHOLE, "response": _TEXT,
    "reward": _NUMBER, "advantage": _NUMBER, "response_tokens": _WHOLE, "stop_reason": _TEXT,
    "verdict": _TEXT, "reason": _TEXT, "grader_version": _TEXT, "outcome": _TEXT,
    "second_verdict": _TEXT, "scan_read": _TEXT, "second_response": _TEXT, "second_order": _TEXT,
    "failure": _TEXT,
}  # fmt: skip
"""The columns of rollouts that pages read, by what is in them; an older file has fewer."""

# Without these there is no page to make of a file.
_NEEDED = ("step", "problem_id", "group", "sample", "response")


@dataclass(frozen=True, slots=True)
class Files:
    """The sound files of a run, in order; all `columns` that one of them has at least.

    `faults` has a sentence for each file that is left out.
    """

    paths: tuple[Path, ...]
    columns: frozenset[str]
    faults: tuple[str, ...] = ()
    steps: tuple[range, ...] = ()
    """Those that each file's rows are between, by its footer."""
    states: tuple[tuple[int, ...], ...] = ()
    """What each file was when it was looked at: another one has another."""
    rows: int = 0
    """Of all files together."""

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the reward's components, in alphabetical order."""
        found = (name for name in self.columns if name.startswith(COMPONENT))
        return tuple(sorted(name.removeprefix(COMPONENT) for name in found))

    def between(self, first: int | None, last: int | None) -> "Files":
        """Those that may have rows of the steps from `first` to `last`; None is no bound."""
        low, high = first or 0, math.inf if last is None else last
        return self.only(
            at for at, steps in enumerate(self.steps) if steps.start <= high and steps.stop > low
        )

    def only(self, places: Iterable[int]) -> "Files":
        """Those at these places, in this order; their `rows` are not known."""
        chosen = tuple(places)
        return replace(
            self,
            paths=tuple(self.paths[at] for at in chosen),
            steps=tuple(self.steps[at] for at in chosen),
            states=tuple(self.states[at] for at in chosen),
        )


@dataclass(frozen=True, slots=True)
class _Looked:
    key: tuple[int, ...]
    columns: frozenset[str] = frozenset()
    steps: range = range(0)
    rows: int = 0
    awaits: tuple[int, ...] | None = None
    """What the ledger was, where another one may vouch for the file."""
    fault: str = ""


@dataclass
class SoundFiles:
    """What was found of the files that were looked at; threads may share it."""

    _known: dict[Path, _Looked] = field(default_factory=dict[Path, _Looked])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rollouts(self, run_dir: Path) -> Files:
        """The rollouts of a run, those of steps that are being trained excepted."""
        paths = sorted((run_dir / _ROLLOUTS).glob("chunk-*.parquet"))
        with self._lock:
            is_new = any(self._is_new(path) for path in paths)
            digests = _digests(run_dir) if is_new else dict[str, str]()
            looked = [(path, self._look(path, digests)) for path in paths]
        sound = [(path, one) for path, one in looked if one is not None and not one.fault]
        return Files(
            tuple(path for path, _ in sound),
            frozenset[str]().union(*(one.columns for _, one in sound)),
            tuple(one.fault for _, one in looked if one is not None and one.fault),
            tuple(one.steps for _, one in sound),
            tuple(one.key for _, one in sound),
            sum(one.rows for _, one in sound),
        )

    def _is_new(self, path: Path) -> bool:
        known = self._known.get(path)
        return known is None or known.key != _key(path) or _has_come(path, known)

    def _look(self, path: Path, digests: Mapping[str, str]) -> _Looked | None:
        """What is known of a file; None where it went while it was looked at."""
        key = _key(path)
        if key is None:
            return None
        known = self._known.get(path)
        if known is None or known.key != key or _has_come(path, known):
            try:
                expected = digests.get(f"{_ROLLOUTS}/{path.name}")
                known = _Looked(key, *_looked_through(path, expected))
            except VisualR1Error as error:
                if not path.exists():
                    return None
                known = _Looked(key, awaits=_ledger_key(path), fault=str(error))
            self._known[path] = known
        return known


@cache
def sound_files() -> SoundFiles:
    """That of this process."""
    return SoundFiles()


def require_sound(path: Path, digest: str | None) -> None:
    """Raise `DataError` where a file of Parquet is not as it was written.

    Once for each state of it: it is held against its digest, or read through where nobody has one.
    """
    key = _key(path)
    if key is None or key in _FOUND_SOUND:
        return
    if digest is not None:
        require_digest(path, digest, _WAY_OUT, DataError)
    else:
        with said_of(path, _WAY_OUT), open_table(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    _FOUND_SOUND.add(key)


_FOUND_SOUND: set[tuple[int, ...]] = set()


def file_states(paths: Sequence[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """What each of the files is now, as `Files.states` has it; None where it is gone."""
    return tuple(_key(path) for path in paths)


def _key(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digests(run_dir: Path) -> Mapping[str, str]:
    """What the ledger says of the run's files; nothing where it cannot be read."""
    try:
        return Ledger(run_dir).digests()
    except (VisualR1Error, OSError):
        return {}


def _has_come(path: Path, known: _Looked) -> bool:
    """Whether there is another ledger than the one that did not vouch for the file yet."""
    return known.awaits is not None and known.awaits != _ledger_key(path)


def _ledger_key(path: Path) -> tuple[int, ...]:
    """What the ledger is now, beside a file with rollouts, and whether a process has the run."""
    run_dir = path.parents[1]
    return int(is_locked(run_dir / LOCK)), *(_key(run_dir / _LEDGER) or ())


def _looked_through(
    path: Path, expected: str | None
) -> tuple[frozenset[str], range, int, tuple[int, ...] | None]:
    """The columns, steps and number of rows of a file that is as it was written, and `awaits`, see
    `_Looked`; raises `RunError` otherwise."""
    with said_of(path, _WAY_OUT, RunError), open_table(path) as file:
        found = _checked(path, file.schema_arrow), _steps(file), file.metadata.num_rows
        # Its rows' digest, and that of its bytes, which a run that went back has changed.
        if expected and len(expected) > _DIGITS and known_digest(path) == expected[_DIGITS:]:
            return *found, None
        for group in range(file.num_row_groups):
            file.read_row_group(group).validate(full=True)
        ledger = _ledger_key(path)
        # While a run is at work, a file that is newer than its ledger is of a chunk whose row is
        # still to come.
        is_newer = _written(path) > _written(path.parents[1] / _LEDGER)
        if ledger[0] and (is_newer or not expected):
            return *found, ledger
        if expected and (rows := _rows_digest(path)) != expected[:_DIGITS]:
            raise RunError(
                f"{path} is damaged: its rows have the digest {rows}, and those that were written "
                f"had {expected[:_DIGITS]}; {_WAY_OUT}."
            )
        return *found, None


def _rows_digest(path: Path) -> str:
    """That of the rows before the newest checkpoint: a chunk that was broken off has more."""
    rows = [line.row for line in Ledger(path.parents[1]).read().sound]
    table = read_table(path)
    return table_digest(table.filter(compute.less(table["step"], rows[-1].step)) if rows else table)


def _steps(file: Any) -> range:
    """The steps of a file by the statistics in its footer; all, where it has none."""
    place = file.schema_arrow.get_field_index("step")
    groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
    found = [one.column(place).statistics for one in groups if one.num_rows]
    if any(one is None or not one.has_min_max for one in found):
        return range(sys.maxsize)
    return range(
        min((one.min for one in found), default=0), 1 + max((one.max for one in found), default=-1)
    )


def _written(path: Path) -> int:
    """When, in nanoseconds; 0 where it is not there."""
    key = _key(path)
    return key[3] if key else 0


def _checked(path: Path, schema: Any) -> frozenset[str]:
    names = frozenset[str](schema.names)
    if missing := [name for name in _NEEDED if name not in names]:
        raise RunError(f"{path} has no column {missing[0]!r} and holds no rollouts; {_WAY_OUT}.")
    for name in names:
        wanted = COLUMNS.get(name, _NUMBER if name.startswith(COMPONENT) else None)
        kind = schema.field(name).type
        if wanted is not None and not _KINDS[wanted](kind):
            raise RunError(
                f"{path} holds {kind} in its column {name!r} where {wanted} belong; {_WAY_OUT}."
            )
    return names


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


# A column without any value may be of no kind.
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    _TEXT: lambda kind: _is_text(kind) or bool(pa.types.is_null(kind)),
    _WHOLE: lambda kind: bool(pa.types.is_integer(kind) or pa.types.is_null(kind)),
    _NUMBER: lambda kind: _is_number(kind) or bool(pa.types.is_null(kind)),
}
