"""The file that keeps what a policy answered to each problem.

`predictions.parquet` has a row a problem, with its pictures, so that an evaluation can be looked
at, graded again and compared problem by problem. `datasets` opens it with decoded images. The
report beside it holds its digest, and says with it that these are the predictions it was made of.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.evaluation.prediction import GradedResponse, Prediction, Roundings
from visual_r1.grading import Verdict, extract_answer
from visual_r1.policy.second_pass import SecondPass
from visual_r1.rewards.blindfold.masking import MaskedScan
from visual_r1.storage import read_sealed, replaced_whole
from visual_r1.tables import open_table, open_writer, pa, require_digest, said_of

REPORT_NAME = "report.json"
DIGEST = "predictions_digest"
"""In the report: the digest of the predictions that it was counted from."""
PREDICTIONS_NAME = "predictions.parquet"
ROW_GROUP = 256  # rows that stand in memory with their images at a time


_Column = tuple[str, Callable[[Problem, Prediction], Any]]


def _of_answer(name: str) -> dict[str, _Column]:
    """The columns of a pass that has one answer."""

    def column(kind: str, of: Callable[[GradedResponse], Any]) -> _Column:
        def value(_: Problem, made: Prediction) -> Any:
            found: GradedResponse | None = getattr(made, name)
            return None if found is None else of(found)

        return kind, value

    return {
        f"{name}_response": column("string", lambda one: one.response),
        f"{name}_extracted": column("string", lambda one: one.extracted),
        f"{name}_correct": column("bool", lambda one: one.right),
        **_of_roundings(name, lambda made: getattr(made, name)),
    }


def _of_roundings(name: str, of: Callable[[Prediction], Any]) -> dict[str, _Column]:
    def column(place: int) -> _Column:
        def value(_: Problem, made: Prediction) -> Any:
            found: GradedResponse | Roundings | None = of(made)
            if isinstance(found, GradedResponse):
                return (found.right_exact, found.right_rounded)[place]
            return None if found is None else found[place]

        return "bool", value

    return {f"{name}_correct_exact": column(0), f"{name}_correct_rounded": column(1)}


# Column -> its type as `datasets` names it (a leading "[]" makes it a list), and its value for a
# problem and its prediction. None is null: a request that failed or was not made is not wrong.
_COLUMNS: Mapping[str, _Column] = {
    "id": ("string", lambda problem, _: problem.id),
    "family": ("string", lambda problem, _: problem.family),
    "question": ("string", lambda problem, _: problem.question),
    "images": ("[]image", lambda problem, _: [{"bytes": one} for one in problem.images]),
    "answer": ("string", lambda problem, _: problem.answer),
    "response": ("string", lambda _, made: made.greedy and made.greedy.response),
    "extracted": ("string", lambda _, made: made.greedy and made.greedy.extracted),
    "verdict": ("string", lambda _, made: made.greedy and made.greedy.verdict),
    "reason": ("string", lambda _, made: made.greedy and made.greedy.reason),
    "correct": ("bool", lambda _, made: made.greedy and made.greedy.right),
    "correct_exact": ("bool", lambda _, made: made.greedy and made.greedy.right_exact),
    "correct_rounded": ("bool", lambda _, made: made.greedy and made.greedy.right_rounded),
    "format_ok": ("bool", lambda _, made: made.greedy and made.greedy.format_ok),
    "grounded": ("bool", lambda _, made: made.greedy and made.greedy.grounded),
    "truncated": ("bool", lambda _, made: made.greedy and made.greedy.truncated),
    "response_tokens": ("int32", lambda _, made: made.greedy and made.greedy.tokens),
    **_of_answer("blind"),
    "k": ("int32", lambda _, made: len(made.sampled)),
    "sampled_correct": ("int32", lambda _, made: made.sampled_correct),
    "sampled_responses": ("[]string", lambda _, made: [one.response for one in made.sampled]),
    "sampled_verdicts": ("[]string", lambda _, made: [one.verdict for one in made.sampled]),
    "sampled_extracted": ("[]string", lambda _, made: [one.extracted for one in made.sampled]),
    "difficulty": ("string", lambda problem, _: problem.difficulty),
    "choices": ("[]string", lambda problem, _: list(problem.choices)),
    "scan_read": (
        "string",
        lambda _, made: made.second and made.second.scan and made.second.scan.text,
    ),
    "scan_masked": (
        "int32",
        lambda _, made: made.second and made.second.scan and made.second.scan.masked,
    ),
    "scan_held_answer": (
        "bool",
        lambda _, made: made.second and made.second.scan and made.second.scan.held_answer,
    ),
    "second_verdict": ("string", lambda _, made: made.second and made.second.verdict),
    "scan_only_response": ("string", lambda _, made: made.second and made.second.response),
    "scan_only_correct": ("bool", lambda _, made: made.second and made.second.right),
    "question_only_correct": ("bool", lambda _, made: made.question_only),
    "outcome": ("string", lambda _, made: made.outcome),
    "failures": ("string", lambda _, made: json.dumps(dict(made.failures), sort_keys=True)),
    # What came later; a file without them is of an older version.
    "sampled_exact": ("[]bool", lambda _, made: [one.right_exact for one in made.sampled]),
    "sampled_rounded": ("[]bool", lambda _, made: [one.right_rounded for one in made.sampled]),
    "question_only_response": ("string", lambda _, made: made.question_only_response),
    **_of_roundings("question_only", lambda made: made.question_only_roundings),
    **_of_roundings("scan_only", lambda made: made.scan_only_roundings),
    **_of_answer("other_image"),
    **_of_answer("masked_image"),
    **_of_answer("described"),
    "second_order": ("string", lambda _, made: made.second and made.second.order),
}
_ARROW_TYPES: Mapping[str, Any] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
}


# What a prediction is read from again; pictures are not.
_READ = tuple(
    name
    for name in _COLUMNS
    if name not in ("question", "images", "answer", "difficulty", "choices")
)


def prediction_of(row: Mapping[str, Any]) -> Prediction:
    """The prediction that a row was written of, as far as anything counts it.

    Of blind and sampled answers the file has the text and whether it is right; of the second pass
    nothing is taken from a file of an older version, which says too little of the scan.
    """

    def other(
        response: str,
        verdict: Verdict,
        exact: bool | None = None,
        rounded: bool | None = None,
        extracted: str | None = None,
    ) -> GradedResponse:
        return GradedResponse(
            response=response,
            extracted=extracted,
            verdict=verdict,
            reason="",
            right_exact=exact,
            right_rounded=rounded,
            format_ok=False,
            grounded=False,
            truncated=False,
            tokens=0,
        )

    def single(name: str) -> GradedResponse | None:
        if row.get(f"{name}_response") is None:
            return None
        verdict: Verdict = "right" if row[f"{name}_correct"] else "wrong"
        pair = roundings(name) or (None, None)
        return other(row[f"{name}_response"], verdict, *pair, row[f"{name}_extracted"])

    def roundings(name: str) -> Roundings | None:
        exact, rounded = (row.get(f"{name}_correct_{how}") for how in ("exact", "rounded"))
        return None if exact is None or rounded is None else (exact, rounded)

    texts = row["sampled_responses"]
    unknown = [None] * len(texts)
    pairs = (row.get(name) or unknown for name in ("sampled_exact", "sampled_rounded"))
    return Prediction(
        id=row["id"],
        family=row["family"],
        greedy=_greedy_of(row),
        blind=single("blind"),
        sampled=tuple(map(other, texts, row["sampled_verdicts"], *pairs, sampled_answers(row))),
        failures=json.loads(row["failures"]),
        second=_second_of(row),
        question_only=row["question_only_correct"],
        other_image=single("other_image"),
        masked_image=single("masked_image"),
        described=single("described"),
        question_only_response=row.get("question_only_response"),
        question_only_roundings=roundings("question_only"),
        scan_only_roundings=roundings("scan_only"),
    )


def _greedy_of(row: Mapping[str, Any]) -> GradedResponse | None:
    if row["response"] is None:
        return None
    return GradedResponse(
        response=row["response"],
        extracted=row["extracted"],
        verdict=row["verdict"],
        reason=row["reason"],
        right_exact=row["correct_exact"],
        right_rounded=row["correct_rounded"],
        format_ok=row["format_ok"],
        grounded=row["grounded"],
        truncated=row["truncated"],
        tokens=row["response_tokens"],
    )


def _second_of(row: Mapping[str, Any]) -> SecondPass | None:
    if row["second_verdict"] is None or "scan_masked" not in row:
        return None
    scan = None
    if row["scan_read"] is not None:
        scan = MaskedScan(row["scan_read"], row["scan_masked"], row["scan_held_answer"])
    order = row.get("second_order")
    return SecondPass(row["second_verdict"], "", scan, row["scan_only_response"], order=order)


def sampled_answers(row: Mapping[str, Any]) -> list[str | None]:
    """The answers in a row's samples; taken out again where the file is too old to hold them."""
    kept = row.get("sampled_extracted")
    return [extract_answer(one) for one in row["sampled_responses"]] if kept is None else kept


def kept_predictions(
    folder: Path, golds: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Prediction]:
    """The predictions of an evaluation, see `prediction_of`; raises as `read_predictions`.

    `golds` are gold answers by id: what was graded by another one is left out.
    """
    for row in iterate_predictions(folder, (*_READ, "answer")):
        if golds.get(row["id"], row["answer"]) == row["answer"]:
            yield prediction_of(row)


def _schema() -> Any:
    """The columns for Arrow, with what `datasets` reads from the metadata to decode images."""
    fields: list[tuple[str, Any]] = []
    features: dict[str, Any] = {}
    for name, (kind, _) in _COLUMNS.items():
        inner = kind.removeprefix("[]")
        feature = {"_type": "Image"} if inner == "image" else {"dtype": inner, "_type": "Value"}
        is_list = inner != kind
        fields.append((name, pa.list_(_ARROW_TYPES[inner]) if is_list else _ARROW_TYPES[inner]))
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
    with replaced_whole(path) as temporary, closing(open_writer(temporary, schema)) as writer:
        for start in range(0, len(predictions), ROW_GROUP):
            rows = [
                {name: value(problems[i], predictions[i]) for name, (_, value) in _COLUMNS.items()}
                for i in range(start, min(start + ROW_GROUP, len(predictions)))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def read_predictions(folder: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of an evaluation's `predictions.parquet`, all columns or those named.

    Raises `DataError` where the file is missing, damaged, or another than the report was made of.
    """
    return list(iterate_predictions(folder, columns))


def iterate_predictions(
    folder: Path, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Like `read_predictions`, one row at a time, for files whose images would fill the memory."""
    vouched_for = require_predictions(folder)
    path = folder / PREDICTIONS_NAME
    with said_of(path, _way_out(folder)), open_table(path) as file:
        # The names of columns have no checksum, and no older version knew others.
        unknown = set(file.schema_arrow.names) - _COLUMNS.keys()
        if unknown and not vouched_for:
            raise ValueError(f"it has columns of no version: {', '.join(sorted(unknown))}")
        wanted = list(columns) if columns is not None else None
        for batch in file.iter_batches(batch_size=ROW_GROUP, columns=wanted):
            yield from cast("list[dict[str, Any]]", batch.to_pylist())


def require_predictions(folder: Path) -> bool:
    """Raise `DataError` where the predictions are not those that the report was made of.

    Returns whether that is known: an older report does not say, and one that is not there neither.
    """
    report = folder / REPORT_NAME
    try:
        content = read_sealed(report).content
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise DataError(f"{report} is damaged ({error}): {_way_out(folder)}.") from error
    expected = cast("dict[str, Any]", content).get(DIGEST) if isinstance(content, dict) else None
    if not isinstance(expected, str):
        return False
    require_digest(folder / PREDICTIONS_NAME, expected, _way_out(folder))
    return True


def _way_out(folder: Path) -> str:
    return f"remove the folder {folder} and evaluate again"
