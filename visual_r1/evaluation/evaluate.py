"""A policy, on held-out problems: answers to predictions and a report, whatever is killed.

Which passes there are is in `predict`. Greedy answers come always; the others as `evaluation` asks
for them, and question_only and scan_only also where the run's reward has a second pass. What is
answered is kept as it comes, see `answers`: the same evaluation, started again, goes on there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tinker

from visual_r1.config import RunConfig
from visual_r1.config.judging import CONTROLS
from visual_r1.data.problem import Problem, Split
from visual_r1.data.shards import KeptProblems, StoredProblems
from visual_r1.errors import DataError
from visual_r1.evaluation.answers import Answers
from visual_r1.evaluation.kept import Kept, find_kept
from visual_r1.evaluation.metrics import (
    REPORT_NAME,
    Conditions,
    Report,
    Spending,
    measure,
    read_report,
    write_report,
)
from visual_r1.evaluation.predict import VIEWS, predict
from visual_r1.evaluation.predictions import (
    PREDICTIONS_NAME,
    Pass,
    Prediction,
    read_predictions,
    write_predictions,
)
from visual_r1.evaluation.slices import known_in
from visual_r1.grading import GRADER_VERSION
from visual_r1.hashing import digest, file_digest
from visual_r1.policy.passes import MOST_AT_ONCE
from visual_r1.policy.policy import Policy
from visual_r1.policy.second_pass import DESCRIBES, reader_of
from visual_r1.prices import total
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.prompts.templates import load_template
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


def passes_of(config: RunConfig) -> list[Pass]:
    """The passes that an evaluation by this configuration makes, in the order they are asked."""
    asks, second = config.evaluation, config.second_pass.enabled
    wanted: set[Pass] = {"greedy", *asks.controls}
    if asks.asks_blind:
        wanted.add("blind")
    if asks.samples:
        wanted.add("sampled")
    if second:  # then the template asks for a scan
        wanted |= {"question_only", "scan_only"}
    elif "scan_only" in wanted and "scan" not in load_template(config.prompt.template).tags:
        wanted.add("described")
    return [name for name in VIEWS if name in wanted]


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


def conditions_of(
    config: RunConfig,
    sampler_path: str,
    dataset_digest: str,
    *,
    split: Split = "test",
    decisions: str = "",
) -> Conditions:
    """Under which an evaluation by this configuration is made; `decisions` is the digest of those
    about labels that hold for its problems. Raises `ConfigError` for a template that cannot be
    read."""
    asks = config.evaluation
    return Conditions(
        sampler_path=sampler_path,
        model=config.model.name,
        dataset_digest=dataset_digest,
        seed=asks.seed,
        k=asks.samples,
        temperature=asks.temperature or config.sampling.temperature,
        max_new_tokens=config.sampling.max_new_tokens,
        template=config.prompt.template,
        rounding=config.reward.rounding,
        grader_version=str(GRADER_VERSION),
        blind=asks.asks_blind,
        thinking=config.model.thinking,
        split=split,
        control_passes=tuple(name for name in CONTROLS if name in asks.controls),
        reader=_reader(config),
        decisions=decisions,
    )


def _reader(config: RunConfig) -> str:
    """A digest of what passes without the image are made with; empty where they are the run's own,
    or none is asked for."""
    second = config.second_pass
    if second.enabled or not {"question_only", "scan_only"} & set(config.evaluation.controls):
        return ""
    names = (second.template, second.question_only_template, DESCRIBES)
    return digest([second.masks, *(file_digest(load_template(name).path) for name in names)], 16)


def is_complete(folder: Path, config: RunConfig, conditions: Conditions, problems: int) -> bool:
    """Whether the folder holds a whole evaluation under these conditions, of a split with so many
    problems.

    What a newer grader says of the same answers is no reason to ask for them again, and neither are
    controls that it has more.
    """
    try:
        there = read_report(folder).conditions
        predictions = read_predictions(folder, ["id"])
    except DataError:
        return False
    wanted = replace(conditions, grader_version=there.grader_version)
    if set(wanted.control_passes) <= set(there.control_passes):
        wanted = replace(
            wanted, control_passes=there.control_passes, reader=wanted.reader or there.reader
        )
    # The control `blind` may be there by either setting.
    if there.blind and "blind" in there.control_passes:
        wanted = replace(wanted, blind=True)
    return there == wanted and len(predictions) == config.evaluation.count(problems) > 0


def in_a_line(report: Report) -> str:
    """The figures of an evaluation, for a terminal."""
    low, high = report.accuracy_ci95
    parts = [f"accuracy {report.accuracy:.1%} [{low:.1%}, {high:.1%}]"]
    if report.k:
        parts.append(f"pass@{report.k} {report.pass_at_k:.1%}")
    if report.blind_accuracy is not None:
        parts.append(f"blind {report.blind_accuracy:.1%}")
    asked, controls = report.conditions.control_passes, report.controls
    if report.second_pass is not None and "scan_only" not in asked:
        parts.append(f"from the scan {report.second_pass.scan_only_accuracy:.1%}")
    if asked and controls is not None:
        shown = controls.by_name
        others = [name for name in asked if name in shown and name != "blind"]
        parts += [f"{name} {shown[name].accuracy:.1%}" for name in others]
        if (seeing := controls.seeing) is not None:
            lowest = "-inf" if seeing.ci95[0] is None else f"{seeing.ci95[0]:.1%}"
            parts.append(f"seeing {seeing.value:.1%} [{lowest}, {seeing.ci95[1]:.1%}]")
    failed = sum(report.failed.values())
    return "  ".join([*parts, *([f"{failed} requests failed"] if failed else [])])
