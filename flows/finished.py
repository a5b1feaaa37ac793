"""A run of which nothing is left to do: what it came to, without anything that makes a run.

The same command, given once more when all is done, finds it done: from the run's files alone, in
seconds. Neither the engine nor Prefect's temporary server is started, and what they need is not
imported. Each file is held against what vouches for it, as a start that works does. Where anything
is missing, damaged or another than it was, this says nothing of the run, and the start works.
"""

import os
from typing import Any

from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, find_prepared
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.exports.record import read_export
from visual_r1.report.summary import (
    BASELINE,
    FINAL,
    SUMMARY_NAME,
    Summary,
    is_current,
    read_summary,
)
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.baselines import keep_baseline
from visual_r1.runs.budget import BUDGET_NAME
from visual_r1.runs.config_file import CONFIG_FILE
from visual_r1.runs.evaluated import is_evaluated
from visual_r1.runs.folder import config_without_secrets, open_run_folder
from visual_r1.runs.goal import require_goal
from visual_r1.runs.journal import Journal
from visual_r1.runs.labels import settle_labels
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.lost import behind, lost_rows
from visual_r1.runs.validations import Validations, is_due
from visual_r1.storage import read_sealed


def summary_where_done(config: RunConfig) -> Summary | None:
    """What the run of `config` came to, where all of it is done and as it was written.

    None where anything is or may be left to do. Raises what a start that works would raise: for a
    folder in use, for a damaged ledger. What the configuration names was looked at before.
    """
    if not _may_be_done(config):
        return None
    with open_run_folder(config):
        return None if require_goal(config) else _found(config)


def _may_be_done(config: RunConfig) -> bool:
    """Whether its summary is there, and nothing is asked for that another start did not ask for.

    What a server has to be asked about, or a promotion decides anew, is not done by files alone.
    """
    run, train = config.run, config.train
    asks_more = run.promote_as or train.more_steps or train.resume_from_step is not None
    if asks_more or config.model.start_from or "{" in (run.name or ""):
        return False
    if choose_kind(config, os.environ) != "embedded":
        return False
    folder = config.run_dir
    if not (folder / SUMMARY_NAME).exists() or (folder / BUDGET_NAME).exists():
        return False
    try:
        there: Any = read_sealed(folder / CONFIG_FILE).content
        # Wherever the folder has been moved, and however it is named.
        return there | {"output_dir": None} == config_without_secrets(config) | {"output_dir": None}
    except (OSError, ValueError, TypeError):
        return False


def _found(config: RunConfig) -> Summary | None:
    run_dir = config.run_dir
    rows = Ledger(run_dir).rows()
    if not rows or rows[-1].step != config.train.steps or not _has_all_rows(config, rows):
        return None
    dataset = find_prepared(config.data, config.output_dir)
    if dataset is None or dataset.digest != rows[-1].dataset_digest:
        return None
    dataset.require(("train", "test"))
    settle_labels(config, dataset, begun=True)
    made = read_export(run_dir)
    if made is None or made.state_path != rows[-1].state_path:
        return None
    for name, weights in ((BASELINE, None), (FINAL, made.sampler_path)):
        if not is_evaluated(config, dataset, name, weights):
            return None
    if not _is_validated(config, dataset, rows):
        return None
    try:
        summary = read_summary(run_dir)
    except DataError:
        return None
    if summary is None or not is_current(run_dir, rows[-1].step, summary.wall_seconds):
        return None
    keep_baseline(config, dataset, evaluation_folder(run_dir, BASELINE))
    return summary


def _has_all_rows(config: RunConfig, rows: list[LedgerRow]) -> bool:
    """Whether the files with a row a line are whole, and have all rows that others tell of."""
    run_dir = config.run_dir
    kept = (Ledger(run_dir), Journal(run_dir), Validations(run_dir), AlarmLog(run_dir))
    if not all(one.read().is_whole for one in kept):
        return False
    return not [*lost_rows(run_dir, rows[-1]), *behind(run_dir, rows)]


def _is_validated(config: RunConfig, dataset: Dataset, rows: list[LedgerRow]) -> bool:
    weights = {0: config.model.name} | {row.step: row.sampler_path for row in rows}
    there = {(row.step, row.sampler_path) for row in Validations(config.run_dir).rows()}
    return all(
        (step, path) in there for step, path in weights.items() if is_due(config, dataset, step)
    )
