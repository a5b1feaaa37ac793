"""A policy, on held-out problems: greedy, blind, and sampled for pass@k.

Three passes over the same problems, all requests in one bounded window:
    greedy    temperature 0, one sample: the accuracy that is reported and compared;
    blind     the same with the picture replaced by a white one: what the text alone gives away;
    sampled   k samples at the training temperature, seeded by problem: pass@k.
Where the run's reward has a second pass, two more, greedy as well:
    question_only  the answer without image and scan;
    scan_only      the answer from the greedy answer's masked scan.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tinker

from visual_r1.backend.waiting import WINDOW, Watch, answered, nothing_to_watch
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError, DataError, RequestRefused
from visual_r1.evaluation.metrics import (
    REPORT_NAME,
    Answer,
    Conditions,
    Prediction,
    Report,
    measure,
)
from visual_r1.evaluation.predictions import FILE_NAME, write_predictions
from visual_r1.grading import GRADER_VERSION, extract_answer
from visual_r1.hashing import stable_seed
from visual_r1.models.processor import Processor
from visual_r1.policy.policy import Policy, response_text
from visual_r1.policy.second_pass import ScanReader, SecondPass
from visual_r1.prices import NO_PRICES, NO_TOKENS, Prices, Tokens, total
from visual_r1.progress import Progress
from visual_r1.prompts.prompts import Prompter
from visual_r1.rewards import RewardInput, score
from visual_r1.rewards.blindfold.masking import MaskedScan
from visual_r1.rewards.grounding import opened
from visual_r1.storage import write_json

Pass = Literal["greedy", "blind", "question_only", "sampled", "scan_only"]
Key = tuple[Pass, int]  # a pass and the index of a problem

# Beyond this share of refused requests the rest is no fair sample of the problems any more.
MOST_REFUSED = 0.1


def evaluate(
    sampler: tinker.SamplingClient,
    prompter: Prompter,
    processor: Processor,
    problems: Sequence[Problem],
    config: RunConfig,
    sampler_path: str,
    out_dir: Path,
    progress: Progress,
    *,
    dataset_digest: str = "",
    watch: Watch = nothing_to_watch,
    window: int = WINDOW,
    prices: Prices = NO_PRICES,
) -> Report:
    """Evaluate `sampler` on `problems` (the first `evaluation.problems` of them) into `out_dir`.

    Writes `predictions.parquet`, and last `report.json`: its presence means that the evaluation is
    complete. Beside the report it holds what was spent: tokens, and their cost at `prices`. A
    request that the server refuses is counted as failed and leaves `n`. Where more than a tenth
    are refused, or the server fails, `BackendError` is raised and nothing is written.
    `watch` is called about once a second while waiting, and raises when the server has died.
    """
    policy = Policy(prompter, processor, config, watch)
    count = min(len(problems), config.evaluation.problems or len(problems))
    if count == 0:
        raise DataError("There is no problem to evaluate on: the test split is empty.")
    what, passes = f"the evaluation {out_dir.name!r}", _passes(policy)
    asked = sum(name != "scan_only" for name in passes)
    progress.start(f"evaluate {out_dir.name}", asked * count, "requests")
    predictions = predict(
        sampler, policy, problems, range(count), passes, what, progress, window=window
    )
    report = measure(predictions, conditions_of(config, sampler_path, dataset_digest))
    _write(out_dir, problems, predictions, report, prices)
    progress.finish(in_a_line(report))
    return report


def predict(
    sampler: tinker.SamplingClient,
    policy: Policy,
    problems: Sequence[Problem],
    chosen: Sequence[int],
    passes: Sequence[Pass],
    what: str,
    progress: Progress,
    *,
    window: int = WINDOW,
) -> list[Prediction]:
    """The graded answers of `sampler` to the problems with the indices `chosen`, in that order.

    `passes` are which ways of asking; scan_only needs greedy. `what` names the work for messages.
    Each request advances the open stage of `progress`. Raises `BackendError` as `evaluate` does.
    """
    first: list[Pass] = [name for name in passes if name != "scan_only"]
    keys: list[Key] = [(name, index) for name in first for index in chosen]
    answers = _Answers()
    sent = ((key, _send(sampler, policy, problems[key[1]], key, answers)) for key in keys)
    for key, response in answered(sent, what, policy.watch, window=window):
        answers.take(policy, problems[key[1]], key, response)
        progress.advance(1, accuracy=answers.accuracy_so_far)
    if policy.reader is not None and "scan_only" in passes:
        asked = _read_scans(policy, policy.reader, answers, problems, chosen)
        again = ((key, sampler.sample(prompt, 1, params)) for key, prompt, params in asked)
        for key, response in answered(again, what, policy.watch, window=window):
            answers.take(policy, problems[key[1]], key, response)
    _require_most(answers, keys, what)
    return [answers.prediction(problems[index], index) for index in chosen]


def _passes(policy: Policy) -> tuple[Pass, ...]:
    """All that an evaluation asks."""
    blind: tuple[Pass, ...] = ("blind",) if policy.config.evaluation.blind else ()
    if policy.reader is None:
        return ("greedy", *blind, "sampled")
    return ("greedy", *blind, "question_only", "sampled", "scan_only")


def _send(
    sampler: tinker.SamplingClient, policy: Policy, problem: Problem, key: Key, answers: "_Answers"
) -> "tinker.APIFuture[tinker.SampleResponse]":
    name = key[0]
    if name == "question_only" and policy.reader is not None:
        prompt = policy.reader.question_prompt(problem)
    else:
        prompt = policy.prompter.model_input(problem, image="blank" if name == "blind" else "full")
    answers.asked[key] = prompt.length
    samples = policy.config.evaluation.samples if name == "sampled" else 1
    return sampler.sample(prompt, samples, _params(policy, problem, name))


def _params(policy: Policy, problem: Problem, name: Pass) -> tinker.SamplingParams:
    config = policy.config
    return tinker.SamplingParams(
        max_tokens=config.sampling.max_new_tokens,
        temperature=config.sampling.temperature if name == "sampled" else 0.0,
        seed=stable_seed("evaluation", config.evaluation.seed, problem.id, name),
        stop=policy.processor.stop_token_ids,
    )


@dataclass
class _Answers:
    """What has come back so far, by pass and problem."""

    graded: dict[Key, tuple[Answer, ...]] = field(default_factory=dict[Key, tuple[Answer, ...]])
    refused: dict[Key, str] = field(default_factory=dict[Key, str])
    seconds: dict[int, SecondPass] = field(default_factory=dict[int, SecondPass])
    reading: dict[int, tuple[MaskedScan, tinker.ModelInput]] = field(
        default_factory=dict[int, tuple[MaskedScan, tinker.ModelInput]]
    )
    question_only: dict[int, bool] = field(default_factory=dict[int, bool])
    asked: dict[Key, int] = field(default_factory=dict[Key, int])  # tokens of the prompt
    spent: dict[int, Tokens] = field(default_factory=dict[int, Tokens])
    greedy_right: int = 0
    greedy_n: int = 0

    def take(
        self,
        policy: Policy,
        problem: Problem,
        key: Key,
        response: tinker.SampleResponse | RequestRefused,
    ) -> None:
        if isinstance(response, RequestRefused):
            self.refused[key] = str(response)
            return
        name, index = key
        sampled = sum(len(sequence.tokens) for sequence in response.sequences)
        before = self.spent.get(index, NO_TOKENS)
        self.spent[index] = before + Tokens(prefill=self.asked.pop(key), sample=sampled)
        asked = policy.config.evaluation.samples if name == "sampled" else 1
        if len(response.sequences) != asked:
            raise BackendError(
                f"The server returned {len(response.sequences)} of {asked} samples for problem "
                f"{problem.id} ({name} pass); pass@k would be wrong, so the evaluation stops."
            )
        if name in ("scan_only", "question_only"):
            self._take_unseen(policy, problem, key, response.sequences[0])
            return
        answers = tuple(
            grade_answer(policy, problem, sequence, both_roundings=name == "greedy")
            for sequence in response.sequences
        )
        self.graded[key] = answers
        if name == "greedy":
            self.greedy_n += 1
            self.greedy_right += answers[0].right

    def _take_unseen(
        self, policy: Policy, problem: Problem, key: Key, sequence: tinker.SampledSequence
    ) -> None:
        reader, (name, index) = policy.reader, key
        assert reader is not None
        text = response_text(policy.processor, sequence.tokens)
        if name == "question_only":
            self.question_only[index] = reader.grade_question_only(problem, text).right
            return
        scan, prompt = self.reading.pop(index)
        tokens = len(sequence.tokens)
        self.seconds[index] = reader.graded(problem, scan, prompt, text, tokens)

    @property
    def accuracy_so_far(self) -> float:
        return self.greedy_right / max(self.greedy_n, 1)

    def prediction(self, problem: Problem, index: int) -> Prediction:
        names: tuple[Pass, ...] = ("greedy", "blind", "question_only", "sampled", "scan_only")
        return Prediction(
            id=problem.id,
            family=problem.family,
            greedy=next(iter(self.graded.get(("greedy", index), ())), None),
            blind=next(iter(self.graded.get(("blind", index), ())), None),
            sampled=self.graded.get(("sampled", index), ()),
            failures={n: self.refused[n, index] for n in names if (n, index) in self.refused},
            second=self.seconds.get(index),
            question_only=self.question_only.get(index),
            spent=self.spent.get(index, NO_TOKENS),
        )


def _read_scans(
    policy: Policy,
    reader: ScanReader,
    answers: _Answers,
    problems: Sequence[Problem],
    chosen: Sequence[int],
) -> Iterator[tuple[Key, tinker.ModelInput, tinker.SamplingParams]]:
    """The second passes of the greedy answers that are worth asking; the others end here."""
    for index in chosen:
        problem = problems[index]
        for greedy in answers.graded.get(("greedy", index), ()):
            seen = reader.look(problem, greedy.response, opens_think=policy.prompter.opens_think)
            if isinstance(seen, SecondPass):
                answers.seconds[index] = seen
                continue
            prompt = reader.prompt(problem, seen)
            answers.reading[index] = seen, prompt
            answers.asked["scan_only", index] = prompt.length
            yield ("scan_only", index), prompt, _params(policy, problem, "scan_only")


def grade_answer(
    policy: Policy, problem: Problem, sequence: tinker.SampledSequence, *, both_roundings: bool
) -> Answer:
    """Grade one sampled response as training does, and on demand under both roundings."""
    # A user's own component says nothing about the answer, and must not fail an evaluation.
    reward = policy.config.reward.model_copy(update={"custom": None})
    response = response_text(policy.processor, sequence.tokens)
    truncated = sequence.stop_reason == "length"
    opens_think, tags = policy.prompter.opens_think, policy.prompter.tags
    sample = RewardInput(problem, response, truncated, 0, opens_think, tags)
    scored = score(reward, sample)
    exact = rounded = None
    if both_roundings:
        other = "exact" if reward.rounding == "rounded" else "rounded"
        again = score(reward.model_copy(update={"rounding": other}), sample)
        verdicts = {reward.rounding: scored.grade.verdict, other: again.grade.verdict}
        exact, rounded = verdicts["exact"] == "right", verdicts["rounded"] == "right"
    return Answer(
        response=response,
        extracted=extract_answer(opened(response, sample.opens_think)),
        verdict=scored.grade.verdict,
        reason=scored.grade.reason,
        right_exact=exact,
        right_rounded=rounded,
        format_ok=scored.components["format"] > 0,
        grounded=scored.components["visual_grounding"] > 0,
        truncated=truncated,
        tokens=len(sequence.tokens),
    )


def _require_most(answers: _Answers, keys: Sequence[Key], what: str) -> None:
    refused = len(answers.refused)
    if refused > MOST_REFUSED * len(keys):
        first = next(iter(answers.refused.values()))
        raise BackendError(
            f"{refused} of {len(keys)} requests of {what} were refused, too many for the rest to "
            f"be a fair sample; the first with: {first}"
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
    )


def _write(
    out_dir: Path,
    problems: Sequence[Problem],
    predictions: Sequence[Prediction],
    report: Report,
    prices: Prices,
) -> None:
    # The report of an earlier evaluation must not vouch for half-written new predictions.
    (out_dir / REPORT_NAME).unlink(missing_ok=True)
    write_predictions(out_dir / FILE_NAME, problems, predictions)
    spent = total(prediction.spent for prediction in predictions)
    paid = {
        "tokens_prefill": spent.prefill,
        "tokens_sampled": spent.sample,
        "cost_usd": prices.cost(spent),
    }
    write_json(out_dir / REPORT_NAME, report.to_json() | paid)


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
