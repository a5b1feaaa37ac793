"""The stages of a run as tasks: each is done once, whatever is killed, and then found done.

What they do is in `visual_r1`; here is what their results depend on, and how one is recognised. A
key names its run by the run's name and not by its folder, which may be moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import State, Task
from prefect.client.schemas.objects import TaskRun

from tasks.records import record
from tasks.records.names import last_part
from tasks.verified import Result, verified
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, open_dataset
from visual_r1.data.dataset import prepare as prepare_dataset
from visual_r1.data.sources import SPLITS, Split, open_source
from visual_r1.doctor.preflight import require_sound
from visual_r1.errors import DataError
from visual_r1.evaluation.conditions import in_a_line
from visual_r1.evaluation.metrics import REPORT_NAME, evaluation_folder, read_report
from visual_r1.exports.record import EXPORT, Export, adapter_folder, read_export
from visual_r1.perception import failures_of
from visual_r1.perception import in_a_line as where_it_fails
from visual_r1.printing import open_logger
from visual_r1.progress import open_progress
from visual_r1.report.page import write_html
from visual_r1.report.summary import FINAL, PAGE_NAME, SUMMARY_NAME, is_current, read_summary
from visual_r1.report.summary import summarize as summarize_run
from visual_r1.report.terminal import print_samples, print_summary
from visual_r1.report.tracking import track_run, track_steps
from visual_r1.runs.baselines import keep_baseline
from visual_r1.runs.chunk import ChunkPlan, plan_chunk
from visual_r1.runs.chunk import train_chunk as run_chunk
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.evaluated import is_evaluated
from visual_r1.runs.evaluations import evaluate_checkpoint
from visual_r1.runs.export import export as export_checkpoint
from visual_r1.runs.goal import require_goal
from visual_r1.runs.labels import settle_labels as settle_labels_of
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.left_out import is_settled
from visual_r1.runs.left_out import settle_rows as settle_rows_of
from visual_r1.runs.resume import resume_point
from visual_r1.runs.run import open_run
from visual_r1.runs.start import settle_start as settle_start_of
from visual_r1.runs.validate import validate as validate_checkpoint
from visual_r1.runs.validations import Validations, is_due

logger = open_logger("visual_r1.tasks")


# A dataset source to a dataset folder.


async def worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Try again what the network did, not what a user wrote; and say so, for the pauses are long.

    For tasks that use no Tinker server: failures of that are met in `Backend.recoveries`, in one
    place for flows and library.
    """
    error = await state.aresult(raise_on_failure=False)
    if not isinstance(error, (ConnectionError, TimeoutError)):
        return False
    delays = task.retry_delay_seconds
    if isinstance(delays, list):
        pause = delays[min(run.run_count, len(delays)) - 1]
        logger.warning("%s failed: %s Trying again in %.0f s.", task.name, error, pause)
    return True


def prepare(config: RunConfig, needs: Sequence[Split] = ("train", "test")) -> Dataset:
    """The dataset of `config`, prepared where it is not there yet; it has the splits of `needs`.

    Raises `ConfigError` or `DataError` first for what is wrong with the run: a deployment has no
    command that looks at it before.
    """
    require_sound(config)
    # A source that changed in place is another dataset, though the configuration is the same.
    fingerprint = open_source(config.data).fingerprint
    result = _prepare(config, fingerprint, list(needs))
    dataset = open_dataset(Path(result["folder"]))
    dataset.require(needs)
    return dataset


def prepare_run_name(parameters: dict[str, Any]) -> str:
    """`prepare geometry3k`, also of a folder or of a dataset on the hub."""
    return f"prepare {last_part(parameters['config'].data.source)}"


def _is_complete(result: Result, **_: object) -> bool:
    try:
        return open_dataset(Path(result["folder"])).digest == result["digest"]
    except DataError:
        return False


@verified(
    version=1,
    key=lambda config, fingerprint, **_: {
        "data": config.data,
        "output_dir": config.output_dir.absolute(),
        "source": fingerprint,
    },
    fields=("folder", "digest"),
    still_there=_is_complete,
    retries=2,
    retry_delay_seconds=[5, 60],
    retry_condition_fn=worth_retrying,
    task_run_name=prepare_run_name,
)
def _prepare(config: RunConfig, fingerprint: str, needs: list[Split]) -> Result:
    del fingerprint  # a part of the key
    record.doing(f"preparing {last_part(config.data.source)}")
    with open_progress() as progress:
        dataset = prepare_dataset(config.data, config.output_dir, progress, needs)
    record.dataset_prepared(config, dataset)
    return {"folder": str(dataset.folder), "digest": dataset.digest}


# By which labels, and which rows can be asked about.


def settle_labels(config: RunConfig, dataset: Dataset) -> None:
    """Let a run that begins go by the decisions about labels, see `runs.labels`; once a run.

    Says of one that has begun what was decided since.
    """
    settle_labels_of(config, dataset, begun=is_settled(config))


def settle_rows(config: RunConfig, dataset: Dataset) -> None:
    """Look at every row before anything is asked, see `runs.left_out`; once a run.

    Raises `DataError` where too few can be asked about.
    """
    if not is_settled(config):
        with open_run(config, dataset) as run:
            settle_rows_of(run, SPLITS)


# What the run begins with.


def settle_start(config: RunConfig, dataset: Dataset) -> None:
    """Look at the checkpoint of `model.start_from`, see `runs.start`; once a run.

    Raises `RunError` where it has gone, `ConfigError` where it is of another model or LoRA.
    """
    if config.model.start_from is not None:
        with open_run(config, dataset) as run:
            settle_start_of(run)


# Some weights, or the base model, on the problems of a split.


def _evaluation(
    config: RunConfig, dataset: Dataset, name: str, sampler_path: str | None, split: Split
) -> Mapping[str, Any]:
    # Digests of this are keys of old results: what is in it stays.
    identity = config.older_identity()
    return {
        "run": config.run_name,
        "name": name,
        "sampler_path": sampler_path,
        "dataset": dataset.digest,
        "what": {part: identity[part] for part in ("model", "prompt", "sampling", "evaluation")},
        "reward": identity["reward"],
    } | ({} if split == "test" else {"split": split})


def _is_evaluated(_: Result, **arguments: Any) -> bool:
    return is_evaluated(**arguments)


def evaluate(
    config: RunConfig,
    dataset: Dataset,
    name: str,
    sampler_path: str | None = None,
    split: Split = "test",
) -> Result:
    """The report `evaluations/<name>`; `sampler_path` None is the base model.

    What that answered is then there for other runs too.
    """
    result = _evaluate(config, dataset, name, sampler_path, split)
    if sampler_path is None:
        keep_baseline(config, dataset, evaluation_folder(config.run_dir, name))
    return result


@verified(
    version=1,
    key=_evaluation,
    fields=("name", "sampler_path"),
    still_there=_is_evaluated,
    task_run_name="evaluate {name}",
)
def _evaluate(
    config: RunConfig, dataset: Dataset, name: str, sampler_path: str | None, split: Split
) -> Result:
    result = {"name": name, "sampler_path": sampler_path or config.model.name}
    if not is_evaluated(config, dataset, name, sampler_path, split):
        record.doing(f"evaluating {name}")
        with open_run(config, dataset) as run:
            evaluate_checkpoint(run, name, sampler_path, split)
        record.evaluated(config, dataset, name, sampler_path)
    return result


def figures(config: RunConfig, name: str) -> str:
    """What came of the evaluation `name`, new or from before, and where it is; in a line.

    In a second one where it failed, as far as that is known.
    """
    folder = evaluation_folder(config.run_dir, name)
    line = f"{name}: {in_a_line(read_report(folder))}  in {folder}"
    found = failures_of(folder, config.output_dir / "data")
    return f"{line}\n{where_it_fails(found)}" if found.is_told else line


# The steps between two checkpoints: the unit of recovery and of caching.


def settle_ledger(config: RunConfig, dataset: Dataset) -> None:
    """Set aside the checkpoints that cannot be gone on from, or that the user wants to go behind.

    Asks the server only where steps are left to do. Raises `RunError` where fewer are wanted than
    the run has.
    """
    if not require_goal(config):
        return
    with open_run(config, dataset) as run:
        resume_point(run)


def train_chunk(config: RunConfig, dataset: Dataset, start: LedgerRow | None) -> LedgerRow:
    """The checkpoint that follows `start` (None: the beginning), trained where it is not there."""
    plan = plan_chunk(config, start.step if start else 0)
    result = _train_chunk(config, dataset, start, plan)
    row = Ledger(config.run_dir).at_step(result["step"])
    assert row is not None, "the task wrote it, or found it there"
    return row


@verified(
    version=1,
    key=lambda config, dataset, start, plan: {
        "run": config.run_name,
        "config": config.digest(),
        "dataset": dataset.digest,
        "start": start.state_path if start else None,
        "end": plan.end,
    },
    # Not the whole row: the lifetime of a checkpoint is renewed.
    fields=("step", "state_path"),
    still_there=lambda result, config, **_: any(
        (row.step, row.state_path) == (result["step"], result["state_path"])
        for row in Ledger(config.run_dir).rows()
    ),
    task_run_name="train {plan.in_words}",
)
def _train_chunk(
    config: RunConfig, dataset: Dataset, start: LedgerRow | None, plan: ChunkPlan
) -> Result:
    record.doing(f"training {plan.in_words}", plan.first)
    with open_run(config, dataset) as run:
        row = run_chunk(run, start, record.step_done)
    record.chunk_saved(config, dataset, start, row)
    track_steps(config)
    return asdict(row)


# A checkpoint on the validation problems, while the run trains.


def validate(config: RunConfig, dataset: Dataset, checkpoint: LedgerRow | None) -> None:
    """Validate `checkpoint` (None: the base model) where it is due, then prune old checkpoints."""
    step = checkpoint.step if checkpoint else 0
    if is_due(config, dataset, step):
        _validate(config, dataset, checkpoint, step)


@verified(
    version=1,
    key=lambda config, dataset, checkpoint, **_: {
        "run": config.run_name,
        "config": config.digest(),
        "dataset": dataset.digest,
        "sampler": checkpoint.sampler_path if checkpoint else None,
    },
    fields=("step", "sampler_path"),
    still_there=lambda result, config, step, **_: (
        result["sampler_path"] is None
        or Validations(config.run_dir).of(step, result["sampler_path"]) is not None
    ),
    task_run_name="validate step {step}",
)
def _validate(
    config: RunConfig, dataset: Dataset, checkpoint: LedgerRow | None, step: int
) -> Result:
    record.doing(f"validating step {step}", step)
    with open_run(config, dataset) as run:
        row = validate_checkpoint(run, checkpoint)
    if row is not None:
        record.validated(config, row)
    track_steps(config)
    # None where the weights have gone, which a second attempt would not bring back.
    return {"step": step, "sampler_path": row.sampler_path if row else None}


# A checkpoint to a PEFT adapter folder and a `tinker://` sampler path.


def _is_exported(result: Result, config: RunConfig, into: str, **_: object) -> bool:
    there = read_export(config.run_dir, into)
    # The folder is another where the run's has been moved.
    return there is not None and result == _exported(config, there, into)


def _exported(config: RunConfig, made: Export, into: str) -> Result:
    return {
        "adapter": str(adapter_folder(config.run_dir, into)),
        "sampler_path": made.sampler_path,
        "trained": made.trained,
        "step": made.step,
    }


@verified(
    version=1,
    key=lambda config, checkpoint, into, **_: {
        "run": config.run_name,
        "into": into,
        "state": checkpoint.state_path,
    },
    fields=("sampler_path", "adapter", "trained", "step"),
    still_there=_is_exported,
    task_run_name="export step {checkpoint.step}",
)
def export(
    config: RunConfig, dataset: Dataset, checkpoint: LedgerRow, into: str = EXPORT
) -> Result:
    """What was exported into the folder `into` of the run: `sampler_path`, `adapter` (a folder),
    `trained`, `step`."""
    record.doing(f"exporting step {checkpoint.step}")
    with open_run(config, dataset) as run:
        made = export_checkpoint(run, checkpoint, into)
    record.exported(config, checkpoint, made, into)
    return _exported(config, made, into)


# Both evaluations to a summary, a page and a table.


def summarize(config: RunConfig, checkpoint: LedgerRow, wall_seconds: float) -> Result:
    """The content of `summary.json`, also shown as a table; `report.html` stands beside it."""
    _summarize(config, checkpoint, wall_seconds)
    summary = read_summary(config.run_dir)
    assert summary is not None, "the task wrote it, or found it there"
    print_samples(config.run_dir)
    print_summary(summary, cost_of_run(config.run_dir), config.run_dir / PAGE_NAME)
    record.summarized(config, summary)
    return summary.to_json()


def _is_summarized(result: Result, config: RunConfig, checkpoint: LedgerRow, **_: object) -> bool:
    """Whether the files give the summary that is there; its page then is there as well."""
    return is_current(config.run_dir, checkpoint.step, result["wall_seconds"])


@verified(
    version=1,
    key=lambda config, checkpoint, **_: {
        "run": config.run_name,
        "sampler": checkpoint.sampler_path,
    },
    fields=("wall_seconds",),
    still_there=_is_summarized,
    task_run_name="summarize {config.run_name}",
)
def _summarize(config: RunConfig, checkpoint: LedgerRow, wall_seconds: float) -> Result:
    took = _wall_seconds_before(config, checkpoint)
    took = wall_seconds if took is None else took
    # The page of an earlier summary must not vouch for a new one that was killed before its page.
    (config.run_dir / PAGE_NAME).unlink(missing_ok=True)
    summarize_run(config.run_dir, steps=checkpoint.step, wall_seconds=took)
    write_html(config.run_dir)
    track_run(config)
    return {"wall_seconds": took}


def _wall_seconds_before(config: RunConfig, checkpoint: LedgerRow) -> float | None:
    """What the summary that is there says, where it is of these steps and this evaluation."""
    evaluation = evaluation_folder(config.run_dir, FINAL) / REPORT_NAME
    try:
        there = read_summary(config.run_dir)
        newer = (config.run_dir / SUMMARY_NAME).stat().st_mtime_ns >= evaluation.stat().st_mtime_ns
    except (DataError, FileNotFoundError):
        return None
    same = there is not None and newer and there.steps == checkpoint.step
    return there.wall_seconds if there is not None and same else None
