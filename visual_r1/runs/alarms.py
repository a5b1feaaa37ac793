"""The alarms at a checkpoint: what the run's files say, written down once, and told at least once.

`alarms.jsonl` holds each finding once, in the order of the checkpoints. A process that is killed
after it has written one down may not have told it to anybody, and a pause that nobody was told of
has paused nothing. So what is to be told is on record before it is written down, see `process`, and
whoever starts the run again finds it once more, until it was told.

A pause comes after the checkpoint is saved and on record, not before: the steps that led to it cost
as much as any others, the checkpoint shows what went wrong, and the run goes on from exactly where
the uninterrupted one would have. What must not be saved at all stops earlier, by `limits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.alarms import Finding, look
from visual_r1.alarms.windows import Curves, StepRow
from visual_r1.config import RunConfig
from visual_r1.errors import RunPaused
from visual_r1.jsonl import JsonLines, Reading
from visual_r1.printing import open_logger
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.process import is_untold, note_untold
from visual_r1.runs.validations import ValidationRow, Validations

logger = open_logger(__name__)

_ROWS = TypeAdapter(Finding)


class AlarmLog:
    """The findings of the run in `run_dir`; only one process may write them."""

    def __init__(self, run_dir: Path) -> None:
        self._file = JsonLines(run_dir / "alarms.jsonl", _ROWS, kept=True)
        self.path = self._file.path
        self.set_aside_path = self._file.set_aside_path

    def findings(self) -> list[Finding]:
        """All there are; a damaged line is left out."""
        return self._file.rows()

    def read(self) -> Reading[Finding]:
        """All that stands in the file, damaged or not; changes nothing."""
        return self._file.read()

    def digest_of(self, number: int) -> str | None:
        """Of a finding by its number, from 1; None where there are fewer."""
        found = self._file.read().sound
        return found[number - 1].digest if 0 < number <= len(found) else None

    def add(self, new: Sequence[Finding]) -> None:
        """Add findings, flushed to the disk; raises `StorageError` where they cannot be written."""
        if not new:
            return
        there = self._file.read()
        if not there.is_whole:
            self._file.write([*there.sound, *map(self._file.line, new)])
            return
        self._file.append(*new, flushed=True)

    def go_back_to(self, step: int) -> None:
        """Set aside what was found after `step`: the run goes on from that checkpoint."""
        self._file.keep(lambda finding: finding.checkpoint <= step)


def check_alarms(config: RunConfig, checkpoint: int) -> list[Finding]:
    """The findings at the checkpoint of step `checkpoint` that are new or have yet to be told.

    They are in alarms.jsonl then, and each is logged as a warning as well. Who has told them says
    so by `process.note_told`; until then they are found again. Looks at the newest checkpoint
    alone: those before it were looked at when they were new, so a run that goes through them again
    finds nothing twice. Where no step is left to train there is nothing to pause, and what would
    have done so warns. Raises `StorageError` where they cannot be written down.
    """
    rows = Ledger(config.run_dir).rows()
    if not rows or rows[-1].step != checkpoint:
        return []
    log = AlarmLog(config.run_dir)
    known = log.findings()
    new = look(
        config,
        _curves(config.run_dir),
        [_as_row(row) for row in Validations(config.run_dir).rows()],
        known,
        first=rows[-2].step if len(rows) > 1 else 0,
        checkpoint=checkpoint,
    )
    of_here = [finding for finding in known if finding.checkpoint == checkpoint]
    untold = of_here if of_here and is_untold(config.run_dir, checkpoint) else []
    new = [_as_wanted_now(finding, config) for finding in new]
    if new:
        note_untold(config.run_dir, checkpoint)
        log.add(new)
    found = [_as_wanted_now(finding, config) for finding in untold] + new
    for finding in found:
        logger.warning("%s", finding.sentence)
    return found


def _as_wanted_now(finding: Finding, config: RunConfig) -> Finding:
    """One that pauses only warns where there is nothing to pause, or who started the run wants no
    pause of it (any more)."""
    at_the_end = finding.checkpoint >= config.train.steps
    if at_the_end or getattr(config.alarms, finding.alarm) != "pause":
        return replace(finding, action="warn")
    return finding


@dataclass(frozen=True, slots=True)
class _Looked:
    """The curves of a run as far as its metrics were looked at, see `JsonLines.generation`."""

    generation: int
    curves: Curves


_looked: dict[Path, _Looked] = {}


def _curves(run_dir: Path) -> Curves:
    """The metrics of the run; rows that were looked at before are not read again."""
    journal = Journal(run_dir)
    generation = journal.generation()
    looked = _looked.get(run_dir)
    if looked is None or looked.generation != generation:
        looked = _looked[run_dir] = _Looked(generation, Curves(journal.rows()))
    else:
        looked.curves.add(journal.rows_from(looked.curves.end))
    return looked.curves


def _as_row(row: ValidationRow) -> StepRow:
    return {one.name: getattr(row, one.name) for one in fields(row)}


def pause(config: RunConfig, findings: list[Finding]) -> RunPaused | None:
    """What a run ends with where one of `findings` pauses it: which, and how it goes on."""
    pausing = [finding for finding in findings if finding.action == "pause"]
    if not pausing:
        return None
    names = ", ".join(finding.alarm for finding in pausing)
    sentences = " ".join(finding.sentence for finding in pausing)
    return RunPaused(
        f"Paused at the checkpoint of step {pausing[0].checkpoint} ({names}); nothing is lost. "
        f"{sentences} To go on as it is: visual-r1 resume {config.run_dir}, or the same command "
        "again; the alarm then looks at what comes after this checkpoint. With "
        f"--alarms.{pausing[0].alarm} warn it only warns."
    )
