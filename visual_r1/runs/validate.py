"""Validation: a checkpoint on held-out problems between the steps of training.

Greedy, and with the image blanked, on the same problems of the `validation` split each time. That
takes a sampler and touches nothing else, so the weights are the same with and without it. The test
split is for the reported evaluation alone, and train is for training: a dataset without a
validation split is not validated on.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.data.shards import KeptProblems
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.metrics import measure
from visual_r1.evaluation.predict import predict
from visual_r1.evaluation.prediction import Pass, Prediction
from visual_r1.hashing import stable_seed
from visual_r1.prices import Prices
from visual_r1.printing import open_logger
from visual_r1.runs.labels import labels_of_run
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.retention import renew_and_prune
from visual_r1.runs.run import Run
from visual_r1.runs.validations import ValidationRow, is_due
from visual_r1.wording import percent, percent_range

logger = open_logger(__name__)


def validate(run: Run, checkpoint: LedgerRow | None) -> ValidationRow | None:
    """Validate `checkpoint` (None: what the run begins with), record it, then prune old ones.

    None where it is not due, and with a warning where its weights have gone from the server. A row
    that is there is returned as it is. Pruning waits for the newest checkpoint, so that none goes
    before it could turn out the best. Raises `BackendError` as `evaluate` does.
    """
    step = checkpoint.step if checkpoint else 0
    if not is_due(run.config, run.dataset, step):
        return None
    backend = run.backend
    path = _weights(run, checkpoint) or run.config.model.name
    row = run.validations.of(step, path)
    if row is None and checkpoint is not None and not backend.has_checkpoint(path):
        logger.warning("Step %d is not validated: %s has gone from the server.", step, path)
        return None
    if row is None:
        row = backend.recoveries.run(
            lambda: _validated(run, checkpoint), f"the validation of step {step}"
        )
        run.validations.record(row)
    if checkpoint is not None and checkpoint.step == run.ledger.rows()[-1].step:
        renew_and_prune(run)
    return row


def chosen_problems(config: RunConfig, count: int) -> Sequence[int]:
    """Which of `count` validation problems are used, in order: the same in the whole run."""
    wanted = config.validation.problems
    if wanted is None or wanted >= count:
        return range(count)
    draw = random.Random(stable_seed("validation", config.validation.seed))
    return sorted(draw.sample(range(count), wanted))


def validation_problems(run: Run) -> tuple[Sequence[Problem], Sequence[int]]:
    """The validation split by the run's labels, and the places in it of those that are used: not
    of those that a person dropped."""
    problems = run.dataset.problems("validation")
    labels = labels_of_run(run.config.run_dir).of("validation")
    chosen = chosen_problems(run.config, len(problems))
    if not labels.rows:
        return problems, chosen
    kept = [place for place in chosen if place not in labels.dropped]
    return KeptProblems(problems, answers=labels.answers), kept


def _validated(run: Run, checkpoint: LedgerRow | None) -> ValidationRow:
    began = time.monotonic()
    config, backend, progress = run.config, run.backend, run.progress
    step = checkpoint.step if checkpoint else 0
    problems, chosen = validation_problems(run)
    passes: tuple[Pass, ...] = ("greedy", "blind") if config.validation.blind else ("greedy",)
    policy = run.policy()
    progress.start(f"validate step {step}", len(passes) * len(chosen), "requests")
    with backend.session():
        predictions = predict(
            backend.sampler(_weights(run, checkpoint)),
            policy,
            problems,
            chosen,
            passes,
            f"the validation of step {step}",
            progress,
        )
    seconds = time.monotonic() - began
    row = _row(run, checkpoint, predictions, seconds, policy.prices)
    blind = "" if row.blind_accuracy is None else f"  blind {percent(row.blind_accuracy)}"
    progress.finish(f"accuracy {percent(row.accuracy)} {percent_range(row.accuracy_ci95)}{blind}")
    return row


def _weights(run: Run, checkpoint: LedgerRow | None) -> str | None:
    """Those of `checkpoint`, or those that the run begins with; None is the base model."""
    return checkpoint.sampler_path if checkpoint else run.config.model.start_from


def _row(
    run: Run,
    checkpoint: LedgerRow | None,
    predictions: Sequence[Prediction],
    seconds: float,
    prices: Prices,
) -> ValidationRow:
    config = run.config
    path = _weights(run, checkpoint) or config.model.name
    conditions = conditions_of(config, path, run.dataset.digest)
    found = measure(predictions, replace(conditions, blind=config.validation.blind), prices)
    return ValidationRow(
        step=checkpoint.step if checkpoint else 0,
        n=found.n,
        correct=found.correct,
        accuracy=found.accuracy,
        accuracy_ci95=found.accuracy_ci95,
        blind_n=found.blind_n,
        blind_accuracy=found.blind_accuracy,
        blind_accuracy_ci95=found.blind_accuracy_ci95,
        format_rate=found.format_rate,
        mean_response_tokens=found.mean_response_tokens,
        truncated=found.truncated,
        gave_up=found.gave_up,
        failed=sum(found.failed.values()),
        right="".join("-" if p.greedy is None else str(int(p.greedy.right)) for p in predictions),
        sampler_path=path,
        seconds=round(seconds, 3),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        tokens_prefill=found.spending.tokens_prefill or 0,
        tokens_sampled=found.spending.tokens_sampled or 0,
        cost_usd=found.spending.cost_usd,
        tokens_cached=found.spending.tokens_cached or 0,
    )
