"""A policy, on held-out problems: greedy, blind, and sampled for pass@k.

Three passes over the same problems, so many requests at a time:
    greedy    temperature 0, one sample: the accuracy that is reported and compared;
    blind     the same with the picture replaced by a white one: what the text alone gives away;
    sampled   k samples at the training temperature, seeded by problem: pass@k.
Where the run's reward has a second pass, two more, greedy as well:
    question_only  the answer without image and scan;
    scan_only      the answer from the greedy answer's masked scan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import tinker

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.shards import StoredProblems
from visual_r1.errors import BackendError, DataError, RequestFailed, RequestRefused
from visual_r1.evaluation.kept import Kept, find_kept
from visual_r1.evaluation.metrics import (
    REPORT_NAME,
    Conditions,
    Report,
    measure,
    read_report,
    write_report,
)
from visual_r1.evaluation.predictions import (
    PREDICTIONS_NAME,
    GradedResponse,
    Pass,
    Prediction,
    read_predictions,
    write_predictions,
)
from visual_r1.evaluation.slices import known_in
from visual_r1.grading import GRADER_VERSION, extract_answer
from visual_r1.hashing import stable_seed
from visual_r1.policy.passes import (
    MOST_AT_ONCE,
    Asking,
    Question,
    Reply,
    View,
    question,
    reward_input,
    second_pass,
    second_question,
)
from visual_r1.policy.policy import Policy
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.printing import open_logger
from visual_r1.progress import Progress
from visual_r1.rewards import score
from visual_r1.rewards.grounding import opened
from visual_r1.rewards.scoring import grade_of
from visual_r1.storage import put_aside

logger = open_logger(__name__)

Key = tuple[Pass, int]  # a pass and the index of a problem

VIEWS: dict[Pass, View] = {
    "greedy": "full",
    "blind": "blank",
    "question_only": "question_only",
    "sampled": "full",
    "scan_only": "scan_only",
}

# Beyond this share of refused requests the rest is no fair sample of the problems any more.
MOST_REFUSED = 0.1


def evaluate(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    conditions: Conditions,
    out_dir: Path,
    progress: Progress,
    *,
    earlier: Sequence[Path] = (),
    most_at_once: int = MOST_AT_ONCE,
) -> Report:
    """Evaluate `sampler` on `problems` (the first `evaluation.problems` of them) into `out_dir`.

    `conditions` are those of `conditions_of`. What the evaluation that is there, or one in the
    folders `earlier`, has answered under the same ones is not asked again, pass by pass. Writes
    `predictions.parquet`, and last `report.json`: its presence means that the evaluation is
    complete. Beside the report it holds what was spent: tokens, and their cost at the policy's
    prices. A request that the server refuses is counted as failed and leaves `n`. Where more than a
    tenth are refused, or the server fails, `BackendError` is raised and nothing is written. An
    evaluation that is there and damaged is put aside, with a warning.
    """
    config = policy.config
    count = config.evaluation.count(len(problems))
    if count == 0:
        raise DataError("There is no problem to evaluate on: the test split is empty.")
    passes: list[Pass] = ["greedy"]
    if config.evaluation.blind:
        passes.append("blind")
    passes.extend(
        ("sampled",) if policy.reader is None else ("question_only", "sampled", "scan_only")
    )
    damaged = _damaged(out_dir)
    ids = problems.ids() if isinstance(problems, StoredProblems) else [one.id for one in problems]
    kept = find_kept(out_dir, earlier, conditions, ids[:count])
    _say_what_is_asked(out_dir, kept, passes, count)
    asked: list[Pass] = [name for name in passes if name != "scan_only"]
    there = sum(kept.count(asked).values())
    progress.start(f"evaluate {out_dir.name}", len(asked) * count, "requests", done=there)
    predictions = predict(
        sampler,
        policy,
        problems,
        range(count),
        passes,
        f"the evaluation {out_dir.name!r}",
        progress,
        kept=kept.predictions,
        most_at_once=most_at_once,
    )
    for path in damaged:
        put_aside(path)
    # The report of an earlier evaluation must not vouch for half-written new predictions.
    (out_dir / REPORT_NAME).unlink(missing_ok=True)
    write_predictions(out_dir / PREDICTIONS_NAME, problems, predictions)
    report = measure(predictions, conditions, policy.prices, known_in(out_dir))
    report = replace(report, spending=kept.spent + report.spending, taken_from=kept.taken_from)
    write_report(out_dir, report)
    progress.finish(in_a_line(report))
    return report


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
    elif kept.taken_from and used:
        logger.warning(
            "%s: %s answers are those of %s, asked under the same conditions; %s.",
            folder,
            ", ".join(used),
            kept.taken_from,
            asked,
        )


def predict(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    chosen: Sequence[int],
    passes: Sequence[Pass],
    what: str,
    progress: Progress,
    *,
    kept: Mapping[int, Prediction] = MappingProxyType({}),
    most_at_once: int = MOST_AT_ONCE,
) -> list[Prediction]:
    """The graded answers of `sampler` to the problems with the indices `chosen`, in that order.

    `passes` are which ways of asking; scan_only needs greedy, whose scan it reads. `what` names
    the work for messages, `kept` are answers by index that need not be asked for. Each request but
    those of scan_only advances the open stage of `progress`. Raises `BackendError` as `evaluate`
    does: also where the server failed at a single request, unlike in training, for an evaluation
    over the problems that a failing server happened to answer would be no honest figure.
    """
    before: list[Pass] = [name for name in passes if name != "scan_only"]
    answers = {
        index: _Answers.with_kept(policy, kept[index], passes) for index in chosen if index in kept
    }
    first: list[Key] = [
        (name, index)
        for name in before
        for index in chosen
        if index not in kept or not kept[index].has(name)
    ]
    asking: Asking[Key] = Asking(sampler, what, policy.watch)

    def questions() -> Iterator[tuple[Key, Question]]:
        for name, index in first:
            yield (name, index), _question(policy, problems[index], name)
        for index in kept if "scan_only" in passes else ():
            if not kept[index].has("scan_only") and kept[index].greedy is not None:
                second = answers[index].second_question(problems[index])
                if second is not None:
                    yield ("scan_only", index), second

    greedy = sum(one.greedy is not None for one in answers.values())
    right = sum(one.greedy_right for one in answers.values())
    for (name, index), asked, reply in asking.replies(questions(), most_at_once):
        if isinstance(reply, RequestFailed):
            raise BackendError(str(reply))
        if index not in answers:
            answers[index] = _Answers(policy, asked.problem.id, asked.problem.family)
        answers[index].take(name, asked, reply)
        if name == "greedy" and answers[index].greedy is not None:
            greedy, right = greedy + 1, right + answers[index].greedy_right
            if "scan_only" in passes and (second := answers[index].second_question(asked.problem)):
                asking.ask(("scan_only", index), second)
        if name != "scan_only":
            progress.advance(1, accuracy=right / max(greedy, 1))
    failures = [one for index in chosen for one in answers[index].failures.values()]
    requests = len(before) * len(chosen)
    if len(failures) > MOST_REFUSED * requests:
        raise BackendError(
            f"{len(failures)} of {requests} requests of {what} were refused, too many for the "
            f"rest to be a fair sample; the first with: {failures[0]}"
        )
    return [answers[index].prediction() for index in chosen]


def _question(policy: Policy, problem: Problem, name: Pass) -> Question:
    sampled = name == "sampled"
    return question(
        policy,
        problem,
        VIEWS[name],
        _seed(policy, problem, name),
        samples=policy.config.evaluation.samples if sampled else 1,
        temperature=policy.config.sampling.temperature if sampled else 0.0,
    )


def _seed(policy: Policy, problem: Problem, name: Pass) -> int:
    return stable_seed("evaluation", policy.config.evaluation.seed, problem.id, name)


@dataclass
class _Answers:
    """What has come back so far to one problem, whose pictures are not kept."""

    policy: Policy
    problem_id: str
    family: str
    graded: dict[Pass, tuple[GradedResponse, ...]] = field(
        default_factory=dict[Pass, tuple[GradedResponse, ...]]
    )
    failures: dict[Pass, str] = field(default_factory=dict[Pass, str])
    second: SecondPass | None = None
    question_only: bool | None = None
    spent: Tokens = NO_TOKENS

    @classmethod
    def with_kept(cls, policy: Policy, kept: Prediction, passes: Sequence[Pass]) -> "_Answers":
        """What need not be asked for, of the passes that are wanted."""
        answers = cls(policy, kept.id, kept.family)
        graded: dict[Pass, tuple[GradedResponse, ...]] = {
            "greedy": () if kept.greedy is None else (kept.greedy,),
            "blind": () if kept.blind is None else (kept.blind,),
            "sampled": kept.sampled,
        }
        answers.graded = {name: graded[name] for name in passes if graded.get(name)}
        answers.failures = {name: kept.failures[name] for name in passes if name in kept.failures}
        answers.second = kept.second if "scan_only" in passes else None
        answers.question_only = kept.question_only if "question_only" in passes else None
        return answers

    @property
    def greedy(self) -> GradedResponse | None:
        return next(iter(self.graded.get("greedy", ())), None)

    @property
    def greedy_right(self) -> bool:
        return self.greedy is not None and self.greedy.right

    def take(self, name: Pass, asked: Question, reply: Reply) -> None:
        if isinstance(reply, RequestRefused):
            self.failures[name] = str(reply)
            return
        self.spent += asked.spent(reply)
        if len(reply.sequences) != asked.samples:
            raise BackendError(
                f"The server returned {len(reply.sequences)} of {asked.samples} samples for "
                f"problem {self.problem_id} ({name} pass); pass@k would be wrong, so the "
                "evaluation stops."
            )
        match name:
            case "scan_only":
                self.second = second_pass(self.policy, asked, reply.sequences[0])
            case "question_only":
                sample = reward_input(self.policy, asked, reply.sequences[0])
                self.question_only = grade_of(self.policy.config.reward, sample).right
            case _:
                self.graded[name] = tuple(
                    grade_answer(self.policy, asked, sequence, both_roundings=name == "greedy")
                    for sequence in reply.sequences
                )

    def second_question(self, problem: Problem) -> Question | None:
        """What asks for the answer from the scan of the greedy answer; None where it ends here."""
        if self.greedy is None or self.policy.reader is None:
            return None
        seed = _seed(self.policy, problem, "scan_only")
        found = second_question(self.policy, problem, self.greedy.response, seed, temperature=0.0)
        if isinstance(found, Question):
            return found
        self.second = found
        return None

    def prediction(self) -> Prediction:
        return Prediction(
            id=self.problem_id,
            family=self.family,
            greedy=self.greedy,
            blind=next(iter(self.graded.get("blind", ())), None),
            sampled=self.graded.get("sampled", ()),
            failures={name: self.failures[name] for name in VIEWS if name in self.failures},
            second=self.second,
            question_only=self.question_only,
            spent=self.spent,
        )


def grade_answer(
    policy: Policy, asked: Question, sequence: tinker.SampledSequence, *, both_roundings: bool
) -> GradedResponse:
    """Grade one sampled response as training does, and on demand under both roundings."""
    # A user's own component says nothing about the answer, and must not fail an evaluation.
    reward = policy.config.reward.model_copy(update={"custom": None})
    sample = reward_input(policy, asked, sequence)
    scored = score(reward, sample)
    exact = rounded = None
    if both_roundings:
        other = "exact" if reward.rounding == "rounded" else "rounded"
        again = grade_of(reward.model_copy(update={"rounding": other}), sample)
        verdicts = {reward.rounding: scored.grade.verdict, other: again.verdict}
        exact, rounded = verdicts["exact"] == "right", verdicts["rounded"] == "right"
    return GradedResponse(
        response=sample.response,
        extracted=extract_answer(opened(sample.response, sample.opens_think)),
        verdict=scored.grade.verdict,
        reason=scored.grade.reason,
        right_exact=exact,
        right_rounded=rounded,
        format_ok=scored.components["format"] > 0,
        grounded=scored.components["visual_grounding"] > 0,
        truncated=sample.truncated,
        tokens=len(sample.tokens),
    )


def conditions_of(config: RunConfig, sampler_path: str, dataset_digest: str) -> Conditions:
    """Under which an evaluation by this configuration is made."""
    return Conditions(
        sampler_path=sampler_path,
        model=config.model.name,
        dataset_digest=dataset_digest,
        seed=config.evaluation.seed,
        k=config.evaluation.samples,
        temperature=config.sampling.temperature,
        max_new_tokens=config.sampling.max_new_tokens,
        template=config.prompt.template,
        rounding=config.reward.rounding,
        grader_version=str(GRADER_VERSION),
        blind=config.evaluation.blind,
        thinking=config.model.thinking,
    )


def is_complete(folder: Path, config: RunConfig, conditions: Conditions, problems: int) -> bool:
    """Whether the folder holds a whole evaluation under these conditions, of a split with so many
    problems.

    What a newer grader says of the same answers is no reason to ask for them again.
    """
    try:
        there = read_report(folder).conditions
        predictions = read_predictions(folder, ["id"])
    except DataError:
        return False
    same = there == replace(conditions, grader_version=there.grader_version)
    return same and len(predictions) == config.evaluation.count(problems) > 0


def in_a_line(report: Report) -> str:
    """The figures of an evaluation, for a terminal."""
    low, high = report.accuracy_ci95
    parts = [
        f"accuracy {report.accuracy:.1%} [{low:.1%}, {high:.1%}]",
        f"pass@{report.k} {report.pass_at_k:.1%}",
    ]
    if report.blind_accuracy is not None:
        parts.append(f"blind {report.blind_accuracy:.1%}")
    if report.second_pass is not None:
        parts.append(f"from the scan {report.second_pass.scan_only_accuracy:.1%}")
    failed = sum(report.failed.values())
    return "  ".join([*parts, *([f"{failed} requests failed"] if failed else [])])
