"""Rows that a run's files had once and have no more: found by what the ledger counts."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from visual_r1.exports.record import read_record
from visual_r1.opening import read_file
from visual_r1.printing import open_logger
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.validations import Validations

logger = open_logger(__name__)

WAYS_OUT = {
    "ledger.jsonl": "put it back from a copy, or say from which checkpoint to go on with "
    "--train.resume_from_step",
    "metrics.jsonl": "the run goes on, and the figures of these steps are lost",
    "validation.jsonl": "the next start validates again what is missing, where the weights are "
    "still there",
    "alarms.jsonl": "the run goes on, and what they said is lost",
}


def say_what_is_lost(run_dir: Path) -> None:
    """Warn, once in a process, of rows that the ledger counts and that are not there, and of the
    ledger's own where other files know of later ones."""
    ledger = Ledger(run_dir)
    rows = [line.row for line in ledger.read().sound]
    for name, _, lost, way_out in lost_rows(run_dir, rows[-1]) if rows else ():
        say_once(f"{run_dir / name} {lost}: {way_out}.")
    for expected, found in behind(run_dir, rows):
        say_once(
            f"{ledger.path} {found}, and there was {expected}: what follows is trained again. Stop "
            "and put the file back from a copy to go on from there instead."
        )


@cache
def say_once(sentence: str) -> None:
    """A warning that this process gives once."""
    logger.warning("%s", sentence)


def lost_rows(run_dir: Path, newest: LedgerRow) -> Iterator[tuple[str, str, str, str]]:
    """Files with fewer rows than the newest row of the ledger counts: name, what was expected,
    what is there, and the way out."""
    steps = {row["step"] for row in Journal(run_dir).rows()}
    missing = sorted(set(range(newest.step)) - steps)
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        yield (
            "metrics.jsonl",
            f"a row for each of {newest.step} steps",
            f"has no row for steps {shown}",
            WAYS_OUT["metrics.jsonl"],
        )
    counts = {
        "validation.jsonl": len(Validations(run_dir).rows()),
        "alarms.jsonl": len(AlarmLog(run_dir).findings()),
    }
    for name, there in counts.items():
        if there < (expected := newest.lines.get(name, 0)):
            yield name, f"{expected} rows", f"has {there} rows", WAYS_OUT[name]


def behind(run_dir: Path, rows: list[LedgerRow]) -> Iterator[tuple[str, str]]:
    """What other files know of checkpoints that the ledger has no row of, and set none aside: its
    end was cut."""
    end = rows[-1].step if rows else 0
    aside = set_aside_rows(run_dir)
    told = {
        "validation.jsonl": [
            row.step
            for row in Validations(run_dir).rows()
            if row.sampler_path.encode() not in aside
        ],
        "alarms.jsonl": [
            finding.checkpoint
            for finding in AlarmLog(run_dir).findings()
            if f'"step": {finding.checkpoint},'.encode() not in aside
        ],
    }
    there, _ = read_record(run_dir)
    if there is not None and there.state_path.encode() not in aside:
        told["export.json"] = [there.step]
    step, name = max((max(steps, default=0), name) for name, steps in told.items())
    if step > end:
        yield f"a row of step {step}, which {name} tells of", f"ends at step {end}"


def set_aside_rows(run_dir: Path) -> bytes:
    """The rows that the ledger has no more, as they stand: where a run went back, say."""
    path = Ledger(run_dir).set_aside_path
    return read_file(path) if path.is_file() else b""
