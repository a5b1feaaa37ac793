"""What is looked at: each file that is read again, against whatever vouches for it.

Offline and read-only: no server is asked, nothing is mended, and a run that goes on meanwhile is
not disturbed. A run is looked at with its dataset and, on the embedded engine, its checkpoints.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from visual_r1.config import RunConfig
from visual_r1.data.dataset import folders_with
from visual_r1.data.manifest import AGAIN, MANIFEST_FILE, Manifest, fault, read_manifest
from visual_r1.data.parquet import read_groups
from visual_r1.engine.store import soundness
from visual_r1.engine.store.home import MANIFEST, HomeFolder
from visual_r1.engine.store.records import CheckpointRecord, parse_path, session_of
from visual_r1.engine.types import InvalidRequest
from visual_r1.errors import DataError, RunError, VisualR1Error
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, REPORT_NAME
from visual_r1.exports.record import ADAPTER_FILES, EXPORT, RECORD_NAME
from visual_r1.exports.record import read_record as read_export_record
from visual_r1.hashing import file_digest
from visual_r1.promotion.models import FOLDER as MODELS
from visual_r1.promotion.models import read_promoted
from visual_r1.regrade.files import read_record
from visual_r1.report.page import PAGE_NAME
from visual_r1.report.summary import (
    BASELINE,
    FINAL,
    SUMMARY_NAME,
    has_gone_on,
    read_summary,
    summary_of,
)
from visual_r1.runs.baselines import RECORD_NAME as RECORD
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.journal import read_metrics
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.soundness import (
    Finding,
    damaged,
    examine_evaluation,
    examine_export,
    examine_run,
    sealed,
    vouched_for,
)
from visual_r1.storage import read_sealed
from visual_r1.sweeps.folder import PLAN_NAME, TABLE_NAME
from visual_r1.sweeps.folder import SUMMARY_NAME as SWEEP_SUMMARY

_ANOTHER_CHECKPOINT = (
    "the run goes on from another checkpoint, and says so; --train.resume_from_step chooses one"
)
_OF_A_FINISHED_RUN = (
    *(
        f"evaluations/{name}/{file}"
        for name in (BASELINE, FINAL)
        for file in (REPORT_NAME, PREDICTIONS_NAME)
    ),
    f"{EXPORT}/{RECORD_NAME}",
    "wall.json",
)
_AGAIN_KEPT = "remove the folder it is in: the next start of a run fills it again"
_NO_RECORD = "no checkpoint needs it: lists of the engine leave it out"
_NO_CHECKPOINT = "start the engine without it: load another checkpoint, and delete this one"


def examine(folder: Path) -> Iterator[Finding]:
    """All that is read again of a run's folder, a dataset's, an engine's home, of the baselines
    that runs share, of the records of models, of an export, or what a sweep has left.

    Raises `RunError` where the folder is none of them.
    """
    if (folder / CONFIG_FILE).is_file() or (folder / "ledger.jsonl").is_file():
        yield from _run(folder)
    elif (folder / "sessions").is_dir():
        yield from _home(folder)
    elif (folder / MANIFEST_FILE).is_file() or any(folder.glob("*-of-*.parquet")):
        yield from examine_dataset(folder)
    elif records := sorted({*folder.glob(RECORD), *folder.glob(f"[!.]*/{RECORD}")}):
        for record in records:
            yield sealed(record, _AGAIN_KEPT)
            for report in sorted(record.parent.glob(f"[!.]*/{REPORT_NAME}")):
                yield from examine_evaluation(report.parent)
    elif folder.name == MODELS:
        for file in sorted({*folder.glob("[!.]*.json"), *folder.glob("[!.]*/*.json")}):
            yield _model(file)
    elif (place := _export_around(folder)) is not None:
        yield from examine_export(place)
    elif (folder / PLAN_NAME).is_file() or (folder / TABLE_NAME).is_file():
        yield from _sweep(folder)
    else:
        raise RunError(
            f"{folder} is no run's folder, no dataset and no engine's home: name one of those "
            "under runs/, data/ or sweeps/, .visual-r1/engine, .visual-r1/baselines, models/, or "
            "what was exported."
        )


def _export_around(folder: Path) -> Path | None:
    """The folder of the export that is meant: it, or what is around the adapter that PEFT loads."""
    for place in (folder, folder.absolute().parent):
        if not (place / RECORD_NAME).is_file():
            continue
        there, _ = read_export_record(place.parent, place.name)
        if place == folder or (there is not None and place / there.adapter == folder.absolute()):
            return place
    is_adapter = any((one / ADAPTER_FILES[0]).is_file() for one in (folder, folder / "adapter"))
    return folder if is_adapter else None


def _sweep(folder: Path) -> Iterator[Finding]:
    """The plan of a sweep, and its summary with the files that it names; not its runs."""
    again = "the command that began the sweep makes it again"
    for name in (PLAN_NAME, SWEEP_SUMMARY):
        if (folder / name).exists():
            yield sealed(folder / name, again)
        elif name == PLAN_NAME or (folder / TABLE_NAME).exists():
            yield damaged(folder / name, "what the sweep has left", "is missing", again)
    try:
        summary: Any = read_sealed(folder / SWEEP_SUMMARY).content
        digests = cast("Mapping[str, str]", dict(summary["digests"]))
    except (OSError, ValueError, LookupError, TypeError):
        return  # not there, or named for itself
    for name, digest in digests.items():
        file = folder / name
        found = f"its digest is {file_digest(file)}" if file.is_file() else "is missing"
        if found.endswith(f" {digest}"):
            yield Finding(file)
        else:
            yield damaged(file, f"the digest {digest}", found, again)


def examine_dataset(folder: Path) -> Iterator[Finding]:
    """The manifest of a dataset and the files that it names."""
    file = folder / MANIFEST_FILE
    try:
        manifest = read_manifest(folder, files=False)
    except DataError as error:
        yield damaged(file, "the manifest of a dataset", str(error.__cause__), AGAIN)
        return
    yield sealed(file, AGAIN)
    for name, stored in manifest.files.items():
        path = folder / name
        if wrong := fault(path, stored):
            what = f"{stored.bytes} bytes" + (f", digest {stored.digest}" if stored.digest else "")
            yield damaged(path, what, wrong, AGAIN)
            continue
        try:
            # Of an older version there is only this to see: whether it can be read at all.
            if stored.digest is None:
                for _ in read_groups(path):
                    pass
            yield vouched_for(path, stored.digest is not None)
        except DataError as error:
            yield damaged(path, "Parquet", str(error), AGAIN)


def _model(file: Path) -> Finding:
    """The record of a model: by its seal, and one of an older version by its fields."""
    way_out = "put it back as it was, or promote the model again"
    found = sealed(file, way_out)
    if found.verdict == "damaged":
        return found
    try:
        read_promoted(file)
    except DataError as error:
        return damaged(file, "the record of a model", str(error.__cause__), way_out)
    return found


def _run(run_dir: Path) -> Iterator[Finding]:
    rows = [line.row for line in Ledger(run_dir).read().sound]
    dataset = _dataset_of(run_dir, rows)
    yield from examine_run(run_dir, None if dataset is None else dataset.counts.get("train"))
    yield from _summary(run_dir)
    yield from _regraded(run_dir)
    if not rows:
        return
    digest = rows[-1].dataset_digest
    folders = _dataset_folders(run_dir, digest)
    for folder in folders:
        yield from examine_dataset(folder)
    if not folders:
        place = run_dir.absolute().parents[1] / "data" / f"*-{digest}"
        yield damaged(place, "the dataset of the run", "is missing", AGAIN)
    if rows[-1].backend == "embedded":
        yield from _checkpoints(_home_of(run_dir), rows)


def _dataset_folders(run_dir: Path, digest: str) -> list[Path]:
    return folders_with(run_dir.absolute().parents[1] / "data", digest)


def _dataset_of(run_dir: Path, rows: list[LedgerRow]) -> Manifest | None:
    for folder in _dataset_folders(run_dir, rows[-1].dataset_digest) if rows else ():
        try:
            return read_manifest(folder, files=False)
        except DataError:
            return None
    return None


def _summary(run_dir: Path) -> Iterator[Finding]:
    file = run_dir / SUMMARY_NAME
    again = "the next start makes it again"
    try:
        there = read_summary(run_dir)
        if there is None:
            if (run_dir / PAGE_NAME).exists():  # drawn after it
                yield damaged(file, "the summary that the page shows", "is missing", again)
            return
        yield sealed(file, again)
    except DataError as error:
        yield damaged(file, "the summary of the run", str(error.__cause__ or error), again)
        return
    for place in _OF_A_FINISHED_RUN:
        if not (run_dir / place).exists():
            yield damaged(run_dir / place, "what the summary was made with", "is missing", again)
    try:
        # Then steps and cost are those of a longer run by now.
        longer = any(row["step"] >= there.steps for row in read_metrics(run_dir))
        gone_on = longer or has_gone_on(run_dir, there)
        now = summary_of(run_dir, steps=there.steps, wall_seconds=there.wall_seconds)
    except VisualR1Error:
        return  # what it is made of is damaged, and named for itself
    if now.counted(has_gone_on=gone_on) != there.counted(has_gone_on=gone_on):
        found = "says something else"
        yield damaged(file, "what metrics, validation and evaluations come to", found, again)


def _regraded(run_dir: Path) -> Iterator[Finding]:
    """What grading again has left."""
    places = ("evaluations/[!.]*/regraded-*.json", "rollouts/regraded-*/*.json")
    for record in sorted(path for place in places for path in run_dir.glob(place)):
        result = record.with_suffix(".parquet")
        try:
            read_record(result)
            yield from (Finding(record), Finding(result))
        except DataError as error:
            way_out = f"`visual-r1 regrade {run_dir.name}` makes it again"
            yield damaged(record, "what was graded again", str(error), way_out)


def _home_of(run_dir: Path) -> Path:
    """Where the embedded engine of the run keeps its checkpoints."""
    beside = run_dir.absolute().parents[1] / ".visual-r1" / "engine"
    try:
        config: RunConfig | None = read_config(run_dir) and config_of_run(run_dir)
    except RunError:
        return beside
    return beside if config is None else config.backend.engine_home or beside


def _checkpoints(home: Path, rows: list[LedgerRow]) -> Iterator[Finding]:
    """The checkpoints of the rows, and what the engine has on record of who made them."""
    folder, records = HomeFolder(home), set[Path]()
    for text in (path for row in rows for path in (row.state_path, row.sampler_path)):
        try:
            path = parse_path(text)
        except InvalidRequest as error:
            yield damaged(home / text, "a checkpoint's path", str(error), _ANOTHER_CHECKPOINT)
            continue
        manifest = folder.checkpoint_folder(path) / MANIFEST
        yield from _checkpoint(manifest, folder.read_record(manifest), _ANOTHER_CHECKPOINT)
        records |= {folder.run_file(path.model_id), folder.session_file(session_of(path.model_id))}
    for file in sorted(records):
        yield sealed(file, _NO_RECORD)


def _home(home: Path) -> Iterator[Finding]:
    folder = HomeFolder(home)
    for file, what in folder.unreadable_records():
        yield damaged(file, "a record of the engine", what, _NO_RECORD)
    for manifest, record in folder.manifests():
        yield from _checkpoint(manifest, record, _NO_CHECKPOINT)


def _checkpoint(manifest: Path, record: CheckpointRecord | str, way_out: str) -> Iterator[Finding]:
    if isinstance(record, str):
        yield damaged(manifest, "the record of a checkpoint", record, way_out)
        return
    yield sealed(manifest, way_out)
    wrong = {one.file: one for one in soundness.examine_checkpoint(manifest.parent, record)}
    for name, stored in record.files.items():
        file = manifest.parent / name
        found = wrong.get(file)
        if found is None or found.verdict == "unverified":
            yield vouched_for(file, found is None)
        else:
            expected = f"{stored.bytes} bytes" + (f", {stored.digest}" if stored.digest else "")
            yield damaged(file, expected, found.what, way_out)
