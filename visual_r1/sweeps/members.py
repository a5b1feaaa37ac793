"""How far the members of a sweep are, by their runs' own files."""

from pathlib import Path

from filelock import FileLock, Timeout

from visual_r1.config import RunConfig
from visual_r1.errors import DataError, RunError
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.evaluation.predictions import require_predictions
from visual_r1.hashing import digest
from visual_r1.report.summary import BASELINE, FINAL, has_gone_on, read_summary
from visual_r1.runs.costs import usd_of_run
from visual_r1.runs.folder import require_same_config
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations, validated_steps
from visual_r1.sweeps.plan import Member, Plan


def is_trained(config: RunConfig) -> bool:
    """Whether the run is whole: all its steps, or those its budget allows, both evaluations as they
    were made, the summary."""
    try:
        summary = read_summary(config.run_dir)
        for name in (BASELINE, FINAL):
            require_predictions(evaluation_folder(config.run_dir, name))
    except DataError:
        return False
    if summary is None or has_gone_on(config.run_dir, summary):
        return False
    return summary.steps == config.train.steps or (
        summary.budget is not None and summary.budget.is_of(config)
    )


def is_done(member: Member) -> bool:
    """Whether nothing is left of it: the whole run, or its checkpoint and validation at its rung.

    Raises `RunError` where its ledger is damaged.
    """
    if member.rung is None:
        return is_trained(member.config)
    there = steps_done(member.config) >= member.rung
    return there and validation_at(member.config, member.rung) is not None


def steps_done(config: RunConfig) -> int:
    """The step of the run's newest checkpoint. Raises `RunError` where its ledger is damaged."""
    rows = Ledger(config.run_dir).rows()
    return rows[-1].step if rows else 0


def steps_left(config: RunConfig) -> tuple[int, int]:
    """How many steps the run has to make from its newest checkpoint on, and how many validations.

    Raises `RunError` where its ledger is damaged.
    """
    done = steps_done(config)
    there = {row.step for row in Validations(config.run_dir).rows()}
    due = [step for step in validated_steps(config) if step >= done and step not in there]
    return max(config.train.steps - done, 0), len(due)


def validation_at(config: RunConfig, step: int) -> float | None:
    """The accuracy on validation of the checkpoint of `step`; None where it was not validated."""
    rows = Validations(config.run_dir).rows()
    return next((row.accuracy for row in rows if row.step == step and row.n), None)


def is_used_by_another(member: Member) -> bool:
    """Whether another process, or another part of this one, trains the member now."""
    lock = FileLock(member.config.run_dir / ".lock")
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def spent_usd(plan: Plan) -> float:
    """US dollars that all members have cost so far, where prices are known."""
    return sum(usd_of_run(member.config.run_dir) for member in plan.members)


def require_startable(plan: Plan) -> None:
    """Raise `RunError` where a member's folder is there and its run cannot go on as planned."""
    for member in plan.members:
        config = member.config
        if not config.run_dir.is_dir():
            continue
        require_same_config(config.run_dir, config)
        if (done := steps_done(config)) > config.train.steps:
            raise RunError(
                f"{config.run_dir} ({member.name}) has trained {done} steps already and the sweep "
                f"wants {config.train.steps}: ask for {done} or more for all of them with "
                "--train.steps, or move that run away."
            )


def baseline_key(config: RunConfig) -> str:
    """Runs with the same key ask the base model the same questions, and grade alike.

    What a run asks of the weights that it starts from it shares with no other, see `evaluations`.
    """
    identity = config.identity()
    model = config.model
    own = None if model.start_from is None else config.run_name
    return digest(
        {
            "model": [model.name, model.max_pixels, model.thinking, own],
            "parts": [identity[part] for part in ("data", "prompt", "sampling", "second_pass")],
            "evaluation": config.evaluation.model_dump(mode="json"),
            "rounding": config.reward.rounding,
            "threads": config.backend.threads,
            "output_dir": config.output_dir.absolute(),
        },
        32,
    )
