"""Where the evaluations of a run failed: from stored predictions and the dataset, at any time.

`failures_of` needs `predictions.parquet` and `report.json` alone, of whatever version, and looks
for the dataset by the digest in the report: its `meta` holds the figures' facts. What was found is
kept beside the predictions in `where_it_fails.parquet`, a row a problem, so that it is there when
the dataset is gone. The file names the digest of the predictions and the version
of the rules that it was made by; where either is another one, it is made anew.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from visual_r1.data.dataset import Dataset, folders_with, open_dataset
from visual_r1.data.problem import SPLITS, Problem
from visual_r1.errors import DataError, StorageError
from visual_r1.evaluation.metrics import Report, evaluation_folder, evaluation_names, read_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, iterate_predictions
from visual_r1.hashing import known_digest
from visual_r1.perception.judging import Given, Judgement, judge
from visual_r1.perception.shares import Failures, counted
from visual_r1.printing import open_logger
from visual_r1.storage import replaced_whole
from visual_r1.tables import open_table, pa, said_of, table_digest, write_table

logger = open_logger(__name__)

FILE_NAME = "where_it_fails.parquet"
VERSION = "2"
"""Of the rules in `readings` and `judging`: one that judges otherwise has another."""

_COLUMNS = (
    "id", "family", "response", "extracted", "verdict", "truncated", "second_verdict",
    "scan_only_correct",
)  # fmt: skip
# A second pass that asked nothing, or of which nobody knows, says nothing of the first.
_NOT_ASKED = ("no_scan", "leak", "gave_up")
_SCHEMA: Any = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "family", "kind", "basis")),
        *((name, pa.bool_()) for name in ("read", "reasoned", "renamed")),
        *((name, pa.string()) for name in ("stated", "follows", "why")),
    ]
)
_STORED = TypeAdapter(Judgement)


def failures_of(folder: Path, data_dir: Path | None = None) -> Failures:
    """Where the evaluation in `folder`, complete and of any version, failed.

    The dataset is looked for in `data_dir`, by default where the run's own is: beside its `runs/`.
    Without it, and without what was found while it was there, judged is by the passes alone, and
    `Failures.missing` says so. A problem whose request failed is left out.

    Raises `DataError` where report or predictions are missing or damaged.
    """
    report = read_report(folder)
    path = folder / PREDICTIONS_NAME
    with said_of(path, _way_out(folder)):
        digest = known_digest(path)
    kept = _read(folder, digest)
    if kept is not None:
        return counted(folder.name, *kept)
    answers = dict(_answers(folder))
    above = folder.absolute().parents  # evaluations/, the run, runs/, and what holds them all
    data_dir = data_dir or above[min(3, len(above) - 1)] / "data"
    dataset = _dataset(data_dir, report.conditions.dataset_digest)
    problems = {} if dataset is None else _problems(dataset, answers)
    found = {
        id: judge(problems.get(id) or _unknown(id, family), given, report.conditions.compared)
        for id, (family, given) in answers.items()
    }
    families = {id: family for id, (family, _) in answers.items()}
    missing = _what_is_missing(data_dir, report, dataset, len(answers) - len(problems))
    if not missing:
        _write(folder, digest, found, families)
    return counted(folder.name, found, families, missing)


def _way_out(folder: Path) -> str:
    return f"remove the folder {folder} and evaluate again"


def failures_of_run(run_dir: Path, data_dir: Path | None = None) -> dict[str, Failures]:
    """Those of a run's complete evaluations by name, in alphabetical order.

    One that is damaged is left out, with a warning.
    """
    found: dict[str, Failures] = {}
    for name in evaluation_names(run_dir):
        try:
            found[name] = failures_of(evaluation_folder(run_dir, name), data_dir)
        except DataError as error:
            logger.warning("%s Where it fails is left out.", error)
    return found


def _answers(folder: Path) -> Iterator[tuple[str, tuple[str, Given]]]:
    """What was answered by the problem's id, with its family; failed requests are none."""
    path = folder / PREDICTIONS_NAME
    with said_of(path, _way_out(folder)), open_table(path) as file:
        there = [name for name in _COLUMNS if name in file.schema_arrow.names]
    for row in iterate_predictions(folder, there):
        if row["response"] is None:
            continue
        scan_only = row.get("scan_only_correct")
        if row.get("second_verdict") in _NOT_ASKED:
            scan_only = None
        given = Given(
            row["response"], row["extracted"], row["verdict"], bool(row["truncated"]), scan_only
        )
        yield row["id"], (row["family"], given)


def _dataset(data_dir: Path, digest: str) -> Dataset | None:
    """None where it is not there whole."""
    for folder in folders_with(data_dir, digest):
        with suppress(DataError):
            return open_dataset(folder)
    return None


def _problems(dataset: Dataset, wanted: Collection[str]) -> dict[str, Problem]:
    """The problems that were answered, without pictures: of the test split, else of others."""
    found: dict[str, Problem] = {}
    for split in reversed(SPLITS):
        if len(found) == len(wanted):
            break
        for problem in dataset.problems(split).without_figures():
            if problem.id in wanted:
                found[problem.id] = problem
    return found


def _unknown(id: str, family: str) -> Problem:
    return Problem(id, (), "", "", meta={"family": family})


def _what_is_missing(data_dir: Path, report: Report, dataset: Dataset | None, unknown: int) -> str:
    if dataset is None:
        return (
            f"The facts of the figures are not known, for the dataset "
            f"{report.conditions.dataset_digest} is not in {data_dir}: put it back there, or "
            "prepare it again by the command that trained or evaluated."
        )
    if unknown:
        return (
            f"{unknown} of the problems that were answered are not in {dataset.folder}, so the "
            "facts of their figures are not known."
        )
    return ""


def _write(
    folder: Path, digest: str, found: Mapping[str, Judgement], families: Mapping[str, str]
) -> None:
    """Keep what was found; a folder that cannot be written does without."""
    rows = [
        {"id": id, "family": families[id]} | asdict(one) | {"stated": json.dumps(one.stated)}
        for id, one in found.items()
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    marks = {"predictions": digest, "version": VERSION, "content": table_digest(table)}
    with suppress(StorageError), replaced_whole(folder / FILE_NAME) as temporary:
        write_table(temporary, table.replace_schema_metadata(marks))


def _read(folder: Path, digest: str) -> tuple[dict[str, Judgement], dict[str, str]] | None:
    """What was found before of the same predictions by the same rules; None where it was not."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        with said_of(path, "it is made anew"), open_table(path) as file:
            table = file.read()
            marks: dict[bytes, bytes] = table.schema.metadata or {}
            if marks.get(b"predictions") != digest.encode() or (
                marks.get(b"version") != VERSION.encode()
            ):
                return None
            if marks.get(b"content") != table_digest(table).encode():
                raise ValueError("its values are not those that were written")
            rows = cast("list[dict[str, Any]]", table.to_pylist())
            found = {
                row["id"]: _STORED.validate_python(row | {"stated": json.loads(row["stated"])})
                for row in rows
            }
            return found, {row["id"]: row["family"] for row in rows}
    except DataError as error:
        logger.warning("%s", error)
        return None
