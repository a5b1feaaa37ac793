"""The current model of a name: `models/<name>.json`, and what was current before it.

    models/quickstart.json      the current one: run, step, weights, adapter, evidence, who and why
    models/quickstart/0001.json what was current once, in the order of promotions

An entry is copied to the history before another takes its place, so nothing that was promoted is
ever lost; going back to an earlier one is a new entry that says so. All of them are sealed.

`models/.<name>.untold.json` is there from before a run's checkpoint is promoted until that was made
known: a process that is killed between the two leaves that to the next start.
"""

import getpass
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from visual_r1.errors import ConfigError, DataError, RunError
from visual_r1.exports.record import Export, ExportedFile, adapter_folder, file_sha256
from visual_r1.printing import open_logger
from visual_r1.promotion.judgement import Evidence
from visual_r1.storage import alone, read_json, write_json

logger = open_logger(__name__)

FOLDER = "models"
By = Literal["evidence", "person", "rollback"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Promoted:
    """A model that is or was the current one; paths are relative to the output folder.

    `number` counts the promotions of the name; one that is current again has a new one, and its
    first in `again`. `by` says what decided, `because` the reason in a
    sentence, `who` the user and machine, `promoted_at` is ISO 8601 in UTC.
    """

    name: str
    number: int
    run: str
    step: int
    base_model: str
    sampler_path: str
    adapter: str
    files: tuple[ExportedFile, ...]
    evidence: Evidence | None
    by: By
    because: str
    who: str
    promoted_at: str
    again: int | None = None

    @property
    def first(self) -> int:
        """The number under which it was promoted first."""
        return self.again or self.number


@dataclass(frozen=True, slots=True)
class _Untold:
    """The weights that are promoted, before anybody is told of it."""

    sampler_path: str


_STORED, _UNTOLD = TypeAdapter(Promoted), TypeAdapter(_Untold)


def require_reason(force: bool, because: str) -> None:
    """Raise `ConfigError` where a person decides and says no reason, or gives one for nothing."""
    if force and not because.strip():
        raise ConfigError(
            "--force promotes whatever the figures say, and keeps the reason: give it with "
            '--because "…".'
        )
    if because.strip() and not force:
        raise ConfigError("--because is the reason of a person who decides: give --force with it.")


class Models:
    """The models of one name in `output_dir`. Raises `ConfigError` where it can be no name."""

    def __init__(self, output_dir: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no name for a model: letters, digits, dots, dashes, as in "
                f"{FOLDER}/quickstart.json."
            )
        self.name = name
        self.output_dir = output_dir
        self.path = output_dir / FOLDER / f"{name}.json"
        self.history = output_dir / FOLDER / name
        self._untold = output_dir / FOLDER / f".{name}.untold.json"

    def current(self) -> Promoted | None:
        """The current model; None where none was promoted, or it was taken back.

        Raises `DataError` where its file is damaged.
        """
        try:
            return read_promoted(self.path)
        except FileNotFoundError:
            return None

    def before(self) -> list[Promoted]:
        """What was current once, the newest last."""
        return [read_promoted(path) for path in sorted(self.history.glob("[0-9]*.json"))]

    def promote(
        self,
        run_dir: Path,
        exported: Export,
        into: str,
        evidence: Evidence | None,
        by: By,
        because: str,
    ) -> Promoted:
        """Let an exported checkpoint of a run be the current model; raises `StorageError`.

        Who has made that known says so by `note_told`.
        """
        adapter = adapter_folder(run_dir, into)
        made = Promoted(
            name=self.name,
            number=0,
            run=self._relative(run_dir),
            step=exported.step,
            base_model=exported.base_model,
            sampler_path=exported.sampler_path,
            adapter=self._relative(adapter),
            files=exported.files,
            evidence=evidence,
            by=by,
            because=because,
            who=_who(),
            promoted_at="",
        )
        write_json(self._untold, asdict(_Untold(made.sampler_path)))
        return self._put(made)

    def is_untold(self, promoted: Promoted) -> bool:
        """Whether nobody was told yet that this one was promoted; where that cannot be read it is
        told again."""
        try:
            return read_json(self._untold, _UNTOLD).sampler_path == promoted.sampler_path
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return True

    def note_told(self, promoted: Promoted) -> None:
        """It was made known that this one was promoted; where the disk refuses it, it is so again.

        Another process may have promoted another one meanwhile.
        """
        if self.is_untold(promoted):
            with suppress(OSError):
                self._untold.unlink(missing_ok=True)

    def roll_back(self, because: str) -> Promoted:
        """Let the model be current that was so before this one, as a new entry that says so.

        Raises `RunError` where there was none.
        """
        current = self.current()
        earlier = [
            one
            for one in self.before()
            if one.again is None and (current is None or one.number < current.first)
        ]
        if not earlier:
            raise RunError(
                f"There is no model {self.name} before the current one: --demote takes that back "
                "without another in its place."
            )
        last = earlier[-1]
        for file in last.files:
            path = self.output_dir / last.adapter / file.name
            # By its digest: all adapters of a run are of the same size.
            if not path.is_file() or file_sha256(path) != file.sha256:
                raise RunError(
                    f"{path} is not what was promoted as number {last.number} any more: export its "
                    f"checkpoint again (visual-r1 export {last.run} --checkpoint {last.step})."
                )
        why = f"number {last.number} again" + (f": {because}" if because else "")
        return self._put(replace(last, by="rollback", because=why, who=_who(), again=last.number))

    def demote(self) -> Promoted:
        """Take the current model back; it stays in the history. Raises `RunError` without one."""
        current = self.current()
        if current is None:
            raise RunError(f"{self.path} is not there: no model of that name is current.")
        self._keep(current)
        self.path.unlink()
        return current

    @contextmanager
    def alone(self, *, wait: bool = False) -> Generator[None]:
        """For the block no other process changes them; raises `RunError` where one does.

        With `wait` it is waited for: a run that trained all night does not fail of another's.
        """
        busy = f"Another process promotes a model {self.name} just now"
        lock = self.path.with_name(f".{self.name}.lock")
        with alone(lock, busy, None if wait else "wait until it is done"):
            yield

    def _put(self, made: Promoted) -> Promoted:
        current = self.current()
        if current is not None:
            self._keep(current)
        numbers = [int(path.stem) for path in self.history.glob("[0-9]*.json")]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = replace(made, number=max(numbers, default=0) + 1, promoted_at=now)
        write_json(self.path, asdict(made))
        return made

    def _keep(self, current: Promoted) -> None:
        write_json(self.history / f"{current.number:04d}.json", asdict(current))

    def _relative(self, path: Path) -> str:
        return path.absolute().relative_to(self.output_dir.absolute()).as_posix()


def read_promoted(path: Path) -> Promoted:
    """The record of a model in the file `path`.

    Raises `FileNotFoundError` where it is not there, and `DataError` where it is damaged.
    """
    try:
        return read_json(path, _STORED)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is damaged ({error}): put it back as it was, or move it away and promote the "
            "model again."
        ) from error


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # nobody of that number is known here, as in a container
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
