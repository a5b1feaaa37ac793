"""`predictions.parquet`: a row a problem, with its picture, so that an evaluation can be looked
at, graded again and compared problem by problem. `datasets` opens it with decoded images."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import Answer, Prediction
from visual_r1.storage import replaced_whole

pa: Any = pyarrow  # it has no type stubs
pq: Any = pyarrow.parquet

FILE_NAME = "predictions.parquet"
ROW_GROUP = 256  # rows that stand in memory with their images at a time

# Column -> type as `datasets` names it; a leading "[]" makes it a list. `correct` and
# `blind_correct` are null where the request failed or was not made; so are the columns of the
# second pass, from `scan_read` to `outcome`.
_COLUMNS = {
    "id": "string",
    "family": "string",
    "question": "string",
    "images": "[]image",
    "answer": "string",
    "response": "string",
    "extracted": "string",
    "verdict": "string",
    "reason": "string",
    "correct": "bool",
    "correct_exact": "bool",
    "correct_rounded": "bool",
    "format_ok": "bool",
    "grounded": "bool",
    "truncated": "bool",
    "response_tokens": "int32",
    "blind_response": "string",
    "blind_extracted": "string",
    "blind_correct": "bool",
    "k": "int32",
    "sampled_correct": "int32",
    "sampled_responses": "[]string",
    "sampled_verdicts": "[]string",
    "scan_read": "string",
    "second_verdict": "string",
    "scan_only_response": "string",
    "scan_only_correct": "bool",
    "question_only_correct": "bool",
    "outcome": "string",
    "failures": "string",
}
_ARROW: dict[str, Any] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
}


def _schema() -> Any:
    fields: list[tuple[str, Any]] = []
    features: dict[str, Any] = {}
    for name, kind in _COLUMNS.items():
        inner = kind.removeprefix("[]")
        feature = {"_type": "Image"} if inner == "image" else {"dtype": inner, "_type": "Value"}
        is_list = inner != kind
        fields.append((name, pa.list_(_ARROW[inner]) if is_list else _ARROW[inner]))
        features[name] = {"feature": feature, "_type": "List"} if is_list else feature
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def write_predictions(
    path: Path, problems: Sequence[Problem], predictions: Sequence[Prediction]
) -> None:
    """Write a row for each problem and its prediction to `path`, whole or not at all.

    Raises `StorageError` when the disk is full.
    """
    schema = _schema()
    with replaced_whole(path) as temporary:
        writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        try:
            for start in range(0, len(predictions), ROW_GROUP):
                stop = min(start + ROW_GROUP, len(predictions))
                rows = [_row(problems[i], predictions[i]) for i in range(start, stop)]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        finally:
            writer.close()


def _row(problem: Problem, prediction: Prediction) -> dict[str, Any]:
    return {
        "id": problem.id,
        "family": problem.family,
        "question": problem.question,
        "images": [{"bytes": image, "path": None} for image in problem.images],
        "answer": problem.answer,
        **_greedy_columns(prediction.greedy),
        **_blind_columns(prediction.blind),
        "k": len(prediction.sampled),
        "sampled_correct": prediction.sampled_correct,
        "sampled_responses": [answer.response for answer in prediction.sampled],
        "sampled_verdicts": [answer.verdict for answer in prediction.sampled],
        **_second_columns(prediction),
        "failures": json.dumps(dict(prediction.failures), sort_keys=True),
    }


def _greedy_columns(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    return {
        "response": answer.response,
        "extracted": answer.extracted,
        "verdict": answer.verdict,
        "reason": answer.reason,
        "correct": answer.right,
        "correct_exact": answer.right_exact,
        "correct_rounded": answer.right_rounded,
        "format_ok": answer.format_ok,
        "grounded": answer.grounded,
        "truncated": answer.truncated,
        "response_tokens": answer.tokens,
    }


def _blind_columns(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    return {
        "blind_response": answer.response,
        "blind_extracted": answer.extracted,
        "blind_correct": answer.right,
    }


def _second_columns(prediction: Prediction) -> dict[str, Any]:
    second = prediction.second
    if second is None:
        return {"question_only_correct": prediction.question_only}
    return {
        "scan_read": second.scan.text if second.scan else None,
        "second_verdict": second.verdict,
        "scan_only_response": second.response,
        "scan_only_correct": second.right,
        "question_only_correct": prediction.question_only,
        "outcome": prediction.outcome,
    }


def read_predictions(folder: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of an evaluation's `predictions.parquet`, all columns or those named.

    Raises `DataError` where the file is missing or cannot be read.
    """
    return list(iterate_predictions(folder, columns))


def iterate_predictions(
    folder: Path, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Like `read_predictions`, one row at a time, for files whose images would fill the memory."""
    path = folder / FILE_NAME
    try:
        with pq.ParquetFile(path) as file:
            wanted = list(columns) if columns is not None else None
            for batch in file.iter_batches(batch_size=ROW_GROUP, columns=wanted):
                yield from cast("list[dict[str, Any]]", batch.to_pylist())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): remove the folder {folder} and evaluate again."
        ) from error
