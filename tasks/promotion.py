"""A checkpoint to the current model of a name, where the evidence, or a person, says so."""

from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import State
from prefect.states import Completed

from tasks.outcome import once_told
from tasks.records import record
from tasks.tasks import evaluate, export
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.errors import DataError, RunError
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.deciding import Conditions
from visual_r1.evaluation.metrics import evaluation_folder, read_reports
from visual_r1.exports.record import read_export
from visual_r1.printing import open_logger, say
from visual_r1.promotion.judgement import Evidence, free_name, of_weights, weigh
from visual_r1.promotion.models import Models, Promoted, require_reason
from visual_r1.runs.folder import asks_alike
from visual_r1.runs.labels import evaluated_problems, labels_of_evaluation
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.run import open_run

logger = open_logger("visual_r1.tasks")

NOT_PROMOTED = "NotPromoted"


def promote_checkpoint(
    config: RunConfig,
    dataset: Dataset,
    row: LedgerRow,
    name: str | None = None,
    *,
    force: bool = False,
    because: str = "",
) -> dict[str, Any]:
    """Promote the checkpoint of `row` to the model `name` (None: the preset's), or say why not.

    What is missing of both evaluations is answered first; another promotion of that name is waited
    for. With `force` a person has decided, for
    the reason `because`. The outcome has `promoted`, `why` in a sentence, and the model's file.
    Raises `ConfigError`, `DataError`, `RunError` and `BackendError`.
    """
    require_reason(force, because)
    models = Models(config.output_dir, name or config.preset)
    with models.alone(wait=True):
        current = models.current()
        if current is not None and current.sampler_path == row.sampler_path:
            if models.is_untold(current) and because in ("", current.because):
                # The process was killed that had promoted it.
                _tell(config, models, current)
                return _outcome(models, row, promoted=True, why=current.because)
            if not force:
                why = f"step {row.step} of {config.run_name} is the model {models.name} already"
                return _outcome(models, row, promoted=True, why=why)
        evidence = _evidence(config, dataset, row, current, force=force)
        objections = [] if force or evidence is None else evidence.objections
        if objections:
            why = "; ".join(objections)
            against = evidence.against if evidence else ""
            says = f"Step {row.step} of {config.run_name} is not promoted over {against}: {why}."
            logger.warning("%s", says)
            return _outcome(models, row, promoted=False, why=says)
        into = f"exports/step-{row.step}"
        export(config, dataset, row, into)
        exported = read_export(config.run_dir, into)
        assert exported is not None, "the task wrote it, or found it there"
        why = because or f"accuracy went from {evidence.accuracy}" if evidence else because
        by = "person" if force else "evidence"
        made = models.promote(config.run_dir, exported, into, evidence, by, why)
        _tell(config, models, made)
    return _outcome(models, row, promoted=True, why=why)


def promotion_state(outcome: dict[str, Any]) -> dict[str, Any] | State:
    """How a flow ends with that outcome: as `NotPromoted`, which an automation can wait for."""
    if outcome["promoted"]:
        return outcome
    return Completed(name=NOT_PROMOTED, message=outcome["why"], data=outcome)


def _outcome(models: Models, row: LedgerRow, *, promoted: bool, why: str) -> dict[str, Any]:
    return {
        "promoted": promoted,
        "model": models.name,
        "file": str(models.path),
        "step": row.step,
        "why": why,
    }


def _tell(config: RunConfig, models: Models, made: Promoted) -> None:
    """Where a promotion is made known: the one place for events and assets of it."""
    sentence = f"{models.path}: number {made.number} is step {made.step} of {config.run_name}"
    say(sentence)
    adapter = config.output_dir / made.adapter
    record.promoted(config, models.path, adapter, f"{sentence}. {made.because}", asdict(made))
    once_told(partial(models.note_told, made))  # until then it may be on its way to the server


def _evidence(
    config: RunConfig,
    dataset: Dataset,
    row: LedgerRow,
    current: Promoted | None,
    *,
    force: bool,
) -> Evidence | None:
    """Both evaluations, made where they are not there, and compared; None where a person decides
    and the current model cannot be asked any more."""
    labels = labels_of_evaluation(config, dataset, f"step-{row.step}")
    wanted = conditions_of(config, row.sampler_path, dataset.digest, decisions=labels.digest)
    count = len(evaluated_problems(config, dataset, labels))

    def asked(path: str, name: str, sampler_path: str | None) -> Path:
        # Under another name than one that was asked otherwise: the run's summary rests on that.
        there = of_weights(read_reports(config.run_dir), path, wanted, count)
        if there is None:
            name = free_name(read_reports(config.run_dir), name, wanted)
            evaluate(config, dataset, name, sampler_path)
        return evaluation_folder(config.run_dir, there or name)

    after = asked(row.sampler_path, f"step-{row.step}", row.sampler_path)
    if current is None:
        before = asked(config.model.name, "base", None)
        return weigh(before, after, f"the base model {config.model.name}")
    against = f"{PurePosixPath(current.run).name}, step {current.step}"
    try:
        before = _of_current(config, dataset, current, wanted, count)
        return weigh(before, after, against)
    except (DataError, RunError) as error:
        if not force:
            raise
        logger.warning("%s It is promoted all the same.", error)
        return None


def _of_current(
    config: RunConfig, dataset: Dataset, current: Promoted, wanted: Conditions, count: int
) -> Path:
    """The folder of an evaluation of the current model on the same `count` problems."""
    there = config.output_dir / current.run
    reports = read_reports(there) if asks_alike(there, config) else {}
    if (name := of_weights(reports, current.sampler_path, wanted, count)) is not None:
        return evaluation_folder(there, name)
    if current.base_model != config.model.name:
        raise RunError(
            f"The current model {current.name} is of {current.base_model}, which was not evaluated "
            f"on the problems of {config.run_name}: evaluate both on the same dataset, or decide "
            "with --force."
        )
    with open_run(config, dataset) as run:
        if not run.backend.has_checkpoint(current.sampler_path):
            raise RunError(
                f"The current model {current.name} was not evaluated on the problems of "
                f"{config.run_name}, and its weights {current.sampler_path} are not on this server "
                "any more: decide with --force, or take it back with --demote."
            )
    own = free_name(read_reports(config.run_dir), f"{current.name}-{current.number}", wanted)
    evaluate(config, dataset, own, current.sampler_path)
    return evaluation_folder(config.run_dir, own)
