"""Whether the next chunk still fits a budget, foretold from the chunks so far.

    spent + 1.05 (chunk + final) > budget        ends the run here

`chunk` is the next chunk and its validation: its steps at the mean of the most expensive chunk so
far, kind by kind of token, and where the newest chunk took more a step than the one before, as much
more again. `final` is the evaluation at the end: what the baseline took, its answers as much longer
as the newest steps' are. Before there is a chunk, both are worked out from the lengths of prompts
and of the baseline's answers.

All of it is a function of what is on record at the checkpoint, so a run that is killed and started
again ends where it would have. It is a forecast: a chunk that takes more than any before may pass
the budget by that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import Problem
from visual_r1.doctor.estimates import (
    Bound,
    evaluation_tokens,
    held_out_tokens,
    step_tokens,
    validation_tokens,
)
from visual_r1.doctor.evidence import (
    Evidence,
    earlier_evidence,
    of_baseline,
    share_without_contrast,
)
from visual_r1.doctor.prompts import LOOKED_AT, PromptSizes, measure_prompts
from visual_r1.errors import BudgetReached, DataError
from visual_r1.evaluation.metrics import Report, read_reports
from visual_r1.prices import NO_TOKENS, Payment, Tokens, total
from visual_r1.report.summary import BASELINE
from visual_r1.runs.budget import (
    Budget,
    BudgetEnd,
    budgets_of,
    note_budget_end,
    read_budget_end,
    shown,
)
from visual_r1.runs.chunk import ChunkPlan, plan_chunk
from visual_r1.runs.journal import MetricsRow, read_metrics
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.training_rows import training_problems
from visual_r1.runs.validations import validated_steps

MARGIN = 1.05
"""A twentieth more than is foretold: answers are drawn, and no two evaluations take the same."""

LEAST_ANSWER = 1.0
"""Tokens of an answer of which nothing is known: no answer has fewer."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What comes before a run can end: the next chunk with what is validated, and the evaluation
    at the end."""

    chunk: Tokens
    final: Tokens


def require_first_chunk(config: RunConfig, dataset: Dataset) -> None:
    """Raise `BudgetReached` where no chunk fits a budget, before a run has one.

    Called before the baseline is asked for, and after: where nothing is known of the answers'
    length, a run is refused before it whose prompts alone are too much, and any other after it.
    Raises `ConfigError` as `budgets_of` does.
    """
    budgets = budgets_of(config)
    if not budgets or Ledger(config.run_dir).rows():
        return
    baseline = read_reports(config.run_dir).get(BASELINE)
    evidence = earlier_evidence(config) if baseline is None else of_baseline(config.run_dir)
    answer = evidence.response_tokens if evidence and evidence.response_tokens else LEAST_ANSWER
    plan, prompts = plan_chunk(config, 0), _prompts(config, dataset, None)
    bound: Bound = "about" if evidence else "least"
    ahead = _worked_out(config, dataset, plan, prompts, answer, evidence, bound)
    # Where another run knows how long answers are, it may have asked the base model the same; what
    # the weights of a start answer is kept for nobody.
    may_be_there = evidence is not None and config.model.start_from is None
    asked = NO_TOKENS if baseline is not None or may_be_there else ahead.final
    needed = (asked + ahead.chunk + ahead.final) * (MARGIN if evidence else 1.0)
    for budget in budgets:
        # But for the validation of the base model, which is foretold: it may be made, or may not.
        spent, needs = budget.spent(config.run_dir, -1), budget.amount(needed)
        if spent + needs > budget.limit:
            so_far = f", and {shown(budget.setting, spent)} were spent" if spent else ""
            least = "at least" if evidence is None else "about"
            raise BudgetReached(
                f"{budget.setting} is {shown(budget.setting, budget.limit)}{so_far}: the first "
                f"chunk ({plan.in_words}) takes {least} {shown(budget.setting, needs)} with the "
                "evaluations around it. Raise it, or ask for less: train.chunk_steps, "
                "train.batch_size, train.group_size, evaluation.problems or evaluation.samples; "
                "visual-r1 doctor --budget proposes what fits."
            )


def budget_end(config: RunConfig, dataset: Dataset, checkpoint: LedgerRow) -> BudgetEnd | None:
    """How the run ends at `checkpoint` by a budget; None where it goes on.

    Looks at the newest checkpoint alone: those before it were looked at when they were new. What is
    decided is on record, see `runs.budget`.
    """
    rows = Ledger(config.run_dir).rows()
    if not rows or rows[-1].step != checkpoint.step:
        return None
    budgets = budgets_of(config) if checkpoint.step < config.train.steps else ()
    decided = read_budget_end(config.run_dir, checkpoint.step)
    if budgets and decided is not None and decided.is_of(config):
        return decided
    end = None
    if budgets:
        ahead = foretold(config, dataset, checkpoint)
        ends = (_end(budget, config, checkpoint.step, ahead) for budget in budgets)
        end = next((one for one in ends if one is not None), None)
    note_budget_end(config.run_dir, end)
    return end


def _end(budget: Budget, config: RunConfig, step: int, ahead: Ahead) -> BudgetEnd | None:
    spent = budget.spent(config.run_dir, step)
    chunk, final = budget.amount(ahead.chunk), budget.amount(ahead.final)
    if spent + chunk + final <= budget.limit:
        return None
    return BudgetEnd(budget.setting, budget.limit, step, config.train.steps, spent, chunk, final)


def foretold(config: RunConfig, dataset: Dataset, checkpoint: LedgerRow) -> Ahead:
    """What the chunk after `checkpoint` and the evaluation at the end will take."""
    plan = plan_chunk(config, checkpoint.step)
    rows = [row for row in read_metrics(config.run_dir) if row["step"] < checkpoint.step]
    baseline = read_reports(config.run_dir).get(BASELINE)
    newest = [row for row in rows if row["step"] >= checkpoint.step - config.train.chunk_steps]
    answer = _mean_answer(newest, baseline)
    prompts = _prompts(config, dataset, checkpoint)
    ahead = _worked_out(config, dataset, plan, prompts, answer, of_baseline(config.run_dir))
    if rows:
        steps = _step_of_the_next(rows, config.train.chunk_steps) * len(plan.steps)
        ahead = replace(ahead, chunk=steps + _validation(config, dataset, plan, prompts, answer))
    if baseline is not None and baseline.taken_from is None and baseline.spending.tokens_sampled:
        spent = baseline.spending
        longer = max(1.0, answer / max(baseline.mean_response_tokens, 1.0))
        counted = Payment.of(spent).tokens
        final = replace(counted, sample=counted.sample * longer)
        ahead = replace(ahead, final=final)
    return Ahead(ahead.chunk * MARGIN, ahead.final * MARGIN)


def _worked_out(
    config: RunConfig,
    dataset: Dataset,
    plan: ChunkPlan,
    prompts: PromptSizes,
    answer: float,
    evidence: Evidence | None,
    bound: Bound = "about",
) -> Ahead:
    """From the lengths of prompts and answers alone."""
    share = share_without_contrast(evidence.counts, config.train.group_size) if evidence else None
    chunk = step_tokens(config, prompts, answer, share, bound) * len(plan.steps)
    chunk += _validation(config, dataset, plan, prompts, answer)
    held_out = held_out_tokens(config, prompts, answer, dataset.counts.get("validation", 0))
    chunk += held_out * (2 if plan.first == 0 else 1)
    tested = _sizes(config, dataset.problems("test"), prompts)
    return Ahead(chunk, evaluation_tokens(config, tested, answer, dataset.counts["test"]))


def _validation(
    config: RunConfig, dataset: Dataset, plan: ChunkPlan, prompts: PromptSizes, answer: float
) -> Tokens:
    """What is validated with a chunk: its checkpoint, and with the first the base model."""
    due = {plan.end, *([0] if plan.first == 0 else [])} & set(validated_steps(config))
    rows = dataset.counts.get("validation", 0)
    return validation_tokens(config, prompts, answer, rows) * len(due)


def _step_of_the_next(rows: Sequence[MetricsRow], chunk_steps: int) -> Tokens:
    """What a step of the next chunk takes, by those of the chunks so far."""
    chunks = [
        [Payment.of_step(row).tokens for row in together]
        for _, together in groupby(rows, lambda row: row["step"] // chunk_steps)
    ]
    means = [total(steps) * (1 / len(steps)) for steps in chunks]
    most = Tokens(
        prefill=max(one.prefill for one in means),
        sample=max(one.sample for one in means),
        train=max(one.train for one in means),
        cached=max(one.cached for one in means),
    )
    grown = means[-1].count / means[-2].count if len(means) > 1 and means[-2].count else 1.0
    return most * max(1.0, grown)


def _mean_answer(rows: Sequence[Mapping[str, Any]], baseline: Report | None) -> float:
    """Tokens of an answer in the newest steps, or in the baseline where they were longer."""
    lengths = [row["response_tokens_mean"] for row in rows if row.get("response_tokens_mean")]
    before = baseline.mean_response_tokens if baseline is not None else LEAST_ANSWER
    return max(before, sum(lengths) / len(lengths) if lengths else 0.0)


def _prompts(config: RunConfig, dataset: Dataset, start: LedgerRow | None) -> PromptSizes:
    return measure_prompts(config, training_problems(config, dataset, start)[:LOOKED_AT])


def _sizes(config: RunConfig, problems: Sequence[Problem], others: PromptSizes) -> PromptSizes:
    """Of these prompts; where one of them cannot be made, and counts as failed, of the `others`."""
    try:
        return measure_prompts(config, problems[:LOOKED_AT])
    except DataError:
        return others
