"""How a model does on a dataset, from an earlier run or one real step; and what that foretells.

A problem that is solved with probability p gives a group of G without contrast (all samples right,
or all wrong) with probability p^G + (1 - p)^G. The mean of that over problems is what matters, and
it is far larger than the same formula at the mean of p: most problems are easy or hard. So p's
spread is estimated too.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError, VisualR1Error
from visual_r1.evaluation.metrics import evaluation_folder, read_report
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.policy.policy import open_policy
from visual_r1.prices import prices_of
from visual_r1.rl.batches import Batches, EpochOrder
from visual_r1.rl.step import StepResult, train_steps
from visual_r1.runs.chunk import open_training
from visual_r1.runs.config_file import read_config
from visual_r1.runs.journal import read_metrics

_NEWEST_STEPS = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured figures; None where they are not known.

    `counts` has (right, samples) of each problem that was sampled at the training temperature.
    Rates are in tokens a second, over the time that a step samples, or trains; training counts
    prompt and answer.
    """

    where: str
    counts: tuple[tuple[int, int], ...]
    response_tokens: float | None
    truncated_share: float | None
    sample_rate: float | None
    train_rate: float | None
    checkpoint_seconds: float | None = None


def earlier_evidence(config: RunConfig) -> Evidence | None:
    """Of this run where it has begun, else of the newest run of the same model, data and prompt."""
    folders = sorted(
        config.run_dir.parent.glob("*/config.json"), key=lambda path: path.stat().st_mtime
    )
    candidates = [path.parent for path in reversed(folders) if path.parent != config.run_dir]
    for run_dir in (config.run_dir, *candidates):
        if run_dir == config.run_dir or _is_like(run_dir, config):
            found = _of_run(run_dir)
            if found is not None:
                return found
    return None


def measured_step(config: RunConfig, backend: Backend, problems: tuple[Problem, ...]) -> Evidence:
    """Run one real step on an adapter of its own, which is then thrown away.

    So it also shows that this server does all that training asks of it. Raises `BackendError`
    where it does not.
    """
    policy = open_policy(config, backend.check, prices_of(config, backend.kind))
    size = min(config.train.batch_size, len(problems))
    order = EpochOrder(config.train.model_copy(update={"batch_size": size}), len(problems))
    results: list[StepResult] = []
    with (
        backend.session() as service,
        Batches(problems, order, policy.prompter.model_input, range(1)) as batches,
    ):
        training = open_training(config, service, None, policy)
        train_steps(range(1), training, policy, batches, None, results.append)
    [result] = results
    groups = Counter(one.rollout.group for one in result.rollouts)
    right = Counter(one.rollout.group for one in result.rollouts if one.rollout.right)
    rates = _rates([result.metrics.row()])
    return Evidence(
        where=f"one real step of {size} problems x {config.train.group_size}",
        counts=tuple((right[group], samples) for group, samples in groups.items()),
        response_tokens=result.metrics.samples.response_tokens_mean,
        truncated_share=result.metrics.samples.truncated_share,
        sample_rate=rates[0],
        train_rate=rates[1],
    )


def _is_like(run_dir: Path, config: RunConfig) -> bool:
    """Whether the run there has the same weights to begin with, data, prompt and sampling, or
    responses."""
    try:
        other = read_config(run_dir)
    except VisualR1Error:
        return False
    return (
        other is not None
        and other.model.name == config.model.name
        and other.model.thinking == config.model.thinking
        and other.model.start_from == config.model.start_from
        and other.data.source == config.data.source
        and other.prompt.template == config.prompt.template
        and other.sampling == config.sampling
        and other.sft == config.sft
    )


def _of_run(run_dir: Path) -> Evidence | None:
    """What its baseline evaluation and its newest steps say; None where there is neither."""
    baseline = of_baseline(run_dir)
    metrics = read_metrics(run_dir)[-_NEWEST_STEPS:]
    if not metrics:
        return baseline
    lengths = [row["response_tokens_mean"] for row in metrics if row.get("response_tokens_mean")]
    cut = [row["truncated_share"] for row in metrics if row.get("truncated_share") is not None]
    if not cut and baseline is not None and baseline.truncated_share is not None:
        cut = [baseline.truncated_share]
    saving = [row["seconds_checkpoint"] for row in metrics if row.get("seconds_checkpoint")]
    sample_rate, train_rate = _rates(metrics)
    return Evidence(
        where=f"the baseline and newest steps of {run_dir.name}",
        counts=baseline.counts if baseline else (),
        response_tokens=median(lengths) if lengths else None,
        truncated_share=median(cut) if cut else None,
        sample_rate=sample_rate,
        train_rate=train_rate,
        checkpoint_seconds=median(saving) if saving else None,
    )


def of_baseline(run_dir: Path) -> Evidence | None:
    """What its baseline evaluation says; None where there is none.

    A damaged one foretells nothing; who goes on with that run is told.
    """
    try:
        folder = evaluation_folder(run_dir, "baseline")
        report, rows = read_report(folder), read_predictions(folder, ["sampled_correct", "k"])
    except DataError:
        return None
    sampled = [row for row in rows if row["sampled_correct"] is not None and row["k"]]
    return Evidence(
        where=f"the baseline of {run_dir.name}",
        counts=tuple((row["sampled_correct"], row["k"]) for row in sampled),
        response_tokens=report.mean_response_tokens,
        truncated_share=report.truncated / report.n if report.n else None,
        sample_rate=None,
        train_rate=None,
    )


def _rates(rows: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """(sampled tokens a second, trained tokens a second), medians over the steps.

    Rows from before all tokens were counted hold what they can be worked out from.
    """
    sampling: list[float] = []
    training: list[float] = []
    for row in rows:
        if row["seconds_sample"]:
            sampled = row.get("tokens_sampled")
            if sampled is None:
                sampled = row["sampled_tokens"] + row.get("second_pass_tokens", 0)
            sampling.append(sampled / row["seconds_sample"])
        if row["updated"] and row["seconds_train"]:
            trained = row.get("tokens_trained")
            if trained is None:  # of updates from at least one group
                prompt = row["prompt_tokens"] / row["groups"]
                trained = row["datums"] * (prompt + row["response_tokens_mean"])
            training.append(trained / row["seconds_train"])
    return median(sampling) if sampling else None, median(training) if training else None


Counts = Sequence[tuple[int, int]]


def share_without_contrast(counts: Counts, group_size: int) -> float | None:
    """The predicted share of groups of `group_size` without contrast.

    Args:
        counts: for each problem, how many of its n samples were right, and n.
        group_size: G.

    Where n >= G, it is unbiased: [C(c, G) + C(n - c, G)] / C(n, G), the share of subsets of G that
    agree (as for pass@k; Chen et al. 2021, arXiv 2107.03374). Else p is taken to follow a Beta
    distribution with the mean and the E[p(1 - p)] that pairs of samples show. None where no problem
    has two samples.
    """
    counts = [(right, samples) for right, samples in counts if samples >= 2]
    if not counts:
        return None
    size = group_size
    if all(samples >= size for _, samples in counts):
        return fmean(_agreeing(right, samples, size) for right, samples in counts)
    mean = sum(right for right, _ in counts) / sum(samples for _, samples in counts)
    variation = (1 - fmean(_agreeing(right, samples, 2) for right, samples in counts)) / 2
    most = mean * (1 - mean)
    if variation <= 0 or most <= 0:
        return 1.0
    ratio = variation / most
    if ratio >= 1:  # all problems alike
        return float(mean**size + (1 - mean) ** size)
    # Of a Beta(a, b) with s = a + b, E[p(1 - p)] = mean (1 - mean) s / (s + 1).
    total = ratio / (1 - ratio)
    a, b = mean * total, (1 - mean) * total
    return math.prod((a + i) / (total + i) for i in range(size)) + math.prod(
        (b + i) / (total + i) for i in range(size)
    )


def smallest_group(counts: Counts, most: float, candidates: Sequence[int]) -> int | None:
    """The smallest of `candidates` whose predicted share is at most `most`, if any."""
    for size in sorted(candidates):
        share = share_without_contrast(counts, size)
        if share is not None and share <= most:
            return size
    return None


def _agreeing(right: int, samples: int, size: int) -> float:
    """The share of subsets of `size` samples that are all right or all wrong."""
    same = math.comb(right, size) + math.comb(samples - right, size)
    return same / math.comb(samples, size)
