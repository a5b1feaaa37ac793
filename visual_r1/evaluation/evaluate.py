"""A policy, on held-out problems: answers to predictions and a report, whatever is killed.

Which passes there are is in `predict`. Greedy answers come always; the others as `evaluation` asks
for them, and question_only and scan_only also where the run's reward has a second pass. What is
answered is kept as it comes, see `answers`: the same evaluation, started again, goes on there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tinker

from visual_r1.data.problem import Problem
from visual_r1.data.shards import KeptProblems, StoredProblems
from visual_r1.errors import DataError
from visual_r1.evaluation.answers import Answers
from visual_r1.evaluation.conditions import in_a_line, passes_of
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.kept import Kept, find_kept
from visual_r1.evaluation.metrics import (
    REPORT_NAME,
    Report,
    Spending,
    measure,
    read_report,
    write_report,
)
from visual_r1.evaluation.predict import predict
from visual_r1.evaluation.prediction import Pass, Prediction
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, read_predictions, write_predictions
from visual_r1.evaluation.slices import known_in
from visual_r1.policy.passes import MOST_AT_ONCE
from visual_r1.policy.policy import Policy
from visual_r1.policy.second_pass import reader_of
from visual_r1.prices import total
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.storage import put_aside

logger = open_logger(__name__)


def evaluate(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    conditions: Conditions,
    out_dir: Path,
    progress: Progress,
    *,
    earlier: Sequence[Path] = (),
    asked_of: str = "",
    most_at_once: int = MOST_AT_ONCE,
) -> Report:
    """Evaluate `sampler` on `problems` (the first `evaluation.problems` of them) into `out_dir`.

    `conditions` are those of `conditions_of`. What the evaluation that is there, whole or broken
    off, or one in the folders `earlier`, has answered under the same ones is not asked again, pass
    by pass; of one that broke off only what was asked of the same server, see `Answers.of`, of
    which `asked_of` is the digest. Writes `predictions.parquet`, and last `report.json`: its
    presence means that the evaluation is complete. Beside the report it holds what was spent, over
    all attempts: tokens, and their cost at the policy's prices. A request that the server refuses
    is counted as failed and leaves `n`. Where more than a tenth are refused, or the server fails,
    `BackendError` is raised and there is no report; what was answered is kept. An evaluation that
    is there and damaged is put aside, with a warning.
    """
    config = policy.config
    count = config.evaluation.count(len(problems))
    if count == 0:
        raise DataError(
            f"There is no problem to evaluate on: the {conditions.split} split is empty."
        )
    passes = passes_of(config)
    if policy.reader is None and {"question_only", "scan_only"} & set(passes):
        policy = replace(policy, reader=reader_of(config, policy.processor))
    damaged = _damaged(out_dir)
    ids, golds = _ids_and_golds(problems)
    answers = Answers(out_dir, conditions, asked_of)
    broken_off = answers.find(ids[:count])
    kept = find_kept(out_dir, earlier, conditions, ids[:count], broken_off, golds[:count])
    _say_what_is_asked(out_dir, kept, passes, count)
    asked: list[Pass] = [name for name in passes if name != "scan_only"]
    there = sum(kept.count(asked).values())
    progress.start(f"evaluate {out_dir.name}", len(asked) * count, "requests", done=there)
    with answers.written() as keep:
        predictions = predict(
            sampler,
            policy,
            problems,
            range(count),
            passes,
            f"the evaluation {out_dir.name!r}",
            progress,
            kept=kept.predictions,
            keep=keep,
            most_at_once=most_at_once,
        )
    spent = total((broken_off.spent, *(one.spent for one in predictions)))
    paid = Spending(spent.prefill, spent.sample, policy.prices.cost(spent), spent.cached)
    for path in damaged:
        put_aside(path)
    _write(out_dir, problems, predictions)
    report = replace(
        measure(predictions, conditions, policy.prices, known_in(out_dir)),
        spending=kept.spent + paid,
        taken_from=kept.taken_from,
    )
    answers.counted()
    write_report(out_dir, report)
    answers.clear()
    progress.finish(in_a_line(report))
    return report


def _ids_and_golds(problems: Sequence[Problem]) -> tuple[Sequence[str], Sequence[str]]:
    if isinstance(problems, StoredProblems | KeptProblems):
        return problems.ids(), problems.answers()
    return [one.id for one in problems], [one.answer for one in problems]


def _write(out_dir: Path, problems: Sequence[Problem], predictions: Sequence[Prediction]) -> None:
    """Written beside first: until the report of an earlier evaluation goes, what it vouches for is
    there, and it must not vouch for new predictions."""
    staged = out_dir / f".{PREDICTIONS_NAME}.next"
    write_predictions(staged, problems, predictions)
    (out_dir / REPORT_NAME).unlink(missing_ok=True)
    staged.replace(out_dir / PREDICTIONS_NAME)


def _damaged(folder: Path) -> list[Path]:
    """The files of an evaluation that is there and cannot be used."""
    files = [folder / name for name in (REPORT_NAME, PREDICTIONS_NAME)]
    if not files[0].exists():  # it broke off before it was complete
        return []
    try:
        read_report(folder)
        read_predictions(folder, ["id"])
    except DataError as error:
        logger.warning(
            "%s This is done now: it is answered again, and what was there is put aside.", error
        )
        return [path for path in files if path.exists()]
    return []


def _say_what_is_asked(folder: Path, kept: Kept, passes: Sequence[Pass], count: int) -> None:
    """Where answers are there: why they are not enough, and which are asked for."""
    there = kept.count(passes)
    missing = [f"{count - there[name]} {name}" for name in passes if there[name] < count]
    asked = f"{', '.join(missing)} answers are asked for" if missing else "nothing is asked for"
    used = [f"{there[name]} {name}" for name in passes if there[name]]
    if kept.changed:
        rest = f"; {', '.join(used)} are kept" if used else ""
        logger.warning("%s is made anew: %s; %s%s.", folder, kept.changed, asked, rest)
    elif kept.broke_off and used:
        said = ", ".join(used)
        logger.warning("%s goes on where it was: %s answers are there; %s.", folder, said, asked)
    elif kept.taken_from and used:
        logger.warning(
            "%s: %s answers are those of %s, asked under the same conditions; %s.",
            folder,
            ", ".join(used),
            kept.taken_from,
            asked,
        )
