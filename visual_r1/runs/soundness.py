"""Whether the files of a run are as they were written: found out without changing any.

What `visual-r1 verify` and `--prove` say of a run's own files comes from here, and what a start
says of rows that are lost. Where a run goes on it looks at each file as it opens it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visual_r1.errors import DataError, RunError
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.predictions import (
    PREDICTIONS_NAME,
    REPORT_NAME,
    iterate_predictions,
    require_predictions,
)
from visual_r1.exports.record import (
    MERGED,
    RECORD_NAME,
    Export,
    Merged,
    adapter_folder,
    damage_of_merged,
    export_names,
    inspect_export,
)
from visual_r1.hashing import file_digest
from visual_r1.jsonl import Reading
from visual_r1.printing import open_logger
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.bill import BILL_NAME
from visual_r1.runs.budget import BUDGET_NAME
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.curriculum_state import load_measured, measured_path
from visual_r1.runs.folder import COPIES, fault_by_ledger
from visual_r1.runs.journal import ROLLOUTS, Journal, read_rollouts
from visual_r1.runs.labels import LABELS_FILE
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.lost import WAYS_OUT, behind, lost_rows, set_aside_rows
from visual_r1.runs.made_with import MADE_WITH
from visual_r1.runs.origin import START_FILE
from visual_r1.runs.stored import STORED_NAME
from visual_r1.runs.training_rows import LEFT_OUT_FILE
from visual_r1.runs.validations import Validations
from visual_r1.storage import read_sealed
from visual_r1.tables import compute, require_digest, table_digest

logger = open_logger(__name__)

UNVERIFIED = "no digest is known, and older versions wrote none; what can be read was read"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of a file, or of the folder `file`.

    It is `sound`, `damaged` (then `expected`, `found` and `way_out` say how), or `unverified`:
    it can be read, and nobody can say whether it is as it was written.
    """

    file: Path
    verdict: Literal["sound", "damaged", "unverified"] = "sound"
    found: str = ""
    expected: str = ""
    way_out: str = ""


def damaged(file: Path, expected: str, found: str, way_out: str) -> Finding:
    """A file that is not as it was written."""
    return Finding(file, "damaged", found, expected, way_out)


def vouched_for(file: Path, is_known: bool) -> Finding:
    """A file that can be read; `is_known` says whether something vouches for it."""
    return Finding(file) if is_known else Finding(file, "unverified", UNVERIFIED)


def examine_run(run_dir: Path, problems: int | None) -> Iterator[Finding]:
    """All files in the folder of a run that it reads again, but for its summary.

    `problems` says how many there are to train on, which an older version's curriculum is held
    against; None where nobody knows.
    """
    rows = [line.row for line in Ledger(run_dir).read().sound]
    yield _config(run_dir)
    yield from _lines(run_dir)
    yield from _rollouts(run_dir, rows)
    yield from _curriculum(run_dir, rows, problems)
    yield from _copies(run_dir)
    for name in (LEFT_OUT_FILE, LABELS_FILE, START_FILE):
        yield from _of_the_beginning(run_dir, name)
    for predictions in sorted(run_dir.glob(f"evaluations/[!.]*/{PREDICTIONS_NAME}")):
        yield from examine_evaluation(predictions.parent)
    for into in export_names(run_dir):
        yield from _export(run_dir, rows, into)
    made_anew = ("wall.json", BUDGET_NAME, BILL_NAME, STORED_NAME, MADE_WITH, "wandb/tracked.json")
    for name in made_anew:
        if (run_dir / name).exists():
            yield sealed(run_dir / name, "it is made anew by the next start")


def sealed(file: Path, way_out: str) -> Finding:
    """A JSON file, by its seal alone; one without a seal must be an object, as all of them are."""
    try:
        content, is_sealed = read_sealed(file)
        if not isinstance(content, dict) or not content:
            found = f"holds {content!r:.40}, which is no record"
            return damaged(file, "an object with its fields", found, way_out)
        return vouched_for(file, is_sealed)
    except (OSError, ValueError) as error:
        return damaged(file, "what its checksum says", str(error), way_out)


def _config(run_dir: Path) -> Finding:
    file = run_dir / CONFIG_FILE
    way_out = "give the command that began the run, or put the file back from a copy"
    try:
        stored = read_config(run_dir)
    except RunError as error:
        return damaged(file, "the configuration of the run", str(error.__cause__), way_out)
    if stored is None:
        return damaged(file, "the configuration of the run", "is missing", way_out)
    if wrong := fault_by_ledger(run_dir, stored):
        return damaged(file, "the configuration that the ledger has a digest of", wrong, way_out)
    return vouched_for(file, read_sealed(file).is_sealed)


def _lines(run_dir: Path) -> Iterator[Finding]:
    """The files with a row a line, each with its chain and with what the ledger counts in it."""
    ledger = Ledger(run_dir)
    rows = [line.row for line in ledger.read().sound]
    readings: list[tuple[Path, Reading[Any]]] = [
        (ledger.path, ledger.read()),
        (Journal(run_dir).metrics_path, Journal(run_dir).read()),
        (Validations(run_dir).path, Validations(run_dir).read()),
        (AlarmLog(run_dir).path, AlarmLog(run_dir).read()),
    ]
    lost = [*lost_rows(run_dir, rows[-1])] if rows else []
    for file, reading in readings:
        wrong = [*_faults(reading)]
        wrong += [(expected, found) for name, expected, found, _ in lost if name == file.name]
        if file == ledger.path:
            wrong += behind(run_dir, rows)
        elif rows:
            wrong += _of_another_run(run_dir, file.name, rows)
        for expected, found in wrong:
            yield damaged(file, expected, found, WAYS_OUT[file.name])
        if file.exists() and not wrong:
            yield vouched_for(file, not reading.unverified)


def _faults(reading: Reading[Any]) -> Iterator[tuple[str, str]]:
    """What was expected of the rows of a file, and what is there instead."""
    for what, numbers in (
        ("is damaged", reading.damaged),
        ("stands there twice", reading.doubled),
        ("does not follow on what stands before", reading.gaps),
    ):
        for number in numbers:
            yield "rows as they were written", f"row {number} {what}"


def _of_another_run(run_dir: Path, name: str, rows: list[LedgerRow]) -> Iterator[tuple[str, str]]:
    """Rows that are as some run wrote them, and that are not those that the ledger knows."""
    newest = rows[-1]
    if name == "metrics.jsonl":
        last = newest.step - 1
        expected, found = newest.digests.get(name), Journal(run_dir).digest_of(last)
        if expected and found and found != expected:
            yield f"a row of step {last} with the digest {expected}", f"its digest is {found}"
    if name == "alarms.jsonl":
        number = newest.lines.get(name, 0)
        expected, found = newest.digests.get(name), AlarmLog(run_dir).digest_of(number)
        if expected and found and found != expected:
            yield f"a row {number} with the digest {expected}", f"its digest is {found}"
    if name == "validation.jsonl":
        weights = {row.step: row.sampler_path for row in rows}
        for row in Validations(run_dir).rows():
            if (of := weights.get(row.step, row.sampler_path)) != row.sampler_path:
                yield f"a row of {of}", f"that of step {row.step} is of {row.sampler_path}"


def _rollouts(run_dir: Path, rows: list[LedgerRow]) -> Iterator[Finding]:
    journal, end = Journal(run_dir), rows[-1].step if rows else 0
    digests = Ledger(run_dir).digests()
    named = {place for place in digests if place.startswith(f"{ROLLOUTS}/")}
    way_out = "move it away: the run needs no rollouts, and goes on without those of its steps"
    files = {f"{ROLLOUTS}/{file.name}": file for file in journal.chunks()}
    for place in sorted(named | files.keys()):
        file = run_dir / place
        if place not in files:
            yield damaged(file, "the rollouts of a chunk", "is missing", way_out)
            continue
        try:
            table = read_rollouts(file)
            # A chunk that was broken off may have left rows behind the last checkpoint.
            table = table.filter(compute.less(table["step"], end))
        except RunError as error:
            yield damaged(file, "Parquet", str(error), way_out)
            continue
        expected, found = digests.get(place, ""), table_digest(table)
        if place in named and not expected.startswith(found):
            rows_of = f"rows with the digest {expected[: len(found)]}"
            yield damaged(file, rows_of, f"their digest is {found}", way_out)
        elif place in named and not expected.endswith(file_digest(file)):
            yield Finding(
                file,
                "unverified",
                "its rows are as they were written, and its bytes are not: a run that went back "
                "wrote it anew, or they changed where no value is stored",
            )
        elif place in named or table.num_rows:
            yield vouched_for(file, place in named)


def _curriculum(run_dir: Path, rows: list[LedgerRow], problems: int | None) -> Iterator[Finding]:
    way_out = (
        "the next start makes it again from the rollouts where they are all there; else go back to "
        "another checkpoint with --train.resume_from_step"
    )
    for row in rows:
        file = measured_path(run_dir, row.carry)
        if file is None:
            continue
        expected = row.digests.get(file.relative_to(run_dir).as_posix())
        try:
            if expected is not None:
                require_digest(file, expected, way_out, RunError)
            elif problems is not None:
                load_measured(run_dir, row.step, row.carry, problems)
            known = expected is not None or problems is not None
            yield vouched_for(file, known)
        except RunError as error:
            yield damaged(file, "what the curriculum had measured", str(error), way_out)


def _copies(run_dir: Path) -> Iterator[Finding]:
    digests = Ledger(run_dir).digests()
    for name in COPIES:
        file = run_dir / name
        if not file.exists() and name not in digests:
            continue
        found = file_digest(file) if file.is_file() else None
        if name in digests and found != digests[name]:
            way_out, what = "put back the file that the run began with", "is missing"
            if found is not None:
                way_out, what = f"{way_out}, or remove the copy", f"its digest is {found}"
            yield damaged(file, f"the digest {digests[name]}", what, way_out)
        else:
            yield vouched_for(file, name in digests)


def _of_the_beginning(run_dir: Path, name: str) -> Iterator[Finding]:
    """A file that is written when a run begins, and holds to its end."""
    file, expected = run_dir / name, Ledger(run_dir).digests().get(name)
    way_out = "put the file back as it was, or choose another --run.name"
    if file.exists() or expected is not None:
        finding = sealed(file, way_out)
        if finding.verdict != "damaged" and expected not in (None, found := file_digest(file)):
            what = f"the digest {expected}"
            finding = damaged(file, what, f"its digest is {found}", way_out)
        yield finding


def examine_evaluation(folder: Path) -> Iterator[Finding]:
    """The report and the predictions of an evaluation."""
    report, predictions = folder / REPORT_NAME, folder / PREDICTIONS_NAME
    way_out = "the next start answers it again"
    try:
        read_report(folder)
        yield vouched_for(report, read_sealed(report).is_sealed)
    except DataError as error:
        yield damaged(report, "a report", str(error.__cause__), way_out)
        return
    try:
        known = require_predictions(folder)
        if not known:
            for _ in iterate_predictions(folder):
                pass
        yield vouched_for(predictions, known)
    except DataError as error:
        yield damaged(predictions, "the predictions of the report", str(error), way_out)


def _export(run_dir: Path, rows: list[LedgerRow], into: str) -> Iterator[Finding]:
    adapter = adapter_folder(run_dir, into)
    record = adapter.with_name(RECORD_NAME)
    there, wrong = inspect_export(run_dir, into)
    if there is None and adapter.exists():
        wrong = wrong or f"{record} is missing."
    if there is not None and not wrong:
        made = there.state_path in {row.state_path for row in rows}
        if not made and there.state_path.encode() not in set_aside_rows(run_dir):
            wrong = f"{record} is of {there.state_path}, which the ledger does not know."
    if wrong:
        way_out = "the next start, or the command that exported it, exports it again"
        yield damaged(record, "the files that were exported", wrong, way_out)
    elif there is not None:
        yield from _exported(record.parent, there)


def examine_export(place: Path) -> Iterator[Finding]:
    """The record of an export, wherever it lies, and the files that it names."""
    record = place / RECORD_NAME
    there, wrong = inspect_export(place.parent, place.name)
    if wrong:
        way_out = "export its checkpoint again: visual-r1 export RUN --into FOLDER"
        yield damaged(record, "the files that were exported", wrong, way_out)
    elif there is None:
        yield Finding(place, "unverified", f"no {RECORD_NAME} says what was exported")
    else:
        yield from _exported(place, there)


def _exported(place: Path, there: Export) -> Iterator[Finding]:
    """The files of an export whose adapter and reference are as they were written."""
    yield vouched_for(place / RECORD_NAME, read_sealed(place / RECORD_NAME).is_sealed)
    for one in there.files:
        yield Finding(place / there.adapter / one.name)
    if there.reference is not None:
        yield Finding(place / there.reference.name)
    if there.merged is not None:
        yield _merged(place, there.merged)


def _merged(place: Path, merged: Merged) -> Finding:
    wrong = damage_of_merged(place, merged)
    if wrong:
        way_out = "visual-r1 export RUN --merge writes it again"
        return damaged(place / MERGED, "the model that was merged", wrong, way_out)
    return Finding(place / MERGED)
